//! What an answer to DESCRIBE offers, and what of it is recorded.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use url::Url;

use super::message::Message;
use super::parameters::ParameterSets;
use super::sdp::{Media, Sdp};
use super::text::shown;
use super::urls;
use crate::engine::Failure;
use crate::event::SessionEndKind;

/// The tracks that are set up, and what is known of them beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Presentation {
    /// The URL that PLAY and TEARDOWN name.
    pub(super) aggregate: Url,
    /// SETUP of the video track names this.
    pub(super) video: Url,
    /// From SDP; may be empty.
    pub(super) sets: ParameterSets,
    /// The video track may be asked for a key frame.
    pub(super) takes_pli: bool,
    pub(super) audio: AudioTrack,
}

/// What is known of the audio track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AudioTrack {
    /// SETUP names this; there is one if and only if there are parameters.
    pub(super) control: Option<Url>,
    pub(super) parameters: Option<AacParameters>,
    pub(super) left_out: Option<String>,
}

impl AudioTrack {
    pub(super) fn left_out(reason: String) -> Self {
        Self { control: None, parameters: None, left_out: Some(reason) }
    }
}

impl Presentation {
    /// Reads the answer to DESCRIBE of `asked`.
    pub(super) fn read(asked: &Url, answer: &Message, audio_wanted: bool) -> Result<Self, Failure> {
        let broken = |what: String| Failure::new(SessionEndKind::Protocol, what);
        let sdp = Sdp::parse(&answer.body).map_err(|not_sdp| {
            let begin =
                String::from_utf8_lossy(answer.body.get(..answer.body.len().min(40)).unwrap_or_default()).into_owned();
            let begin = shown(&begin, 40);
            broken(format!(
                "the camera's answer to DESCRIBE is no session description (SDP): {not_sdp}; it begins with {begin:?}"
            ))
        })?;
        if sdp.media.is_empty() {
            return Err(broken("the camera's SDP describes no media: at least one m=video line is needed; check the path of the URL and the camera's stream settings".to_owned()));
        }
        let header = |name| answer.headers.get(name);
        let base = urls::base(asked, header("Content-Base"), header("Content-Location"));
        let aggregate = urls::control(&base, sdp.control.as_deref()).unwrap_or_else(|| base.clone());
        let media = choose_video(&sdp.media)?;
        let video = urls::control(&base, media.control.as_deref()).ok_or_else(|| {
            let control = shown(media.control.as_deref().unwrap_or_default(), 80);
            broken(format!("the video's a=control is {control:?}, which makes no rtsp:// URL"))
        })?;
        let audio = if audio_wanted { choose_audio(&base, &sdp.media) } else { AudioTrack::default() };
        Ok(Self { aggregate, video, sets: sdp_sets(media), takes_pli: media.takes_pli, audio })
    }
}

fn is_rtp(media: &Media) -> bool {
    media.protocol.split('/').any(|part| part == "RTP")
}

fn name(media: &Media) -> String {
    match (is_rtp(media), media.encoding.as_str()) {
        (false, _) => shown(&media.protocol, 32),
        (true, "") => "a format without a name".to_owned(),
        (true, encoding) => shown(encoding, 32),
    }
}

/// The first H.264 track.
fn choose_video(media: &[Media]) -> Result<&Media, Failure> {
    let unsupported = |message: String| Failure::new(SessionEndKind::Unsupported, message);
    let video = || media.iter().filter(|media| media.kind == "video");
    let Some(chosen) = video().find(|media| is_rtp(media) && media.encoding == "H264") else {
        let offered: Vec<String> = video().map(name).collect();
        return Err(unsupported(if offered.is_empty() {
            "the stream offers no video".to_owned()
        } else {
            format!("the stream offers video as {}; only H264 is supported", offered.join(", "))
        }));
    };
    match chosen.clock_hz {
        // A description that says no clock leaves what RFC 6184 fixes.
        0 | VIDEO_CLOCK_HZ => Ok(chosen),
        other => Err(unsupported(format!("H264 with a clock of {other} Hz; RFC 6184 fixes 90000"))),
    }
}

