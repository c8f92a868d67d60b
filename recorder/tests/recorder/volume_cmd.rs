//! `volume ls | check | repair | export` on footage of a real store: whole, copied in parts, and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::serve_footage::recorded::{open, open_all, record};
use crate::serve_footage::*;
use framekeeper_store::{GapReason, Placement, StreamIdent};
use serde_json::Value;
use uuid::Uuid;

static SOURCE: LazyLock<Source> = LazyLock::new(|| {
    encode(20, "480x288", "-preset ultrafast -qp 6 -bf 2 -g 25 -keyint_min 25 -sc_threshold 0", Some("-b:a 64k"))
});

/// 12 s, then a gap of 1 s, then 8 s; the last segment is not sealed.
fn specs() -> [RunSpec<'static>; 2] {
    let first = RunSpec {
        source: &SOURCE,
        frames: 0..300,
        wall_us: START,
        gops_per_segment: 0,
        fills_on: false,
        gap: GapReason::FirstRun,
    };
    let second = RunSpec { frames: 300..500, wall_us: START + S, gap: GapReason::SessionEnded, ..first };
    [first, second]
}

struct Volume {
    folder: tempfile::TempDir,
}

impl Volume {
    fn recorded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ident = StreamIdent { uid: Uuid::new_v4(), namespace: "default".into(), name: "door".into() };
        for spec in specs() {
            let store = open(folder.path());
            record(&store, &ident, &spec);
            store.close();
        }
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Segment files in order of time.
    fn segments(&self) -> Vec<PathBuf> {
        let mut found: Vec<_> = files(&self.path().join("streams")).into_keys().collect();
        found.sort();
        found
    }

    fn change(&self, file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(file).unwrap();
        change(&mut bytes);
        fs::write(file, bytes).unwrap();
    }
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Exit status, standard output, standard error.
fn volume(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_framekeeper-recorder"));
    let output = command.arg("volume").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("a status"), text(output.stdout), text(output.stderr))
}

fn json(arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = volume(&[arguments, &["--json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}{err}")))
}

fn at(us: i64) -> String {
    jiff::Timestamp::from_microsecond(START + us).unwrap().to_string()
}

struct Exported {
    code: i32,
    pictures: Vec<String>,
    answer: Value,
    path: String,
    _folder: tempfile::TempDir,
}

/// Exports a range, in µs from the first frame on, and decodes it: ffmpeg must not complain.
fn export(place: &Path, from: i64, to: i64, more: &[&str]) -> Exported {
    export_of(&[place.to_owned()], from, to, more)
}

/// The same of several places.
fn export_of(places: &[PathBuf], from: i64, to: i64, more: &[&str]) -> Exported {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.mp4").to_str().unwrap().to_owned();
    let (from, to) = (at(from), at(to));
    let places: Vec<&str> = places.iter().map(|place| place.to_str().unwrap()).collect();
    let fixed = ["--stream", "default/door", "--from", &from, "--to", &to, "-o", &path];
    let (code, answer) = json(&[&["export"], places.as_slice(), &fixed, more].concat());
    Exported { code, pictures: pictures(&path), answer, path, _folder: folder }
}

fn wanted(from: i64, to: i64) -> Vec<String> {
    specs().iter().flat_map(|spec| shown(spec, START + from, START + to)).map(|frame| frame.picture).collect()
}

