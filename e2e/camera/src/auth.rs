//! Who is asking: Digest (RFC 7616, with RFC 2069's form for clients without `qop`) and Basic (RFC 7617).

use base64::Engine as _;
use md5::Digest as _;

use crate::spec::{AuthKind, CameraSpec, DigestAlgorithms};

const REALM: &str = "ledger camera";

/// Whether a request may pass.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// 401; `stale` if all was right but the nonce's age.
    Challenge {
        stale: bool,
    },
}

/// Makes nonces that carry their time of birth, and knows its own again.
#[derive(Debug)]
pub(crate) struct Nonces {
    secret: u64,
}

impl Nonces {
    pub(crate) fn new(secret: u64) -> Self {
        Self { secret }
    }

    fn issue(&self, now_ms: u64) -> String {
        format!("{now_ms:016x}{}", md5_hex(&format!("{}:{now_ms}", self.secret)))
    }

    /// Age in milliseconds of a nonce that we issued.
    fn age_ms(&self, nonce: &str, now_ms: u64) -> Option<u64> {
        let born_ms = u64::from_str_radix(nonce.get(..16)?, 16).ok()?;
        (self.issue(born_ms) == nonce).then(|| now_ms.saturating_sub(born_ms))
    }

    /// The values of the `WWW-Authenticate` headers of a 401.
    pub(crate) fn challenges(&self, spec: &CameraSpec, stale: bool, now_ms: u64) -> Vec<String> {
        if spec.auth == AuthKind::Basic {
            return vec![format!("Basic realm=\"{REALM}\"")];
        }
        let algorithms: &[&str] = match spec.algorithm {
            DigestAlgorithms::Md5 => &["MD5"],
            DigestAlgorithms::Sha256 => &["SHA-256"],
            DigestAlgorithms::Both => &["SHA-256", "MD5"],
        };
        let nonce = self.issue(now_ms);
        let qop = if spec.qop { ", qop=\"auth\"" } else { "" };
        let stale = if stale { ", stale=true" } else { "" };
        algorithms
            .iter()
            .map(|algorithm| format!("Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm={algorithm}{qop}{stale}"))
            .collect()
    }

    /// Judges the `Authorization` header of a request.
    pub(crate) fn judge(&self, spec: &CameraSpec, method: &str, header: Option<&str>, now_ms: u64) -> Verdict {
        if spec.user.is_empty() {
            return Verdict::Pass;
        }
        let right = header.and_then(|header| match spec.auth {
            AuthKind::Basic => basic_is_right(spec, header).then_some(0),
            AuthKind::Digest => self.digest_age_ms(spec, method, header, now_ms),
        });
        let limit_ms = match spec.nonce_seconds {
            0 => u64::MAX,
            seconds => u64::from(seconds) * 1000,
        };
        match right {
            Some(age_ms) if age_ms <= limit_ms => Verdict::Pass,
            right => Verdict::Challenge { stale: right.is_some() },
        }
    }

    /// The nonce's age if the response is right.
    fn digest_age_ms(&self, spec: &CameraSpec, method: &str, header: &str, now_ms: u64) -> Option<u64> {
        let fields = fields(header.strip_prefix("Digest ")?);
        let field = |name: &str| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let algorithm = field("algorithm").unwrap_or("MD5");
        let hash = match spec.algorithm {
            DigestAlgorithms::Md5 | DigestAlgorithms::Both if algorithm.eq_ignore_ascii_case("MD5") => md5_hex,
            DigestAlgorithms::Sha256 | DigestAlgorithms::Both if algorithm.eq_ignore_ascii_case("SHA-256") => {
                sha256_hex
            }
            _ => return None,
        };
        if field("username")? != spec.user || field("realm")? != REALM {
            return None;
        }
        let nonce = field("nonce")?;
        let secret = hash(&format!("{}:{REALM}:{}", spec.user, spec.password));
        let request = hash(&format!("{method}:{}", field("uri")?));
        let expected = match field("qop") {
            Some("auth") if spec.qop => {
                hash(&format!("{secret}:{nonce}:{}:{}:auth:{request}", field("nc")?, field("cnonce")?))
            }
            None => hash(&format!("{secret}:{nonce}:{request}")),
            Some(_) => return None,
        };
        (field("response")?.eq_ignore_ascii_case(&expected)).then(|| self.age_ms(nonce, now_ms))?
    }
}

