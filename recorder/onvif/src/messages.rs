//! SOAP 1.2 envelopes for the few operations that are needed, and what is in their answers. Pure: time and nonces come in.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use roxmltree::{Document, Node};

const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
const DEVICE: &str = "http://www.onvif.org/ver10/device/wsdl";
const MEDIA: &str = "http://www.onvif.org/ver10/media/wsdl";
const SCHEMA: &str = "http://www.onvif.org/ver10/schema";
const SECURITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";
const UTILITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
const DIGEST: &str =
    "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0#PasswordDigest";
const BINARY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-soap-message-security-1.0#Base64Binary";

/// No more of what a camera says in a fault is passed on.
const REASON_CHARS: usize = 200;

/// User name and password of a camera.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Never shown.
    pub password: String,
}

impl Login {
    /// `text` without user name and password: a camera may quote what it was sent. Of one or two letters nothing is cut out, which stand everywhere.
    pub(crate) fn redact(&self, text: &str) -> String {
        let secrets = [&self.password, &self.user].into_iter().filter(|secret| secret.len() >= 3);
        secrets.fold(text.to_owned(), |clean, secret| clean.replace(secret.as_str(), "***"))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// The camera's clock; needs no login.
    SystemDateAndTime,
    /// Where its media service is.
    MediaCapabilities,
    /// Its media profiles.
    Profiles,
    /// The RTSP address of a profile.
    StreamUri(&'a str),
    /// A key frame on all streams of a profile.
    SynchronizationPoint(&'a str),
}

/// Why an answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// User name and password are wrong, missing, or the clocks are apart.
    NotAuthorized,
    /// In the camera's words.
    Said(String),
    /// It is not what was asked for.
    NoAnswer,
}

impl Request<'_> {
    fn body(self) -> String {
        match self {
            Request::SystemDateAndTime => "<tds:GetSystemDateAndTime/>".to_owned(),
            Request::MediaCapabilities => {
                "<tds:GetCapabilities><tds:Category>Media</tds:Category></tds:GetCapabilities>".to_owned()
            }
            Request::Profiles => "<trt:GetProfiles/>".to_owned(),
            Request::StreamUri(profile) => format!(
                "<trt:GetStreamUri><trt:StreamSetup><tt:Stream>RTP-Unicast</tt:Stream><tt:Transport><tt:Protocol>RTSP</tt:Protocol></tt:Transport>\
                 </trt:StreamSetup><trt:ProfileToken>{}</trt:ProfileToken></trt:GetStreamUri>",
                escaped(profile)
            ),
            Request::SynchronizationPoint(profile) => format!(
                "<trt:SetSynchronizationPoint><trt:ProfileToken>{}</trt:ProfileToken></trt:SetSynchronizationPoint>",
                escaped(profile)
            ),
        }
    }

    /// What an answer's body holds.
    fn response(self) -> (&'static str, &'static str) {
        match self {
            Request::SystemDateAndTime => (DEVICE, "GetSystemDateAndTimeResponse"),
            Request::MediaCapabilities => (DEVICE, "GetCapabilitiesResponse"),
            Request::Profiles => (MEDIA, "GetProfilesResponse"),
            Request::StreamUri(_) => (MEDIA, "GetStreamUriResponse"),
            Request::SynchronizationPoint(_) => (MEDIA, "SetSynchronizationPointResponse"),
        }
    }

    /// The whole message. `created` is the time by the camera's clock: it refuses what is much older.
    pub(crate) fn envelope(self, login: Option<(&Login, [u8; 16], Timestamp)>) -> String {
        let header = login.map_or_else(String::new, |(login, nonce, created)| security(login, nonce, created));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><s:Envelope xmlns:s=\"{SOAP}\" xmlns:tds=\"{DEVICE}\" xmlns:trt=\"{MEDIA}\" xmlns:tt=\"{SCHEMA}\">\
             <s:Header>{header}</s:Header><s:Body>{}</s:Body></s:Envelope>",
            self.body()
        )
    }
}

