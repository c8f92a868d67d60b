//! A strict reader of progressive MP4 files (14496-12 §8): what `clip.mp4` serves.

use std::path::Path;

use serde::Serialize;

use crate::bytes::{Box4, Broken, Bytes};
use crate::segment::{Finding, Findings};
use crate::stamp;

/// What a track holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Handler {
    /// `vide`
    Video,
    /// `soun`
    Audio,
}

/// A sample of a progressive file.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Offset in the file.
    pub at: usize,
    /// Its bytes.
    pub bytes: u32,
    /// Decode time in the track's timescale.
    pub decode: i64,
    /// Composition offset.
    pub composition: i64,
    /// Duration.
    pub duration: u32,
    /// Sample description, from 1.
    pub description: u32,
    /// A sync sample (`stss`).
    pub sync: bool,
    /// When it is presented; `None`: no edit shows it (it is only there to be decoded).
    pub movie_seconds: Option<f64>,
    /// The number of its stamp.
    pub number: Option<u64>,
    /// It holds more than one stamp.
    pub merged: bool,
    /// As the ledger hashes it.
    pub hash: u64,
    /// Without a stamp: its hash in ledgers of cameras that cannot stamp; else 0.
    pub size_and_crc: u64,
}

/// One entry of the edit list (12 §8.6.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Edit {
    /// In the movie's timescale.
    pub duration: u64,
    /// In the track's timescale; −1: nothing is shown.
    pub media_time: i64,
}

/// A track.
#[derive(Debug, Clone)]
pub struct Track {
    /// Its ID.
    pub id: u32,
    /// What it holds.
    pub handler: Handler,
    /// Ticks a second.
    pub timescale: u32,
    /// How many sample descriptions it has.
    pub descriptions: usize,
    /// The edit list; empty when there is none.
    pub edits: Vec<Edit>,
    /// All samples in decoding order.
    pub samples: Vec<Sample>,
}

/// A progressive MP4 file.
#[derive(Debug)]
pub struct Movie {
    /// Ticks a second of the movie.
    pub timescale: u32,
    /// Its duration in these ticks.
    pub duration: u64,
    /// The tracks.
    pub tracks: Vec<Track>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

impl Movie {
    /// Reads a file. Errors: it cannot be read at all (outer), it is no progressive MP4 (inner).
    pub fn read(path: &Path) -> std::io::Result<Result<Self, Finding>> {
        Ok(Self::parse(path, &std::fs::read(path)?))
    }

    /// Reads a file's bytes; the path only names it in findings.
    pub fn parse(path: &Path, data: &[u8]) -> Result<Self, Finding> {
        let mut findings = Findings::new(path);
        let mut movie = parse(Bytes(data), &mut findings).map_err(|broken| Finding {
            file: path.to_owned(),
            at: Some(broken.at),
            what: broken.what,
        })?;
        movie.findings = findings.into_list();
        Ok(movie)
    }

