//! Segment files written from docs/format.md, whole and broken in one place each: the walk must find every break.

use std::path::Path;

use crate::common::boxes::{Built, Plan, build, fix};
use crate::common::{Footage, footage};
use framekeeper_e2e_checker::decode;
use framekeeper_e2e_checker::segment::{Finding, Segment, Tail};

fn walk(built: &Built) -> (Option<Segment>, Vec<Finding>) {
    match Segment::walk(Path::new("seg.mp4"), &built.bytes, Tail::Whole) {
        Ok(segment) => {
            let findings = segment.findings.clone();
            (Some(segment), findings)
        }
        Err(finding) => (None, vec![finding]),
    }
}

fn texts(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// Breaks a file at one place, makes the CRCs right again, and wants this to be found.
#[track_caller]
fn found_when(built: &Built, what: &str, change: impl FnOnce(&mut Built)) {
    let mut broken = built.clone();
    change(&mut broken);
    fix(&mut broken);
    let (_, findings) = walk(&broken);
    assert!(texts(&findings).contains(what), "`{what}` not in: {}", texts(&findings));
}

fn add(built: &mut Built, at: usize, by: u8) {
    built.bytes[at] = built.bytes[at].wrapping_add(by);
}

struct Fixture {
    _folder: tempfile::TempDir,
    footage: Footage,
    built: Built,
}

fn fixture(frames: u64, bframes: u32, audio: bool) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let footage = footage(folder.path(), frames, bframes, audio, 440);
    let built = build(&Plan::of(&footage), &footage);
    Fixture { _folder: folder, footage, built }
}

