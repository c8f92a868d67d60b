//! Which decision is in force for a stream, and who must still be told that it is no longer a holder: [`Record`].
//!
//! Recorder objects are not written all at once, and recorders come back with old ones. So each stream's assignment carries the version of the
//! decision it comes from, and former holders stay listed until they say that they know.

use std::collections::BTreeMap;

/// What holds for one stream. `V` orders decisions: (term, sequence).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<V> {
    /// The holders' ordinals, the primary first.
    pub holders: Vec<u32>,
    /// Grows with each change of the primary; above every epoch that a recorder has begun by itself.
    pub epoch: u64,
    /// The decision that this comes from.
    pub version: V,
    /// Former holders that have not acknowledged, each with the decision that took the stream away.
    pub retired: BTreeMap<u32, V>,
}

impl<V: Copy + Ord> Record<V> {
    /// Puts a decision into force. `epoch_seen` is the highest epoch any recorder reported. Whether anything changed: a decision that says what
    /// holds already leaves version and epoch as they are, and one that is not newer is not obeyed.
    pub fn decide(&mut self, holders: &[u32], decision: V, epoch_seen: u64) -> bool {
        if self.holders == holders || decision <= self.version {
            return false;
        }
        if self.holders.first() != holders.first() {
            self.epoch = self.epoch.max(epoch_seen) + 1;
        }
        for former in self.holders.iter().filter(|former| !holders.contains(former)) {
            self.retired.insert(*former, decision);
        }
        self.retired.retain(|former, _| !holders.contains(former));
        self.holders = holders.to_vec();
        self.version = decision;
        true
    }

    /// A recorder says that it knows all decisions up to this one.
    pub fn acknowledge(&mut self, ordinal: u32, known: V) {
        if self.retired.get(&ordinal).is_some_and(|retired| *retired <= known) {
            self.retired.remove(&ordinal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_holders_are_told_until_they_know() {
        let mut record = Record { holders: vec![0, 1], epoch: 4, version: (1, 1), retired: BTreeMap::new() };
        assert!(record.decide(&[2, 1], (1, 2), 9));
        assert_eq!((record.epoch, record.version), (10, (1, 2)));
        assert_eq!(record.retired, BTreeMap::from([(0, (1, 2))]));
        // An old acknowledgement is none.
        record.acknowledge(0, (1, 1));
        assert_eq!(record.retired.len(), 1);
        record.acknowledge(0, (2, 0));
        assert_eq!(record.retired.len(), 0);
    }

    #[test]
    fn a_holder_again_is_not_retired() {
        let mut record = Record { holders: vec![0, 1], epoch: 1, version: (1, 1), retired: BTreeMap::new() };
        assert!(record.decide(&[0, 2], (1, 2), 0));
        assert_eq!(record.epoch, 1, "the same primary");
        assert!(record.decide(&[0, 1], (1, 3), 0));
        assert_eq!(record.retired, BTreeMap::from([(2, (1, 3))]));
    }

    #[test]
    fn what_holds_already_and_what_is_old_changes_nothing() {
        let mut record = Record { holders: vec![0], epoch: 1, version: (2, 1), retired: BTreeMap::new() };
        let before = record.clone();
        assert!(!record.decide(&[0], (2, 2), 7));
        assert!(!record.decide(&[1], (1, 9), 0));
        assert_eq!(record, before);
    }
}
