//! As much of ONVIF as it takes to be asked for a key frame: the device service and the media service of a camera, with logins by digest (OASIS Web
//! Services Security UsernameToken Profile 1.0).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::spec::CameraSpec;

/// The profile that sends the stream; there is another one before it.
const PROFILE: &str = "stream";

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer, and nothing to be done.
    Answer(String),
    /// A key frame, and then this answer.
    KeyFrame(String),
    /// Not this one, or not by this user.
    Fault(String),
}

/// Judges and answers a request to the services of a camera, which both stand at `http://{authority}{path}`.
pub(crate) fn answer(spec: &CameraSpec, authority: &str, path: &str, request: &str) -> Outcome {
    let asks =
        |operation: &str| request.contains(&format!("{operation}>")) || request.contains(&format!("{operation}/>"));
    if asks("GetSystemDateAndTime") {
        // It does not know.
        return Outcome::Fault(fault("ter:ActionNotSupported"));
    }
    if !is_allowed(spec, request) {
        return Outcome::Fault(fault("ter:NotAuthorized"));
    }
    let profile = inner(request, "ProfileToken").unwrap_or_default();
    if asks("GetCapabilities") {
        // The address that it has on its own side.
        let address = format!("<tt:Media><tt:XAddr>http://192.0.2.1{path}</tt:XAddr></tt:Media>");
        return Outcome::Answer(wrap(&format!(
            "<tds:GetCapabilitiesResponse><tds:Capabilities>{address}</tds:Capabilities></tds:GetCapabilitiesResponse>"
        )));
    }
    if asks("GetProfiles") {
        let profiles = format!("<trt:Profiles token=\"thumbnail\"/><trt:Profiles token=\"{PROFILE}\"/>");
        return Outcome::Answer(wrap(&format!("<trt:GetProfilesResponse>{profiles}</trt:GetProfilesResponse>")));
    }
    if asks("GetStreamUri") {
        let name = if profile == PROFILE { spec.name.as_str() } else { "thumbnail" };
        let uri = format!("<trt:MediaUri><tt:Uri>rtsp://{authority}/{name}</tt:Uri></trt:MediaUri>");
        return Outcome::Answer(wrap(&format!("<trt:GetStreamUriResponse>{uri}</trt:GetStreamUriResponse>")));
    }
    if asks("SetSynchronizationPoint") && profile == PROFILE {
        return Outcome::KeyFrame(wrap("<trt:SetSynchronizationPointResponse/>"));
    }
    Outcome::Fault(fault("ter:ActionNotSupported"))
}

fn is_allowed(spec: &CameraSpec, request: &str) -> bool {
    if spec.user.is_empty() {
        return true;
    }
    let given = |name: &str| inner(request, name).unwrap_or_default();
    let Ok(nonce) = BASE64.decode(given("Nonce")) else { return false };
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(&nonce);
    hash.update(given("Created").as_bytes());
    hash.update(spec.password.as_bytes());
    nonce.len() >= 8 && given("Username") == spec.user && given("Password") == BASE64.encode(hash.finish())
}

/// What stands between the tags of an element, whatever its prefix.
fn inner<'r>(request: &'r str, name: &str) -> Option<&'r str> {
    let tag = format!(":{name}");
    let mut rests = request.split(&tag).skip(1);
    // Not of another one that begins like it.
    let rest = rests.find(|rest| rest.starts_with([' ', '>']))?;
    let (text, _) = rest.split_once('>')?.1.split_once('<')?;
    Some(text)
}

fn fault(code: &str) -> String {
    wrap(&format!(
        "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>{code}</s:Value></s:Subcode></s:Code><s:Reason><s:Text \
         xml:lang=\"en\">no</s:Text></s:Reason></s:Fault>"
    ))
}

fn wrap(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:tds=\"http://www.onvif.org/ver10/device/wsdl\" \
         xmlns:trt=\"http://www.onvif.org/ver10/media/wsdl\" xmlns:tt=\"http://www.onvif.org/ver10/schema\" \
         xmlns:ter=\"http://www.onvif.org/ver10/error\"><s:Body>{body}</s:Body></s:Envelope>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_openssl_made_passes_and_no_other() {
        let spec: CameraSpec = "name=a,user=admin,password=geheim".parse().unwrap();
        let request = |digest: &str| {
            format!(
                "<w:UsernameToken><w:Username>admin</w:Username><w:Password Type=\"x\">{digest}</w:Password><w:Nonce EncodingType=\"y\">MDEyMzQ1Njc4OWFiY2RlZg==</w:Nonce>\
                 <u:Created>2026-11-29T01:02:03Z</u:Created><trt:SetSynchronizationPoint><trt:ProfileToken>stream</trt:ProfileToken>"
            )
        };
        let right = answer(&spec, "h", "/p", &request("ruSccVUfnjWBPK/S26+rrCIGi2A="));
        assert!(matches!(right, Outcome::KeyFrame(_)), "{right:?}");
        let wrong = answer(&spec, "h", "/p", &request("ruSccVUfnjWBPK/S26+rrCIGi2B="));
        assert!(matches!(&wrong, Outcome::Fault(text) if text.contains("NotAuthorized")), "{wrong:?}");
    }
}
