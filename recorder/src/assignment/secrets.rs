//! Camera credentials: files as Kubernetes mounts a Secret, `<folder>/<namespace>/<name>/{username,password}`.
//!
//! They live in memory only, in a type that shows nothing. Read again when a file changes; a Secret that disappears while a
//! camera records with it changes nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use framekeeper_crds::{CREDENTIAL_BYTES_AT_MOST, CREDENTIAL_BYTES_SUFFIX};
use framekeeper_ingest::Credentials;

use super::SecretName;

/// Why a Secret gives no credentials. It may, later.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such Secret.
    #[error("there is no Secret {0} for this recorder; make it, with the keys username and password")]
    Missing(SecretName),
    /// It lacks a key.
    #[error("the Secret {secret} has no key {key:?}; it needs username and password")]
    NoKey {
        /// The Secret.
        secret: SecretName,
        /// The key.
        key: &'static str,
    },
    /// It cannot be read, or holds what credentials cannot be.
    #[error("the Secret {secret}, key {key:?}: {reason}")]
    Unreadable {
        /// The Secret.
        secret: SecretName,
        /// The key.
        key: &'static str,
        /// Why; never what stands there.
        reason: String,
    },
}

/// The folder that Secrets are in, and what was read from it.
#[derive(Debug)]
pub struct Secrets {
    folder: Option<PathBuf>,
    known: HashMap<SecretName, Known>,
}

#[derive(Debug)]
struct Known {
    stamps: [Stamp; 2],
    credentials: Credentials,
}

type Stamp = (u64, u64, i64, i64);

impl Secrets {
    /// Secrets in `folder`; without one there are none.
    #[must_use]
    pub fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), known: HashMap::new() }
    }

    /// The credentials in a Secret, as they are now.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn get(&mut self, name: &SecretName) -> Result<Credentials, SecretError> {
        let Some(folder) = self.folder.as_ref().map(|folder| folder.join(&name.namespace).join(&name.name)) else {
            return Err(SecretError::Missing(name.clone()));
        };
        let stamps = [stamp(name, &folder, "username")?, stamp(name, &folder, "password")?];
        if let Some(known) = self.known.get(name)
            && known.stamps == stamps
        {
            return Ok(known.credentials.clone());
        }
        let credentials = Credentials::new(read(name, &folder, "username")?, read(name, &folder, "password")?);
        self.known.insert(name.clone(), Known { stamps, credentials: credentials.clone() });
        Ok(credentials)
    }

    /// Forgets what no channel uses any more.
    pub fn keep_only(&mut self, mut used: impl FnMut(&SecretName) -> bool) {
        self.known.retain(|name, _| used(name));
    }
}

fn stamp(secret: &SecretName, folder: &Path, key: &'static str) -> Result<Stamp, SecretError> {
    match fs::metadata(folder.join(key)) {
        Ok(metadata) if metadata.len() > CREDENTIAL_BYTES_AT_MOST => Err(too_long(secret, key, metadata.len())),
        Ok(metadata) => Ok((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_dir() => {
            Err(SecretError::Missing(secret.clone()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(match left_out(folder, key) {
            Some(bytes) => too_long(secret, key, bytes),
            None => SecretError::NoKey { secret: secret.clone(), key },
        }),
        Err(error) => Err(SecretError::Unreadable { secret: secret.clone(), key, reason: error.to_string() }),
    }
}

/// How long a value is that was left out for being too long: a recorder's own Secret has room for many cameras, and not for whatever somebody put into theirs.
fn left_out(folder: &Path, key: &str) -> Option<u64> {
    fs::read_to_string(folder.join(format!("{key}{CREDENTIAL_BYTES_SUFFIX}"))).ok()?.parse().ok()
}

fn too_long(secret: &SecretName, key: &'static str, bytes: u64) -> SecretError {
    let reason = format!("it has {bytes} bytes, at most {CREDENTIAL_BYTES_AT_MOST} make sense");
    SecretError::Unreadable { secret: secret.clone(), key, reason }
}

fn read(secret: &SecretName, folder: &Path, key: &'static str) -> Result<String, SecretError> {
    let unreadable = |reason: String| SecretError::Unreadable { secret: secret.clone(), key, reason };
    let bytes = fs::read(folder.join(key)).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    // `echo secret > file` adds a line end that no camera's password has.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> SecretName {
        SecretName { namespace: "default".into(), name: "door".into() }
    }

    #[test]
    fn credentials_follow_their_files_and_show_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut secrets = Secrets::new(Some(folder.path()));
        assert!(matches!(secrets.get(&name()), Err(SecretError::Missing(_))));
        let secret = folder.path().join("default/door");
        fs::create_dir_all(&secret).unwrap();
        fs::write(secret.join("username"), "operator\n").unwrap();
        let error = secrets.get(&name()).unwrap_err();
        assert!(matches!(error, SecretError::NoKey { key: "password", .. }), "{error}");
        fs::write(secret.join("password"), "geheim").unwrap();
        assert_eq!(secrets.get(&name()).unwrap(), Credentials::new("operator", "geheim"));
        fs::write(secret.join("new"), "anders").unwrap();
        fs::rename(secret.join("new"), secret.join("password")).unwrap();
        assert_eq!(secrets.get(&name()).unwrap(), Credentials::new("operator", "anders"));
        let shown = format!("{secrets:?}");
        assert!(!shown.contains("anders") && !shown.contains("operator"), "{shown}");
    }

    #[test]
    fn what_cannot_be_a_password_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("default/door");
        fs::create_dir_all(&secret).unwrap();
        fs::write(secret.join("username"), "operator").unwrap();
        fs::write(secret.join("password"), [0xff, b'g', b'e', b'h']).unwrap();
        let message = Secrets::new(Some(folder.path())).get(&name()).unwrap_err().to_string();
        assert!(message.contains("UTF-8") && !message.contains("geh"), "{message}");
    }

    #[test]
    fn what_is_too_long_is_told_with_its_size_whether_it_is_there_or_was_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("default/door");
        fs::create_dir_all(&secret).unwrap();
        fs::write(secret.join("username"), "operator").unwrap();
        fs::write(secret.join("password"), "x".repeat(5000)).unwrap();
        let said = || Secrets::new(Some(folder.path())).get(&name()).unwrap_err().to_string();
        let expected =
            |bytes| format!("the Secret default/door, key \"password\": it has {bytes} bytes, at most 4096 make sense");
        assert_eq!(said(), expected(5000));
        fs::remove_file(secret.join("password")).unwrap();
        fs::write(secret.join("password.bytes"), "614400").unwrap();
        assert_eq!(said(), expected(614_400));
    }
}
