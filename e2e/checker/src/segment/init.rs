//! `ftyp` and `moov` of a segment file (format.md §3), field by field.

use super::{Bytes, Findings};
use crate::bytes::{Box4, Broken, text};

/// What `moov` says about the tracks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timescales {
    /// Of track 1.
    pub video: u32,
    /// Of track 2; 0 when there is none.
    pub audio: u32,
}

const FTYP: &[u8; 28] = b"\0\0\0\x1cftypiso6\0\0\0\0iso6iso5mp41";

/// Checks everything that format.md says about `ftyp` and `moov`.
pub(super) fn check(bytes: Bytes<'_>, ftyp: &Box4, moov: &Box4, findings: &mut Findings) -> Result<Timescales, Broken> {
    if bytes.slice(ftyp.start, ftyp.size())? != FTYP {
        findings.add(ftyp.start, "ftyp is not iso6, 0, iso6 iso5 mp41");
    }
    let children = bytes.children(moov)?;
    let names: Vec<_> = children.iter().map(Box4::name).collect();
    match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["mvhd", "trak", "mvex"] | ["mvhd", "trak", "trak", "mvex"] => {}
        _ => findings.add(moov.start, format!("moov holds {names:?}")),
    }
    let mvhd = bytes.child(moov, b"mvhd")?;
    let (timescale, duration) = header_times(bytes, &mvhd, findings)?;
    if (timescale, duration) != (90_000, 0) {
        findings.add(mvhd.start, format!("mvhd: timescale {timescale}, duration {duration}; 90000 and 0 are right"));
    }
    if bytes.u32(mvhd.end - 4)? != 3 {
        findings.add(mvhd.start, "mvhd: next_track_ID is not 3");
    }
    let mut scales = Timescales::default();
    let mut tracks = Vec::new();
    for trak in children.iter().filter(|child| child.kind == *b"trak") {
        let (track, timescale) = check_track(bytes, trak, findings)?;
        match (track, tracks.len()) {
            (1, 0) => scales.video = timescale,
            (2, 1) => scales.audio = timescale,
            _ => findings.add(trak.start, format!("track {track} as number {}", tracks.len() + 1)),
        }
        tracks.push(track);
    }
    let mvex = bytes.child(moov, b"mvex")?;
    let trex: Vec<_> = bytes.children(&mvex)?.into_iter().filter(|child| child.kind == *b"trex").collect();
    if trex.len() != tracks.len() || trex.len() != bytes.children(&mvex)?.len() {
        findings.add(mvex.start, "mvex does not hold one trex for each track");
    }
    for (trex, track) in trex.iter().zip(&tracks) {
        let mut right = vec![0; 4];
        right.extend(track.to_be_bytes());
        right.extend([0, 0, 0, 1]);
        right.extend([0; 12]);
        if bytes.slice(trex.body, trex.end - trex.body)? != right {
            findings.add(trex.start, format!("trex of track {track}: only default_sample_description_index is 1"));
        }
    }
    Ok(scales)
}

/// Creation and modification time 0, then (timescale, duration): `mvhd` and `mdhd`, 12 §8.2.2 and §8.4.2.
fn header_times(bytes: Bytes<'_>, header: &Box4, findings: &mut Findings) -> Result<(u32, u64), Broken> {
    let (times, timescale, duration) = match bytes.slice(header.body, 1)? {
        [0] => (8, bytes.u32(header.body + 12)?, u64::from(bytes.u32(header.body + 16)?)),
        _ => (16, bytes.u32(header.body + 20)?, bytes.u64(header.body + 24)?),
    };
    if !bytes.is_zero(header.body + 4, header.body + 4 + times)? {
        findings.add(header.start, format!("{}: a creation or modification time that is not 0", header.name()));
    }
    Ok((timescale, duration))
}