/// A `UsernameToken` with a digest (OASIS Web Services Security UsernameToken Profile 1.0, section 3.1): Base64(SHA-1(nonce + created + password)).
fn security(login: &Login, nonce: [u8; 16], created: Timestamp) -> String {
    let created = format!("{created:.0}");
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(&nonce);
    hash.update(created.as_bytes());
    hash.update(login.password.as_bytes());
    let digest = BASE64.encode(hash.finish());
    format!(
        "<wsse:Security s:mustUnderstand=\"1\" xmlns:wsse=\"{SECURITY}\" xmlns:wsu=\"{UTILITY}\"><wsse:UsernameToken><wsse:Username>{}</wsse:Username>\
         <wsse:Password Type=\"{DIGEST}\">{digest}</wsse:Password><wsse:Nonce EncodingType=\"{BINARY}\">{}</wsse:Nonce><wsu:Created>{created}</wsu:Created>\
         </wsse:UsernameToken></wsse:Security>",
        escaped(&login.user),
        BASE64.encode(nonce)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An answer, with `read` for what is in it.
pub(crate) fn answer<T>(
    request: Request<'_>,
    text: &str,
    read: impl FnOnce(Node<'_, '_>) -> Option<T>,
) -> Result<T, Fault> {
    let document = Document::parse(text).map_err(|_| Fault::NoAnswer)?;
    let body = child(document.root_element(), SOAP, "Body").ok_or(Fault::NoAnswer)?;
    if let Some(fault) = child(body, SOAP, "Fault") {
        return Err(said(fault));
    }
    let (namespace, name) = request.response();
    child(body, namespace, name).and_then(read).ok_or(Fault::NoAnswer)
}

fn said(fault: Node<'_, '_>) -> Fault {
    let is_not_authorized = |node: Node<'_, '_>| {
        let value = node.text().unwrap_or_default().trim();
        node.has_tag_name((SOAP, "Value")) && value.rsplit(':').next() == Some("NotAuthorized")
    };
    if fault.descendants().any(is_not_authorized) {
        return Fault::NotAuthorized;
    }
    let reason = fault.descendants().find(|node| node.has_tag_name((SOAP, "Text"))).and_then(|node| node.text());
    let shown = reason.unwrap_or_default().trim().chars().filter(|c| !c.is_control()).take(REASON_CHARS).collect();
    Fault::Said(shown)
}

fn child<'a, 'i>(node: Node<'a, 'i>, namespace: &str, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.has_tag_name((namespace, name)))
}

fn descendant<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.descendants().find(|child| child.tag_name().name() == name)
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    descendant(node, name)?.text().map(str::trim).filter(|text| !text.is_empty())
}

