//! How many channels and holds a Recorder object has room for: etcd takes objects of 1.5 MiB. Pure.

use std::collections::BTreeMap;

use framekeeper_crds::CameraStreamSpec;

use super::wanted::Key;

/// Bytes of all channels and holds of a Recorder together, as JSON. The rest is for what it is told besides, for its status, and for who wrote which field.
const TOGETHER_AT_MOST: u64 = 1_000_000;
/// Of these, of holds.
pub const HOLDS_AT_MOST: u64 = 250_000;
/// Of these, of holds together with those that were taken back: there is always room to take some back, and all of them at once.
pub const HOLDS_AND_RELEASED_AT_MOST: u64 = 333_000;
/// Of a channel, beside what depends on its stream: identities, holders, versions, limits, and the names of fields (measured: 400 with two holders).
const CHANNEL: u64 = 600;
/// Of a hold, beside the names of its stream: a UID, two times, and the names of fields.
const HOLD: u64 = 160;

/// Bytes of a hold of this stream, with both times.
#[must_use]
pub fn hold(namespace: &str, name: &str) -> u64 {
    HOLD + json(namespace) + json(name)
}

/// How many channels a Recorder has room for beside so many bytes of holds, whichever of these streams they are; `None`: for as many as `slots`.
#[must_use]
pub fn channels(streams: &BTreeMap<Key, &CameraStreamSpec>, slots: u32, holds: u64) -> Option<u32> {
    let at_most = TOGETHER_AT_MOST.saturating_sub(holds);
    let mut sizes: Vec<u64> = streams.iter().map(|(key, spec)| channel(key, spec)).collect();
    let largest = sizes.iter().max().copied().unwrap_or(0);
    // Mostly all are short, and there may be very many.
    if largest * u64::from(slots) <= at_most {
        return None;
    }
    sizes.sort_unstable_by_key(|size| std::cmp::Reverse(*size));
    sizes.truncate(slots as usize);
    let together = sizes.iter().scan(0, |sum: &mut u64, size| {
        *sum += size;
        Some(*sum)
    });
    let count = together.take_while(|sum| *sum <= at_most).count();
    (count < sizes.len()).then(|| u32::try_from(count).unwrap_or(slots))
}

fn channel(key: &Key, spec: &CameraStreamSpec) -> u64 {
    let source = &spec.source;
    let endpoint = source.onvif.as_ref().map_or(0, |onvif| json(&onvif.endpoint));
    CHANNEL + json(&key.namespace) + json(&key.name) + json(&source.url) + endpoint
}

/// Bytes of a text in JSON, where nothing but these two is escaped in an address.
fn json(text: &str) -> u64 {
    (text.len() + text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(url_bytes: usize) -> CameraStreamSpec {
        let url = format!("rtsp://c/{}", "x".repeat(url_bytes.saturating_sub(9)));
        framekeeper_crds::yaml::read(&format!("{{source: {{url: \"{url}\"}}, poolRef: {{name: main}}}}")).unwrap()
    }

    fn fits(specs: &[CameraStreamSpec], slots: u32) -> Option<u32> {
        fits_beside(0, specs, slots)
    }

    fn fits_beside(holds: u64, specs: &[CameraStreamSpec], slots: u32) -> Option<u32> {
        let keys = (0..).map(|number: u32| Key::new("default", format!("s{number:05}")));
        channels(&keys.zip(specs).collect(), slots, holds)
    }

    #[test]
    fn short_addresses_leave_room_for_all_slots_and_long_ones_for_fewer() {
        assert_eq!(fits(&vec![stream(60); 2_000], 500), None);
        let long = fits(&vec![stream(2_048); 2_000], 500).unwrap();
        assert!((300..400).contains(&long), "{long}");
        // As many as there are of them have room.
        assert_eq!(fits(&vec![stream(2_048); 300], 500), None);
        assert_eq!(fits(&vec![stream(2_048); 2_000], 300), None);
        assert_eq!(fits(&[], 500), None);
    }

    #[test]
    fn holds_take_room_from_long_addresses_and_none_from_ordinary_ones() {
        assert_eq!(fits_beside(HOLDS_AND_RELEASED_AT_MOST, &vec![stream(60); 2_000], 500), None);
        let long = vec![stream(2_048); 2_000];
        let alone = fits(&long, 500).unwrap();
        let beside = fits_beside(HOLDS_AND_RELEASED_AT_MOST, &long, 500).unwrap();
        assert!((alone * 6 / 10..alone * 7 / 10).contains(&beside), "{beside} of {alone}");
    }

    #[test]
    fn a_hold_is_no_larger_than_it_is_counted() {
        let hold = serde_json::json!({
            "stream": { "namespace": "default", "name": "door", "uid": "00000000-0000-0000-0000-000000000007" },
            "from": "2026-11-21T14:00:00.000000Z",
            "to": "2026-11-21T15:30:00.000000Z",
        });
        let read: framekeeper_crds::Hold = serde_json::from_value(hold).unwrap();
        let bytes = serde_json::to_vec(&read).unwrap().len() as u64 + 1;
        assert!((bytes..bytes + 20).contains(&super::hold("default", "door")), "{bytes}");
    }

    #[test]
    fn a_few_long_ones_cost_the_others_next_to_nothing() {
        let mut mixed = vec![stream(60); 600];
        mixed.extend(vec![stream(2_048); 100]);
        assert_eq!(fits(&mixed, 500), None);
        mixed.extend(vec![stream(2_048); 300]);
        let few = fits(&mixed, 500).unwrap();
        assert!((370..500).contains(&few), "{few}");
    }
}
