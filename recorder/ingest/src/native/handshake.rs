//! From a URL to a session that plays: DESCRIBE (with redirects), SETUP of the tracks that are wanted, PLAY.

use std::sync::Arc;

use bytes::Bytes;
use framekeeper_media::aac::AacParameters;
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use retina::client::{self, PlayOptions, SessionGroup, SessionOptions, SetupOptions, Stream};
use retina::codec::{ParametersRef, VideoParametersCodec};

use super::failure::{Stage, from_retina};
use super::redirect;
use super::session::ParameterSets;
use crate::engine::Failure;
use crate::event::SessionEndKind;
use crate::spec::{Credentials, SourceSpec};

/// A session that plays.
pub(super) struct Opened {
    pub(super) session: client::Session<client::Playing>,
    pub(super) video_stream: usize,
    pub(super) audio_stream: Option<usize>,
    /// From SDP; may be empty.
    pub(super) sets: ParameterSets,
    pub(super) audio: AudioTrack,
}

/// What is known of the audio track.
#[derive(Clone, Debug, Default)]
pub(super) struct AudioTrack {
    pub(super) parameters: Option<AacParameters>,
    pub(super) left_out: Option<String>,
}

/// Opens a session for `spec`.
pub(super) async fn open(
    spec: SourceSpec,
    user_agent: String,
    farewells: Arc<SessionGroup>,
) -> Result<Opened, Failure> {
    let credentials = spec.credentials.as_ref();
    let options = |credentials: Option<&Credentials>| {
        let credentials = credentials
            .map(|c| client::Credentials { username: c.username().to_owned(), password: c.password().to_owned() });
        SessionOptions::default()
            .creds(credentials)
            .user_agent(user_agent.clone())
            .session_group(Arc::clone(&farewells))
            // Cameras that change the session's name from track to track are common; the first one is right.
            .session_id(client::SessionIdPolicy::UseFirst)
    };

    let mut url = spec.url.clone();
    let mut hops = 0;
    let (mut session, with_credentials) = loop {
        // Credentials are for the host that they were configured for, and for no other that it may point to.
        let own_host = url.host() == spec.url.host();
        let given = credentials.filter(|_| own_host);
        match client::Session::describe(url.clone(), options(given)).await {
            Ok(session) => break (session, given.is_some()),
            Err(error) if error.status_code().is_some_and(redirect::is_redirect) => {
                if hops == redirect::MAX_REDIRECTS {
                    let message = format!("the camera redirects more than {} times in a row", redirect::MAX_REDIRECTS);
                    return Err(Failure::new(SessionEndKind::Protocol, message));
                }
                hops += 1;
                let location = redirect::location(&url, given, &user_agent).await?;
                url = redirect::target(&url, &location)?;
            }
            Err(error) => {
                if error.status_code() == Some(401) && !own_host && credentials.is_some() {
                    let host = url.host_str().unwrap_or_default();
                    let message = format!(
                        "redirected to {host}, which asks for a password; it is sent to the configured host alone"
                    );
                    return Err(Failure::new(SessionEndKind::Unauthorized, message));
                }
                return Err(from_retina(Stage::Describe, &error, given.is_some()));
            }
        }
    };

    let video_stream = choose_video(session.streams())?;
    let (mut audio_stream, mut audio) = choose_audio(session.streams(), spec.audio);
    let sets = session.streams().get(video_stream).map(sdp_sets).unwrap_or_default();

    session
        .setup(video_stream, SetupOptions::default())
        .await
        .map_err(|e| from_retina(Stage::Setup, &e, with_credentials))?;
    if let Some(index) = audio_stream
        && let Err(error) = session.setup(index, SetupOptions::default()).await
    {
        let failure = from_retina(Stage::Setup, &error, with_credentials);
        if error.status_code().is_none() {
            return Err(failure);
        }
        // Refused for this track alone: pictures without sound are better than neither.
        audio_stream = None;
        audio = AudioTrack { parameters: None, left_out: Some(failure.message) };
    }
    // rtptime and seq of RTP-Info are wrong in many cameras, and nothing here needs them.
    let play = PlayOptions::default()
        .initial_timestamp(client::InitialTimestampPolicy::Ignore)
        .initial_seq(client::InitialSequenceNumberPolicy::Ignore);
    let session = session.play(play).await.map_err(|e| from_retina(Stage::Play, &e, with_credentials))?;
    Ok(Opened { session, video_stream, audio_stream, sets, audio })
}

fn codec(stream: &Stream) -> String {
    stream.encoding_name().to_ascii_uppercase().chars().filter(|c| !c.is_control()).take(32).collect()
}

/// The first H.264 track.
fn choose_video(streams: &[Stream]) -> Result<usize, Failure> {
    let unsupported = |message: String| Failure::new(SessionEndKind::Unsupported, message);
    let video = || streams.iter().enumerate().filter(|(_, s)| s.media() == "video");
    let Some((index, stream)) = video().find(|(_, s)| s.encoding_name() == "h264") else {
        let offered: Vec<String> = video().map(|(_, s)| codec(s)).collect();
        return Err(unsupported(if offered.is_empty() {
            "the stream offers no video".to_owned()
        } else {
            format!("the stream offers video as {}; only H264 is supported", offered.join(", "))
        }));
    };
    if stream.clock_rate_hz() != VIDEO_CLOCK_HZ {
        let rate = stream.clock_rate_hz();
        return Err(unsupported(format!("H264 with a clock of {rate} Hz; RFC 6184 fixes 90000")));
    }
    Ok(index)
}

/// The first audio track that can be recorded, or why none.
fn choose_audio(streams: &[Stream], wanted: bool) -> (Option<usize>, AudioTrack) {
    if !wanted {
        return (None, AudioTrack::default());
    }
    let mut left_out = None;
    for (index, stream) in streams.iter().enumerate().filter(|(_, s)| s.media() == "audio") {
        if stream.encoding_name() != "mpeg4-generic" {
            left_out.get_or_insert_with(|| format!("codec {} is not supported yet", codec(stream)));
            continue;
        }
        match stream.parameters() {
            Some(ParametersRef::Audio(p)) => match AacParameters::from_audio_specific_config(p.extra_data()) {
                Ok(parameters) => return (Some(index), AudioTrack { parameters: Some(parameters), left_out: None }),
                Err(error) => left_out = Some(format!("AAC parameters cannot be used: {error}")),
            },
            _ => {
                left_out = Some(
                    "AAC parameters in SDP are missing, contradict each other, or are not of mode AAC-hbr".to_owned(),
                )
            }
        }
    }
    (None, AudioTrack { parameters: None, left_out })
}

/// SPS and PPS from SDP (sprop-parameter-sets, RFC 6184 §8.1), where there are any.
fn sdp_sets(stream: &Stream) -> ParameterSets {
    match stream.parameters() {
        Some(ParametersRef::Video(p)) => match p.codec_params() {
            VideoParametersCodec::H264 { sps, pps } => ParameterSets { sps: trimmed(sps), pps: vec![trimmed(pps)] },
            _ => ParameterSets::default(),
        },
        _ => ParameterSets::default(),
    }
}

/// As in the stream: zero bytes at the end are no part of a parameter set.
fn trimmed(set: &Bytes) -> Bytes {
    let end = set.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    set.slice(..end)
}
