//! A session that is set up and does not play, as standbys of class `Ready` have it: whether it stands, and whether the camera keeps such sessions. Pure.

use framekeeper_ingest::SessionEndKind;

/// So many idle sessions that the camera ends in a row are no accident.
const DROPS_SUFFICE: u32 = 3;
/// One that lasted for so long was not ended because it was idle: sessions time out within minutes (RFC 2326 section 12.37: 60 s unless said otherwise).
const LONG_US: u64 = 600_000_000;

/// The session, if there is one, and what became of those before it. Times are monotonic microseconds.
#[derive(Debug, Default)]
pub(super) struct Held {
    since_us: Option<u64>,
    /// So many in a row were ended by the camera.
    dropped: u32,
}

impl Held {
    /// It is set up.
    pub(super) fn begin(&mut self, now_us: u64) {
        self.since_us = Some(now_us);
    }

    /// It plays now.
    pub(super) fn play(&mut self) {
        self.since_us = None;
    }

    /// It ended.
    pub(super) fn end(&mut self, kind: SessionEndKind) {
        let was_held = self.since_us.take().is_some();
        if was_held && matches!(kind, SessionEndKind::ClosedByCamera | SessionEndKind::Silence) {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Looks at the clock. Whether it has only now turned out that the camera keeps such sessions after all.
    pub(super) fn look(&mut self, now_us: u64) -> bool {
        let is_long = self.since_us.is_some_and(|since| now_us.saturating_sub(since) >= LONG_US);
        let was_bad = self.is_dropped();
        if is_long {
            self.dropped = 0;
        }
        is_long && was_bad
    }

    /// Whether it stands.
    pub(super) fn stands(&self) -> bool {
        self.since_us.is_some()
    }

    /// Whether the camera ends sessions that do not play.
    pub(super) fn is_dropped(&self) -> bool {
        self.dropped >= DROPS_SUFFICE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000;

    #[test]
    fn a_camera_that_ends_idle_sessions_three_times_in_a_row_drops_them() {
        let mut held = Held::default();
        for time in 0..3 {
            assert!(!held.is_dropped());
            held.begin(time * MINUTE);
            assert!(held.stands() && !held.look((time + 1) * MINUTE));
            held.end(SessionEndKind::ClosedByCamera);
        }
        assert!(held.is_dropped() && !held.stands());
        // One that lasts says otherwise.
        held.begin(10 * MINUTE);
        assert!(!held.look(19 * MINUTE) && held.is_dropped());
        assert!(held.look(20 * MINUTE) && !held.is_dropped());
        assert!(!held.look(21 * MINUTE), "said once");
    }

    #[test]
    fn sessions_that_play_or_that_we_end_or_that_never_stood_do_not_count() {
        let mut held = Held::default();
        for _ in 0..10 {
            held.end(SessionEndKind::ClosedByCamera);
            held.begin(0);
            held.play();
            held.end(SessionEndKind::ClosedByCamera);
            held.begin(0);
            held.end(SessionEndKind::Stopped);
        }
        assert!(!held.is_dropped());
    }
}