fn basic_is_right(spec: &CameraSpec, header: &str) -> bool {
    let decoded = header
        .strip_prefix("Basic ")
        .and_then(|encoded| base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok());
    decoded.is_some_and(|decoded| decoded == format!("{}:{}", spec.user, spec.password).as_bytes())
}

/// Splits `a="b", c=d`; commas inside quotes belong to the value.
fn fields(text: &str) -> Vec<(String, String)> {
    let (mut all, mut current, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars().chain([',']) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                if let Some((key, value)) = current.split_once('=') {
                    all.push((key.trim().to_owned(), value.trim().to_owned()));
                }
                current.clear();
            }
            _ => current.push(c),
        }
    }
    all
}

fn md5_hex(text: &str) -> String {
    hex(&md5::Md5::digest(text.as_bytes()))
}

fn sha256_hex(text: &str) -> String {
    hex(&sha2::Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(extra: &str) -> CameraSpec {
        format!("name=a,user=u,password=p,{extra}").parse().unwrap()
    }

    fn answer(nonce: &str, hash: fn(&str) -> String, algorithm: &str, qop: bool) -> String {
        let secret = hash(&format!("u:{REALM}:p"));
        let request = hash("DESCRIBE:rtsp://h/a,b");
        let (response, extra) = if qop {
            (hash(&format!("{secret}:{nonce}:00000001:c:auth:{request}")), ", qop=auth, nc=00000001, cnonce=\"c\"")
        } else {
            (hash(&format!("{secret}:{nonce}:{request}")), "")
        };
        format!(
            "Digest username=\"u\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"rtsp://h/a,b\", \
             response=\"{response}\", algorithm={algorithm}{extra}"
        )
    }

    #[test]
    fn digest_passes_with_the_right_password_and_nonce_only() {
        let nonces = Nonces::new(42);
        let nonce = nonces.issue(1000);
        let judge = |spec: &CameraSpec, header: &str| nonces.judge(spec, "DESCRIBE", Some(header), 2000);
        let md5 = answer(&nonce, md5_hex, "MD5", false);
        assert_eq!(judge(&spec(""), &md5), Verdict::Pass);
        assert_eq!(judge(&spec("qop=true"), &answer(&nonce, md5_hex, "MD5", true)), Verdict::Pass);
        assert_eq!(judge(&spec("algorithm=sha256"), &answer(&nonce, sha256_hex, "SHA-256", false)), Verdict::Pass);
        let refused = Verdict::Challenge { stale: false };
        assert_eq!(judge(&spec("algorithm=sha256"), &md5), refused);
        assert_eq!(judge(&spec("password=other"), &md5), refused);
        assert_eq!(judge(&spec(""), &answer(&Nonces::new(43).issue(1000), md5_hex, "MD5", false)), refused);
        assert_eq!(nonces.judge(&spec(""), "PLAY", Some(&md5), 2000), refused);
        assert_eq!(nonces.judge(&spec(""), "DESCRIBE", None, 2000), refused);
        let old = nonces.judge(&spec("nonce_seconds=5"), "DESCRIBE", Some(&md5), 7000);
        assert_eq!(old, Verdict::Challenge { stale: true });
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        // RFC 1321 A.5, FIPS 180-4 "abc".
        assert_eq!(md5_hex("abc"), "900150983cd24fb0d6963f7d28e17f72");
        assert!(sha256_hex("abc").starts_with("ba7816bf8f01cfea"));
    }

    #[test]
    fn basic_passes_with_the_right_password_only() {
        let nonces = Nonces::new(1);
        let judge = |header: &str| nonces.judge(&spec("auth=basic"), "OPTIONS", Some(header), 0);
        assert_eq!(judge("Basic dTpw"), Verdict::Pass);
        assert_eq!(judge("Basic dTpx"), Verdict::Challenge { stale: false });
    }
}
