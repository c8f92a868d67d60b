//! What was found of a stream against its camera's ledger: pure, and the same for segments and clips.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::found::{Found, FoundFrame, FoundRun};
use crate::ledger::{Emitted, Ledger};

/// Where the frames that must be there begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the first picture that was found.
    FirstFound,
    /// At this picture's number.
    Number(u64),
    /// At the first picture emitted at or after this moment, nanoseconds since 1970.
    EmittedNs(i64),
}

/// Where they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the newest frame emitted at or before this moment, nanoseconds since 1970.
    EmittedNs(i64),
    /// At this picture's number, and at the audio that begins before it is shown.
    Number(u64),
    /// At the last picture that was found: for volumes that are still being written.
    LastFound,
    /// At the end of the ledger.
    EndOfLedger,
}

/// What is expected and allowed.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Where the expected frames begin.
    pub from: From,
    /// Where they end.
    pub until: Until,
    /// Only these pictures and audio frames are expected: what a clip's source holds.
    pub only: Option<(BTreeSet<u64>, BTreeSet<u64>)>,
    /// A picture that is behind a loss in one copy must be in another one where it is not.
    pub decodable: bool,
    /// Only frames that were emitted while a session was playing are expected; those within so many milliseconds before a
    /// session's end are not.
    pub sessions_grace_ms: Option<i64>,
    /// Moments, in order, at which all recorders of the stream were killed, nanoseconds since 1970.
    pub kills_ns: Vec<i64>,
    /// Wall times, microseconds since 1970, of frames that a recorder said were durable: with exactly those times they must be
    /// there, and so must what came before them.
    pub durable_us: Vec<i64>,
    /// Longest allowed loss before a kill, milliseconds; without kills: longest allowed hole.
    pub max_missing_ms: f64,
    /// Longest allowed time from a kill to the next frame that was recorded, milliseconds.
    pub max_back_ms: f64,
    /// Largest allowed deviation of presentation times of pictures, milliseconds.
    pub max_media_ms: f64,
    /// Largest allowed deviation of audio frames' times and of audio against video, in audio frames.
    pub max_audio_frames: f64,
    /// Largest allowed deviation of wall times, milliseconds; `None`: only reported.
    pub max_wall_ms: Option<f64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            from: From::FirstFound,
            until: Until::EndOfLedger,
            only: None,
            decodable: false,
            sessions_grace_ms: None,
            kills_ns: Vec::new(),
            durable_us: Vec::new(),
            max_missing_ms: 0.0,
            max_back_ms: 5_000.0,
            max_media_ms: 1.0,
            max_audio_frames: 1.0,
            max_wall_ms: None,
        }
    }
}

/// Frames that follow each other in the ledger and were not found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hole {
    /// Number of the first missing frame.
    pub first: u64,
    /// Number of the last one.
    pub last: u64,
    /// How many.
    pub frames: usize,
    /// When the first one was emitted, nanoseconds since 1970.
    pub from_ns: i64,
    /// When the last one was emitted.
    pub to_ns: i64,
    /// When the next frame that was found was emitted; `None` at the end.
    pub back_ns: Option<i64>,
    /// How much of the camera's media time is missing, milliseconds.
    pub duration_ms: f64,
}

/// What a kill cost a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KillCost {
    /// The kill, nanoseconds since 1970.
    pub kill_ns: i64,
    /// How long before the kill the first missing picture was emitted, milliseconds; 0 if none is missing.
    pub lost_before_ms: f64,
    /// How long after the kill the first recorded picture was emitted, milliseconds; `None`: never.
    pub back_after_ms: Option<f64>,
}

/// Least, mean and largest deviation, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Least.
    pub least_ms: f64,
    /// Mean.
    pub mean_ms: f64,
    /// Largest.
    pub largest_ms: f64,
}

