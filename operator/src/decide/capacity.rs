//! What a pool's slots and budgets hold. Pure.

use std::fmt;

use framekeeper_crds::{ByteQuantity, StoragePoolSpec};

/// A stream needs one segment to write to, one that is empty when all roll over at once, and one to keep. With fewer it would wait for a
/// file now and then, and be durable later than is promised.
pub(crate) const SEGMENTS_PER_STREAM: u64 = 3;
/// One file that is being emptied, and one that is ready when the next is needed at once.
pub(crate) const SPARE_SEGMENTS_PER_VOLUME: u64 = 2;

/// How many streams the budget of one recorder's volumes can hold.
pub fn streams_by_budget(pool: &StoragePoolSpec) -> u32 {
    let segment = pool.segment.bytes.as_bytes().max(1);
    let segments = pool.storage.volumes.iter().map(|volume| {
        let bytes = volume.claim_template.spec.resources.requests.storage.as_bytes();
        (bytes / segment).saturating_sub(SPARE_SEGMENTS_PER_VOLUME)
    });
    u32::try_from(segments.sum::<u64>() / SEGMENTS_PER_STREAM).unwrap_or(u32::MAX)
}

/// That the budget of a recorder's volumes has room for fewer streams than it has channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimit {
    /// So many.
    pub streams: u32,
    segment: ByteQuantity,
}

impl fmt::Display for BudgetLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, segment } = self;
        write!(
            f,
            "the volumes of a recorder have room for {streams} streams, each of which needs {SEGMENTS_PER_STREAM} segments of {segment}, and each volume \
             {SPARE_SEGMENTS_PER_VOLUME} more"
        )
    }
}

/// Whether the budget, and not `maxChannels`, says how many streams a recorder may have.
#[must_use]
pub fn budget_limit(pool: &StoragePoolSpec) -> Option<BudgetLimit> {
    let streams = streams_by_budget(pool);
    (streams < pool.max_channels).then_some(BudgetLimit { streams, segment: pool.segment.bytes })
}

/// What is said of a pool whose recorders have fewer slots than there are streams.
pub fn shortage(streams: u32, recorders: u32, slots: u32) -> Option<String> {
    let offered = u64::from(recorders) * u64::from(slots);
    if u64::from(streams) <= offered || slots == 0 {
        return None;
    }
    let enough = streams.div_ceil(slots);
    let by_channels = streams.div_ceil(recorders.max(1));
    let or = if by_channels <= 500 { format!(", or maxChannels: {by_channels}") } else { String::new() };
    Some(format!(
        "{streams} streams need {streams} slots, but {recorders} recorders with maxChannels {slots} have {offered}; \
         set recorders: {enough} ({} more){or}",
        enough.saturating_sub(recorders)
    ))
}