    /// The only track of a kind.
    pub fn track(&self, handler: Handler) -> Option<&Track> {
        self.tracks.iter().find(|track| track.handler == handler)
    }
}

fn parse(bytes: Bytes<'_>, findings: &mut Findings) -> Result<Movie, Broken> {
    // Every byte of the file lies in a top-level box.
    let boxes = bytes.boxes(0, bytes.len())?;
    let mut moov = None;
    let mut data = Vec::new();
    for (number, one) in boxes.iter().enumerate() {
        match &one.kind {
            b"ftyp" => findings.check(number == 0, one.start, || "ftyp is not first".into()),
            b"moov" if moov.is_none() => moov = Some(*one),
            b"mdat" => data.push((one.body, one.end)),
            b"free" | b"skip" => {}
            _ => findings.add(one.start, format!("unexpected top-level box `{}`", one.name())),
        }
    }
    let moov = moov.ok_or_else(|| Broken::new(0, "no moov"))?;
    findings.check(data.first().is_none_or(|&(at, _)| at > moov.start), moov.start, || "moov behind mdat".into());
    let mvhd = bytes.child(&moov, b"mvhd")?;
    let (timescale, duration) = times(bytes, &mvhd)?;
    let mut movie = Movie { timescale, duration, tracks: Vec::new(), findings: Vec::new() };
    let mut longest = 0;
    for trak in bytes.children(&moov)?.iter().filter(|child| child.kind == *b"trak") {
        let (track, tkhd_duration) = parse_track(bytes, trak, timescale, findings)?;
        longest = longest.max(tkhd_duration);
        movie.tracks.push(track);
    }
    findings.check(duration == longest, mvhd.start, || format!("mvhd: duration {duration}, longest track {longest}"));
    check_data(&movie, &data, findings);
    Ok(movie)
}

/// (timescale, duration) of `mvhd` and `mdhd`.
fn times(bytes: Bytes<'_>, header: &Box4) -> Result<(u32, u64), Broken> {
    match bytes.slice(header.body, 1)? {
        [0] => Ok((bytes.u32(header.body + 12)?, bytes.u32(header.body + 16)?.into())),
        _ => Ok((bytes.u32(header.body + 20)?, bytes.u64(header.body + 24)?)),
    }
}

fn parse_track(
    bytes: Bytes<'_>,
    trak: &Box4,
    movie_timescale: u32,
    findings: &mut Findings,
) -> Result<(Track, u64), Broken> {
    let tkhd = bytes.child(trak, b"tkhd")?;
    let (id, tkhd_duration) = match bytes.slice(tkhd.body, 1)? {
        [0] => (bytes.u32(tkhd.body + 12)?, bytes.u32(tkhd.body + 20)?.into()),
        _ => (bytes.u32(tkhd.body + 20)?, bytes.u64(tkhd.body + 28)?),
    };
    let mdia = bytes.child(trak, b"mdia")?;
    let mdhd = bytes.child(&mdia, b"mdhd")?;
    let (timescale, duration) = times(bytes, &mdhd)?;
    if timescale == 0 || movie_timescale == 0 {
        return Err(Broken::new(mdhd.start, "timescale 0"));
    }
    let hdlr = bytes.child(&mdia, b"hdlr")?;
    let handler = match &bytes.array(hdlr.body + 8)? {
        b"vide" => Handler::Video,
        b"soun" => Handler::Audio,
        other => return Err(Broken::new(hdlr.start, format!("handler {:?}", crate::bytes::text(other)))),
    };
    let minf = bytes.child(&mdia, b"minf")?;
    let stbl = bytes.child(&minf, b"stbl")?;
    let (samples, descriptions) = parse_samples(bytes, &stbl, handler, findings)?;
    let total: u64 = samples.iter().map(|sample| u64::from(sample.duration)).sum();
    findings.check(total == duration, mdhd.start, || format!("mdhd: duration {duration}, the samples last {total}"));
    let edits = match bytes.optional_child(trak, b"edts")? {
        Some(edts) => parse_edits(bytes, &bytes.child(&edts, b"elst")?, findings)?,
        None => Vec::new(),
    };
    let shown = if edits.is_empty() {
        duration * u64::from(movie_timescale) / u64::from(timescale)
    } else {
        edits.iter().map(|edit| edit.duration).sum()
    };
    findings.check(tkhd_duration.abs_diff(shown) <= 1, tkhd.start, || {
        format!("tkhd: duration {tkhd_duration}, edits or samples last {shown}")
    });
    let mut track = Track { id, handler, timescale, descriptions, edits, samples };
    present(&mut track, movie_timescale);
    Ok((track, tkhd_duration))
}

fn parse_edits(bytes: Bytes<'_>, elst: &Box4, findings: &mut Findings) -> Result<Vec<Edit>, Broken> {
    let wide = bytes.slice(elst.body, 1)? != [0];
    let count = bytes.u32(elst.body + 4)? as usize;
    let size = if wide { 20 } else { 12 };
    findings.check(elst.end == elst.body + 8 + count * size, elst.start, || "elst: wrong length".into());
    let edit = |number: usize| {
        let at = elst.body + 8 + number * size;
        let (duration, media_time) = if wide {
            (bytes.u64(at)?, bytes.i64(at + 8)?)
        } else {
            (bytes.u32(at)?.into(), bytes.i32(at + 4)?.into())
        };
        if bytes.u32(at + size - 4)? != 0x0001_0000 {
            return Err(Broken::new(at, "elst: media rate is not 1"));
        }
        Ok(Edit { duration, media_time })
    };
    (0..count).map(edit).collect()
}

/// Says for each sample when it is presented.
fn present(track: &mut Track, movie_timescale: u32) {
    let scale = f64::from(track.timescale);
    if track.edits.is_empty() {
        for sample in &mut track.samples {
            sample.movie_seconds = Some((sample.decode + sample.composition) as f64 / scale);
        }
        return;
    }
    let mut start = 0u64;
    for edit in &track.edits {
        if edit.media_time >= 0 {
            let from = edit.media_time as f64 / scale;
            let until = from + edit.duration as f64 / f64::from(movie_timescale);
            for sample in &mut track.samples {
                let at = (sample.decode + sample.composition) as f64 / scale;
                // A duration in the coarser clock of the movie may cut a tick short.
                let end = at + f64::from(sample.duration) / scale;
                let shown = match track.handler {
                    Handler::Video => at >= from - 0.5 / scale && at < until - 0.5 / scale,
                    // Audio may be cut in the middle of a frame.
                    Handler::Audio => end > from + 0.5 / scale && at < until - 0.5 / scale,
                };
                if shown && sample.movie_seconds.is_none() {
                    sample.movie_seconds = Some(start as f64 / f64::from(movie_timescale) + at - from);
                }
            }
        }
        start += edit.duration;
    }
}

/// A full box with a count and entries: (offset of the first entry, count); its length must fit.
fn table(bytes: Bytes<'_>, one: &Box4, entry: usize, findings: &mut Findings) -> Result<(usize, usize), Broken> {
    let count = bytes.u32(one.body + 4)? as usize;
    findings.check(one.end == one.body + 8 + count * entry, one.start, || format!("{}: wrong length", one.name()));
    bytes.slice(one.body + 8, count.saturating_mul(entry))?;
    Ok((one.body + 8, count))
}

/// `stts` or `ctts`: one value for each sample.
fn run_lengths(bytes: Bytes<'_>, one: &Box4, most: usize, findings: &mut Findings) -> Result<Vec<u32>, Broken> {
    let (at, count) = table(bytes, one, 8, findings)?;
    let mut values = Vec::new();
    for number in 0..count {
        let (length, value) = (bytes.u32(at + 8 * number)? as usize, bytes.u32(at + 8 * number + 4)?);
        if values.len() + length > most {
            return Err(Broken::new(one.start, format!("{}: more than {most} samples", one.name())));
        }
        values.resize(values.len() + length, value);
    }
    if values.len() != most {
        return Err(Broken::new(one.start, format!("{}: {} of {most} samples", one.name(), values.len())));
    }
    Ok(values)
}

fn parse_samples(
    bytes: Bytes<'_>,
    stbl: &Box4,
    handler: Handler,
    findings: &mut Findings,
) -> Result<(Vec<Sample>, usize), Broken> {
    let stsd = bytes.child(stbl, b"stsd")?;
    let descriptions = bytes.boxes(stsd.body + 8, stsd.end)?.len();
    findings.check(bytes.u32(stsd.body + 4)? as usize == descriptions, stsd.start, || "stsd: wrong count".into());
    let stsz = bytes.child(stbl, b"stsz")?;
    let (same, count) = (bytes.u32(stsz.body + 4)?, bytes.u32(stsz.body + 8)? as usize);
    bytes.slice(stsz.body + 12, if same == 0 { count.saturating_mul(4) } else { 0 })?;
    findings.check(stsz.end == stsz.body + 12 + if same == 0 { 4 * count } else { 0 }, stsz.start, || {
        "stsz: wrong length".into()
    });
    let durations = run_lengths(bytes, &bytes.child(stbl, b"stts")?, count, findings)?;
    let compositions = match bytes.optional_child(stbl, b"ctts")? {
        Some(ctts) => run_lengths(bytes, &ctts, count, findings)?,
        None => vec![0; count],
    };
    let sync = sync_samples(bytes, stbl, count, findings)?;
    let places = places(bytes, stbl, count, findings)?;
    let (mut decode, mut chunk, mut within) = (0i64, usize::MAX, 0usize);
    let mut samples = Vec::with_capacity(count);
    for (number, ((&duration, &composition), place)) in durations.iter().zip(&compositions).zip(&places).enumerate() {
        let size = if same == 0 { bytes.u32(stsz.body + 12 + 4 * number)? } else { same };
        within = if place.chunk == chunk { within } else { place.at };
        chunk = place.chunk;
        findings.check((1..=descriptions).contains(&(place.description as usize)), stsd.start, || {
            format!("sample {number} has sample description {}", place.description)
        });
        let data = bytes.slice(within, size as usize)?;
        let (stamp_number, merged, hash, size_and_crc) = match handler {
            Handler::Video => {
                let units = stamp::nal_units(data)
                    .ok_or_else(|| Broken::new(within, "NAL unit lengths do not fill the sample"))?;
                let stamps = stamp::of_video(&units);
                let crc = if stamps.is_empty() { stamp::size_and_crc_of_units(&units) } else { 0 };
                (stamps.first().map(|stamp| stamp.number), stamps.len() > 1, stamp::identity(&units), crc)
            }
            Handler::Audio => {
                let number = stamp::of_audio(data);
                let crc = if number.is_none() { stamp::size_and_crc([data]) } else { 0 };
                (number, false, xxhash_rust::xxh3::xxh3_64(data), crc)
            }
        };
        samples.push(Sample {
            at: within,
            bytes: size,
            decode,
            // Version 0 offsets are unsigned, and none in use is so large that reading it as signed matters.
            composition: i64::from(composition as i32),
            duration,
            description: place.description,
            sync: sync.get(number).copied().unwrap_or(true),
            movie_seconds: None,
            number: stamp_number,
            merged,
            hash,
            size_and_crc,
        });
        decode += i64::from(duration);
        within += size as usize;
    }
    Ok((samples, descriptions))
}

/// `stss`; empty when every sample is a sync sample.
fn sync_samples(bytes: Bytes<'_>, stbl: &Box4, count: usize, findings: &mut Findings) -> Result<Vec<bool>, Broken> {
    let Some(stss) = bytes.optional_child(stbl, b"stss")? else { return Ok(Vec::new()) };
    let (at, entries) = table(bytes, &stss, 4, findings)?;
    let (mut sync, mut before) = (vec![false; count], 0);
    for number in 0..entries {
        let sample = bytes.u32(at + 4 * number)? as usize;
        findings.check(sample > before, stss.start, || format!("stss: {sample} behind {before}"));
        before = sample;
        match sample.checked_sub(1).and_then(|index| sync.get_mut(index)) {
            Some(flag) => *flag = true,
            None => findings.add(stss.start, format!("stss: sample {sample} of {count}")),
        }
    }
    Ok(sync)
}

struct Place {
    /// Offset of the chunk.
    at: usize,
    chunk: usize,
    description: u32,
}

/// `stsc` and `stco` or `co64`: the chunk of each sample.
fn places(bytes: Bytes<'_>, stbl: &Box4, count: usize, findings: &mut Findings) -> Result<Vec<Place>, Broken> {
    let offsets: Vec<usize> = match bytes.optional_child(stbl, b"co64")? {
        Some(co64) => {
            let (at, chunks) = table(bytes, &co64, 8, findings)?;
            (0..chunks).map(|chunk| Ok(bytes.u64(at + 8 * chunk)? as usize)).collect::<Result<_, Broken>>()?
        }
        None => {
            let (at, chunks) = table(bytes, &bytes.child(stbl, b"stco")?, 4, findings)?;
            (0..chunks).map(|chunk| Ok(bytes.u32(at + 4 * chunk)? as usize)).collect::<Result<_, Broken>>()?
        }
    };
    let stsc = bytes.child(stbl, b"stsc")?;
    let (at, entries) = table(bytes, &stsc, 12, findings)?;
    let mut places = Vec::with_capacity(count);
    for number in 0..entries {
        let entry = at + 12 * number;
        let (first, samples) = (bytes.u32(entry)? as usize, bytes.u32(entry + 4)? as usize);
        let next = if number + 1 < entries { bytes.u32(entry + 12)? as usize } else { offsets.len() + 1 };
        if first == 0 || next <= first || (number == 0 && first != 1) {
            return Err(Broken::new(entry, format!("stsc: chunk {first}, then {next}")));
        }
        for (chunk, &at) in offsets.iter().enumerate().take(next - 1).skip(first - 1) {
            if places.len() + samples > count {
                return Err(Broken::new(entry, format!("stsc: more than {count} samples")));
            }
            let description = bytes.u32(entry + 8)?;
            places.extend((0..samples).map(|_| Place { at, chunk, description }));
        }
    }
    if places.len() != count {
        return Err(Broken::new(stsc.start, format!("stsc: {} of {count} samples", places.len())));
    }
    Ok(places)
}

/// All samples lie in `mdat`, none on another, and no byte of `mdat` belongs to none.
fn check_data(movie: &Movie, data: &[(usize, usize)], findings: &mut Findings) {
    let mut ranges: Vec<_> = movie
        .tracks
        .iter()
        .flat_map(|track| &track.samples)
        .map(|sample| (sample.at, sample.at + sample.bytes as usize))
        .collect();
    ranges.sort_unstable();
    let mut ranges = ranges.into_iter().peekable();
    for &(start, end) in data {
        let mut at = start;
        while let Some((from, until)) = ranges.next_if(|&(from, _)| from < end) {
            findings.check(from == at, from, || {
                format!("sample begins here, the one before it (or mdat's header) ends at {at}")
            });
            findings.check(until <= end, from, || "sample reaches beyond mdat".into());
            at = until;
        }
        findings.check(at == end, at, || format!("{} bytes of mdat belong to no sample", end.saturating_sub(at)));
    }
    findings.check(ranges.next().is_none(), 0, || "samples outside of mdat".into());
}
