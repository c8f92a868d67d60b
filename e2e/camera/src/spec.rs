//! What a camera is told to be: `name=cam01,kind=synthetic,…` or the same fields as JSON.

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Where the pictures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VideoKind {
    /// Stamped pictures that never repeat.
    Synthetic,
    /// Every GOP has the same coded slices.
    Frozen,
    /// Black.
    Black,
    /// A file, encoded once and looped.
    Clip,
}

/// The sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AudioKind {
    /// No audio track.
    None,
    /// AAC-LC silence; needs no ffmpeg.
    Aac,
    /// AAC-LC: a clip's own sound, or a quiet tone.
    Tone,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthKind {
    /// RFC 7616 Digest.
    Digest,
    /// RFC 7617 Basic.
    Basic,
}

/// Which hashes the Digest challenges offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DigestAlgorithms {
    /// MD5 only, as most cameras.
    Md5,
    /// SHA-256 only.
    Sha256,
    /// SHA-256 first, then MD5.
    Both,
}

/// With which frame a session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartAt {
    /// The next key frame.
    Key,
    /// The next frame, whatever it is.
    Any,
}

/// One camera. Everything but the name has a default.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CameraSpec {
    /// Path of its URL and name of its ledger.
    pub name: String,
    /// Where the pictures come from.
    pub kind: VideoKind,
    /// Luma samples a row; 0: 1920, or as the file.
    pub width: u32,
    /// Luma rows; 0: 1080, or as the file.
    pub height: u32,
    /// Frames a second; 0: 25, or as the file (rounded).
    pub fps: u32,
    /// Video bits a second; `4M` and `500k` are understood in the short form.
    pub bitrate: u64,
    /// Frames from key frame to key frame.
    pub gop: u32,
    /// Slices a picture (synthetic, frozen, black).
    pub slices: u32,
    /// B-frames between reference frames (clip).
    pub bframes: u32,
    /// The file to loop (clip).
    pub file: String,
    /// The sound.
    pub audio: AudioKind,
    /// Audio samples a second.
    pub rate: u32,
    /// Audio channels, 1 or 2.
    pub channels: u32,
    /// Audio bits a second; at most about 190 kbit/s at 48 kHz.
    pub audio_bitrate: u64,
    /// User name; with an empty one nobody is asked.
    pub user: String,
    /// Password. Never serialised.
    #[serde(skip_serializing)]
    pub password: String,
    /// How clients prove who they are.
    pub auth: AuthKind,
    /// Which hashes the Digest challenges offer.
    pub algorithm: DigestAlgorithms,
    /// Offer `qop="auth"`.
    pub qop: bool,
    /// Seconds a nonce is good for; 0: as long as the camera runs.
    pub nonce_seconds: u32,
    /// With which frame a session begins.
    pub start: StartAt,
    /// Seconds without a sign of life after which a session is closed.
    pub timeout: u32,
    /// Seconds after which a session that is set up and does not play is closed, whatever else its client says; 0: never.
    pub idle: u32,
    /// Answer DESCRIBE with 302 to the camera of this name.
    pub redirect: String,
    /// Sessions at a time; 0: any number.
    pub max_sessions: u32,
    /// One session too many ends the oldest one, and is not refused.
    pub replace: bool,
    /// Each session gets the pictures coded anew: other bytes, and key frames at other pictures (not with clip).
    pub per_session: bool,
    /// RTP payload bytes a packet.
    pub mtu: usize,
    /// Hand each RTP packet to the socket by itself, as many cameras do.
    pub apart: bool,
    /// Seed of the random samples; 0: made from the name.
    pub seed: u64,
    /// Make so many cameras of it, named `<name>-000` and on; 0: one, of this name.
    pub count: u32,
    /// Spread the key frames of the cameras that `count` makes over a GOP, as those of cameras that know nothing of each other are; their first
    /// frames come up to a GOP late.
    pub spread: bool,
}

impl Default for CameraSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: VideoKind::Synthetic,
            width: 0,
            height: 0,
            fps: 0,
            bitrate: 4_000_000,
            gop: 50,
            slices: 1,
            bframes: 0,
            file: String::new(),
            audio: AudioKind::None,
            rate: 48_000,
            channels: 2,
            audio_bitrate: 64_000,
            user: String::new(),
            password: String::new(),
            auth: AuthKind::Digest,
            algorithm: DigestAlgorithms::Md5,
            qop: false,
            nonce_seconds: 0,
            start: StartAt::Key,
            timeout: 60,
            idle: 0,
            redirect: String::new(),
            max_sessions: 0,
            replace: false,
            per_session: false,
            mtu: 1400,
            apart: false,
            seed: 0,
            count: 0,
            spread: false,
        }
    }
}

impl std::fmt::Debug for CameraSpec {
    /// As JSON, which leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

impl std::str::FromStr for CameraSpec {
    type Err = anyhow::Error;

