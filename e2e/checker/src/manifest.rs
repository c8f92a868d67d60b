//! `manifest.log` (format.md §8).

use std::path::PathBuf;

use crate::bytes::{Broken, Bytes};
use crate::segment::{Segment, Uid};

/// A record of a sealed segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRecord {
    /// File number and use nonce.
    pub file_use: (u64, u64),
    /// Numbers in the order of format.md: segment number, init hash, first and last wall time, index offset and length,
    /// video frames, audio frames, random access points, runs, video bytes, audio bytes; fragments.
    pub numbers: [u64; 13],
    /// The stream's UID.
    pub stream: Uid,
    /// `namespace/name`.
    pub name: String,
    /// Below the volume.
    pub path: PathBuf,
    /// Of each run: run, recorder, previous run; epoch, rank, gap reason, first wall time, end, video frames, flags,
    /// end of the previous run.
    pub runs: Vec<([Uid; 3], [u64; 8])>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A segment was sealed.
    Sealed(Box<SealedRecord>),
    /// A use of a file ended: file number, use nonce.
    Retired(u64, u64),
    /// Footage is held, or released.
    Hold,
    /// A damaged range; what it says is the recorder's to know.
    Damaged,
    /// A file that was read as a whole.
    Checked,
}

/// The records, and what is wrong with the file.
pub fn read(data: &[u8]) -> (Vec<Record>, Vec<Broken>) {
    let bytes = Bytes(data);
    let (mut records, mut wrong) = (Vec::new(), Vec::new());
    if bytes.array(0).ok() != Some(*b"FKMANIF1") || bytes.len() < 16 {
        return (records, vec![Broken::new(0, "header is not FKMANIF1 and a generation")]);
    }
    let mut at = 16;
    while at < bytes.len() {
        match read_one(bytes, at) {
            Ok((record, next)) => {
                records.push(record);
                at = next;
            }
            Err(broken) => {
                wrong.push(broken);
                break;
            }
        }
    }
    (records, wrong)
}

fn read_one(bytes: Bytes<'_>, at: usize) -> Result<(Record, usize), Broken> {
    let (length, crc) = (bytes.u32(at)? as usize, bytes.u32(at + 4)?);
    if length == 0 || length > 1 << 20 {
        return Err(Broken::new(at, format!("record of {length} bytes")));
    }
    let payload = bytes.slice(at + 8, length)?;
    let is = crc32c::crc32c(payload);
    if is != crc {
        return Err(Broken::new(at, format!("record: CRC {crc:08x}, its bytes have {is:08x}")));
    }
    let next = at + 8 + length.next_multiple_of(8);
    if !bytes.is_zero(at + 8 + length, next)? {
        return Err(Broken::new(at + 8 + length, "padding is not zero"));
    }
    let record = read_payload(Bytes(payload)).map_err(|broken| Broken::new(at + 8 + broken.at, broken.what))?;
    Ok((record, next))
}

fn read_payload(p: Bytes<'_>) -> Result<Record, Broken> {
    let [kind, version] = p.array(0)?;
    // A sealed record has its number of fragments in the last four of these bytes.
    if version != 1 || !p.is_zero(2, if kind == 1 { 4 } else { 8 })? {
        return Err(Broken::new(0, format!("record of kind {kind}, version {version}, or reserved bytes not zero")));
    }
    let (record, end) = match kind {
        1 => read_sealed(p)?,
        2 => (Record::Retired(p.u64(8)?, p.u64(16)?), 24),
        3 => (Record::Hold, 56),
        4 => (Record::Hold, 24),
        5 => (Record::Damaged, 96),
        6 => (Record::Checked, 64),
        _ => return Err(Broken::new(0, format!("record of kind {kind}"))),
    };
    if end != p.len() {
        return Err(Broken::new(0, format!("record of kind {kind} with {} bytes, {end} are right", p.len())));
    }
    Ok(record)
}

