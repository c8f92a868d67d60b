//! How long groups of pictures are.

use std::collections::VecDeque;

use framekeeper_media::WallTime;
use framekeeper_store::Fragment;

/// Of so many the longest counts.
const LATELY: usize = 4;

/// The lengths of the last ones.
#[derive(Debug, Default)]
pub(super) struct Gops {
    began: Option<WallTime>,
    lengths_us: VecDeque<u64>,
}

impl Gops {
    /// A fragment came.
    pub(super) fn note(&mut self, fragment: &Fragment) {
        let Some(first) = fragment.video.first().filter(|_| fragment.begins_random_access) else { return };
        if let Some(began) = self.began.replace(first.wall) {
            if self.lengths_us.len() >= LATELY {
                self.lengths_us.pop_front();
            }
            self.lengths_us.push_back(u64::try_from(first.wall.0.saturating_sub(began.0)).unwrap_or(0));
        }
    }

    /// What comes does not follow on what was before: the time between is no group of pictures.
    pub(super) fn interrupt(&mut self) {
        self.began = None;
    }

    /// The longest lately, microseconds; 0 before there was one.
    pub(super) fn longest_us(&self) -> u64 {
        self.lengths_us.iter().copied().max().unwrap_or(0)
    }
}
