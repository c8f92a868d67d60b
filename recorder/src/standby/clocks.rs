//! Clocks of other recorders that are not in step with this one's: told of when they are more than a second apart, until that is over. Pure.
//!
//! It costs no frame, because decisions go by no clock that can be set; but footage of one stream has times by the clock of whichever recorder it is of.

use std::collections::{BTreeMap, HashMap};

use framekeeper_takeover::Offset;
use uuid::Uuid;

/// So far apart is told of…
const APART_US: u64 = 1_000_000;
/// …until it is less than this.
const IN_STEP_US: u64 = 800_000;
/// What was told of once is told of anew when it is another by so much: clocks that drift apart must not write a status each second.
const NEWS_US: u64 = 500_000;

/// What is told of.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    apart: BTreeMap<Uuid, i64>,
}

/// What is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Its clock is ahead by so many microseconds, or behind.
    Apart(i64),
    /// It is in step again.
    InStep,
}

impl Clocks {
    /// What of the peers is known now. Of one that is not heard any more nothing is.
    pub(super) fn look(&mut self, offsets: &HashMap<Uuid, Offset>) -> Vec<(Uuid, News)> {
        let mut news = Vec::new();
        self.apart.retain(|peer, _| {
            let offset = offsets.get(peer);
            let stays = offset.is_some_and(|offset| offset.apart() >= IN_STEP_US);
            if !stays && offset.is_some() {
                news.push((*peer, News::InStep));
            }
            stays
        });
        for (peer, offset) in offsets {
            let ahead = offset.middle();
            let is_news = match self.apart.get(peer) {
                Some(told) => told.abs_diff(ahead) >= NEWS_US,
                None => offset.apart() > APART_US,
            };
            if is_news {
                self.apart.insert(*peer, ahead);
                news.push((*peer, News::Apart(ahead)));
            }
        }
        news
    }

    /// Those that are told of, with the microseconds by which they are ahead, as told.
    pub(super) fn apart(&self) -> impl Iterator<Item = (Uuid, i64)> {
        self.apart.iter().map(|(peer, ahead)| (*peer, *ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Uuid = Uuid::from_u128(1);

    fn look(clocks: &mut Clocks, least_ms: i64, most_ms: i64) -> Vec<News> {
        let offset = Offset { least: least_ms * 1_000, most: most_ms * 1_000 };
        let news = clocks.look(&HashMap::from([(PEER, offset)]));
        news.into_iter().map(|(_, news)| news).collect()
    }

    #[test]
    fn a_second_is_told_of_until_it_is_clearly_less() {
        let mut clocks = Clocks::default();
        assert_eq!(look(&mut clocks, 900, 1_000), []);
        // On its way for so long that it may be anything.
        assert_eq!(look(&mut clocks, -2_000, 4_000), []);
        assert_eq!(look(&mut clocks, -1_201, -1_199), [News::Apart(-1_200_000)]);
        assert_eq!(clocks.apart().collect::<Vec<_>>(), [(PEER, -1_200_000)]);
        // No news, and neither is what hovers about the second.
        for (least, most) in [(-1_300, -1_290), (-1_001, -999), (-999, -900), (-1_100, -1_001), (-1_650, -1_600)] {
            assert_eq!(look(&mut clocks, least, most), [], "{least}");
        }
        assert_eq!(look(&mut clocks, -3_701, -3_699), [News::Apart(-3_700_000)]);
        assert_eq!(look(&mut clocks, -790, -780), [News::InStep]);
        assert_eq!(clocks.apart().count(), 0);
        assert_eq!(look(&mut clocks, -990, -980), []);
    }

    #[test]
    fn of_one_that_is_not_heard_nothing_is_known() {
        let mut clocks = Clocks::default();
        assert_eq!(look(&mut clocks, 2_000, 2_002), [News::Apart(2_001_000)]);
        assert_eq!(clocks.look(&HashMap::new()), []);
        assert_eq!(clocks.apart().count(), 0);
    }
}
