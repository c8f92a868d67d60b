//! What a pool's slots and budgets hold. Pure.

use framekeeper_crds::StoragePoolSpec;

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
