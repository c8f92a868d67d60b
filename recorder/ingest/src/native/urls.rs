//! URLs that a camera gives: what its tracks are called, and where it sends us.

use url::Url;

use crate::engine::Failure;
use crate::event::SessionEndKind;

/// Redirects that are followed in a row.
pub(super) const MAX_REDIRECTS: u32 = 5;

/// Whether a status says that the stream is somewhere else. 305 (Use Proxy) is not followed: nothing says how to speak to the proxy.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where `location` points to from `url` (RFC 2326 §11.3).
pub(super) fn redirect_target(url: &Url, location: &str) -> Result<Url, Failure> {
    let refused = |what: &str| Failure::new(SessionEndKind::Protocol, format!("the camera redirects {what}"));
    let target = url.join(location.trim()).map_err(|_| refused("to something that is not a URL"))?;
    if target.scheme() != url.scheme() {
        return Err(refused(&format!("to another scheme, {}; this is not followed", target.scheme())));
    }
    if !target.username().is_empty() || target.password().is_some() {
        return Err(refused("to a URL with user info; this is not followed"));
    }
    if target.host().is_none() {
        return Err(refused("to a URL without a host"));
    }
    Ok(target)
}

/// What control URLs are relative to (RFC 2326 §C.1.1): Content-Base, else Content-Location, else what was asked.
pub(super) fn base(asked: &Url, content_base: Option<&str>, content_location: Option<&str>) -> Url {
    let given = [content_base, content_location].into_iter().flatten().map(str::trim).filter(|given| !given.is_empty());
    for given in given {
        // Some cameras leave out the scheme, or give a path alone.
        let url = if given.contains("://") { Url::parse(given) } else { asked.join(given) };
        if let Ok(url) = url
            && matches!(url.scheme(), "rtsp" | "rtsps")
        {
            return without_user_info(url);
        }
    }
    asked.clone()
}

/// The URL of a track or of the session with the attribute `control`. `None` if it makes no URL.
///
/// RFC 2326 asks for a relative reference, which would replace the last part of a base without a slash at its end. Cameras mean it to be
/// put behind the base, query and all, and that is what other clients do.
pub(super) fn control(base: &Url, control: Option<&str>) -> Option<Url> {
    let control = control.unwrap_or_default().trim();
    if control.is_empty() || control == "*" {
        return Some(base.clone());
    }
    if control.contains("://") {
        let url = Url::parse(control).ok().filter(|url| matches!(url.scheme(), "rtsp" | "rtsps"))?;
        return Some(without_user_info(url));
    }
    if control.starts_with('/') {
        return base.join(control).ok();
    }
    let base = base.as_str();
    let slash = if base.ends_with('/') { "" } else { "/" };
    Url::parse(&format!("{base}{slash}{control}")).ok()
}

/// A camera may quote the user info that somebody else gave it; it has no place in requests.
fn without_user_info(mut url: Url) -> Url {
    // Fails for URLs without a host, which have no user info either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn redirects() {
        let from = url("rtsp://camera:8554/a/b?x=1");
        let ok = |location: &str| redirect_target(&from, location).unwrap().to_string();
        assert_eq!(ok("rtsp://other/c"), "rtsp://other/c");
        assert_eq!(ok(" /c "), "rtsp://camera:8554/c");
        assert_eq!(ok("c"), "rtsp://camera:8554/a/c");
        for bad in ["http://other/", "rtsps://camera/a", "rtsp://bob:geheim@camera/a", "rtsp://", "rtsp://[::1/"] {
            let failure = redirect_target(&from, bad).unwrap_err();
            assert_eq!(failure.kind, SessionEndKind::Protocol, "{bad}");
            assert!(!failure.message.contains("geheim"));
        }
    }

    #[test]
    fn bases() {
        let asked = url("rtsp://camera/live");
        let of = |b, l| base(&asked, b, l).to_string();
        assert_eq!(of(None, None), "rtsp://camera/live");
        assert_eq!(of(Some("rtsp://10.0.0.1/live/"), Some("rtsp://x/")), "rtsp://10.0.0.1/live/");
        assert_eq!(of(None, Some("rtsp://x/y")), "rtsp://x/y");
        assert_eq!(of(Some(" "), Some("rtsp://x/y")), "rtsp://x/y");
        assert_eq!(of(Some("/base/"), None), "rtsp://camera/base/");
        assert_eq!(of(Some("rtsp://bob:geheim@camera/a/"), None), "rtsp://camera/a/");
        assert_eq!(of(Some("http://evil/"), None), "rtsp://camera/live");
        assert_eq!(of(Some("rtsp://["), None), "rtsp://camera/live");
    }

    #[test]
    fn controls() {
        let of = |b: &str, c: &str| control(&url(b), Some(c)).map(|u| u.to_string());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("rtsp://c/live/", "track1"), some("rtsp://c/live/track1"));
        assert_eq!(of("rtsp://c/live", "track1"), some("rtsp://c/live/track1"));
        assert_eq!(of("rtsp://c/live?ch=1", "trackID=1"), some("rtsp://c/live?ch=1/trackID=1"));
        assert_eq!(of("rtsp://c/live", "*"), some("rtsp://c/live"));
        assert_eq!(of("rtsp://c/live", "rtsp://d/x"), some("rtsp://d/x"));
        assert_eq!(of("rtsp://c/live", "rtsp://a:b@d/x"), some("rtsp://d/x"));
        assert_eq!(of("rtsp://c/live/a", "/x/y"), some("rtsp://c/x/y"));
        assert_eq!(of("rtsp://c/live", "http://d/x"), None);
        assert_eq!(control(&url("rtsp://c/live"), None).map(|u| u.to_string()), some("rtsp://c/live"));
    }
}