/// The first audio track that can be recorded, or why none.
fn choose_audio(base: &Url, media: &[Media]) -> AudioTrack {
    let mut left_out = None;
    for media in media.iter().filter(|media| media.kind == "audio") {
        if !is_rtp(media) || media.encoding != "MPEG4-GENERIC" {
            left_out.get_or_insert_with(|| format!("codec {} is not supported yet", name(media)));
            continue;
        }
        match aac(media).and_then(|parameters| {
            let control =
                urls::control(base, media.control.as_deref()).ok_or("a=control of the audio makes no rtsp:// URL")?;
            Ok((parameters, control))
        }) {
            Ok((parameters, control)) => {
                return AudioTrack { control: Some(control), parameters: Some(parameters), left_out: None };
            }
            Err(error) => left_out = Some(error),
        }
    }
    AudioTrack { left_out, ..AudioTrack::default() }
}

/// RFC 3640 §4.1: mode AAC-hbr alone, with the sizes that it fixes (§3.3.6).
fn aac(media: &Media) -> Result<AacParameters, String> {
    let parameter = |name: &str| media.fmtp.get(name).map_or("", String::as_str);
    let mode = parameter("mode");
    if !mode.eq_ignore_ascii_case("AAC-hbr") {
        return Err(format!("AAC in mode {:?} is not supported; AAC-hbr is", shown(mode, 32)));
    }
    for (name, right) in [("sizelength", "13"), ("indexlength", "3"), ("indexdeltalength", "3")] {
        let value = parameter(name);
        if value != right {
            return Err(format!("AAC with {name}={:?}; AAC-hbr has {right}", shown(value, 32)));
        }
    }
    let config = hex(parameter("config")).ok_or("AAC without a config in hexadecimal digits")?;
    let aac = AacParameters::from_audio_specific_config(&config)
        .map_err(|error| format!("AAC parameters cannot be used: {error}"))?;
    if media.clock_hz != aac.sample_rate {
        return Err(format!(
            "AAC parameters contradict each other: a clock of {} Hz, and {} Hz in config",
            media.clock_hz, aac.sample_rate
        ));
    }
    if media.channels.is_some_and(|channels| channels != u32::from(aac.channels)) {
        let channels = media.channels.unwrap_or(0);
        return Err(format!(
            "AAC parameters contradict each other: {channels} channels, and {} in config",
            aac.channels
        ));
    }
    Ok(aac)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[a, b]| u8::try_from(digit(*a)? << 4 | digit(*b)?).ok()).collect();
    bytes.filter(|bytes| odd.is_empty() && !bytes.is_empty())
}

