//! Whole volumes against ledgers, by the library, by `ledger-check` and by the reader in Python.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::boxes::{Built, Plan, STREAM, build};
use crate::common::{Footage, WALL_US, ffmpeg, footage, write_ledger};
use framekeeper_e2e_checker::clip;
use framekeeper_e2e_checker::foreign::{self, Searched};
use framekeeper_e2e_checker::found::{Found, FoundFrame};
use framekeeper_e2e_checker::judge::{From, Rules, StreamReport, Until, judge};
use framekeeper_e2e_checker::ledger::{Emitted, Ledger};
use framekeeper_e2e_checker::movie::Movie;
use framekeeper_e2e_checker::volume::{State, Volume};

fn ledger_check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ledger-check")).args(arguments).output().unwrap()
}

fn python(volume: &Path, more: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reader/read_volume.py");
    Command::new("python3").arg("-B").arg(script).arg(volume).args(more).output().unwrap()
}

fn out(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The only file below a folder.
fn one_file_below(folder: &Path) -> PathBuf {
    let mut path = folder.to_owned();
    while path.is_dir() {
        path = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    }
    path
}

struct World {
    folder: tempfile::TempDir,
    footage: Footage,
    ledger: PathBuf,
}

impl World {
    fn new(frames: u64, bframes: u32, audio: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let footage = footage(folder.path(), frames, bframes, audio, 440);
        let ledger = write_ledger(folder.path(), "cam", &footage);
        Self { folder, footage, ledger }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A volume that holds this plan.
    fn volume(&self, name: &str, plan: &Plan) -> PathBuf {
        let built = build(plan, &self.footage);
        let folder = self.path(name);
        crate::common::volume::write(&folder, &[(&plan.name, plan.fragments[0].1[0].wall_us(), &built)]);
        folder
    }

    fn judged(&self, plan: &Plan, rules: &Rules) -> StreamReport {
        let built = build(plan, &self.footage);
        let folder = tempfile::tempdir().unwrap();
        crate::common::volume::write(folder.path(), &[(&plan.name, WALL_US, &built)]);
        let volume = Volume::read(folder.path(), State::AtRest).unwrap();
        let found = Found::on_volume(&volume);
        judge(&[&found[0]], &Ledger::read(&self.ledger).unwrap(), rules)
    }
}

/// All pictures of a plan, with the fragment that each is in.
fn change_picture(plan: &mut Plan, number: u64, change: impl FnOnce(&mut Vec<crate::common::Picture>, usize)) {
    let pictures = plan.fragments.iter_mut().map(|(_, pictures, _)| pictures);
    for pictures in pictures {
        if let Some(at) = pictures.iter().position(|picture| picture.number == number) {
            return change(pictures, at);
        }
    }
    panic!("no picture {number}");
}

#[test]
fn a_whole_volume_is_clean_by_all_three_readers() {
    let world = World::new(60, 0, true);
    let volume = world.volume("volume", &Plan::of(&world.footage));
    let json = world.path("report.json");
    let output = ledger_check(&[
        "--ledger",
        world.ledger.to_str().unwrap(),
        "--volume",
        volume.to_str().unwrap(),
        "--json",
        json.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let stream = &report["streams"][0];
    assert_eq!((stream["video"]["expected"].as_u64(), stream["video"]["found"].as_u64()), (Some(60), Some(60)));
    assert_eq!(stream["audio"]["missing"].as_u64(), Some(0));
    // The first one may be missing: where audio belongs is known to a frame only.
    assert_eq!(stream["audio"]["expected"].as_u64(), Some(world.footage.audio.len() as u64 - 1));

    let output = python(&volume, &["--json", "--frames", "--identities"]);
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let segment = &read["streams"][0]["segments"][0];
    assert_eq!(segment["video"].as_array().map(Vec::len), Some(60));
    assert_eq!(segment["audio"].as_array().map(Vec::len), Some(world.footage.audio.len()));
    let identities: Vec<_> =
        segment["video"].as_array().unwrap().iter().map(|f| f["identity"].as_str().unwrap()).collect();
    let right: Vec<_> = world.footage.video.iter().map(|picture| format!("{:016x}", picture.identity())).collect();
    assert_eq!(identities, right);
    assert!(out(&python(&volume, &[])).contains("60 frames"));
}

#[test]
fn python_and_rust_agree_on_broken_volumes() {
    let world = World::new(30, 0, true);
    let plan = Plan::of(&world.footage);
    let whole = build(&plan, &world.footage);
    type Break<'a> = (&'a str, &'a dyn Fn(&mut Built));
    let breaks: [Break<'_>; 6] = [
        ("a byte of mdat", &|b| b.bytes[b.fragments[1].2 + 99] ^= 1),
        ("the index", &|b| b.bytes[b.index + 140] ^= 1),
        ("a run box", &|b| b.bytes[b.runs[0] + 60] ^= 1),
        ("the last free", &|b| b.bytes[b.free + 3] ^= 8),
        ("the segment box", &|b| b.bytes[b.segment + 50] ^= 1),
        ("mfra", &|b| b.bytes[b.mfra + 30] ^= 1),
    ];
    for (what, change) in breaks {
        let mut broken = whole.clone();
        change(&mut broken);
        let folder = world.path(what);
        crate::common::volume::write(&folder, &[(&plan.name, WALL_US, &broken)]);
        assert_eq!(python(&folder, &[]).status.code(), Some(1), "{what}");
        assert!(!Volume::read(&folder, State::AtRest).unwrap().findings.is_empty(), "{what}");
    }
    assert_eq!(python(&world.path("nothing"), &[]).status.code(), Some(2));
    let nothing = world.path("nothing");
    let arguments = ["--ledger", world.ledger.to_str().unwrap(), "--volume", nothing.to_str().unwrap()];
    assert_eq!(ledger_check(&arguments).status.code(), Some(2));
    assert_eq!(ledger_check(&["--volume", "x"]).status.code(), Some(2));
}

#[test]
fn files_around_the_segments_are_checked() {
    let world = World::new(30, 0, false);
    let plan = Plan::of(&world.footage);
    let findings = |name: &str, change: &dyn Fn(&Path)| {
        let folder = world.volume(name, &plan);
        change(&folder);
        let volume = Volume::read(&folder, State::AtRest).unwrap();
        volume.findings.iter().map(|finding| format!("{finding}\n")).collect::<String>()
    };
    assert_eq!(findings("a", &|_| ()), "");
    let pool = |folder: &Path, at: usize| {
        let path = folder.join("pool/00000099.mp4");
        let mut data = std::fs::read(&path).unwrap();
        data[at] = 1;
        std::fs::write(path, data).unwrap();
    };
    assert!(findings("b", &|folder| pool(folder, 700_000)).contains("not all zero"));
    assert!(
        findings("c", &|folder| {
            let path = folder.join("manifest.log");
            let mut data = std::fs::read(&path).unwrap();
            data[100] ^= 1;
            std::fs::write(path, data).unwrap();
        })
        .contains("record: CRC")
    );
    assert!(
        findings("d", &|folder| {
            let path = folder.join("streams");
            std::fs::rename(path.join("default/cam"), path.join("default/other")).unwrap();
        })
        .contains("asks for another name")
    );
    assert!(
        findings("e", &|folder| std::fs::remove_dir_all(folder.join("streams")).unwrap())
            .contains("no file for the sealed")
    );
}

#[test]
fn every_deviation_from_the_ledger_is_reported() {
    let world = World::new(60, 0, true);
    let plan = Plan { sealed: false, ..Plan::of(&world.footage) };
    let judged = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        world.judged(&plan, &Rules::default())
    };
    let clean = judged(&|_| ());
    assert_eq!(clean.findings, Vec::<String>::new());
    assert_eq!((clean.video.expected, clean.video.missing, clean.video.media_deviation_ms), (60, 0, 0.0));
    // ffmpeg's audio starts 1024 samples before its pictures' zero, so both begin at file time 0 here.
    assert!(clean.av_deviation_ms < 0.1, "{}", clean.av_deviation_ms);

    let missing = judged(&|plan| change_picture(plan, 30, |pictures, at| drop(pictures.drain(at..at + 3))));
    assert_eq!(missing.video.missing, 3);
    let hole = &missing.video.holes[0];
    assert_eq!((hole.first, hole.last, hole.frames, hole.duration_ms), (30, 32, 3, 120.0));
    assert!(missing.findings[0].contains("3 frames missing, 30 to 32: 120 ms"), "{:?}", missing.findings);

    let doubled = judged(&|plan| change_picture(plan, 30, |pictures, at| pictures.insert(at, pictures[at].clone())));
    assert_eq!((doubled.video.doubled, doubled.video.missing), (1, 0));
    let swapped = judged(&|plan| change_picture(plan, 30, |pictures, at| pictures.swap(at, at + 1)));
    assert_eq!((swapped.video.out_of_order, swapped.video.missing), (1, 0));
    let altered = judged(&|plan| {
        change_picture(plan, 30, |pictures, at| *pictures[at].data.iter_mut().rev().nth(20).unwrap() ^= 1);
    });
    assert_eq!((altered.video.altered, altered.video.missing), (1, 1));
    let late = judged(&|plan| change_picture(plan, 30, |pictures, at| pictures[at].composition = 180));
    assert!((late.video.media_deviation_ms - 2.0).abs() < 1e-9);
    assert!(late.findings.iter().any(|finding| finding.contains("presentation time deviates")), "{:?}", late.findings);
    let no_stamp = judged(&|plan| {
        change_picture(plan, 30, |pictures, at| {
            let place = pictures[at].data.windows(5).position(|window| window == b"frame").unwrap();
            pictures[at].data[place] = b'F';
        });
    });
    assert_eq!((no_stamp.video.unknown, no_stamp.video.missing), (1, 1));
    let merged = judged(&|plan| {
        change_picture(plan, 30, |pictures, at| {
            let second = pictures.remove(at + 1);
            pictures[at].data.extend(second.data);
        });
    });
    assert_eq!((merged.video.merged, merged.video.missing), (1, 2));

    let no_sound = judged(&|plan| drop(plan.fragments[0].2.remove(3)));
    assert_eq!(no_sound.audio.as_ref().unwrap().missing, 1);
    let early = judged(&|plan| {
        let sounds = plan.fragments.iter_mut().flat_map(|(_, _, sounds)| sounds);
        sounds.skip(40).for_each(|sound| sound.decode += 2 * 1024);
    });
    assert!(early.audio_deviation_frames >= 2.0, "{}", early.audio_deviation_frames);
    assert!(early.av_deviation_ms > 40.0, "{}", early.av_deviation_ms);
    assert_eq!(early.findings.len(), 2, "{:?}", early.findings);
}

#[test]
fn what_a_kill_may_cost_is_counted_from_the_kill() {
    let world = World::new(100, 0, false);
    let emitted_ns = |number: i64| (WALL_US + number * 40_000) * 1_000;
    let mut plan = Plan { sealed: false, ..Plan::of(&world.footage) };
    // Pictures 36 to 49 are gone; the kill was at 44.
    for (_, pictures, _) in &mut plan.fragments {
        pictures.retain(|picture| !(36..50).contains(&picture.number));
    }
    plan.fragments.retain(|(_, pictures, _)| !pictures.is_empty());
    let kill_ns = emitted_ns(44);
    let rules = |kills_ns: Vec<i64>, max_missing_ms| Rules { kills_ns, max_missing_ms, ..Rules::default() };
    let report = world.judged(&plan, &rules(vec![kill_ns], 600.0));
    assert_eq!(report.findings, Vec::<String>::new());
    let cost = &report.kills[0];
    assert_eq!((cost.lost_before_ms, cost.back_after_ms), (320.0, Some(240.0)));
    assert_eq!(world.judged(&plan, &rules(vec![kill_ns], 300.0)).findings.len(), 1);
    assert_eq!(world.judged(&plan, &rules(vec![], 560.0)).findings, Vec::<String>::new());
    assert_eq!(world.judged(&plan, &rules(vec![], 559.0)).findings.len(), 1);
    let elsewhere = world.judged(&plan, &rules(vec![emitted_ns(80)], 600.0));
    assert!(elsewhere.findings[0].contains("14 frames missing"), "{:?}", elsewhere.findings);
    let twice = world.judged(&plan, &rules(vec![emitted_ns(40), kill_ns], 600.0));
    assert_eq!(twice.findings, Vec::<String>::new());
    assert_eq!((twice.kills[0].lost_before_ms, twice.kills[1].back_after_ms), (160.0, Some(240.0)));

    let stop = Rules { until: Until::EmittedNs(emitted_ns(35)), ..Rules::default() };
    assert_eq!(world.judged(&plan, &stop).findings, Vec::<String>::new());
    let late = Rules { from: From::EmittedNs(emitted_ns(50)), ..Rules::default() };
    assert_eq!(world.judged(&plan, &late).video.expected, 50);
}

#[test]
fn sound_is_compared_with_the_pictures_of_its_own_run() {
    let emitted = |number: u64, media_time: u64| Emitted {
        number,
        media_time: media_time as i64,
        wall_ns: 0,
        hash: 0,
        bytes: 0,
        key: false,
    };
    let ledger = Ledger {
        audio_rate: 48_000,
        video: (0..60).map(|number| emitted(number, number * 3_600)).collect(),
        audio: (0..120).map(|number| emitted(number, number * 1_024)).collect(),
        ..Ledger::default()
    };
    let frame = |(number, file_seconds, stretch): (u64, f64, usize)| FoundFrame {
        number: Some(number),
        file_seconds,
        wall_us: Some(0),
        stretch,
        ..FoundFrame::default()
    };
    // The second run is 1.84 s of media time behind the first one. Its first sound lies between pictures of the first one that are shown late.
    let video = [(0, 0.0, 0), (1, 0.04, 0), (2, 0.12, 0), (50, 0.16, 1), (51, 0.20, 1)];
    let sound = 91.0 * 1_024.0 / 48_000.0 - 1.84;
    let found = |late: f64| Found {
        video: video.into_iter().map(frame).collect(),
        audio: [(0, 0.0, 0), (91, sound + late, 1)].into_iter().map(frame).collect(),
        audio_timescale: 48_000,
        ..Found::default()
    };
    assert!((0.10..0.12).contains(&sound));
    assert!(judge(&[&found(0.0)], &ledger, &Rules::default()).av_deviation_ms < 0.01);
    let late = judge(&[&found(0.03)], &ledger, &Rules::default()).av_deviation_ms;
    assert!((29.9..30.1).contains(&late), "{late}");
}

#[test]
fn what_is_behind_a_loss_counts_where_another_copy_has_it_whole() {
    let emitted = |number: u64| Emitted {
        number,
        media_time: number as i64 * 3_600,
        wall_ns: 0,
        hash: number,
        bytes: 0,
        key: number == 0,
    };
    let ledger = Ledger { video: (0..10).map(emitted).collect(), ..Ledger::default() };
    let copy = |numbers: std::ops::Range<u64>, lost: u64| {
        let frame = |number: u64| FoundFrame {
            number: Some(number),
            hash: number,
            media_time: number as i64 * 3_600,
            wall_us: Some(0),
            behind_loss: number >= lost,
            ..FoundFrame::default()
        };
        Found { video: numbers.map(frame).collect(), ..Found::default() }
    };
    let together = Rules { decodable: true, ..Rules::default() };
    let (lossy, whole, short) = (copy(0..10, 6), copy(0..10, 10), copy(0..8, 10));
    assert_eq!(judge(&[&lossy, &whole], &ledger, &together).video.missing, 0);
    assert_eq!(judge(&[&lossy, &short], &ledger, &together).video.missing, 2);
    assert_eq!(judge(&[&lossy], &ledger, &together).video.missing, 4);
    assert_eq!(judge(&[&lossy], &ledger, &Rules::default()).video.missing, 0);
}

#[test]
fn what_a_loss_of_power_tore_is_the_end_of_a_file_that_nobody_opened_since_and_no_other() {
    let world = World::new(75, 0, false);
    let plan = |sealed| Plan { sealed, ..Plan::of(&world.footage) };
    let built = build(&plan(false), &world.footage);
    let (moof, _, mdat, _) = built.fragments[built.fragments.len() - 2];
    let garbage: Vec<u8> = (0..64_u8).map(|byte| byte.wrapping_mul(37) | 0x80).collect();
    let torn = |name: &str, sealed: bool, at: usize| {
        let folder = world.volume(name, &plan(sealed));
        let path = one_file_below(&folder.join("streams"));
        let mut data = std::fs::read(&path).unwrap();
        data[at..at + 64].copy_from_slice(&garbage);
        std::fs::write(path, data).unwrap();
        folder.to_str().unwrap().to_owned()
    };
    let ledger = world.ledger.to_str().unwrap();
    let check = |volume: &str, more: &[&str]| {
        let all = [&["--ledger", ledger, "--union", "--volume", volume][..], more].concat();
        let output = ledger_check(&all);
        (output.status.code(), out(&output))
    };
    let whole = world.volume("whole", &plan(false)).to_str().unwrap().to_owned();
    assert_eq!(check(&whole, &["--unopened", &whole]).0, Some(0), "what nothing tore is whole");
    // The begin of the fragment is there, the rest is not; or its first page is not; or some bytes within it are not.
    for (number, at) in [mdat, moof, mdat + 500].into_iter().enumerate() {
        let volume = torn(&format!("torn {number}"), false, at);
        assert!(check(&volume, &[]).1.contains("WRONG"), "at {at}");
        let (code, said) = check(&volume, &["--unopened", &volume, "--until-last-found"]);
        assert_eq!(code, Some(0), "at {at}: {said}");
        let (code, said) = check(&volume, &["--unopened", &volume]);
        let missing: usize = plan(false).fragments.iter().rev().take(2).map(|(_, pictures, _)| pictures.len()).sum();
        assert_eq!(code, Some(1), "at {at}: {said}");
        assert!(said.contains(&format!("{missing} frames missing")), "at {at}: {said}");
    }
    let sealed = torn("sealed", true, mdat);
    assert!(check(&sealed, &["--unopened", &sealed]).1.contains("WRONG"), "what is sealed was synced");
    assert_eq!(check(&whole, &["--unopened", &sealed]).0, Some(2), "one that is not looked at");
}

#[test]
fn several_volumes_are_one_stream_only_with_union() {
    let world = World::new(75, 0, false);
    let all = Plan { sealed: false, ..Plan::of(&world.footage) };
    let part = |name: &str, keep: &dyn Fn(u64) -> bool| {
        let mut plan = all.clone();
        plan.fragments.retain(|(_, pictures, _)| keep(pictures[0].number / 25));
        let first = plan.fragments[0].1[0].wall_us();
        let built = build(&plan, &world.footage);
        crate::common::volume::write(&world.path(name), &[(&plan.name, first, &built)]);
        world.path(name).to_str().unwrap().to_owned()
    };
    let (a, b) = (part("a", &|gop| gop < 2), part("b", &|gop| gop != 1));
    let ledger = world.ledger.to_str().unwrap();
    let output = ledger_check(&["--ledger", ledger, "--no-decode", "--union", "--volume", &a, &b]);
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    let output = ledger_check(&["--ledger", ledger, "--no-decode", "--volume", &a, &b]);
    assert!(out(&output).contains("25 frames missing, 50 to 74"), "{}", out(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn footage_of_another_stream_is_found_wherever_it_lies() {
    let world = World::new(30, 0, true);
    let other = footage(world.folder.path(), 30, 0, true, 880);
    write_ledger(world.folder.path(), "other", &other);
    let ledgers = Ledger::read_all(&[world.folder.path().to_owned()]).unwrap();
    assert_eq!(ledgers.len(), 2);
    let camera_of = |stream: &str| stream.rsplit('/').next().unwrap().to_owned();
    let search = |folder: &Path| -> Searched { foreign::search(folder, &ledgers, camera_of).unwrap() };
    let plan = Plan { sealed: false, ..Plan::of(&world.footage) };
    let folder = world.volume("own", &plan);
    let searched = search(&folder);
    assert_eq!(searched.findings, []);
    assert_eq!(searched.stamps, 30 + world.footage.audio.len());

    let whose = |searched: &Searched| searched.findings.iter().map(|f| f.what.clone()).collect::<BTreeSet<_>>();
    // As a sample; in what is left of an earlier use behind the last box; in an empty file.
    let mut foreign_frame = plan.clone();
    change_picture(&mut foreign_frame, 20, |pictures, at| pictures[at] = other.video[20].clone());
    let searched = search(&world.volume("sample", &foreign_frame));
    let expected = "picture 20 of camera other, in a file of cam".to_owned();
    assert_eq!(whose(&searched), BTreeSet::from([expected]));

    let mut rest = build(&plan, &world.footage);
    let place = rest.free + 4_000;
    rest.bytes[place..place + other.video[3].data.len()].copy_from_slice(&other.video[3].data);
    rest.bytes[place + 60_000..][..other.audio[5].data.len()].copy_from_slice(&other.audio[5].data);
    let folder = world.path("rest");
    crate::common::volume::write(&folder, &[(&plan.name, WALL_US, &rest)]);
    let names = ["audio frame 5 of camera other, in a file of cam", "picture 3 of camera other, in a file of cam"];
    assert_eq!(whose(&search(&folder)), names.map(str::to_owned).into());
    let output = ledger_check(&[
        "foreign",
        "--ledger",
        world.folder.path().to_str().unwrap(),
        "--volume",
        folder.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));

    let empty = folder.join("pool/00000099.mp4");
    let mut data = std::fs::read(&empty).unwrap();
    data[9_000..9_000 + other.video[0].data.len()].copy_from_slice(&other.video[0].data);
    std::fs::write(&empty, data).unwrap();
    assert!(whose(&search(&folder)).contains("a stamp in an empty file"));
}

#[test]
fn a_frame_that_was_said_to_be_durable_must_be_there() {
    let world = World::new(30, 0, false);
    let plan = Plan::of(&world.footage);
    let wall = plan.fragments[0].1[3].wall_us();
    let with = |durable_us: Vec<i64>| world.judged(&plan, &Rules { durable_us, ..Rules::default() }).findings;
    assert_eq!(with(vec![wall]), Vec::<String>::new());
    let findings = with(vec![wall, wall + 1]);
    assert!(matches!(findings.as_slice(), [one] if one.contains(&(wall + 1).to_string())), "{findings:?}");
}

#[test]
fn clips_are_judged_by_what_they_show() {
    let world = World::new(75, 2, true);
    let plan = Plan::of(&world.footage);
    assert_eq!(plan.stream, STREAM);
    let volume = world.volume("volume", &plan);
    let segment = volume.join(crate::common::volume::path_below(&plan.name, plan.fragments[0].1[0].wall_us()));
    let whole = world.path("whole.mp4");
    ffmpeg(&["-i", segment.to_str().unwrap(), "-c", "copy", "-movflags", "+faststart", whole.to_str().unwrap()]);
    let check = |clip: &Path, from_us: i64, to_us: i64| {
        let moments = [(WALL_US + from_us) * 1_000, (WALL_US + to_us) * 1_000].map(|ns| ns.to_string());
        ledger_check(&[
            "--ledger",
            world.ledger.to_str().unwrap(),
            "--volume",
            volume.to_str().unwrap(),
            "--clip",
            clip.to_str().unwrap(),
            "--stream",
            "default/cam",
            "--from",
            &moments[0],
            "--to",
            &moments[1],
        ])
    };
    let output = check(&whole, 0, 10_000_000);
    assert_eq!(output.status.code(), Some(0), "{}", out(&output));
    // The clip shows more than a shorter range asks for, and less than ... a file with a picture cut out.
    let output = check(&whole, 0, 2_000_000);
    assert!(out(&output).contains("pictures outside of the range are shown"), "{}", out(&output));
    let part = world.path("part.mp4");
    ffmpeg(&[
        "-i",
        whole.to_str().unwrap(),
        "-t",
        "1.5",
        "-c",
        "copy",
        "-movflags",
        "+faststart",
        part.to_str().unwrap(),
    ]);
    let output = check(&part, 0, 10_000_000);
    assert!(out(&output).contains("frames missing"), "{}", out(&output));
    let mut data = std::fs::read(&whole).unwrap();
    data.push(0);
    std::fs::write(&part, data).unwrap();
    let output = check(&part, 0, 10_000_000);
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));

    // A range that begins between pictures whose coding order is another: exactly those that are shown in it.
    let walls: std::collections::BTreeMap<_, _> = plan
        .fragments
        .iter()
        .flat_map(|(_, pictures, _)| pictures)
        .map(|picture| (picture.number, picture.wall_us()))
        .collect();
    let movie = Movie::read(&whole).unwrap().unwrap();
    let ledger = Ledger::read(&world.ledger).unwrap();
    let found = Found::on_volume(&Volume::read(&volume, State::AtRest).unwrap()).remove(0);
    let silent = Found { audio: Vec::new(), ..found.clone() };
    let all = clip::Recorded::of(&[&silent]);
    let split = walls[&31] + 1;
    let report = clip::check("default/cam", &movie, &ledger, (split, i64::MAX / 2), Some(&all), 0);
    let inside = walls.values().filter(|&&wall| wall >= split).count();
    assert_eq!((report.video.expected, report.video.missing), (inside, 0), "{:?}", report.findings);
    assert!(
        report.findings.iter().any(|f| f.contains(&format!("{} pictures outside", 75 - inside))),
        "{:?}",
        report.findings
    );

    // Another recorder has received the same 10 ms later: what it has on the one side of an end and the first one on the other may be shown or not.
    let mut later = silent.clone();
    later.video.iter_mut().for_each(|frame| frame.wall_us = frame.wall_us.map(|wall| wall + 10_000));
    let both = clip::Recorded::of(&[&silent, &later]);
    let shown = |from: i64, to: i64| clip::check("default/cam", &movie, &ledger, (from, to), Some(&both), 0);
    let (first, end) = (*walls.values().min().unwrap(), walls.values().max().unwrap() + 40_000);
    for (from, to) in [(first, end), (first + 5_000, end), (first, end - 35_000)] {
        assert_eq!(shown(from, to).findings, Vec::<String>::new(), "{from} to {to}");
    }
    for (from, to) in [(first + 10_001, end), (first, end - 40_000)] {
        assert!(shown(from, to).findings.iter().any(|f| f.contains("1 pictures outside")), "{from} to {to}");
    }
}