/// The camera's clock.
pub(crate) fn utc(response: Node<'_, '_>) -> Option<Timestamp> {
    let utc = descendant(response, "UTCDateTime")?;
    let number = |name: &str| text(utc, name)?.parse::<i16>().ok();
    let small = |name: &str| i8::try_from(number(name)?).ok();
    let (year, month, day) = (number("Year")?, small("Month")?, small("Day")?);
    let civil = DateTime::new(year, month, day, small("Hour")?, small("Minute")?, small("Second")?, 0).ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// The address of the media service.
pub(crate) fn media_address(response: Node<'_, '_>) -> Option<String> {
    let media = descendant(response, "Media")?;
    text(media, "XAddr").map(str::to_owned)
}

/// The tokens of the profiles, in the camera's order.
pub(crate) fn profiles(response: Node<'_, '_>) -> Option<Vec<String>> {
    let profiles = response.children().filter(|node| node.has_tag_name((MEDIA, "Profiles")));
    let tokens: Vec<String> = profiles.filter_map(|node| node.attribute("token").map(str::to_owned)).collect();
    (!tokens.is_empty()).then_some(tokens)
}

/// The RTSP address of a profile.
pub(crate) fn stream_uri(response: Node<'_, '_>) -> Option<String> {
    text(response, "Uri").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(body: &str) -> String {
        format!(
            "<s:Envelope xmlns:s=\"{SOAP}\" xmlns:d=\"{DEVICE}\" xmlns:m=\"{MEDIA}\" xmlns:t=\"{SCHEMA}\"><s:Body>{body}</s:Body></s:Envelope>"
        )
    }

    #[test]
    fn a_digest_is_as_others_make_it() {
        // Base64(SHA-1(nonce + created + password)), made with openssl.
        let login = Login { user: "admin".into(), password: "geheim".into() };
        let created: Timestamp = "2026-11-29T01:02:03.9Z".parse().unwrap();
        let text = Request::Profiles.envelope(Some((&login, *b"0123456789abcdef", created)));
        assert!(text.contains("<wsu:Created>2026-11-29T01:02:03Z</wsu:Created>"), "{text}");
        assert!(text.contains(">MDEyMzQ1Njc4OWFiY2RlZg==</wsse:Nonce>"), "{text}");
        assert!(text.contains("#PasswordDigest\">ruSccVUfnjWBPK/S26+rrCIGi2A=</wsse:Password>"), "{text}");
        assert!(!text.contains("geheim") && !format!("{login:?}").contains("geheim"));
        assert!(Document::parse(&text).is_ok());
    }

    #[test]
    fn names_cannot_break_out_of_their_places() {
        let login = Login { user: "<a&\"b>".into(), password: String::new() };
        let text = Request::SynchronizationPoint("</x>").envelope(Some((&login, [0; 16], Timestamp::UNIX_EPOCH)));
        let document = Document::parse(&text).unwrap();
        let found = |name: &str| super::text(document.root_element(), name).unwrap().to_owned();
        assert_eq!((found("Username"), found("ProfileToken")), ("<a&\"b>".to_owned(), "</x>".to_owned()));
    }

    #[test]
    fn answers_are_read_whatever_their_prefixes() {
        let time = "<d:GetSystemDateAndTimeResponse><d:SystemDateAndTime><t:UTCDateTime><t:Time><t:Hour>14</t:Hour><t:Minute>3</t:Minute>\
                    <t:Second>59</t:Second></t:Time><t:Date><t:Year>2026</t:Year><t:Month>11</t:Month><t:Day>29</t:Day></t:Date></t:UTCDateTime>\
                    </d:SystemDateAndTime></d:GetSystemDateAndTimeResponse>";
        let read = answer(Request::SystemDateAndTime, &wrapped(time), utc);
        assert_eq!(read, Ok("2026-11-29T14:03:59Z".parse().unwrap()));
        let address = "<d:GetCapabilitiesResponse><d:Capabilities><t:Media><t:XAddr>http://10.0.0.9/onvif/media</t:XAddr></t:Media></d:Capabilities>\
                       </d:GetCapabilitiesResponse>";
        let read = answer(Request::MediaCapabilities, &wrapped(address), media_address);
        assert_eq!(read, Ok("http://10.0.0.9/onvif/media".to_owned()));
        let two = "<m:GetProfilesResponse><m:Profiles token=\"a\"/><m:Profiles token=\"b\"/></m:GetProfilesResponse>";
        assert_eq!(answer(Request::Profiles, &wrapped(two), profiles), Ok(vec!["a".to_owned(), "b".to_owned()]));
        let uri = "<m:GetStreamUriResponse><m:MediaUri><t:Uri>rtsp://10.0.0.9/s?n=1&amp;m=2</t:Uri></m:MediaUri></m:GetStreamUriResponse>";
        let read = answer(Request::StreamUri("a"), &wrapped(uri), stream_uri);
        assert_eq!(read, Ok("rtsp://10.0.0.9/s?n=1&m=2".to_owned()));
        let done =
            answer(Request::SynchronizationPoint("a"), &wrapped("<m:SetSynchronizationPointResponse/>"), |_| Some(()));
        assert_eq!(done, Ok(()));
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        let ask = |text: &str| answer(Request::Profiles, text, profiles);
        let fault = |inside: &str| ask(&wrapped(&format!("<s:Fault>{inside}</s:Fault>")));
        let not_authorized =
            "<s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>ter:NotAuthorized</s:Value></s:Subcode></s:Code>";
        assert_eq!(fault(not_authorized), Err(Fault::NotAuthorized));
        let long = format!("<s:Reason><s:Text xml:lang=\"en\"> no\n{} </s:Text></s:Reason>", "x".repeat(500));
        let Err(Fault::Said(said)) = fault(&long) else { panic!("no fault") };
        assert!(said.starts_with("nox") && said.len() == 200);
        for text in ["", "<html>", "{}", &wrapped(""), &wrapped("<m:GetProfilesResponse/>"), "<?xml version=\"1.0\"?>"]
        {
            assert_eq!(ask(text), Err(Fault::NoAnswer), "{text}");
        }
        let month = "<d:GetSystemDateAndTimeResponse><t:UTCDateTime><t:Month>13</t:Month></t:UTCDateTime></d:GetSystemDateAndTimeResponse>";
        assert_eq!(answer(Request::SystemDateAndTime, &wrapped(month), utc), Err(Fault::NoAnswer));
    }
}