/// Cameras pad as they like.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// SPS and PPS from SDP (sprop-parameter-sets, RFC 6184 §8.1), where there are any.
fn sdp_sets(media: &Media) -> ParameterSets {
    let mut sets = ParameterSets::default();
    let given = media.fmtp.get("sprop-parameter-sets").map_or("", String::as_str);
    for text in given.split(',').take(64) {
        let Ok(mut set) = BASE64.decode(text.trim()) else { continue };
        // As in the stream: zero bytes at the end are no part of a parameter set.
        set.truncate(set.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        match set.first().map(|header| header & 0x1f) {
            Some(7) if sets.sps.is_empty() => sets.sps = Bytes::from(set),
            Some(8) => sets.pps.push(Bytes::from(set)),
            _ => {}
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::message::{Headers, Start};

    fn read(headers: &str, body: &str, audio: bool) -> Result<Presentation, Failure> {
        let head = crate::native::message::parse_head(format!("RTSP/1.0 200 OK\r\n{headers}\r\n").as_bytes()).unwrap();
        let answer = Message { start: head.start, headers: head.headers, body: body.as_bytes().to_vec() };
        Presentation::read(&Url::parse("rtsp://camera/live").unwrap(), &answer, audio)
    }

    const VIDEO: &str = "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:t1\n";
    const AUDIO: &str = "m=audio 0 RTP/AVP 97\na=rtpmap:97 mpeg4-generic/16000/1\na=fmtp:97 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408\na=control:t2\n";

    #[test]
    fn both_tracks() {
        let body = format!(
            "v=0\na=control:*\n{VIDEO}a=fmtp:96 sprop-parameter-sets=Z0LADdkBQfsBEAAAAwAQAAADAyDxQqSA,aMuDyyA,aAAA\n{AUDIO}"
        );
        let p = read("Content-Base: rtsp://camera/live/\r\n", &body, true).unwrap();
        assert_eq!((p.aggregate.as_str(), p.video.as_str()), ("rtsp://camera/live/", "rtsp://camera/live/t1"));
        assert_eq!(p.audio.control.unwrap().as_str(), "rtsp://camera/live/t2");
        assert_eq!(p.audio.parameters.unwrap().sample_rate, 16_000);
        assert_eq!((p.sets.sps.len(), p.sets.pps.len()), (24, 2));
        let p = read("", &body, false).unwrap();
        assert_eq!(p.audio, AudioTrack::default());
        assert_eq!((p.aggregate.as_str(), p.video.as_str()), ("rtsp://camera/live", "rtsp://camera/live/t1"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let kind = |body: &str, words: &str| {
            let failure = read("", body, true).unwrap_err();
            assert!(failure.message.contains(words), "{}", failure.message);
            failure.kind
        };
        assert_eq!(kind("hello", "begins with \"hello\""), SessionEndKind::Protocol);
        assert_eq!(kind("", "no session description"), SessionEndKind::Protocol);
        assert_eq!(kind("v=0\n", "describes no media"), SessionEndKind::Protocol);
        assert_eq!(kind(&format!("v=0\n{AUDIO}"), "no video"), SessionEndKind::Unsupported);
        assert_eq!(kind("m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\n", "H265"), SessionEndKind::Unsupported);
        assert_eq!(kind("m=video 0 RTP/AVP 96\n", "without a name"), SessionEndKind::Unsupported);
        assert_eq!(kind("m=video 0 udp 33\n", "UDP"), SessionEndKind::Unsupported);
        assert_eq!(kind(&VIDEO.replace("90000", "1000"), "1000 Hz"), SessionEndKind::Unsupported);
        assert_eq!(kind(&VIDEO.replace("t1", "http://x/"), "a=control"), SessionEndKind::Protocol);
    }

    #[test]
    fn audio_that_is_left_out_says_why() {
        let why = |audio: &str| {
            let p = read("", &format!("{VIDEO}{audio}"), true).unwrap().audio;
            assert_eq!((p.control, p.parameters), (None, None));
            p.left_out.unwrap()
        };
        for (from, to, word) in [
            ("AAC-hbr", "AAC-lbr", "AAC-lbr"),
            ("sizelength=13", "sizelength=6", "13"),
            ("config=1408", "config=14z8", "hexadecimal"),
            ("config=1408", "config=140", "hexadecimal"),
            ("config=1408", "config=FFFF", "cannot be used"),
            ("16000/1", "48000/1", "contradict"),
            ("16000/1", "16000/2", "contradict"),
            ("control:t2", "control:http://x/", "control"),
            ("mpeg4-generic", "opus", "OPUS"),
        ] {
            assert!(why(&AUDIO.replace(from, to)).contains(word), "{to}: {}", why(&AUDIO.replace(from, to)));
        }
    }

    #[test]
    fn any_body_is_an_answer_or_an_error() {
        use proptest::prelude::*;
        let line = prop_oneof![
            "[ -~]{0,40}",
            Just(VIDEO.to_owned()),
            Just(AUDIO.to_owned()),
            "a=fmtp:9[67] (config|mode|sprop-parameter-sets)=[ -~]{0,30}",
        ];
        proptest!(ProptestConfig::with_cases(300), |(lines in proptest::collection::vec(line, 0..20))| {
            let _ = read("", &lines.join("\n"), true);
        });
        let answer = Message {
            start: Start::Response { status: 200, reason: String::new() },
            headers: Headers::default(),
            body: vec![0xff; 1 << 20],
        };
        assert!(Presentation::read(&Url::parse("rtsp://camera/live").unwrap(), &answer, true).is_err());
    }
}