fn read_sealed(p: Bytes<'_>) -> Result<(Record, usize), Broken> {
    let narrow = |at| p.u32(at).map(u64::from);
    let numbers = [
        p.u64(40)?,
        p.u64(48)?,
        p.u64(56)?,
        p.u64(64)?,
        p.u64(72)?,
        p.u64(80)?,
        narrow(88)?,
        narrow(92)?,
        narrow(96)?,
        narrow(100)?,
        p.u64(104)?,
        p.u64(112)?,
        narrow(4)?,
    ];
    let mut at = 120;
    let mut text = || {
        let length = usize::from(p.u16(at)?);
        let bytes = p.slice(at + 2, length)?.to_vec();
        let text = String::from_utf8(bytes).map_err(|_| Broken::new(at, "text is not UTF-8"))?;
        at += 2 + length;
        Ok::<_, Broken>(text)
    };
    let (name, path) = (text()?, text()?);
    let mut runs = Vec::new();
    for _ in 0..narrow(100)? {
        let uid = |offset| p.array(at + offset).map(Uid::from_bytes);
        let numbers = [
            p.u64(at + 16)?,
            narrow(at + 24)?,
            narrow(at + 28)?,
            p.u64(at + 64)?,
            p.u64(at + 72)?,
            narrow(at + 80)?,
            narrow(at + 84)?,
            p.u64(at + 88)?,
        ];
        runs.push(([uid(0)?, uid(32)?, uid(48)?], numbers));
        at += 96;
    }
    let record = SealedRecord {
        file_use: (p.u64(8)?, p.u64(16)?),
        numbers,
        stream: Uid::from_bytes(p.array(24)?),
        name,
        path: path.into(),
        runs,
    };
    Ok((Record::Sealed(Box::new(record)), at))
}

/// What a sealed segment's record must say; `path` is below the volume. `None` when the segment has no good index.
pub fn expected(segment: &Segment, path: PathBuf) -> Option<SealedRecord> {
    let (sealed, index, header) = (segment.sealed?, segment.index.as_ref()?, &segment.header);
    let of_run = |(number, run): (usize, &crate::segment::Run)| {
        let frames = segment.fragments.iter().filter(|f| f.run == number).map(|f| f.video.len() as u64).sum();
        let (first, end) = index.runs.get(number).copied().unwrap_or_default();
        let numbers = [
            run.epoch,
            run.rank.into(),
            run.gap_reason.into(),
            first as u64,
            end as u64,
            frames,
            run.continued.into(),
            run.previous_end_us as u64,
        ];
        ([run.run, run.recorder, run.previous_run], numbers)
    };
    Some(SealedRecord {
        file_use: (header.file_number, header.nonce),
        numbers: [
            header.number,
            header.init_hash,
            header.first_wall_us as u64,
            sealed.last_wall_us as u64,
            sealed.index_at,
            sealed.index_bytes,
            index.video.into(),
            index.audio.into(),
            index.random_access.into(),
            segment.runs.len() as u64,
            index.video_bytes,
            index.audio_bytes,
            segment.fragments.len() as u64,
        ],
        stream: header.stream,
        name: header.name.clone(),
        path,
        runs: segment.runs.iter().enumerate().map(of_run).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let mut out = (payload.len() as u32).to_be_bytes().to_vec();
        out.extend(crc32c::crc32c(payload).to_be_bytes());
        out.extend(payload);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    #[test]
    fn reading_ends_at_the_first_record_that_does_not_check() {
        let mut data = b"FKMANIF1\0\0\0\0\0\0\0\0".to_vec();
        let mut payload = vec![2, 1, 0, 0, 0, 0, 0, 0];
        payload.extend(5u64.to_be_bytes());
        payload.extend(9u64.to_be_bytes());
        data.extend(record(&payload));
        let good = data.len();
        data.extend(record(&payload));
        assert_eq!(read(&data), (vec![Record::Retired(5, 9); 2], vec![]));
        data[good + 9] ^= 1;
        let (records, wrong) = read(&data);
        assert_eq!((records.len(), wrong.len(), wrong[0].at), (1, 1, good));
        assert_eq!(read(&data[..good - 1]).1.len(), 1, "cut short");
        payload.push(0);
        data.truncate(good);
        data.extend(record(&payload));
        assert!(read(&data).1[0].what.contains("25 bytes"));
    }
}
