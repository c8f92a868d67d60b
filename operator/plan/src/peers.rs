//! Which recorders may share a stream: [`Peers`]. All holders of a stream keep links with each other, so this is what bounds the links of a
//! recorder in a large pool.
//!
//! Up to 33 recorders everyone is everyone's peer. Above, they stand in a ring in which failure domains alternate, and each has the nearest of
//! other domains as peers, the same number in both directions. A pool that grows by one recorder so changes the ring at one place only, where
//! separate cells of fixed size would all be cut anew (and 34 recorders in two cells of 17 would need a larger reserve than 33 in one).

use std::collections::BTreeMap;

/// The most peers of a recorder.
pub const MAX_PEERS: u32 = 32;
/// Of these, those that come from the ring; the others are left for pairs that share streams since an earlier plan, so that they need not move.
const RING_PEERS: u32 = 28;

/// Who may share a stream with whom.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    of: Vec<Vec<u32>>,
    words: usize,
    bits: Vec<u64>,
}

impl Peers {
    /// Peers for recorders with these failure domains. `sharing` counts the streams that pairs of recorders (the lower index first) share already.
    pub(super) fn new(domains: &[u32], sharing: &BTreeMap<(u32, u32), u32>) -> Self {
        let count = domains.len();
        let words = count.div_ceil(64);
        let mut peers = Peers { of: vec![Vec::new(); count], words, bits: vec![0; words * count] };
        let ring = ring(domains);
        let everyone = count <= MAX_PEERS as usize + 1;
        let most = if everyone { MAX_PEERS } else { RING_PEERS };
        for distance in 1..=count / 2 {
            for (at, &one) in ring.iter().enumerate() {
                let other = ring.get((at + distance) % count).copied().unwrap_or(one);
                peers.link(domains, one, other, most);
            }
            if peers.of.iter().all(|of| of.len() >= most as usize) {
                break;
            }
        }
        // Those that share most first; among equals by index.
        let mut old: Vec<_> = sharing.iter().map(|(pair, count)| (std::cmp::Reverse(*count), *pair)).collect();
        old.sort_unstable();
        for (_, (one, other)) in old {
            peers.link(domains, one, other, MAX_PEERS);
        }
        for of in &mut peers.of {
            of.sort_unstable();
        }
        peers
    }

    fn link(&mut self, domains: &[u32], one: u32, other: u32, most: u32) {
        let degree = |index: u32| self.of.get(index as usize).map_or(u32::MAX, |of| of.len() as u32);
        let differ = domains.get(one as usize) != domains.get(other as usize);
        if !differ || self.are(one, other) || degree(one) >= most || degree(other) >= most {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            if let Some(of) = self.of.get_mut(from as usize) {
                of.push(to);
            }
            if let Some(word) = self.bits.get_mut(from as usize * self.words + to as usize / 64) {
                *word |= 1 << (to % 64);
            }
        }
    }

    /// The failure domains that the peers of a recorder are of, in order. `domains` as for [`Self::new`].
    pub(super) fn domains(&self, domains: &[u32], index: u32) -> Vec<u32> {
        let near = self.of(index).iter().filter_map(|peer| domains.get(*peer as usize).copied());
        let mut near: Vec<u32> = near.collect();
        near.sort_unstable();
        near.dedup();
        near
    }

    /// The peers of a recorder, by index.
    pub(super) fn of(&self, index: u32) -> &[u32] {
        self.of.get(index as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether two may share a stream.
    pub(super) fn are(&self, one: u32, other: u32) -> bool {
        let word = self.bits.get(one as usize * self.words + other as usize / 64);
        word.is_some_and(|word| word >> (other % 64) & 1 == 1)
    }
}

/// The recorders, so ordered that each failure domain is spread over the whole ring.
fn ring(domains: &[u32]) -> Vec<u32> {
    let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
    for domain in domains {
        *sizes.entry(*domain).or_default() += 1;
    }
    let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
    let mut keyed: Vec<(u64, u32, u32)> = Vec::with_capacity(domains.len());
    for (index, domain) in (0_u32..).zip(domains) {
        let size = sizes.get(domain).copied().unwrap_or(1);
        let before = seen.entry(*domain).or_default();
        keyed.push((((2 * *before + 1) << 32) / (2 * size), *domain, index));
        *before += 1;
    }
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, _, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_pools_know_everybody_of_other_domains() {
        let peers = Peers::new(&[0, 1, 2, 0], &BTreeMap::new());
        assert_eq!(peers.of(0), [1, 2]);
        assert_eq!(peers.of(1), [0, 2, 3]);
        let peers = Peers::new(&(0..33).collect::<Vec<_>>(), &BTreeMap::new());
        assert!((0..33).all(|index| peers.of(index).len() == 32));
    }

    #[test]
    fn one_more_recorder_changes_the_ring_at_one_place() {
        let before = Peers::new(&(0..200).collect::<Vec<_>>(), &BTreeMap::new());
        let after = Peers::new(&(0..201).collect::<Vec<_>>(), &BTreeMap::new());
        let pairs: Vec<_> = (0..200).flat_map(|one| before.of(one).iter().map(move |other| (one, *other))).collect();
        assert_eq!(pairs.len(), 200 * 28);
        // Those that stood opposite the seam: 1 + 2 + … + 14 pairs would be all that reach across it.
        let lost = pairs.iter().filter(|(one, other)| one < other && !after.are(*one, *other)).count();
        assert!((1..=14).contains(&lost), "{lost}");
        // And if they share streams, not even these.
        let sharing = pairs.iter().filter(|(one, other)| one < other).map(|pair| (*pair, 1)).collect();
        let after = Peers::new(&(0..201).collect::<Vec<_>>(), &sharing);
        assert!(pairs.iter().all(|(one, other)| after.are(*one, *other)));
        assert_eq!(after.of(200).len(), 28);
    }

    proptest! {
        #[test]
        fn peers_are_mutual_few_and_of_other_domains(domains in prop::collection::vec(0_u32..40, 1..120), old in prop::collection::btree_map((0_u32..60, 60_u32..120), 1_u32..9, 0..300)) {
            let count = domains.len() as u32;
            let old = old.into_iter().filter(|((_, other), _)| *other < count).collect();
            let peers = Peers::new(&domains, &old);
            for one in 0..count {
                prop_assert!(peers.of(one).len() <= MAX_PEERS as usize);
                for other in 0..count {
                    let are = peers.of(one).contains(&other);
                    prop_assert_eq!(are, peers.are(one, other));
                    prop_assert_eq!(are, peers.are(other, one));
                    prop_assert!(!are || domains[one as usize] != domains[other as usize]);
                }
            }
        }
    }
}