/// One track of a stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TrackReport {
    /// Frames of the ledger that must be there.
    pub expected: usize,
    /// Of them, those that are.
    pub found: usize,
    /// Of them, those that are not.
    pub missing: usize,
    /// Frames that are there, outside of what is expected too.
    pub present: usize,
    /// Copies beyond the first, on one volume.
    pub doubled: usize,
    /// Frames behind one with a higher number.
    pub out_of_order: usize,
    /// Frames whose bytes are not those that the ledger says.
    pub altered: usize,
    /// Frames with no stamp, or with a number that the ledger does not have.
    pub unknown: usize,
    /// Frames that hold several stamps.
    pub merged: usize,
    /// The missing ones.
    pub holes: Vec<Hole>,
    /// Largest deviation of presentation time from the camera's media time, one constant a stretch taken out.
    pub media_deviation_ms: f64,
    /// Recorded wall time against the moment of emission.
    pub wall_deviation: Option<Spread>,
}

/// One stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamReport {
    /// `namespace/name`.
    pub stream: String,
    /// The camera whose ledger it was compared with.
    pub camera: String,
    /// The pictures.
    pub video: TrackReport,
    /// The audio frames, where the camera has audio.
    pub audio: Option<TrackReport>,
    /// Largest deviation of audio's times, in audio frames.
    pub audio_deviation_frames: f64,
    /// Largest deviation of audio against video as a player sees it, milliseconds.
    pub av_deviation_ms: f64,
    /// What each kill cost.
    pub kills: Vec<KillCost>,
    /// The runs.
    pub runs: Vec<FoundRun>,
    /// What is against the rules.
    pub findings: Vec<String>,
}

/// Samples of an AAC frame.
const AAC_FRAME: f64 = 1024.0;

/// Compares what was found on one volume, or on several that together hold the stream, with the ledger.
pub fn judge(found: &[&Found], ledger: &Ledger, rules: &Rules) -> StreamReport {
    let numbered: Vec<Found>;
    let by_hash: Vec<&Found>;
    let mut found = found;
    if ledger.unstamped {
        numbered = found.iter().map(|one| crate::unstamped::numbered(one, ledger)).collect();
        by_hash = numbered.iter().collect();
        found = &by_hash;
    }
    let window = expected_range(&ledger.video, &numbers(found, |one| &one.video), rules);
    let (pictures, sounds) = match &rules.only {
        Some((pictures, sounds)) => (Some(pictures), Some(sounds)),
        None => (None, None),
    };
    let wanted = |frame: &Emitted, only: Option<&BTreeSet<u64>>| {
        only.is_none_or(|only| only.contains(&frame.number))
            && rules.sessions_grace_ms.is_none_or(|grace| in_session(frame, ledger, grace))
    };
    let expected = |track: &[Emitted], (from, until): Range, only| -> Vec<Emitted> {
        let range = track.get(from..until).unwrap_or_default();
        range.iter().filter(|frame| wanted(frame, only)).copied().collect()
    };
    let video_expected = expected(&ledger.video, window, pictures);
    let is_picture = |frame: &Emitted, hash| ledger.is_picture(frame, hash);
    let is_shown = |frame: &FoundFrame| !(rules.decodable && frame.behind_loss);
    let video = compare(found, |one| &one.video, (&ledger.video, &is_picture, &is_shown), &video_expected, 90_000.0);
    let rate = f64::from(ledger.audio_rate.max(1));
    let audio = (ledger.audio_rate != 0).then(|| {
        let window = audio_range(found, ledger, window, rules);
        let is_sound = |frame: &Emitted, hash| frame.hash == hash;
        compare(
            found,
            |one| &one.audio,
            (&ledger.audio, &is_sound, &|_| true),
            &expected(&ledger.audio, window, sounds),
            rate,
        )
    });
    let audio_deviation = audio.as_ref().map_or(0.0, |audio| audio.media_deviation_ms) / 1_000.0 * rate / AAC_FRAME;
    let mut report = StreamReport {
        stream: found.first().map(|one| one.stream.clone()).unwrap_or_default(),
        camera: ledger.camera.clone(),
        kills: rules.kills_ns.iter().map(|&kill| cost(kill, &rules.kills_ns, &video.holes)).collect(),
        video,
        audio,
        audio_deviation_frames: audio_deviation,
        av_deviation_ms: found.iter().map(|one| av_deviation_ms(one, ledger)).fold(0.0, f64::max),
        runs: found.iter().flat_map(|one| one.runs.iter().cloned()).collect(),
        findings: Vec::new(),
    };
    report.findings = against_rules(&report, rate, rules);
    let walls: BTreeSet<i64> = found.iter().flat_map(|one| &one.video).filter_map(|frame| frame.wall_us).collect();
    for durable in rules.durable_us.iter().filter(|durable| !walls.contains(durable)) {
        report.findings.push(format!("video: the frame of {durable} µs was said to be durable and is missing"));
    }
    report
}