    /// Reads `key=value,key=value`. Errors name the key, never a password.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut fields = serde_json::Map::new();
        let known = serde_json::to_value(Self::default())?;
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').with_context(|| format!("`{pair}` is not key=value"))?;
            // The defaults tell which type each field has.
            let value = match known.get(key) {
                Some(serde_json::Value::Number(_)) => {
                    number(value).with_context(|| format!("{key}: `{value}` is not a number"))?.into()
                }
                Some(serde_json::Value::Bool(_)) => {
                    value.parse::<bool>().with_context(|| format!("{key}: `{value}` is not true or false"))?.into()
                }
                _ => value.into(),
            };
            fields.insert(key.to_owned(), value);
        }
        Ok(serde_json::from_value(fields.into())?)
    }
}

fn number(text: &str) -> Option<u64> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 1_000),
        (at, 'M') => (&text[..at], 1_000_000),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

impl CameraSpec {
    /// Checks every field; size and frame rate may still be 0. Errors name the camera, the field, its value and what would be right.
    pub fn check(&self) -> anyhow::Result<()> {
        let name = &self.name;
        let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(ok) {
            bail!("name: `{name}`: must be letters, digits, `-`, `_`, `.` and not begin with `.`");
        }
        let range = |field: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            bail!("camera {name}: {field}: {value}: must be {least} to {most}")
        };
        // The picture's stamp is 128 × 144 samples; wider than 144 leaves room for the random macroblocks.
        let or_none = |least: u64, value: u32| if value == 0 { 0 } else { least };
        range("width", self.width.into(), or_none(160, self.width), 8192)?;
        range("height", self.height.into(), or_none(160, self.height), 8192)?;
        range("fps", self.fps.into(), or_none(1, self.fps), 240)?;
        range("bitrate", self.bitrate, 1_000, 1_000_000_000)?;
        range("gop", self.gop.into(), 1, 65_535)?;
        range("slices", self.slices.into(), 1, 64)?;
        range("bframes", self.bframes.into(), 0, 16)?;
        range("channels", self.channels.into(), 1, 2)?;
        range("timeout", self.timeout.into(), 1, 86_400)?;
        range("mtu", self.mtu as u64, 64, 60_000)?;
        if !self.width.is_multiple_of(2) || !self.height.is_multiple_of(2) {
            bail!("camera {name}: width, height: {} × {}: must be even", self.width, self.height);
        }
        if (self.kind == VideoKind::Clip) == self.file.is_empty() {
            bail!("camera {name}: file: `{}`: kind=clip needs one, other kinds none", self.file);
        }
        if self.kind == VideoKind::Clip && self.per_session {
            bail!("camera {name}: per_session: true: kind=clip is coded once for all");
        }
        if self.replace && self.max_sessions == 0 {
            bail!("camera {name}: replace: true: max_sessions must say how many sessions there may be");
        }
        if crate::aac::rate_index(self.rate).is_none() {
            bail!("camera {name}: rate: {}: must be 8000, 16000, 32000, 44100 or 48000", self.rate);
        }
        Ok(())
    }

    /// The cameras that `count` makes of it.
    pub fn expand(&self) -> Vec<Self> {
        if self.count == 0 {
            return vec![self.clone()];
        }
        let numbered = |at| Self { name: format!("{}-{at:03}", self.name), count: 0, ..self.clone() };
        (0..self.count).map(numbered).collect()
    }

    /// The seed, made from the name where none is given.
    pub(crate) fn effective_seed(&self) -> u64 {
        if self.seed != 0 { self.seed } else { xxhash_rust::xxh3::xxh3_64(self.name.as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_and_json_say_the_same() {
        let short: CameraSpec =
            "name=a,kind=frozen,bitrate=4M,fps=5,audio=aac,user=u,password=12,qop=true,count=2".parse().unwrap();
        let json = serde_json::json!({"name": "a", "kind": "frozen", "bitrate": 4_000_000, "fps": 5, "audio": "aac",
            "user": "u", "password": "12", "qop": true, "count": 2});
        let long: CameraSpec = serde_json::from_value(json).unwrap();
        assert_eq!(format!("{short:?}{}", short.password), format!("{long:?}{}", long.password));
        assert_eq!(short.expand().iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["a-000", "a-001"]);
    }

    #[test]
    fn mistakes_are_named_and_the_password_is_never_shown() {
        for (spec, says) in [
            ("name=a,fps=x", "fps"),
            ("name=a,colour=red", "colour"),
            ("name=a,kind=film", "film"),
            ("name", "key=value"),
        ] {
            let error = format!("{:#}", spec.parse::<CameraSpec>().unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        for (spec, says) in [
            ("name=a/b", "a/b"),
            ("name=a,fps=1000", "fps"),
            ("name=a,kind=clip", "file"),
            ("name=a,kind=clip,file=f,per_session=true", "per_session"),
            ("name=a,replace=true", "max_sessions"),
        ] {
            let error = spec.parse::<CameraSpec>().unwrap().check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let spec: CameraSpec = "name=a,password=geheim".parse().unwrap();
        assert!(!format!("{spec:?}").contains("geheim"));
    }
}
