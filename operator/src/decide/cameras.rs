//! What cameras do not do, found out by trying: recorders say what happens to their sessions, and where another recorder has one meanwhile it is neither
//! the network nor the camera being off. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::observe::ChannelReport;
use super::state::State;
use super::wanted::Key;

/// The reason of a channel whose camera ends sessions that do not play, several times in a row.
const DROPS_IDLE: &str = "DropsIdleSessions";
/// The reason of a channel whose camera has no room for its session.
const TOO_MANY: &str = "TooManySessions";
/// A camera that refuses a session for so long, while another one goes on, does not only have to notice that a former one is over: those time out
/// within a minute (RFC 2326 section 12.37).
const REFUSED_FOR: Duration = Duration::from_secs(90);

/// Since when which camera has refused the session of which recorder.
#[derive(Debug, Default)]
pub(crate) struct Cameras {
    refused: BTreeMap<(Key, Key), Instant>,
}

impl Cameras {
    /// Of what a recorder says the part that depends on time, and on what others say: it is to be heard again though it is the same.
    pub(crate) fn hears_again(reports: &[(Key, ChannelReport)]) -> Vec<(Key, ChannelReport)> {
        let counts = |reason: &str| reason == DROPS_IDLE || reason == TOO_MANY;
        reports.iter().filter(|(_, report)| report.reason.as_deref().is_some_and(counts)).cloned().collect()
    }

    /// Takes note of what a recorder says at `now`. `others`: how many other recorders have a session with a stream's camera, of streams that
    /// one of them records. Whether something was learnt, by which streams are to be given out anew.
    pub(crate) fn heard(
        &mut self,
        state: &mut State,
        recorder: &Key,
        reports: &[(Key, ChannelReport)],
        now: Instant,
        others: impl Fn(&Key) -> Option<u32>,
    ) -> bool {
        let mut is_news = false;
        for (stream, report) in reports {
            let Some(remembered) = state.streams.get_mut(&stream.to_string()) else { continue };
            let (before, reason) = (remembered.camera, report.reason.as_deref());
            let others = || others(stream);
            if reason == Some(DROPS_IDLE) && others().is_some() {
                remembered.camera.drops_idle_sessions = true;
            }
            let pair = (stream.clone(), recorder.clone());
            // Who else has a session is looked up only where it counts: this is asked of each channel each second.
            let sessions = if reason == Some(TOO_MANY) { others() } else { None };
            match sessions {
                None => drop(self.refused.remove(&pair)),
                Some(sessions) => {
                    let since = *self.refused.entry(pair).or_insert(now);
                    if now.duration_since(since) >= REFUSED_FOR {
                        remembered.camera.sessions = Some(sessions);
                    }
                }
            }
            is_news |= remembered.camera != before;
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{CameraLimits, StreamState};
    use super::*;

    fn state() -> State {
        let spec = framekeeper_crds::yaml::read("{source: {url: \"rtsp://c/1\"}, poolRef: {name: main}}").unwrap();
        let stream = StreamState {
            uid: "u".into(),
            generation: 1,
            spec: std::sync::Arc::new(spec),
            recorder: Some(0),
            standbys: vec![1],
            pool: "default/main".into(),
            epoch: 1,
            epoch_seen: 0,
            plan_version: Default::default(),
            camera: CameraLimits::default(),
            holds: Vec::new(),
            left_out_holds: Vec::new(),
            released_holds: Vec::new(),
        };
        State { streams: [("default/cam".to_owned(), stream)].into(), ..State::default() }
    }

    fn says(reason: &str) -> Vec<(Key, ChannelReport)> {
        vec![(Key::new("default", "cam"), ChannelReport { reason: Some(reason.into()), ..ChannelReport::default() })]
    }

    #[test]
    fn a_camera_is_judged_only_while_another_recorder_has_its_stream() {
        let (mut cameras, mut state, one) = (Cameras::default(), state(), Key::new("default", "main-1"));
        let now = Instant::now();
        assert!(!cameras.heard(&mut state, &one, &says(DROPS_IDLE), now, |_| None));
        assert!(cameras.heard(&mut state, &one, &says(DROPS_IDLE), now, |_| Some(1)));
        assert!(!cameras.heard(&mut state, &one, &says(DROPS_IDLE), now, |_| Some(1)), "known by now");
        let learnt = state.streams.values().next().unwrap().camera;
        assert_eq!(learnt, CameraLimits { drops_idle_sessions: true, sessions: None });
    }

    #[test]
    fn a_session_that_is_refused_for_long_is_one_too_many() {
        let (mut cameras, mut state, one) = (Cameras::default(), state(), Key::new("default", "main-1"));
        let begin = Instant::now();
        let mut at = |seconds, reason: &str, others: Option<u32>| {
            cameras.heard(&mut state, &one, &says(reason), begin + Duration::from_secs(seconds), |_| others)
        };
        assert!(!at(0, TOO_MANY, Some(1)) && !at(89, TOO_MANY, Some(1)));
        // It had one in between, or nobody records: it begins anew.
        assert!(!at(89, "StandingBy", Some(1)) && !at(90, TOO_MANY, Some(1)));
        assert!(!at(150, TOO_MANY, None) && !at(151, TOO_MANY, Some(1)) && !at(240, TOO_MANY, Some(1)));
        assert!(at(241, TOO_MANY, Some(1)));
        assert_eq!(state.streams.values().next().unwrap().camera.sessions, Some(1));
    }
}