#[test]
fn whole_footage_is_listed_checked_and_exported_and_nothing_is_written() {
    let volume_ = Volume::recorded();
    let path = volume_.path().to_str().unwrap();
    let before = files(volume_.path());
    assert!(volume_.segments().len() > 4);

    let (code, listed) = json(&["ls", path]);
    assert_eq!(code, 0);
    let stream = &listed["streams"][0];
    assert_eq!((&stream["namespace"], &stream["name"]), (&"default".into(), &"door".into()));
    let frames: Vec<_> = stream["runs"].as_array().unwrap().iter().map(|run| run["frames"].as_u64().unwrap()).collect();
    assert_eq!(frames, [300, 200]);
    assert_eq!(stream["gaps"][0]["reason"], "SessionEnded");
    assert_eq!(stream["segments"].as_array().unwrap().len(), volume_.segments().len());
    assert_eq!(listed["places"][0]["volume"]["pool"], "default/main");

    let (code, out, err) = volume(&["check", path]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("nothing is damaged, 0 notes"), "{out}");

    for (from, to) in [(0, 60 * S), (1_234_000, 5_235_000), (11 * S, 14 * S), (5 * S, 5 * S + 40_000)] {
        let exported = export(volume_.path(), from, to, &[]);
        assert!((exported.code, &exported.pictures) == (0, &wanted(from, to)), "{from} to {to}");
        let hash = blake3::hash(&fs::read(&exported.path).unwrap()).to_hex().to_string();
        assert_eq!(exported.answer["blake3"], hash.as_str());
    }
    let kept = export(volume_.path(), 11 * S, 14 * S, &["--gaps", "keep"]);
    let times = times(&kept.path, "v");
    assert!(times.windows(2).any(|pair| pair[1] - pair[0] > 0.9), "the gap is kept: {times:?}");
    assert!(files(volume_.path()) == before, "something was written");
}

#[test]
fn volumes_of_a_recorder_are_listed_and_exported_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = ["first", "second", "third"].map(|name| folder.path().join(name));
    volumes.iter().for_each(|volume| fs::create_dir(volume).unwrap());
    let ident = StreamIdent { uid: Uuid::new_v4(), namespace: "default".into(), name: "door".into() };
    for spec in specs() {
        let store = open_all(&volumes, Placement::RoundRobin);
        record(&store, &ident, &spec);
        store.close();
    }
    let counts = volumes.each_ref().map(|volume| files(&volume.join("streams")).len());
    let total: usize = counts.iter().sum();
    assert!(counts.iter().all(|count| *count > 0), "a volume has none: {counts:?}");
    // A copy of one of them beside them changes nothing, nor does one that is given twice.
    let copy = folder.path().join("copy");
    let copied = Command::new("cp").arg("-r").arg(&volumes[1]).arg(&copy).status().unwrap();
    assert!(copied.success());
    let with_copy = [volumes.as_slice(), &[copy, volumes[0].clone()]].concat();
    for places in [volumes.as_slice(), &with_copy] {
        let names: Vec<&str> = places.iter().map(|place| place.to_str().unwrap()).collect();
        let (code, listed) = json(&[&["ls"], names.as_slice()].concat());
        let stream = &listed["streams"][0];
        let runs = stream["runs"].as_array().unwrap();
        let frames: Vec<_> = runs.iter().map(|run| run["frames"].as_u64().unwrap()).collect();
        assert_eq!((code, frames), (0, vec![300, 200]), "{listed:#}");
        let segments = stream["segments"].as_array().unwrap();
        assert_eq!(segments.len(), total);
        assert!(segments.iter().all(|segment| Path::new(segment["path"].as_str().unwrap()).is_file()), "{listed:#}");
        for (from, to) in [(0, 60 * S), (1_234_000, 11_235_000), (11 * S, 14 * S)] {
            let exported = export_of(places, from, to, &[]);
            assert!((exported.code, &exported.pictures) == (0, &wanted(from, to)), "{from} to {to}");
        }
    }
    let (code, out, _) = volume(&["ls", volumes[0].to_str().unwrap(), volumes[1].to_str().unwrap()]);
    assert_eq!(code, 0);
    let volume_of = |place: &Path| format!("{}: volume ", place.display());
    assert!(volumes[..2].iter().all(|place| out.contains(&volume_of(place))), "{out}");
    // What is damaged is named with its volume.
    let hit = files(&volumes[2].join("streams")).into_keys().next().unwrap();
    let mut bytes = fs::read(&hit).unwrap();
    let moof = boxes(&bytes, b"moof")[1];
    bytes[moof + 3000] ^= 4;
    fs::write(&hit, bytes).unwrap();
    let exported = export_of(&volumes, 0, 60 * S, &[]);
    let left_out = exported.answer["leftOut"].as_array().unwrap();
    let named = left_out.iter().map(|finding| finding["path"].as_str().unwrap());
    assert_eq!((exported.code, named.collect::<Vec<_>>()), (1, vec![hit.to_str().unwrap()]));
}

