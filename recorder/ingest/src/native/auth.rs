//! Basic and Digest authentication (RFC 7617; RFC 2069, 2617, 7616: MD5 and SHA-256, qop auth), with a nonce that may be renewed at any time.

use http_auth::{PasswordClient, PasswordParams};

use crate::spec::Credentials;

/// What is known of how the other side wants to be told who asks.
#[derive(Default)]
pub(super) struct Authenticator {
    credentials: Option<Credentials>,
    client: Option<PasswordClient>,
    /// The credentials have been accepted once in this session: what is refused later is the nonce.
    accepted: bool,
}

/// What to do about a 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask again.
    Again,
    /// The credentials are wrong.
    Refused,
    /// There are none.
    NoCredentials,
    /// The challenge cannot be answered.
    NotSupported(String),
}

impl Authenticator {
    /// With the credentials for this host, if there are any.
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, client: None, accepted: false }
    }

    /// The `Authorization` for a request, once a challenge has come.
    pub(super) fn header(&mut self, method: &str, uri: &str) -> Option<String> {
        let (credentials, client) = (self.credentials.as_ref()?, self.client.as_mut()?);
        let (username, password) = (credentials.username(), credentials.password());
        client.respond(&PasswordParams { username, password, uri, method, body: None }).ok()
    }

    /// A request was answered with something else than 401.
    pub(super) fn passed(&mut self) {
        self.accepted |= self.client.is_some();
    }

    /// A request was answered with 401 and these challenges. `authorized`: it had an `Authorization`; `tries`: how often the same request had
    /// been asked before.
    pub(super) fn challenged(&mut self, challenges: Option<&str>, authorized: bool, tries: u32) -> Verdict {
        if self.credentials.is_none() {
            return Verdict::NoCredentials;
        }
        let Some(challenges) = challenges else {
            return Verdict::NotSupported("no WWW-Authenticate header".to_owned());
        };
        let client = match PasswordClient::builder().challenges(challenges).build() {
            Ok(client) => client,
            Err(error) => return Verdict::NotSupported(error),
        };
        let stale = matches!(&client, PasswordClient::Digest(digest) if digest.stale());
        // A wrong password is sent once, so that no account is locked; a nonce that has grown old says so, or the password was good before.
        if tries > 1 || authorized && !stale && (tries == 1 || !self.accepted) {
            return Verdict::Refused;
        }
        self.client = Some(client);
        Verdict::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> Authenticator {
        Authenticator::new(Some(Credentials::new("Mufasa", "Circle of Life")))
    }

    fn challenge(text: &str) -> Authenticator {
        let mut a = auth();
        assert_eq!(a.header("DESCRIBE", "rtsp://x/"), None, "not before it is asked for");
        assert_eq!(a.challenged(Some(text), false, 0), Verdict::Again);
        a
    }

    #[test]
    fn schemes() {
        let basic = challenge("Basic realm=\"cam\"").header("DESCRIBE", "rtsp://x/").unwrap();
        assert_eq!(basic, "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl");
        // Digest goes before Basic, wherever it stands.
        let both =
            challenge("Basic realm=\"cam\", Digest realm=\"cam\", nonce=\"n\"").header("PLAY", "rtsp://x/").unwrap();
        assert!(
            both.starts_with("Digest username=\"Mufasa\", realm=\"cam\", uri=\"rtsp://x/\", nonce=\"n\""),
            "{both}"
        );
        let sha = challenge("Digest realm=\"cam\", qop=\"auth\", algorithm=SHA-256, nonce=\"n\", opaque=\"o\"")
            .header("PLAY", "rtsp://x/")
            .unwrap();
        for part in ["algorithm=SHA-256", "qop=auth", "nc=00000001", "cnonce=", "opaque=\"o\""] {
            assert!(sha.contains(part), "{part}: {sha}");
        }
        assert!(!sha.contains("Circle"));
    }

    #[test]
    fn the_count_of_a_nonce_grows() {
        let mut a = challenge("Digest realm=\"cam\", qop=\"auth\", nonce=\"n\"");
        a.header("PLAY", "rtsp://x/").unwrap();
        assert!(a.header("OPTIONS", "rtsp://x/").unwrap().contains("nc=00000002"));
    }

    #[test]
    fn a_wrong_password_is_sent_once() {
        let mut a = challenge("Digest realm=\"cam\", nonce=\"1\"");
        assert_eq!(a.challenged(Some("Digest realm=\"cam\", nonce=\"2\""), true, 1), Verdict::Refused);
        let mut a = challenge("Digest realm=\"cam\", nonce=\"1\"");
        let stale = Some("Digest realm=\"cam\", nonce=\"2\", stale=TRUE");
        assert_eq!(a.challenged(stale, true, 1), Verdict::Again, "not the password but the nonce");
        assert_eq!(a.challenged(stale, true, 2), Verdict::Refused, "but not for ever");
    }

    #[test]
    fn a_nonce_grows_old_in_mid_session() {
        for again in ["Digest realm=\"cam\", nonce=\"2\", stale=true", "Digest realm=\"cam\", nonce=\"2\""] {
            let mut a = challenge("Digest realm=\"cam\", nonce=\"1\"");
            a.header("DESCRIBE", "rtsp://x/").unwrap();
            a.passed();
            assert_eq!(a.challenged(Some(again), true, 0), Verdict::Again);
            assert!(a.header("OPTIONS", "rtsp://x/").unwrap().contains("nonce=\"2\""));
        }
        let mut a = challenge("Digest realm=\"cam\", nonce=\"1\"");
        a.passed();
        assert_eq!(a.challenged(Some("Digest realm=\"cam\", nonce=\"2\""), true, 0), Verdict::Again);
        assert_eq!(
            a.challenged(Some("Digest realm=\"cam\", nonce=\"3\""), true, 1),
            Verdict::Refused,
            "changed meanwhile"
        );
    }

    #[test]
    fn what_cannot_be_answered_is_said() {
        assert_eq!(Authenticator::new(None).challenged(Some("Basic realm=\"x\""), false, 0), Verdict::NoCredentials);
        for bad in [None, Some(""), Some("Negotiate"), Some("Digest realm=\"x\""), Some("\u{1}\"")] {
            assert!(matches!(auth().challenged(bad, false, 0), Verdict::NotSupported(_)), "{bad:?}");
        }
    }
}
