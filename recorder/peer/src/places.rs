//! Where peers are, beside what the plan says. A pod whose sandbox was made anew has another address, and while the API server is away no plan tells it;
//! whoever was dialled by that peer knows where it is, and passes it on to those who seek it. Keys decide who it is that answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use framekeeper_takeover::heartbeat::PLACES_AT_MOST;

/// What others say of one peer; a newer word takes the place of the oldest.
const TOLD_AT_MOST: usize = 3;

#[derive(Debug, Default)]
struct Known {
    /// Where it was heard from last.
    heard: Option<SocketAddr>,
    /// Where others say that it is, the newest last.
    told: Vec<SocketAddr>,
}

/// Where one peer is; shared with the task that dials it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<Known>>);

impl Places {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is heard on a connection with `remote`, and says that it listens at `port`; 0: it does not.
    pub(crate) fn heard(&self, remote: SocketAddr, port: u16) {
        let place = place(remote, port);
        let mut known = self.lock();
        if place.is_some() && known.heard != place {
            known.heard = place;
            known.told.clear();
        }
    }

    /// Where it was heard from last.
    pub(crate) fn last(&self) -> Option<SocketAddr> {
        self.lock().heard
    }

    /// Another recorder reaches it there.
    pub(crate) fn told(&self, said: SocketAddr) {
        let Some(place) = place(said, said.port()) else { return };
        let mut known = self.lock();
        if known.heard == Some(place) || known.told.contains(&place) {
            return;
        }
        if known.told.len() >= TOLD_AT_MOST {
            known.told.remove(0);
        }
        known.told.push(place);
    }

    /// Where to try, behind what the plan says, the newest word first.
    pub(crate) fn to_try(&self) -> Vec<SocketAddr> {
        let known = self.lock();
        known.told.iter().rev().copied().chain(known.heard).collect()
    }
}

/// An address at which one recorder may listen.
fn place(at: SocketAddr, port: u16) -> Option<SocketAddr> {
    let address = at.ip().to_canonical();
    (port != 0 && !address.is_unspecified() && !address.is_multicast()).then(|| SocketAddr::new(address, port))
}

/// As many of all as one heartbeat may name, others each time.
pub(crate) fn in_turn<T>(mut all: Vec<T>, turn: u64) -> Vec<T> {
    if all.len() > PLACES_AT_MOST {
        let parts = all.len().div_ceil(PLACES_AT_MOST) as u64;
        let first = usize::try_from(turn % parts).unwrap_or(0) * PLACES_AT_MOST;
        all.rotate_left(first);
        all.truncate(PLACES_AT_MOST);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_newest_word_is_tried_first_and_what_is_heard_ends_what_is_said() {
        let places = Places::default();
        assert!(places.to_try().is_empty());
        for said in ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"] {
            places.told(at(said));
        }
        assert_eq!(places.to_try(), [at("10.0.0.4:1"), at("10.0.0.3:1"), at("10.0.0.2:1")]);
        // It came by itself, from a port of no meaning, through a socket for both families.
        places.heard(at("[::ffff:10.0.0.9]:40000"), 7);
        assert_eq!((places.to_try(), places.last()), (vec![at("10.0.0.9:7")], Some(at("10.0.0.9:7"))));
        places.told(at("10.0.0.9:7"));
        places.told(at("10.0.0.5:1"));
        places.heard(at("10.0.0.9:40001"), 7);
        assert_eq!(places.to_try(), [at("10.0.0.5:1"), at("10.0.0.9:7")]);
    }

    #[test]
    fn what_can_be_nobodys_address_is_passed_over() {
        let places = Places::default();
        for said in ["0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[ff02::1]:1", "10.0.0.1:0"] {
            places.told(at(said));
        }
        places.heard(at("10.0.0.1:40000"), 0);
        assert!(places.to_try().is_empty() && places.last().is_none());
    }

    #[test]
    fn all_are_named_in_turn() {
        let many: Vec<usize> = (0..PLACES_AT_MOST * 2 + 5).collect();
        let named: BTreeSet<usize> = (0..3).flat_map(|turn| in_turn(many.clone(), turn)).collect();
        assert_eq!(named.len(), many.len());
        assert!((0..9).all(|turn| in_turn(many.clone(), turn).len() == PLACES_AT_MOST));
        assert_eq!(in_turn(vec![1, 2], 9), [1, 2]);
    }
}
