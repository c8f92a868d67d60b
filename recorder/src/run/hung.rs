//! Whether the threads that a recorder can do nothing without still do what they are for.

/// Looks in a row without a tick after which the tick thread counts as hung: 15 s.
const HUNG_LOOKS: u32 = 60;

/// Notices that ticks no longer end. Looks are counted, not time: a process that was stopped for a while is not hung.
#[derive(Debug, Default)]
pub(super) struct Hung {
    ticks: u64,
    looks: u32,
}

impl Hung {
    /// Asked at each look, with how many ticks there were: whether it hangs.
    pub(super) fn look(&mut self, ticks: u64) -> bool {
        self.looks = if ticks == self.ticks { self.looks.saturating_add(1) } else { 0 };
        self.ticks = ticks;
        self.looks > HUNG_LOOKS
    }
}

/// Which of them are there. Nothing starts one of them anew but the process that begins anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threads {
    /// Of the cameras.
    pub(super) ticks: bool,
    /// Of the links to other recorders.
    pub(super) peers: bool,
    /// Of the link to the API server; also where there is to be none.
    pub(super) cluster: bool,
}

impl Threads {
    /// Which one ended, as a sentence.
    pub(super) fn ended(self) -> Option<&'static str> {
        let Self { ticks, peers, cluster } = self;
        let all = [
            (ticks, "the tick thread ended"),
            (peers, "the thread of the links to other recorders ended"),
            (cluster, "the thread of the link to the API server ended"),
        ];
        all.into_iter().find_map(|(is_there, sentence)| (!is_there).then_some(sentence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ended_is_named() {
        let all = Threads { ticks: true, peers: true, cluster: true };
        assert_eq!(all.ended(), None);
        let named = |threads: Threads, word: &str| assert!(threads.ended().is_some_and(|said| said.contains(word)));
        named(Threads { ticks: false, ..all }, "tick");
        named(Threads { peers: false, ..all }, "other recorders");
        named(Threads { cluster: false, ..all }, "API server");
    }

    #[test]
    fn only_a_long_standstill_is_a_hang() {
        let mut hung = Hung::default();
        assert!((1..500).all(|tick| !hung.look(tick)));
        assert!((0..HUNG_LOOKS).all(|_| !hung.look(499)));
        assert!(hung.look(499));
        assert!(!hung.look(500));
    }
}