fn numbers<'a>(found: &[&'a Found], track: impl Fn(&'a Found) -> &'a Vec<FoundFrame>) -> BTreeSet<u64> {
    found.iter().flat_map(|one| track(one)).filter_map(|frame| frame.number).collect()
}

/// Indices into a ledger's track: from, until (exclusive).
type Range = (usize, usize);

fn at_or_after(track: &[Emitted], number: u64) -> usize {
    track.partition_point(|frame| frame.number < number)
}

fn expected_range(track: &[Emitted], found: &BTreeSet<u64>, rules: &Rules) -> Range {
    let from = match rules.from {
        From::FirstFound => found.first().map_or(track.len(), |&number| at_or_after(track, number)),
        From::Number(number) => at_or_after(track, number),
        From::EmittedNs(wall) => track.partition_point(|frame| frame.wall_ns < wall),
    };
    let until = match rules.until {
        Until::EmittedNs(wall) => track.partition_point(|frame| frame.wall_ns <= wall),
        Until::Number(number) => at_or_after(track, number.saturating_add(1)),
        Until::LastFound => found.last().map_or(0, |&number| at_or_after(track, number + 1)),
        Until::EndOfLedger => track.len(),
    };
    (from, until.max(from))
}

/// Audio is expected from one audio frame behind the first picture's media time on: a camera sends both from there, and
/// a recorder knows no better where they belong to each other.
fn audio_range(found: &[&Found], ledger: &Ledger, video: Range, rules: &Rules) -> Range {
    let rate = i64::from(ledger.audio_rate.max(1));
    let not_before = |picture: Option<&Emitted>, samples: i64| {
        picture.map_or(ledger.audio.len(), |picture| {
            ledger.audio.partition_point(|frame| (frame.media_time - samples) * 90_000 < picture.media_time * rate)
        })
    };
    let from = not_before(ledger.video.get(video.0), AAC_FRAME as i64);
    let until = match rules.until {
        Until::Number(_) => not_before(video.1.checked_sub(1).and_then(|last| ledger.video.get(last)), 0),
        _ => {
            let found = numbers(found, |one| &one.audio);
            expected_range(&ledger.audio, &found, &Rules { from: From::FirstFound, ..rules.clone() }).1
        }
    };
    (from.min(until), until)
}

/// Whether a frame was emitted while a session was playing.
fn in_session(frame: &Emitted, ledger: &Ledger, grace_ms: i64) -> bool {
    ledger.sessions.iter().any(|session| {
        let until = session.ended_ns.map_or(i64::MAX, |ended| ended - grace_ms * 1_000_000);
        (session.began_ns..=until).contains(&frame.wall_ns)
    })
}

/// Whether bytes with a hash are a frame of the ledger.
type IsFrame<'a> = dyn Fn(&Emitted, u64) -> bool + 'a;

/// Whether a frame that is there counts.
type IsShown<'a> = dyn Fn(&FoundFrame) -> bool + 'a;

fn compare(
    found: &[&Found],
    track: impl Fn(&Found) -> &Vec<FoundFrame>,
    (emitted, is_whole, is_shown): (&[Emitted], &IsFrame<'_>, &IsShown<'_>),
    expected: &[Emitted],
    timescale: f64,
) -> TrackReport {
    let mut report = TrackReport::default();
    let mut there = BTreeSet::new();
    let mut walls = Vec::new();
    for one in found {
        let (mut seen, mut highest) = (BTreeSet::new(), None);
        let mut offsets = BTreeMap::<usize, Vec<i64>>::new();
        for frame in track(one) {
            report.present += 1;
            report.merged += usize::from(frame.merged);
            let known = frame.number.and_then(|number| {
                let at = at_or_after(emitted, number);
                emitted.get(at).filter(|emitted| emitted.number == number)
            });
            let Some(known) = known else {
                report.unknown += 1;
                continue;
            };
            if !seen.insert(known.number) {
                report.doubled += 1;
            } else if highest.is_some_and(|highest| known.number < highest) {
                report.out_of_order += 1;
            }
            highest = highest.max(Some(known.number));
            if !is_whole(known, frame.hash) {
                report.altered += 1;
            } else if is_shown(frame) {
                there.insert(known.number);
            }
            offsets.entry(frame.stretch).or_default().push(frame.media_time - known.media_time);
            walls.extend(frame.wall_us.map(|wall| (wall * 1_000 - known.wall_ns) as f64 / 1e6));
        }
        for offsets in offsets.values_mut() {
            let largest = largest_deviation(offsets) as f64 / timescale * 1_000.0;
            report.media_deviation_ms = report.media_deviation_ms.max(largest);
        }
    }
    report.wall_deviation = spread(&walls);
    report.expected = expected.len();
    report.found = expected.iter().filter(|frame| there.contains(&frame.number)).count();
    report.missing = report.expected - report.found;
    report.holes = holes(expected, &there, timescale);
    report
}

