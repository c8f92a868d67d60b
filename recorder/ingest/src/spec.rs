//! What a caller says about a source.

use std::fmt;

use url::Url;

/// Names one source of one [`crate::Ingest`]; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(crate) u64);

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source-{}", self.0)
    }
}

/// User name and password of a camera. Shows neither in `Debug`; has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// For Basic (RFC 7617) and Digest (RFC 7616) authentication.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    /// User name and password, for another protocol of the same camera.
    #[must_use]
    pub fn for_login(&self) -> (&str, &str) {
        (&self.username, &self.password)
    }

    /// For the engine alone.
    pub(crate) fn username(&self) -> &str {
        &self.username
    }

    /// For the engine alone.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// `text` with the password taken out, and the user name too: a camera may quote what it was sent.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in [&self.password, &self.username] {
            // One or two letters occur everywhere; cutting them out would only spoil the sentence, and tells nobody anything.
            if secret.len() >= 3 {
                clean = clean.replace(secret.as_str(), "***");
            }
        }
        clean
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

/// One source: a camera's stream, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    /// `rtsp://host[:port]/path`, without user info.
    pub url: Url,
    /// Sent when the camera asks for them.
    pub credentials: Option<Credentials>,
    /// Whether audio is wanted. Without, its track is not set up.
    pub audio: bool,
    /// Who starts first when many want to: higher first.
    pub priority: i32,
}

impl SourceSpec {
    /// A source at `url`, played, with audio, priority 0 and no credentials.
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self { url, credentials: None, audio: true, priority: 0 }
    }

    /// Checks what can be known without asking the camera.
    ///
    /// # Errors
    /// [`SpecError`], naming the field and what would be right; never holds user info.
    pub fn validate(&self) -> Result<(), SpecError> {
        if !self.url.username().is_empty() || self.url.password().is_some() {
            return Err(SpecError::UserInfo);
        }
        if self.url.scheme() != "rtsp" {
            return Err(SpecError::Scheme { scheme: self.url.scheme().to_owned() });
        }
        if self.url.host_str().is_none_or(str::is_empty) {
            return Err(SpecError::NoHost);
        }
        Ok(())
    }

    /// Whether a session made for `self` serves `other` as well: same place and same tracks.
    pub(crate) fn same_session(&self, other: &Self) -> bool {
        self.url == other.url && self.audio == other.audio
    }
}

/// Why a source cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A URL ends up in logs and statuses, so it must hold no secrets.
    #[error("url: holds a user name or password; give them as credentials (a Secret), not in the URL")]
    UserInfo,
    /// Not a scheme that an engine speaks.
    #[error("url: scheme \"{scheme}\" is not supported; only rtsp:// is")]
    Scheme {
        /// The scheme given.
        scheme: String,
    },
    /// Nowhere to connect to.
    #[error("url: has no host; rtsp://host[:port]/path is needed")]
    NoHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str) -> Result<(), SpecError> {
        SourceSpec::new(Url::parse(url).unwrap()).validate()
    }

    #[test]
    fn urls() {
        assert_eq!(check("rtsp://camera.example:8554/live?x=1"), Ok(()));
        assert_eq!(check("rtsp://[::1]/"), Ok(()));
        let e = check("rtsp://bob:geheim@camera/").unwrap_err();
        assert_eq!(e, SpecError::UserInfo);
        assert!(!e.to_string().contains("geheim"));
        assert_eq!(check("rtsp://bob@camera/"), Err(SpecError::UserInfo));
        assert_eq!(check("http://camera/"), Err(SpecError::Scheme { scheme: "http".into() }));
        assert_eq!(check("rtsp:///live"), Err(SpecError::NoHost));
    }

    #[test]
    fn credentials_show_nothing() {
        let c = Credentials::new("operator", "s3cret/pass");
        let mut spec = SourceSpec::new(Url::parse("rtsp://camera/").unwrap());
        spec.credentials = Some(c.clone());
        let shown = format!("{c:?} {spec:?} {spec:#?}");
        assert!(!shown.contains("operator") && !shown.contains("s3cret"), "{shown}");
        assert_eq!(c.redact("401 for operator with s3cret/pass"), "401 for *** with ***");
    }
}