#[test]
fn a_segment_of_which_nothing_is_left_is_damaged_and_not_footage() {
    let volume_ = Volume::recorded();
    let path = volume_.path().to_str().unwrap();
    let (_, before) = json(&["ls", path]);
    let hit = volume_.segments()[1].clone();
    let segment = before["streams"][0]["segments"].as_array().unwrap()[1].clone();
    assert!(hit.ends_with(Path::new(segment["path"].as_str().unwrap()).file_name().unwrap()), "{segment:#}");
    // Each fragment, and the index, which is behind all of them.
    volume_.change(&hit, |bytes| {
        for moof in boxes(bytes, b"moof") {
            bytes[moof + 100] ^= 4;
        }
        let index = segment["usedBytes"].as_u64().unwrap() as usize;
        bytes[index + 64] ^= 4;
    });
    let (code, out, err) = volume(&["repair", path]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    let (_, after) = json(&["ls", path]);
    let stream = &after["streams"][0];
    let gap = serde_json::json!({"from": segment["from"], "reason": "Damaged", "to": segment["to"]});
    assert!(stream["gaps"].as_array().unwrap().contains(&gap), "{segment:#} {stream:#}");
    let runs = stream["runs"].as_array().unwrap();
    let ends: Vec<_> = runs.iter().map(|run| (&run["from"], &run["to"])).collect();
    assert!(ends.iter().any(|(_, to)| **to == segment["from"]), "{ends:?}");
    assert!(ends.iter().any(|(from, _)| **from == segment["to"]), "{ends:?}");
}

#[test]
fn parts_of_a_copy_are_enough() {
    let volume_ = Volume::recorded();
    let copy = tempfile::tempdir().unwrap();
    let segments = volume_.segments();
    let single = copy.path().join("anything.mp4");
    fs::copy(&segments[1], &single).unwrap();
    for place in [&single, &segments[1], &copy.path().to_path_buf(), &volume_.path().join("streams/default")] {
        let (code, out, err) = volume(&["check", place.to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (0, ""), "{}: {out}", place.display());
        let (code, listed) = json(&["ls", place.to_str().unwrap()]);
        assert_eq!((code, &listed["streams"][0]["name"]), (0, &"door".into()), "{}", place.display());
    }
    let (_, listed) = json(&["ls", single.to_str().unwrap()]);
    let segment = &listed["streams"][0]["segments"][0];
    let time = |key: &str| segment[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond() - START;
    let exported = export(&single, time("from"), time("to"), &[]);
    assert_eq!((exported.code, exported.pictures), (0, wanted(time("from"), time("to"))));
    // A folder of other files too is none of ours.
    fs::remove_file(&single).unwrap();
    fs::write(copy.path().join("holiday.txt"), "mine").unwrap();
    let (code, _, err) = volume(&["check", copy.path().to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(err.contains("neither a volume"), "{err}");
}

#[test]
fn mistakes_have_statuses_and_messages() {
    let volume_ = Volume::recorded();
    let path = volume_.path().to_str().unwrap();
    let out = volume_.path().join("out.mp4");
    let out = out.to_str().unwrap();
    let export = |stream: &str, from: &str, to: &str, out: &str| {
        volume(&["export", path, "--stream", stream, "--from", from, "--to", to, "-o", out])
    };
    let cases = [
        (volume(&["check", "/no/such/folder"]), 2, "/no/such/folder"),
        (volume(&["check"]), 2, "PATH"),
        (volume(&["frobnicate"]), 2, "frobnicate"),
        (export("door", &at(0), &at(S), out), 2, "namespace/name"),
        (export("default/door", "noon", &at(S), out), 2, "RFC 3339"),
        (export("default/door", &at(S), &at(0), out), 2, "later than"),
        (export("default/nobody", &at(0), &at(S), out), 3, "no footage of default/nobody"),
        (export("default/door", &at(-9 * S), &at(-S), out), 3, "behind it from"),
        (export("default/door", &at(0), &at(S), "/no/such/folder/x.mp4"), 2, "/no/such/folder"),
    ];
    for (number, ((code, _, err), expected, says)) in cases.iter().enumerate() {
        assert_eq!(code, expected, "case {number}: {err}");
        assert!(err.contains(says), "case {number}: {err}");
    }
    fs::write(out, "precious").unwrap();
    let (code, _, err) = export("default/door", &at(0), &at(S), out);
    assert_eq!((code, fs::read_to_string(out).unwrap().as_str()), (2, "precious"), "{err}");
    fs::remove_file(out).unwrap();

    let store = open(volume_.path());
    let (code, _, err) = volume(&["repair", path]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("in use by a recorder"), "{err}");
    let (code, _, err) = volume(&["ls", path]);
    assert_eq!(code, 0);
    assert!(err.contains("in use by a recorder"), "{err}");
    store.close();
}

/// Offset of the `nth` box of a kind.
fn boxes(bytes: &[u8], kind: &[u8; 4]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 8 <= bytes.len() {
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        if &bytes[at + 4..at + 8] == kind {
            found.push(at);
        }
        at += length.max(8);
    }
    found
}

/// Every picture is one of `all`, in their order, and what is missing lies within `most` pictures.
fn assert_only_lacks(pictures: &[String], all: &[String], most: usize) {
    let mut missing = Vec::new();
    let mut next = pictures.iter().peekable();
    for (at, wanted) in all.iter().enumerate() {
        if next.next_if_eq(&wanted).is_none() {
            missing.push(at);
        }
    }
    assert!(next.peek().is_none(), "a picture that is none of the right ones, {missing:?} are missing");
    let spread = missing.last().zip(missing.first()).map_or(0, |(last, first)| last - first + 1);
    assert!(spread <= most, "{missing:?} are missing");
}

#[test]
fn a_damaged_fragment_is_named_left_out_and_marked() {
    for broken_chain in [false, true] {
        let volume_ = Volume::recorded();
        let path = volume_.path().to_str().unwrap();
        let file = volume_.segments().swap_remove(1);
        let moofs = boxes(&fs::read(&file).unwrap(), b"moof");
        let hit = moofs[1];
        // In the picture's bytes, or in the length that leads to the next box.
        volume_.change(&file, |bytes| bytes[if broken_chain { hit + 2 } else { hit + 3000 }] ^= 4);
        let whole = export(volume_.path(), 0, 60 * S, &[]);
        assert_eq!(whole.code, 1);
        let all = wanted(0, 60 * S);
        let missing = all.len() - whole.pictures.len();
        assert!((1..=25).contains(&missing), "{missing} frames are missing, a GOP has 25");
        assert_only_lacks(&whole.pictures, &all, 30);

        let (code, checked) = json(&["check", path]);
        assert_eq!((code, &checked["loss"]), (1, &1.into()), "{checked:#}");
        let finding = &checked["findings"][0];
        assert_eq!(finding["offset"], hit as u64);
        assert!(file.ends_with(finding["path"].as_str().unwrap()), "{finding}");
        assert_eq!(finding["stream"], "default/door");

        let (code, repaired) = json(&["repair", path]);
        assert_eq!((code, repaired["left"].as_array().unwrap().len()), (1, 1), "{repaired:#}");
        let (code, listed) = json(&["ls", path]);
        let gaps: Vec<_> = listed["streams"][0]["gaps"].as_array().unwrap().iter().map(|gap| &gap["reason"]).collect();
        assert_eq!((code, gaps), (0, vec![&"Damaged".into(), &"SessionEnded".into()]), "{listed:#}");
        assert!(export(volume_.path(), 0, 60 * S, &[]).pictures == whole.pictures, "something more is lost by repair");
        let frames = probe(file.to_str().unwrap(), &["-count_packets", "-select_streams", "v", "-show_streams"]);
        let packets: usize = frames["streams"][0]["nb_read_packets"].as_str().unwrap().parse().unwrap();
        assert!(packets > 60, "a player gets past the damage: {packets} packets");
        let (_, again) = json(&["repair", path]);
        assert_eq!(again["actions"].as_array().unwrap().len(), 0, "{again:#}");
        open(volume_.path()).close();
    }
}

#[test]
fn what_can_be_made_again_is() {
    type Damage = fn(&Volume);
    let cases: [(&str, Damage); 7] = [
        ("index", |v| {
            v.change(&v.segments()[0], |bytes| {
                let index = *boxes(bytes, b"uuid").last().unwrap();
                bytes[index + 200] ^= 1;
            });
        }),
        ("mfra", |v| {
            v.change(&v.segments()[0], |bytes| {
                let mfra = boxes(bytes, b"mfra")[0];
                bytes[mfra + 30] ^= 1;
            })
        }),
        ("moov", |v| v.change(&v.segments()[1], |bytes| bytes[300] ^= 1)),
        ("segment box", |v| {
            v.change(&v.segments()[1], |bytes| {
                let segment = boxes(bytes, b"uuid")[0];
                bytes[segment + 70] ^= 1;
            })
        }),
        ("seal", |v| {
            v.change(&v.segments()[1], |bytes| {
                let segment = boxes(bytes, b"uuid")[0];
                bytes[segment + 466] ^= 1;
            })
        }),
        ("manifest", |v| fs::remove_file(v.path().join("manifest.log")).unwrap()),
        ("catalogue", |v| fs::write(v.path().join("catalogue.redb"), [7; 9000]).unwrap()),
    ];
    for (what, damage) in cases {
        let volume_ = Volume::recorded();
        let path = volume_.path().to_str().unwrap();
        damage(&volume_);
        let (code, out, err) = volume(&["check", path]);
        assert_eq!(code, 1, "{what}: {out}{err}");
        let (code, out, err) = volume(&["repair", path]);
        assert_eq!(code, 0, "{what}: {out}{err}");
        assert!(out.contains("did    "), "{what}: {out}");
        let (code, out, err) = volume(&["check", path]);
        assert_eq!(code, 0, "{what}: {out}{err}");
        assert!(export(volume_.path(), 0, 60 * S, &[]).pictures == wanted(0, 60 * S), "{what}");
    }
}

#[test]
fn a_lost_identity_needs_the_pool() {
    let volume_ = Volume::recorded();
    let path = volume_.path().to_str().unwrap();
    let identity = volume_.path().join("framekeeper.json");
    let before: Value = serde_json::from_slice(&fs::read(&identity).unwrap()).unwrap();
    fs::remove_file(&identity).unwrap();
    let (code, out, _) = volume(&["repair", path]);
    assert_eq!((code, identity.exists()), (1, false), "{out}");
    let (code, out, err) = volume(&["repair", path, "--pool", "default/main", "--recorder", "main-recorder-0"]);
    assert_eq!(code, 0, "{out}{err}");
    let after: Value = serde_json::from_slice(&fs::read(&identity).unwrap()).unwrap();
    for key in ["format", "pool", "recorder", "volume", "segmentBytes"] {
        assert_eq!(after[key], before[key]);
    }
    open(volume_.path()).close();
}

#[test]
fn a_file_that_was_not_sealed_ends_at_its_last_good_fragment() {
    let volume_ = Volume::recorded();
    let path = volume_.path().to_str().unwrap();
    let file = volume_.segments().pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    let moofs = boxes(&bytes, b"moof");
    // In the middle: what is behind it stays.
    assert!(moofs.len() > 4, "{} fragments are too few for this test", moofs.len());
    let middle = moofs[1];
    volume_.change(&file, |bytes| bytes[middle + 2000] ^= 1);
    let (code, checked) = json(&["check", path]);
    assert_eq!((code, &checked["findings"][0]["offset"]), (1, &(middle as u64).into()), "{checked:#}");
    let before = export(volume_.path(), 0, 60 * S, &[]).pictures;
    assert_only_lacks(&before, &wanted(0, 60 * S), 30);
    assert!(before.last() == wanted(0, 60 * S).last());
    let (_, repaired) = json(&["repair", path]);
    assert!(repaired["actions"].as_array().unwrap().len() > 1, "{repaired:#}");
    assert!(export(volume_.path(), 0, 60 * S, &[]).pictures == before);
    // A recorder may not write over what is behind the damage.
    open(volume_.path()).close();
    assert!(export(volume_.path(), 0, 60 * S, &[]).pictures == before);

    // At the end: it ends before.
    fs::write(&file, &bytes).unwrap();
    let last = *moofs.last().unwrap();
    volume_.change(&file, |bytes| bytes[last + 2000] ^= 1);
    let (code, out, err) = volume(&["repair", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains(&format!("it ends at {last} now")), "{out}");
    assert_eq!(volume(&["check", file.to_str().unwrap()]).0, 0);
}
