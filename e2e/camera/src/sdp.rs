//! Session descriptions (RFC 8866; RFC 6184 §8.2.1 and RFC 3640 §4.1 for what the formats say of themselves).

use base64::Engine as _;

use crate::fault::SdpFault;
use crate::spec::{AudioKind, CameraSpec};

/// RTP payload type of the video track.
pub(crate) const VIDEO_PAYLOAD_TYPE: u8 = 96;
/// RTP payload type of the audio track.
pub(crate) const AUDIO_PAYLOAD_TYPE: u8 = 97;

/// The description of a camera's tracks, with `fault`.
pub(crate) fn describe(spec: &CameraSpec, [sps, pps]: [&[u8]; 2], fault: SdpFault) -> String {
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut lines = vec![
        "v=0".to_owned(),
        "o=- 1 1 IN IP4 127.0.0.1".to_owned(),
        format!("s={}", spec.name),
        "c=IN IP4 0.0.0.0".to_owned(),
        "t=0 0".to_owned(),
        "a=control:*".to_owned(),
        "a=range:npt=now-".to_owned(),
    ];
    if fault == SdpFault::Garbage {
        lines.push("this line has no equals sign".to_owned());
    }
    if fault != SdpFault::Empty {
        lines.push(format!("m=video 0 RTP/AVP {VIDEO_PAYLOAD_TYPE}"));
        let profile: String = sps.iter().skip(1).take(3).map(|byte| format!("{byte:02X}")).collect();
        let (encoding, parameters) = match fault {
            SdpFault::Mpeg4 => ("MP4V-ES", "profile-level-id=1".to_owned()),
            SdpFault::H263 => ("H263-1998", "profile=0;level=10".to_owned()),
            SdpFault::H265 => ("H265", "profile-id=1".to_owned()),
            SdpFault::None | SdpFault::Garbage | SdpFault::Empty => (
                "H264",
                format!(
                    "packetization-mode=1;profile-level-id={profile};sprop-parameter-sets={},{}",
                    base64(sps),
                    base64(pps)
                ),
            ),
        };
        lines.push(format!("a=rtpmap:{VIDEO_PAYLOAD_TYPE} {encoding}/90000"));
        lines.push(format!("a=fmtp:{VIDEO_PAYLOAD_TYPE} {parameters}"));
        lines.push(format!("a=framerate:{}", spec.fps));
        lines.push("a=control:trackID=0".to_owned());
    }
    if spec.audio != AudioKind::None && fault != SdpFault::Empty {
        let config: String =
            crate::aac::config(spec.rate, spec.channels).iter().map(|byte| format!("{byte:02X}")).collect();
        lines.push(format!("m=audio 0 RTP/AVP {AUDIO_PAYLOAD_TYPE}"));
        lines.push(format!("a=rtpmap:{AUDIO_PAYLOAD_TYPE} MPEG4-GENERIC/{}/{}", spec.rate, spec.channels));
        lines.push(format!(
            "a=fmtp:{AUDIO_PAYLOAD_TYPE} streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;\
             indexdeltalength=3;config={config}"
        ));
        lines.push("a=control:trackID=1".to_owned());
    }
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}
