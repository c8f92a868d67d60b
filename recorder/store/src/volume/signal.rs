//! Waking a thread.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::lock;

/// What a thread is to do when it wakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wake {
    /// There is something to do now.
    pub(crate) notified: bool,
    /// Do what there is, then end.
    pub(crate) finish: bool,
    /// End.
    pub(crate) stop: bool,
}

/// Where a thread waits.
#[derive(Default)]
pub(crate) struct Signal {
    wake: Mutex<Wake>,
    changed: Condvar,
}

impl Signal {
    pub(crate) fn notify(&self) {
        self.set(|wake| wake.notified = true);
    }

    pub(crate) fn finish(&self) {
        self.set(|wake| wake.finish = true);
    }

    pub(crate) fn stop(&self) {
        self.set(|wake| wake.stop = true);
    }

    fn set(&self, change: impl FnOnce(&mut Wake)) {
        change(&mut lock(&self.wake));
        self.changed.notify_all();
    }

    /// Waits until there is something to do, or for `longest`.
    pub(crate) fn wait(&self, longest: Option<Duration>) -> Wake {
        let idle = |wake: &mut Wake| *wake == Wake::default();
        let guard = lock(&self.wake);
        let mut guard = match longest {
            None => match self.changed.wait_while(guard, idle) {
                Ok(guard) => guard,
                Err(poisoned) => poisoned.into_inner(),
            },
            Some(longest) => match self.changed.wait_timeout_while(guard, longest, idle) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            },
        };
        let wake = *guard;
        guard.notified = false;
        wake
    }
}
