//! The entries of the index box against the fragments that were walked (format.md §7).

use super::{Broken, Fragment, Sound, VideoFrame, Walker};

/// Durations are whole ticks of their clocks, wall times are not.
const END_TOLERANCE_US: i64 = 1_000;

struct Entry {
    at: usize,
    flags: u32,
    offset: usize,
    bytes: u32,
    composition: i32,
    decode: i64,
    wall_us: i64,
    identity: u64,
}

impl Walker<'_> {
    fn entry(&self, at: usize) -> Result<Entry, Broken> {
        let bytes = self.bytes;
        Ok(Entry {
            at,
            flags: bytes.u32(at)?,
            offset: bytes.u32(at + 4)? as usize,
            bytes: bytes.u32(at + 8)?,
            composition: bytes.i32(at + 12)?,
            decode: bytes.i64(at + 16)?,
            wall_us: bytes.i64(at + 24)?,
            identity: bytes.u64(at + 32)?,
        })
    }

    pub(super) fn check_entries(&mut self, index: usize, runs: usize, entries: usize) -> Result<(), Broken> {
        let table = index + 96 + 32 * runs;
        let mut next = (0..entries).map(|number| table + 40 * number);
        let mut entries_of_runs = vec![0u32; self.segment.runs.len()];
        let mut sounds_before = 0;
        for fragment in std::mem::take(&mut self.segment.fragments) {
            let mut first = 0x200;
            let mut count = 0;
            for frame in &fragment.video {
                let Some(at) = next.next() else { break };
                let entry = self.entry(at)?;
                self.compare_picture(&entry, frame, first);
                (first, count) = (0, count + 1);
            }
            let mut sounds = fragment.audio.as_slice();
            while !sounds.is_empty() {
                let Some(at) = next.next() else { break };
                let entry = self.entry(at)?;
                let stretch;
                (stretch, sounds) = sounds.split_at((entry.flags >> 16).clamp(1, sounds.len() as u32) as usize);
                self.compare_stretch(&entry, &fragment, stretch, first | 0x100, sounds_before);
                sounds_before += stretch.len() as u64;
                (first, count) = (0, count + 1);
            }
            if let Some(run) = entries_of_runs.get_mut(fragment.run) {
                *run += count;
            }
            self.segment.fragments.push(fragment);
        }
        let left = next.count();
        self.findings.check(left == 0, index, || format!("index: {left} entries too many"));
        for (number, sound) in self.segment.audio().enumerate() {
            let at = table + 40 * entries + 2 * number;
            let says = self.bytes.u16(at)?;
            if u32::from(says) != sound.bytes {
                self.findings.add(at, format!("index: audio frame of {says} bytes, it has {}", sound.bytes));
                break;
            }
        }
        self.check_index_runs(index, &entries_of_runs)
    }

    fn compare_picture(&mut self, entry: &Entry, frame: &VideoFrame, first: u32) {
        let says =
            (entry.flags, entry.offset, entry.bytes, entry.composition, entry.decode, entry.wall_us, entry.identity);
        let is = (
            frame.flags | first,
            frame.at,
            frame.bytes,
            frame.composition,
            frame.decode,
            frame.wall_us,
            frame.identity,
        );
        self.findings.check(says == is, entry.at, || format!("index entry {says:?}, the frame has {is:?}"));
    }

    fn compare_stretch(&mut self, entry: &Entry, fragment: &Fragment, stretch: &[Sound], flags: u32, before: u64) {
        let Some(sound) = stretch.first() else { return };
        let bytes: u32 = stretch.iter().map(|sound| sound.bytes).sum();
        let says = (entry.flags, entry.offset, entry.bytes, entry.decode, entry.identity);
        let is = (flags | (stretch.len() as u32) << 16, sound.at, bytes, sound.decode, before);
        self.findings.check(says == is, entry.at, || format!("audio's index entry {says:?}, the frames have {is:?}"));
        let duration = i64::from(entry.composition);
        let regular = stretch
            .iter()
            .zip(0..)
            .all(|(other, number)| other.decode == sound.decode.saturating_add(number * duration));
        self.findings.check(regular, entry.at, || "audio's index entry: its frames do not follow each other".into());
        let timescale = i64::from(self.segment.header.timescales.audio.max(1));
        let start = fragment.audio.first().map_or(0, |first| first.decode);
        let wall_us = fragment.audio_wall_us.saturating_add((sound.decode - start) * 1_000_000 / timescale);
        let off = entry.wall_us.saturating_sub(wall_us);
        self.findings
            .check(off.saturating_abs() <= 1, entry.at, || format!("audio's index entry: wall time {off} µs off"));
    }

    fn check_index_runs(&mut self, index: usize, entries_of_runs: &[u32]) -> Result<(), Broken> {
        let mut first_entry = 0;
        let mut last_us = i64::MIN;
        for (number, (run, &entries)) in self.segment.runs.iter().zip(entries_of_runs).enumerate() {
            let at = index + 96 + 32 * number;
            let says = (self.bytes.u64(at)? as usize, self.bytes.u32(at + 8)?, self.bytes.u32(at + 12)?);
            let is = (run.at, first_entry, entries);
            self.findings.check(says == is, at, || format!("index run {says:?}, the fragments have {is:?}"));
            first_entry += entries;
            let walls = (self.bytes.i64(at + 16)?, self.bytes.i64(at + 24)?);
            if let Some((first, end)) = self.segment.walls_of_run(number) {
                self.findings.check(walls.0 == first, at, || {
                    format!("index run begins at {}, its first frame at {first}", walls.0)
                });
                let off = walls.1.saturating_sub(end);
                self.findings.check(off.saturating_abs() <= END_TOLERANCE_US, at, || {
                    format!("index run ends {off} µs after its last frame")
                });
            }
            last_us = last_us.max(walls.1);
        }
        let says = self.bytes.i64(index + 88)?;
        self.findings.check(says == last_us, index + 88, || format!("index ends at {says}, its last run at {last_us}"));
        Ok(())
    }
}

impl super::Segment {
    /// When a run begins and ends in this file, microseconds since 1970: by its pictures, or, where it has none, by its
    /// audio. `None`: it has no frame.
    pub(crate) fn walls_of_run(&self, run: usize) -> Option<(i64, i64)> {
        let fragments = || self.fragments.iter().filter(move |fragment| fragment.run == run);
        let pictures = || fragments().flat_map(|fragment| &fragment.video);
        if let Some(first) = pictures().next() {
            let end = |frame: &VideoFrame| frame.wall_us.saturating_add(i64::from(frame.duration) * 100 / 9);
            return Some((first.wall_us, pictures().map(end).max()?));
        }
        let timescale = i64::from(self.header.timescales.audio.max(1));
        let end = |fragment: &Fragment| {
            let (first, last) = (fragment.audio.first()?, fragment.audio.last()?);
            let length = last.decode + i64::from(last.duration) - first.decode;
            Some(fragment.audio_wall_us.saturating_add(length * 1_000_000 / timescale))
        };
        Some((fragments().next()?.audio_wall_us, fragments().filter_map(end).max()?))
    }
}
