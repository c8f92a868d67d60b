//! When the camera is to be asked for a key frame: before the first one has come, and after pictures were lost. Over RTCP only where its
//! description offers that (`a=rtcp-fb` with `nack pli`, RFC 4585 §4.2); whoever has another way is told. Times are monotonic microseconds; no I/O.

/// What is on its way anyway is not asked for.
const PATIENCE_US: u64 = 200_000;
/// Not more often than this, whatever is lost.
const AGAIN_US: u64 = 1_000_000;

/// Whether pictures can be decoded, and when somebody asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyFrames {
    /// Since when pictures come that nobody can decode whole.
    missing_us: Option<u64>,
    begun: bool,
    asked_us: Option<u64>,
}

impl KeyFrames {
    /// A picture came; whether others were lost before it.
    pub(crate) fn picture(&mut self, now_us: u64, is_key: bool, lost: bool) {
        if is_key {
            self.missing_us = None;
        } else if lost || !self.begun {
            self.missing_us.get_or_insert(now_us);
        }
        self.begun = true;
    }

    /// Whether to ask at `now_us`; if so, it is taken for done.
    pub(crate) fn ask(&mut self, now_us: u64) -> bool {
        let long = |since_us: Option<u64>, at_least_us| {
            since_us.is_some_and(|since| now_us.saturating_sub(since) >= at_least_us)
        };
        let due = long(self.missing_us, PATIENCE_US) && (self.asked_us.is_none() || long(self.asked_us, AGAIN_US));
        if due {
            self.asked_us = Some(now_us);
        }
        due
    }
}

/// Whether NAL units behind 4-byte lengths hold a slice of an IDR picture (type 5 of Table 7-1 of H.264).
pub(crate) fn is_key(mut data: &[u8]) -> bool {
    while let Some((length, rest)) = data.split_first_chunk::<4>() {
        if rest.first().is_some_and(|header| header & 0x1f == 5) {
            return true;
        }
        let Some(next) = rest.get(u32::from_be_bytes(*length) as usize..) else { return false };
        data = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    #[test]
    fn it_is_asked_for_until_one_has_come_and_again_after_a_loss() {
        let mut frames = KeyFrames::default();
        assert!(!frames.ask(0), "nothing has come: nobody could be asked");
        frames.picture(100 * MS, false, false);
        assert!(!frames.ask(299 * MS) && frames.ask(300 * MS) && !frames.ask(1_299 * MS) && frames.ask(1_300 * MS));
        frames.picture(1_400 * MS, true, false);
        assert!(!frames.ask(9_000 * MS));
        frames.picture(9_000 * MS, false, false);
        assert!(!frames.ask(9_900 * MS), "nothing was lost");
        frames.picture(10_000 * MS, false, true);
        frames.picture(10_100 * MS, false, true);
        assert!(!frames.ask(10_199 * MS) && frames.ask(10_200 * MS));
    }

    #[test]
    fn a_session_that_begins_with_one_does_not_ask() {
        let mut frames = KeyFrames::default();
        frames.picture(0, true, false);
        assert!(!frames.ask(5_000 * MS));
    }

    #[test]
    fn idr_slices_are_found_behind_others() {
        assert!(is_key(&[0, 0, 0, 2, 6, 1, 0, 0, 0, 1, 0x65]));
        assert!(!is_key(&[0, 0, 0, 2, 6, 1, 0, 0, 0, 1, 0x41]));
        assert!(!is_key(&[0, 0, 0, 9, 6, 1]) && !is_key(&[]));
    }
}
