//! What several recorders say of one stream, put together. Pure.

use framekeeper_crds::{ChannelState, RedundancyClass};

use super::observe::ChannelReport;
use super::status::Doing;

/// A recorder that holds a stream, or has not let go of it yet, as it is seen.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'r> {
    /// Name of the recorder.
    pub name: &'r str,
    /// Whether it ended and has not been started again.
    pub is_down: bool,
    /// What it says of the stream, if it answers.
    pub report: Option<&'r ChannelReport>,
}

impl Holder<'_> {
    fn state(&self) -> Option<ChannelState> {
        self.report.and_then(|report| report.state)
    }

    /// Whether it records.
    #[must_use]
    pub fn records(&self) -> bool {
        self.state() == Some(ChannelState::Recording)
    }

    /// Whether it has what it takes to record from the next moment on. A standby that has not seen the camera has not.
    fn stands_by(&self) -> bool {
        let reason = self.report.and_then(|report| report.reason.as_deref());
        self.state() == Some(ChannelState::Standby) && matches!(reason, None | Some("StandingBy"))
    }

    /// Whether it is ready to take over, as its class promises it.
    #[must_use]
    pub fn is_ready(&self, class: RedundancyClass) -> bool {
        self.records() || (class != RedundancyClass::Mirrored && self.stands_by())
    }

    /// Why it is not, in a few words that stay the same while it tries.
    #[must_use]
    pub fn why_not_ready(&self) -> &'static str {
        match self.state() {
            _ if self.is_down => "does not run",
            None => "does not answer",
            Some(_) => match self.report.and_then(|report| report.reason.as_deref()) {
                Some("FillingMemory") => "does not have the last seconds in memory yet",
                Some("TooManySessions") => "is refused a session by the camera",
                Some("Silence") => "gets no frames of the camera",
                Some("MemoryShort") => "has too little memory for the last seconds of the stream",
                _ => "has not reached the camera yet",
            },
        }
    }
}

/// Who records, of several the one of the lowest rank. `holders` by rank, former ones behind them.
#[must_use]
pub fn active<'h, 'r>(holders: &'h [Holder<'r>]) -> Option<&'h Holder<'r>> {
    holders.iter().find(|holder| holder.records())
}

/// Whether somebody is about to record in the primary's place.
#[must_use]
pub fn awaits_takeover(holders: &[Holder<'_>]) -> bool {
    active(holders).is_none() && holders.iter().skip(1).any(Holder::stands_by)
}

/// Whose report counts: whoever records, else the primary; where that one says nothing, a standby that tries.
#[must_use]
pub fn spokesman<'h, 'r>(holders: &'h [Holder<'r>]) -> Option<&'h Holder<'r>> {
    let tries = |holder: &&Holder<'_>| holder.report.is_some() && holder.state() != Some(ChannelState::Standby);
    active(holders)
        .or_else(|| holders.first().filter(|primary| primary.report.is_some()))
        .or_else(|| holders.iter().find(tries))
}

/// How many of these recorders have a session with the camera, if one of them records it.
pub fn sessions<'r>(reports: impl Iterator<Item = &'r ChannelReport>) -> Option<u32> {
    let (mut sessions, mut recording) = (0, false);
    for report in reports {
        recording |= report.state == Some(ChannelState::Recording);
        sessions += u32::from(matches!(report.state, Some(ChannelState::Recording | ChannelState::Standby)));
    }
    recording.then_some(sessions)
}

/// What the stream is doing.
#[must_use]
pub fn doing(holders: &[Holder<'_>]) -> Doing {
    let report = spokesman(holders).and_then(|holder| holder.report);
    match (report, holders.first()) {
        (Some(report), _) => Doing::Reported(Box::new(report.clone())),
        (None, Some(primary)) if primary.is_down => Doing::RecorderDown,
        (None, _) => Doing::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(state: ChannelState, reason: Option<&str>) -> ChannelReport {
        ChannelReport { state: Some(state), reason: reason.map(str::to_owned), ..ChannelReport::default() }
    }

    fn holder<'r>(name: &'r str, report: Option<&'r ChannelReport>) -> Holder<'r> {
        Holder { name, is_down: report.is_none(), report }
    }

    fn name_of_active<'r>(holders: &[Holder<'r>]) -> Option<&'r str> {
        active(holders).map(|holder| holder.name)
    }

    #[test]
    fn whoever_records_speaks_for_the_stream() {
        let recording = says(ChannelState::Recording, None);
        let standby = says(ChannelState::Standby, Some("StandingBy"));
        let backoff = says(ChannelState::Backoff, Some("Unreachable"));
        let recorded = Doing::Reported(Box::new(recording.clone()));

        let planned = [holder("a", Some(&recording)), holder("b", Some(&standby))];
        assert_eq!((doing(&planned), name_of_active(&planned)), (recorded.clone(), Some("a")));
        let taken_over = [holder("a", None), holder("b", Some(&recording))];
        assert_eq!((doing(&taken_over), name_of_active(&taken_over)), (recorded.clone(), Some("b")));
        let cut_off = [holder("a", Some(&backoff)), holder("b", Some(&recording))];
        assert_eq!(doing(&cut_off), recorded);
        let both = [holder("a", Some(&recording)), holder("b", Some(&recording))];
        assert_eq!(name_of_active(&both), Some("a"));
    }

    #[test]
    fn where_nobody_records_the_primary_says_why_and_else_a_standby_that_tries() {
        let standby = says(ChannelState::Standby, Some("StandingBy"));
        let backoff = says(ChannelState::Backoff, Some("Unreachable"));
        let connecting = says(ChannelState::Connecting, None);
        let failed = [holder("a", Some(&backoff)), holder("b", Some(&standby))];
        assert_eq!(doing(&failed), Doing::Reported(Box::new(backoff.clone())));
        assert_eq!(doing(&[holder("a", None), holder("b", Some(&standby))]), Doing::RecorderDown);
        let tries = [holder("a", None), holder("b", Some(&standby)), holder("c", Some(&connecting))];
        assert_eq!(doing(&tries), Doing::Reported(Box::new(connecting.clone())));
        let silent = Holder { is_down: false, ..holder("a", None) };
        assert_eq!(doing(&[silent, holder("b", Some(&standby))]), Doing::NoAnswer);
    }

    #[test]
    fn a_takeover_is_awaited_while_a_standby_is_ready_and_nobody_records() {
        let standby = says(ChannelState::Standby, Some("StandingBy"));
        let blind = says(ChannelState::Standby, Some("Connecting"));
        let recording = says(ChannelState::Recording, None);
        assert!(awaits_takeover(&[holder("a", None), holder("b", Some(&standby))]));
        assert!(!awaits_takeover(&[holder("a", None), holder("b", Some(&blind))]));
        assert!(!awaits_takeover(&[holder("a", Some(&recording)), holder("b", Some(&standby))]));
        assert!(!awaits_takeover(&[holder("a", None)]));
    }

    #[test]
    fn a_mirror_is_ready_when_it_records() {
        let standby = says(ChannelState::Standby, None);
        let recording = says(ChannelState::Recording, None);
        assert!(holder("b", Some(&standby)).is_ready(RedundancyClass::Playing));
        assert!(!holder("b", Some(&standby)).is_ready(RedundancyClass::Mirrored));
        assert!(holder("b", Some(&recording)).is_ready(RedundancyClass::Mirrored));
        assert_eq!(holder("b", None).why_not_ready(), "does not run");
    }
}