/// The largest distance from the median.
fn largest_deviation(values: &mut [i64]) -> i64 {
    values.sort_unstable();
    let Some(&median) = values.get(values.len() / 2) else { return 0 };
    values.iter().map(|value| (value - median).abs()).max().unwrap_or(0)
}

fn spread(values_ms: &[f64]) -> Option<Spread> {
    (!values_ms.is_empty()).then(|| Spread {
        least_ms: values_ms.iter().copied().fold(f64::INFINITY, f64::min),
        mean_ms: values_ms.iter().sum::<f64>() / values_ms.len() as f64,
        largest_ms: values_ms.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

fn holes(expected: &[Emitted], there: &BTreeSet<u64>, timescale: f64) -> Vec<Hole> {
    let mut holes = Vec::new();
    let mut at = 0;
    while let Some(first) = expected.get(at) {
        let length = expected.iter().skip(at).take_while(|frame| !there.contains(&frame.number)).count();
        if length == 0 {
            at += 1;
            continue;
        }
        let last = expected.get(at + length - 1).unwrap_or(first);
        let next = expected.get(at + length);
        // Up to the next frame; at the end, as long as the last frame took.
        let before_last =
            expected.get((at + length).wrapping_sub(2)).map_or(0, |before| last.media_time - before.media_time);
        let end = next.map_or(last.media_time + before_last, |next| next.media_time);
        holes.push(Hole {
            first: first.number,
            last: last.number,
            frames: length,
            from_ns: first.wall_ns,
            to_ns: last.wall_ns,
            back_ns: next.map(|next| next.wall_ns),
            duration_ms: (end - first.media_time) as f64 / timescale * 1_000.0,
        });
        at += length;
    }
    holes
}

fn belongs(hole: &Hole, kill_ns: i64) -> bool {
    // A frame that is emitted at the moment of the kill may be the first one missing.
    hole.from_ns <= kill_ns + 100_000_000 && hole.back_ns.is_none_or(|back| back >= kill_ns)
}

fn cost(kill_ns: i64, kills_ns: &[i64], holes: &[Hole]) -> KillCost {
    let ms = |ns: i64| ns as f64 / 1e6;
    let Some(hole) = holes.iter().find(|hole| belongs(hole, kill_ns)) else {
        return KillCost { kill_ns, lost_before_ms: 0.0, back_after_ms: Some(0.0) };
    };
    // Killed again before it was back: what was lost before belongs to the first kill, the return to the last.
    let first_of_hole = kills_ns.iter().find(|&&other| belongs(hole, other)).copied().unwrap_or(kill_ns);
    KillCost {
        kill_ns,
        lost_before_ms: if first_of_hole == kill_ns { ms(kill_ns - hole.from_ns).max(0.0) } else { 0.0 },
        back_after_ms: match kills_ns.iter().rev().find(|&&other| belongs(hole, other)) {
            Some(&last) if last != kill_ns => Some(0.0),
            _ => hole.back_ns.map(|back| ms(back - kill_ns).max(0.0)),
        },
    }
}

/// Audio against the pictures beside it in the same file, of the same run: how far its camera's media time is off theirs.
fn av_deviation_ms(found: &Found, ledger: &Ledger) -> f64 {
    let rate = f64::from(ledger.audio_rate.max(1));
    // A run's sound may lie beside the last pictures of the run before; a clip tells of no runs.
    let place = |frame: &FoundFrame| (frame.file, if frame.wall_us.is_some() { frame.stretch } else { 0 });
    let offsets = |frames: &[FoundFrame], emitted: &[Emitted], timescale: f64| -> Vec<((usize, usize), f64, f64)> {
        let mut all: Vec<_> = frames
            .iter()
            .filter_map(|frame| {
                let known =
                    emitted.get(at_or_after(emitted, frame.number?)).filter(|e| Some(e.number) == frame.number)?;
                let off = frame.file_seconds - known.media_time as f64 / timescale;
                Some((place(frame), frame.file_seconds, off))
            })
            .collect();
        all.sort_by(|a, b| (a.0, a.1).partial_cmp(&(b.0, b.1)).unwrap_or(std::cmp::Ordering::Equal));
        all
    };
    let video = offsets(&found.video, &ledger.video, 90_000.0);
    let mut largest = 0.0f64;
    for (place, seconds, off) in offsets(&found.audio, &ledger.audio, rate) {
        let behind = video.partition_point(|&(p, s, _)| (p, s) <= (place, seconds));
        let beside = [behind.checked_sub(1).and_then(|at| video.get(at)), video.get(behind)];
        let nearest = beside
            .into_iter()
            .flatten()
            .filter(|&&(p, ..)| p == place)
            .map(|&(.., v)| (off - v).abs() * 1_000.0)
            .fold(f64::INFINITY, f64::min);
        if nearest.is_finite() {
            largest = largest.max(nearest);
        }
    }
    largest
}

fn against_rules(report: &StreamReport, rate: f64, rules: &Rules) -> Vec<String> {
    let mut out = Vec::new();
    for (name, track) in [("video", Some(&report.video)), ("audio", report.audio.as_ref())] {
        let Some(track) = track else { continue };
        for (what, count) in [
            ("doubled", track.doubled),
            ("out of order", track.out_of_order),
            ("altered", track.altered),
            ("unknown", track.unknown),
            ("merged", track.merged),
        ] {
            if count > 0 {
                out.push(format!("{name}: {count} frames {what}"));
            }
        }
        for hole in &track.holes {
            let excused = if rules.kills_ns.is_empty() {
                hole.duration_ms <= rules.max_missing_ms
            } else {
                rules.kills_ns.iter().any(|&kill| belongs(hole, kill))
            };
            if !excused {
                out.push(format!(
                    "{name}: {} frames missing, {} to {}: {:.0} ms",
                    hole.frames, hole.first, hole.last, hole.duration_ms
                ));
            }
        }
        if let (Some(allowed), Some(wall), "video") = (rules.max_wall_ms, track.wall_deviation, name) {
            let largest = wall.least_ms.abs().max(wall.largest_ms.abs());
            if largest > allowed {
                out.push(format!("{name}: wall time deviates by {largest:.1} ms"));
            }
        }
    }
    if report.video.expected == 0 {
        out.push("video: no frame expected: nothing was found, or nothing emitted".to_owned());
    }
    if report.video.media_deviation_ms > rules.max_media_ms {
        out.push(format!("video: presentation time deviates by {:.3} ms", report.video.media_deviation_ms));
    }
    if report.audio_deviation_frames > rules.max_audio_frames {
        out.push(format!("audio: time deviates by {:.2} frames", report.audio_deviation_frames));
    }
    if report.av_deviation_ms > rules.max_audio_frames * AAC_FRAME / rate * 1_000.0 && report.audio.is_some() {
        out.push(format!("audio against video: {:.1} ms", report.av_deviation_ms));
    }
    for kill in &report.kills {
        if kill.lost_before_ms > rules.max_missing_ms {
            out.push(format!("kill at {}: {:.0} ms before it are missing", kill.kill_ns, kill.lost_before_ms));
        }
        match kill.back_after_ms {
            Some(back) if back <= rules.max_back_ms => {}
            Some(back) => out.push(format!("kill at {}: recorded again after {back:.0} ms", kill.kill_ns)),
            None => out.push(format!("kill at {}: never recorded again", kill.kill_ns)),
        }
    }
    out
}