fn check_track(bytes: Bytes<'_>, trak: &Box4, findings: &mut Findings) -> Result<(u32, u32), Broken> {
    let tkhd = bytes.child(trak, b"tkhd")?;
    let wide = bytes.slice(tkhd.body, 1)? != [0];
    let times = if wide { 16 } else { 8 };
    if !bytes.is_zero(tkhd.body + 4, tkhd.body + 4 + times)? {
        findings.add(tkhd.start, "tkhd: a creation or modification time that is not 0");
    }
    let track = bytes.u32(tkhd.body + 4 + times)?;
    let mdia = bytes.child(trak, b"mdia")?;
    let mdhd = bytes.child(&mdia, b"mdhd")?;
    let (timescale, duration) = header_times(bytes, &mdhd, findings)?;
    if duration != 0 {
        findings.add(mdhd.start, format!("mdhd: duration {duration}"));
    }
    let hdlr = bytes.child(&mdia, b"hdlr")?;
    let handler: [u8; 4] = bytes.array(hdlr.body + 8)?;
    let minf = bytes.child(&mdia, b"minf")?;
    let stbl = bytes.child(&minf, b"stbl")?;
    for (table, counts_at) in [(b"stts", 4), (b"stsc", 4), (b"stsz", 8), (b"stco", 4)] {
        let table_box = bytes.child(&stbl, table)?;
        if bytes.u32(table_box.body + counts_at)? != 0 {
            findings.add(table_box.start, format!("{} is not empty", text(table)));
        }
    }
    let stsd = bytes.child(&stbl, b"stsd")?;
    let entries = bytes.boxes(stsd.body + 8, stsd.end)?;
    let [entry] = entries.as_slice() else {
        return Err(Broken::new(stsd.start, format!("stsd with {} entries", entries.len())));
    };
    match (track, &handler, &entry.kind) {
        (1, b"vide", b"avc1") => {
            if timescale != 90_000 {
                findings.add(mdhd.start, format!("video timescale {timescale}"));
            }
            check_avc(bytes, entry, findings)?;
        }
        (2, b"soun", b"mp4a") => {
            let inside = bytes.boxes(entry.body + 28, entry.end)?;
            if !inside.iter().any(|child| child.kind == *b"esds") {
                findings.add(entry.start, "mp4a without esds");
            }
        }
        (track, handler, kind) => {
            findings.add(trak.start, format!("track {track} is {} with {}", text(handler), text(kind)));
        }
    }
    Ok((track, timescale))
}

/// 15 §5.3.3: 4-byte NAL unit lengths, parameter sets inside.
fn check_avc(bytes: Bytes<'_>, entry: &Box4, findings: &mut Findings) -> Result<(), Broken> {
    let inside = bytes.boxes(entry.body + 78, entry.end)?;
    let Some(config) = inside.iter().find(|child| child.kind == *b"avcC") else {
        findings.add(entry.start, "avc1 without avcC");
        return Ok(());
    };
    let fixed: [u8; 6] = bytes.array(config.body)?;
    let [version, .., lengths, sets] = fixed;
    if version != 1 || lengths & 3 != 3 || sets & 0x1f == 0 {
        findings.add(config.start, "avcC: version 1, 4-byte lengths and a sequence parameter set are right");
    }
    let (mut at, mut groups) = (config.body + 6, [u32::from(sets & 0x1f), 0]);
    for group in 0..2 {
        if group == 1 {
            groups[1] = u32::from(bytes.array::<1>(at)?[0]);
            at += 1;
        }
        for _ in 0..groups[group] {
            let length = usize::from(bytes.u16(at)?);
            let kind = bytes.slice(at + 2, length)?.first().map_or(0, |header| header & 0x1f);
            if kind != [7, 8][group] {
                findings.add(at, format!("avcC: NAL unit of type {kind} among the parameter sets"));
            }
            at += 2 + length;
        }
    }
    if groups[1] == 0 || at > config.end {
        findings.add(config.start, "avcC: no picture parameter set, or sets beyond its end");
    }
    Ok(())
}