#[test]
fn whole_files_are_clean_and_decode() {
    let folder = tempfile::tempdir().unwrap();
    for (bframes, audio, sealed, runs) in
        [(0, true, true, 1), (0, true, false, 1), (2, false, true, 1), (2, true, true, 2), (0, false, false, 2)]
    {
        let footage = footage(folder.path(), 60, bframes, audio, 300);
        let mut plan = Plan { sealed, ..Plan::of(&footage) };
        if runs == 2 {
            let second = plan.fragments.iter().position(|(_, pictures, _)| pictures[0].number >= 25).unwrap();
            plan.fragments[second..].iter_mut().for_each(|(run, ..)| *run = 1);
        }
        let built = build(&plan, &footage);
        let (segment, findings) = walk(&built);
        assert_eq!(findings, [], "{bframes} {audio} {sealed} {runs}");
        let segment = segment.unwrap();
        assert_eq!(segment.video().count(), 60);
        assert_eq!(segment.audio().count(), footage.audio.len());
        assert_eq!((segment.runs.len(), segment.sealed.is_some()), (runs, sealed));
        assert!(segment.video().all(|frame| frame.stamps.len() == 1));
        assert!(segment.audio().all(|sound| sound.number.is_some()));
        let path = folder.path().join("seg.mp4");
        std::fs::write(&path, &built.bytes).unwrap();
        assert_eq!(decode::undecodable(&path, 60..=60, false).unwrap(), None);
        // It had fewer of them when it was walked: only what is being written may.
        assert_eq!(decode::undecodable(&path, 59..=59, true).unwrap(), None);
        assert!(decode::undecodable(&path, 59..=59, false).unwrap().is_some_and(|what| what.contains("60 of 59")));
        assert!(decode::undecodable(&path, 61..=61, true).unwrap().is_some());
        assert_eq!(decode::undecodable(&path, 40..=61, false).unwrap(), None);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let Fixture { built, .. } = fixture(30, 0, true);
    // Behind the last header only undefined bytes follow.
    let in_mdat = |at: usize| built.fragments.iter().any(|&(_, _, mdat, end)| (mdat + 8..end).contains(&at));
    for at in (0..built.free + 8).filter(|&at| if in_mdat(at) { at % 509 == 0 } else { at % 2 == 0 }) {
        let mut broken = built.clone();
        broken.bytes[at] ^= 1 << (at % 8);
        let (_, findings) = walk(&broken);
        // The padding behind moov is a free box, whose body is undefined.
        let padding = broken.bytes[..built.segment].windows(4).rposition(|w| w == b"free").map(|p| p + 4);
        if padding.is_some_and(|start| (start..built.segment).contains(&at)) {
            continue;
        }
        assert!(!findings.is_empty(), "bit flipped at {at}");
    }
}

#[test]
fn every_cut_and_every_stray_byte_is_found() {
    let Fixture { built, .. } = fixture(30, 0, true);
    for cut in [10, 100, built.segment + 100, built.fragments[1].0 + 3, built.index + 5, built.free, built.free + 4_000]
    {
        let mut broken = built.clone();
        broken.bytes.truncate(cut);
        assert!(!walk(&broken).1.is_empty(), "cut at {cut}");
    }
    for place in [built.segment, built.runs[0], built.fragments[1].0, built.index, built.mfra, built.free] {
        let mut broken = built.clone();
        broken.bytes.insert(place, 0);
        broken.bytes.pop();
        assert!(!walk(&broken).1.is_empty(), "a byte too many at {place}");
    }
}

#[test]
fn what_is_wrong_in_spite_of_right_checksums_is_found() {
    let Fixture { built, .. } = fixture(60, 0, true);
    let segment = built.segment;
    let (moof, frames, mdat, _) = built.fragments[1];
    let (index, entries, run) = (built.index, built.index + 128, built.runs[0]);
    found_when(&built, "file size", |b| add(b, segment + 96 + 7, 1));
    found_when(&built, "init hash", |b| add(b, segment + 112, 1));
    found_when(&built, "reserved bytes are not zero", |b| add(b, segment + 440, 1));
    found_when(&built, "reserved bytes of the sealed part", |b| add(b, segment + 500, 1));
    found_when(&built, "sealed part: index and end", |b| add(b, segment + 471, 8));
    found_when(&built, "sealed part: use nonce", |b| add(b, segment + 456, 1));
    found_when(&built, "use nonce", |b| add(b, run + 32, 1));
    found_when(&built, "media anchor", |b| add(b, run + 135, 1));
    found_when(&built, "wall anchor", |b| add(b, run + 125, 1));
    found_when(&built, "gap reason", |b| add(b, run + 79, 100));
    found_when(&built, "continued, and yet a gap", |b| add(b, run + 27, 1));
    found_when(&built, "mfhd", |b| add(b, moof + 23, 1));
    found_when(&built, "own offset", |b| add(b, frames + 47, 8));
    found_when(&built, "use nonce", |b| add(b, frames + 39, 1));
    found_when(&built, "disagree on the random access point", |b| add(b, frames + 27, 1));
    found_when(&built, "goes on with an earlier segment's GOP", |b| add(b, frames + 27, 2));
    found_when(&built, "says 13 and", |b| add(b, frames + 51, 1));
    found_when(&built, "a random access point that does not begin a fragment", |b| add(b, frames + 72 + 24 + 19, 1));
    found_when(&built, "first_sample_flags", |b| add(b, frames + 72 + 19, 2));
    found_when(&built, "identity", |b| add(b, frames + 72 + 8, 1));
    found_when(&built, "identity", |b| {
        let in_a_slice = b.fragments[1].2 + 108;
        add(b, in_a_slice, 1);
    });
    found_when(&built, "mdat of", |b| add(b, frames + 59, 8));
    let tfdt_time = moof + 8 + 16 + 8 + 20 + 12;
    found_when(&built, "index entry", |b| add(b, tfdt_time + 7, 1));
    found_when(&built, "decode time", |b| b.bytes[tfdt_time..tfdt_time + 8].fill(0));
    found_when(&built, "samples reach beyond their mdat", |b| {
        let shorter = (b.fragments[1].3 - mdat - 8) as u32;
        b.bytes[mdat..mdat + 4].copy_from_slice(&shorter.to_be_bytes());
        b.fragments[1].3 -= 8;
    });
    found_when(&built, "is the next free byte of mdat", |b| {
        let first_size = moof + 8 + 16 + 8 + 20 + 20 + 8 + 4 + 4 + 4 + 4 + 4;
        b.bytes[first_size..first_size + 4].copy_from_slice(&[0; 4]);
    });
    found_when(&built, "its counts ask for", |b| add(b, index + 55, 1));
    found_when(&built, "video frames, the fragments have", |b| add(b, index + 59, 1));
    found_when(&built, "random access points, the fragments have", |b| add(b, index + 67, 1));
    found_when(&built, "fragments, the fragments have", |b| add(b, index + 71, 1));
    found_when(&built, "bytes of video", |b| add(b, index + 79, 1));
    found_when(&built, "bytes of audio", |b| add(b, index + 87, 1));
    found_when(&built, "index ends at", |b| add(b, index + 95, 1));
    found_when(&built, "index run (", |b| add(b, index + 96 + 7, 8));
    found_when(&built, "index run (", |b| add(b, index + 96 + 15, 1));
    found_when(&built, "index run begins", |b| add(b, index + 96 + 23, 1));
    found_when(&built, "index run ends", |b| add(b, index + 96 + 28, 1));
    for field in [3, 7, 11, 15, 23, 31, 39] {
        found_when(&built, "index entry", |b| add(b, entries + 40 * 3 + field, 1));
    }
    for field in [3, 7, 11, 15, 23, 30, 39] {
        found_when(&built, "audio's index entry", |b| add(b, entries + 40 * 12 + field, 1));
    }
    found_when(&built, "index: audio frame of", |b| add(b, built.mfra - 8, 1));
    found_when(&built, "tfra: time and offset", |b| add(b, built.mfra + 8 + 24 + 7, 1));
    found_when(&built, "tfra: traf, trun, sample", |b| add(b, built.mfra + 8 + 24 + 19, 1));
    found_when(&built, "mfro", |b| add(b, built.index_end() - 1, 8));
    found_when(&built, "does not fit", |b| add(b, built.free + 3, 8));
    found_when(&built, "do not fit into the", |b| b.bytes[built.free + 3] = b.bytes[built.free + 3].wrapping_sub(4));
}

#[test]
fn fragments_that_are_lost_doubled_or_swapped_are_found() {
    let Fixture { footage, built, .. } = fixture(60, 0, true);
    let wrong = |change: &dyn Fn(&mut Plan)| {
        let mut plan = Plan { sealed: false, ..Plan::of(&footage) };
        change(&mut plan);
        texts(&walk(&build(&plan, &footage)).1)
    };
    assert_eq!(wrong(&|_| ()), "");
    // What is gone from the middle is seen by the ledger only; but these leave traces in the file itself.
    assert!(wrong(&|plan| plan.fragments.swap(1, 2)).contains("decode time"));
    assert!(
        wrong(&|plan| {
            let again = plan.fragments[1].clone();
            plan.fragments.insert(1, again);
        })
        .contains("decode time")
    );
    assert!(wrong(&|plan| drop(plan.fragments.remove(0))).contains("file time begins at"));
    assert!(wrong(&|plan| drop(plan.fragments.remove(0))).contains("before the file's first random access point"));
    // Raw bytes of a fragment moved to another place.
    let (a, b) = (built.fragments[1], built.fragments[2]);
    let mut moved = built.clone();
    let (first, second) = (built.bytes[a.0..a.3].to_vec(), built.bytes[b.0..b.3].to_vec());
    moved.bytes[a.0..b.3].copy_from_slice(&[second, first].concat());
    assert!(texts(&walk(&moved).1).contains("own offset"));
}
