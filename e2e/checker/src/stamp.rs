//! The stamps that ledger cameras put into coded frames, and the identity of a coded picture.

use xxhash_rust::xxh3::Xxh3Default;

/// The UUID of the cameras' user_data_unregistered SEI messages (H.264 §D.1.7).
pub const UUID: [u8; 16] = *b"frame-ledger-01\n";
/// What the data of the cameras' data_stream_elements begins with; the frame's number follows.
pub const AUDIO_MAGIC: [u8; 8] = *b"FKAUDIO1";

/// What a camera wrote into a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Stamp {
    /// The frame's number.
    pub number: u64,
    /// Presentation time in 1/90000 s.
    pub media_time: i64,
}

impl Stamp {
    /// The stamp behind a UUID, emulation prevention already taken out.
    fn behind_uuid(payload: &[u8]) -> Option<Self> {
        let fields = payload.strip_prefix(&UUID)?;
        Some(Self {
            number: u64::from_be_bytes(*fields.first_chunk()?),
            media_time: i64::from_be_bytes(*fields.get(8..)?.first_chunk()?),
        })
    }

    /// The stamp whose UUID begins at the start of these bytes of a NAL unit, as they lie in a file.
    pub fn in_raw_video(bytes: &[u8]) -> Option<Self> {
        // 32 bytes and at most one emulation prevention byte for each two of them.
        Self::behind_uuid(&unescaped(bytes.get(..bytes.len().min(48))?))
    }
}

/// A sample's NAL units (ISO/IEC 14496-15 §5.3.2, 4-byte lengths), without the lengths.
///
/// `None` when the lengths do not fill the sample exactly.
pub fn nal_units(sample: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut rest, mut units) = (sample, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (unit, next) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        units.push(unit);
        rest = next;
    }
    rest.is_empty().then_some(units)
}

/// H.264 NAL units that hold slices (types 1 to 5).
fn is_vcl(unit: &[u8]) -> bool {
    unit.first().is_some_and(|header| (1..=5).contains(&(header & 0x1f)))
}

/// XXH3-64 over the VCL NAL units, each without the zero bytes it may end with; 0 when there are none.
pub fn identity(units: &[&[u8]]) -> u64 {
    let mut hasher = Xxh3Default::new();
    let mut any = false;
    for unit in units.iter().filter(|unit| is_vcl(unit)) {
        let end = unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        hasher.update(unit.get(..end).unwrap_or_default());
        any = true;
    }
    if any { hasher.digest() } else { 0 }
}

/// The `crc32-size` identity of ledgers whose camera cannot stamp: bytes « 32 | CRC-32 (as zlib's) of them.
pub fn size_and_crc<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let (mut size, mut crc) = (0u64, u32::MAX);
    for byte in parts.into_iter().inspect(|part| size += part.len() as u64).flatten() {
        let index = (crc as u8 ^ byte) as usize;
        crc = CRC32.get(index).copied().unwrap_or_default() ^ crc >> 8;
    }
    size << 32 | u64::from(!crc)
}

/// The same over a picture's VCL NAL units, without the zero bytes that each may end with.
pub fn size_and_crc_of_units(units: &[&[u8]]) -> u64 {
    let stripped = |unit: &&'_ [u8]| unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    size_and_crc(units.iter().filter(|unit| is_vcl(unit)).map(|unit| unit.get(..stripped(unit)).unwrap_or_default()))
}

/// CRC-32 of each byte (ISO 3309, reflected).
const CRC32: [u32; 256] = {
    let (mut table, mut byte) = ([0u32; 256], 0u32);
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// The stamps in a picture's SEI NAL units: one, unless access units were merged or the stamp was lost.
pub fn of_video(units: &[&[u8]]) -> Vec<Stamp> {
    units.iter().filter_map(|unit| in_sei(unit)).collect()
}

fn in_sei(unit: &[u8]) -> Option<Stamp> {
    let (&header, body) = unit.split_first()?;
    if header & 0x1f != 6 {
        return None;
    }
    let message = unescaped(body);
    let mut rest = message.as_slice();
    // H.264 §7.3.2.3.1: payloadType and payloadSize as runs of 0xFF and a last byte.
    while rest.len() > 2 {
        let kind;
        let size;
        (kind, rest) = ff_coded(rest)?;
        (size, rest) = ff_coded(rest)?;
        let (payload, next) = rest.split_at_checked(size)?;
        if kind == 5
            && let Some(stamp) = Stamp::behind_uuid(payload)
        {
            return Some(stamp);
        }
        rest = next;
    }
    None
}

fn ff_coded(mut bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    loop {
        let (&byte, rest) = bytes.split_first()?;
        value += usize::from(byte);
        bytes = rest;
        if byte != 0xff {
            return Some((value, bytes));
        }
    }
}

/// Without emulation_prevention_three_bytes (H.264 §7.4.1).
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut zeros) = (Vec::with_capacity(bytes.len()), 0);
    for &byte in bytes {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// The number in the data_stream_element that a raw AAC frame begins with (ISO/IEC 14496-3 §4.4.2.1, Table 4.10).
pub fn of_audio(frame: &[u8]) -> Option<u64> {
    let (&[first, second], rest) = frame.split_first_chunk()?;
    // id_syn_ele 4 (3 bits), element_instance_tag (4), data_byte_align_flag (1), count (8): whole bytes, aligned already.
    if first >> 5 != 4 {
        return None;
    }
    let (count, rest) = match second {
        255 => {
            let (&more, rest) = rest.split_first()?;
            (255 + usize::from(more), rest)
        }
        count => (usize::from(count), rest),
    };
    Some(u64::from_be_bytes(*rest.get(..count)?.strip_prefix(&AUDIO_MAGIC)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_behind_other_messages_and_through_emulation_prevention() {
        let mut unit = vec![0x06, 1, 1, 0xAA, 5, 32];
        unit.extend(UUID);
        unit.extend([0, 0, 3, 0, 0, 3, 0, 0, 3, 0, 7]); // number 7, escaped
        unit.extend((-2i64).to_be_bytes());
        unit.push(0x80);
        let stamp = Stamp { number: 7, media_time: -2 };
        assert_eq!(of_video(&[&[0x67, 1], &unit]), [stamp]);
        assert_eq!(Stamp::in_raw_video(&unit[6..]), Some(stamp));
        assert_eq!(of_video(&[&unit[..20]]), []);
    }

    #[test]
    fn an_identity_passes_over_trailing_zeros_and_other_units() {
        assert_eq!(identity(&[&[0x65, 1, 0, 0], &[0x06, 9]]), xxhash_rust::xxh3::xxh3_64(&[0x65, 1]));
        assert_eq!(identity(&[&[0x06, 9]]), 0);
        assert_eq!(nal_units(&[0, 0, 0, 1, 9, 0]), None);
        assert_eq!(size_and_crc([&b"1234"[..], b"56789"]), 9 << 32 | 0xCBF4_3926);
        assert_eq!(size_and_crc_of_units(&[&[0x65, 1, 0, 0], &[0x06, 9]]), size_and_crc([&[0x65u8, 1][..]]));
    }

    #[test]
    fn an_audio_stamp_is_the_first_element_of_its_frame() {
        let mut frame = vec![0x81, 16];
        frame.extend(AUDIO_MAGIC);
        frame.extend(5u64.to_be_bytes());
        frame.push(0xE0);
        assert_eq!(of_audio(&frame), Some(5));
        frame[0] = 0x20;
        assert_eq!(of_audio(&frame), None);
    }
}
