//! A recorder's key, and how others name it.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// A key's file is some dozens of bytes; more is read of none.
const FILE_BYTES_AT_MOST: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the key {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "the key {path} is none (an Ed25519 key as PKCS #8 is expected); move it away and a new one is made, which the operator then tells the others"
    )]
    Malformed {
        /// Which.
        path: PathBuf,
    },
    /// The system gives no random numbers.
    #[error("no key can be made: the system gives no random numbers")]
    NoRandom,
    /// A text is no public key.
    #[error(
        "{value:?} is no public key, expected an Ed25519 SubjectPublicKeyInfo in base64, 60 characters that begin with MCowBQYDK2VwAyEA"
    )]
    NotPublic {
        /// The text.
        value: String,
    },
}

/// A recorder's public key: an Ed25519 SubjectPublicKeyInfo (RFC 8410 §4). As text it is base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From DER.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let key = der.strip_prefix(&SPKI_HEAD)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode([SPKI_HEAD.as_slice(), &self.0].concat()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let der = STANDARD.decode(text.trim()).ok();
        der.and_then(|der| Self::from_der(&der)).ok_or_else(|| KeyError::NotPublic { value: text.to_owned() })
    }
}

/// A recorder's own key. Who has it is that recorder: it is readable for its owner only, and is on no volume with footage.
pub struct Identity {
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.public).finish()
    }
}

impl Identity {
    /// Reads the key in `path`, or makes one there, with mode 0600, where there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn load_or_make(path: &Path) -> Result<Self, KeyError> {
        let file = |source| KeyError::File { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(found) if found.len() > FILE_BYTES_AT_MOST => Err(KeyError::Malformed { path: path.to_owned() }),
            Ok(_) => {
                let pkcs8 = fs::read(path).map_err(file)?;
                Self::from_pkcs8(pkcs8).ok_or_else(|| KeyError::Malformed { path: path.to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Self::make()?;
                made.write(path).map_err(file)?;
                Ok(made)
            }
            Err(error) => Err(file(error)),
        }
    }

    /// A new key.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn make() -> Result<Self, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::NoRandom)?;
        Self::from_pkcs8(document.as_ref().to_vec()).ok_or(KeyError::NoRandom)
    }

    /// What others know it by.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pkcs8, public })
    }

    /// As a whole or not at all: half a key would be refused for ever.
    fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&self.pkcs8)?;
        file.sync_all()?;
        fs::rename(&new, path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.key");
        let first = Identity::load_or_make(&path).unwrap();
        let again = Identity::load_or_make(&path).unwrap();
        assert_eq!(first.public(), again.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(Identity::make().unwrap().public(), first.public());
        let text = first.public().to_string();
        assert_eq!(text.parse::<PublicKey>().unwrap(), first.public());
        assert!(text.starts_with("MCowBQYDK2VwAyEA") && text.len() == 60, "{text}");
        assert!(!format!("{first:?}").contains("pkcs8"));
    }

    #[test]
    fn what_is_no_key_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.key");
        fs::write(&path, "a key").unwrap();
        let error = Identity::load_or_make(&path).unwrap_err().to_string();
        assert!(error.contains("peer.key") && error.contains("PKCS #8"), "{error}");
        assert!("MCowBQYDK2VwAyEA".parse::<PublicKey>().is_err());
        let error = "door".parse::<PublicKey>().unwrap_err().to_string();
        assert!(error.contains("\"door\"") && error.contains("Ed25519"), "{error}");
        let nowhere = Identity::load_or_make(&folder.path().join("a/b")).unwrap_err();
        assert!(matches!(nowhere, KeyError::File { .. }), "{nowhere}");
    }
}
