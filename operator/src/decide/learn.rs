//! What recorders say that the operator must remember, and what of it others must be told. Pure.

use framekeeper_crds::{ChannelState, RecorderStatus};

use super::holders;
use super::observe::ChannelReport;
use super::state::State;
use super::wanted::Key;

/// What a status brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// There is something to remember.
    pub remember: bool,
    /// Other recorders are to be told.
    pub assign: bool,
}

/// Takes over what a recorder's status says.
pub fn from_status(state: &mut State, recorder: &Key, status: &RecorderStatus) -> News {
    let mut news = News::default();
    for channel in &status.channels {
        let stream = state.streams.get_mut(&Key::new(&channel.stream.namespace, &channel.stream.name).to_string());
        if let (Some(stream), Some(epoch)) = (stream, channel.epoch) {
            news.remember |= stream.saw_epoch(epoch);
        }
    }
    let Some(remembered) = state.recorders.get_mut(&recorder.to_string()) else { return news };
    if status.public_key.is_some() && status.public_key != remembered.public_key {
        remembered.public_key.clone_from(&status.public_key);
        news = News { remember: true, assign: true };
    }
    // The present holders need not dial it for that stream any more; and one that is drained may be done.
    let let_go = remembered.retiring.iter().any(|it| holders::has_let_go(it, status));
    News { assign: news.assign || let_go, ..news }
}

/// Takes over the epochs that a recorder records in. Whether there is something to remember.
pub fn from_channels(state: &mut State, reports: &[(Key, ChannelReport)]) -> bool {
    let mut is_news = false;
    // One that only stands by has begun none.
    for (key, report) in reports.iter().filter(|(_, report)| report.state == Some(ChannelState::Recording)) {
        if let (Some(stream), Some(epoch)) = (state.streams.get_mut(&key.to_string()), report.epoch) {
            is_news |= stream.saw_epoch(epoch);
        }
    }
    is_news
}
