//! Segment files, byte by byte as docs/format.md says.

use super::{CAMERA_TIME, FRAME, Footage, Picture, RATE, RTP_OFFSET, Sound};

pub(crate) const SEGMENT: u128 = 0xcc20bc60_609f_4dd3_a9ea_79e3b78d3280;
pub(crate) const RUN: u128 = 0x67fae9ce_c9c3_4b30_9a9e_845f33769685;
pub(crate) const FRAMES: u128 = 0xfaf6f56e_93b6_4237_8d8c_c2fbbd99ebb2;
pub(crate) const INDEX: u128 = 0x9988df71_ce20_4ffb_8e5d_9a80c1eb7fd2;
pub(crate) const STREAM: u128 = 0x5757;
pub(crate) const VOLUME: u128 = 0x0b0e_7a3e_0000_4000_8000_0000_0000_0001;

/// The body of the first box of a type, found by its name: good enough for avcC and esds.
pub(crate) fn body_of(data: &[u8], kind: &[u8; 4]) -> Option<Vec<u8>> {
    let at = data.windows(4).position(|window| window == kind)?;
    let length = u32::from_be_bytes(data[at - 4..at].try_into().unwrap()) as usize;
    Some(data[at + 4..at - 4 + length].to_vec())
}

pub(crate) fn box4(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32 + 8).to_be_bytes().to_vec();
    out.extend(kind);
    out.extend(body);
    out
}

fn full(kind: &[u8; 4], version_flags: u32, body: &[u8]) -> Vec<u8> {
    box4(kind, &[&version_flags.to_be_bytes(), body].concat())
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

const MATRIX: [u32; 9] = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];

fn init(footage: &Footage) -> Vec<u8> {
    let mut mvhd = words(&[0, 0, 90_000, 0, 0x10000, 0x0100_0000, 0, 0]);
    mvhd.extend(words(&MATRIX));
    mvhd.extend(words(&[0, 0, 0, 0, 0, 0, 3]));
    let mut moov = full(b"mvhd", 0, &mvhd);
    let mut visual = vec![0, 0, 0, 0, 0, 0, 0, 1];
    visual.extend([0; 16]);
    visual.extend(words(&[320 << 16 | 192, 0x48_0000, 0x48_0000, 0]));
    visual.extend([0, 1]);
    visual.extend([0; 32]);
    visual.extend([0, 0x18, 0xff, 0xff]);
    visual.extend(box4(b"avcC", &footage.avcc));
    moov.extend(trak(1, 90_000, b"vide", &full(b"vmhd", 1, &[0; 8]), &box4(b"avc1", &visual)));
    if !footage.audio.is_empty() {
        let mut sound = vec![0, 0, 0, 0, 0, 0, 0, 1];
        sound.extend([0; 8]);
        sound.extend(words(&[1 << 16 | 16, 0, RATE << 16]));
        sound.extend(box4(b"esds", &footage.esds));
        moov.extend(trak(2, RATE, b"soun", &full(b"smhd", 0, &[0; 4]), &box4(b"mp4a", &sound)));
    }
    let mut mvex = full(b"trex", 0, &words(&[1, 1, 0, 0, 0]));
    if !footage.audio.is_empty() {
        mvex.extend(full(b"trex", 0, &words(&[2, 1, 0, 0, 0])));
    }
    moov.extend(box4(b"mvex", &mvex));
    let mut out = box4(b"ftyp", b"iso6\0\0\0\0iso6iso5mp41");
    out.extend(box4(b"moov", &moov));
    out
}

fn trak(id: u32, timescale: u32, handler: &[u8; 4], header: &[u8], entry: &[u8]) -> Vec<u8> {
    let mut tkhd = words(&[0, 0, id, 0, 0, 0, 0, 0, 0]);
    tkhd.extend(words(&MATRIX));
    tkhd.extend(words(&[320 << 16, 192 << 16]));
    let mut stbl = full(b"stsd", 0, &[&words(&[1]), entry].concat());
    for table in [b"stts", b"stsc", b"stco"] {
        stbl.extend(full(table, 0, &[0; 4]));
    }
    stbl.extend(full(b"stsz", 0, &[0; 8]));
    let dref = full(b"dref", 0, &[words(&[1]), full(b"url ", 1, &[])].concat());
    let minf = [header, &box4(b"dinf", &dref), &box4(b"stbl", &stbl)].concat();
    let mut hdlr = vec![0; 4];
    hdlr.extend(handler);
    hdlr.extend([0; 13]);
    let mdia =
        [full(b"mdhd", 0, &words(&[0, 0, timescale, 0, 0x55c4_0000])), full(b"hdlr", 0, &hdlr), box4(b"minf", &minf)];
    box4(b"trak", &[full(b"tkhd", 3, &tkhd), box4(b"mdia", &mdia.concat())].concat())
}

/// What to write.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Size of the file.
    pub(crate) bytes: usize,
    pub(crate) sealed: bool,
    pub(crate) nonce: u64,
    pub(crate) name: String,
    pub(crate) stream: u128,
    pub(crate) number: u64,
    pub(crate) file_number: u64,
    /// Fragments: (run, pictures, audio frames).
    pub(crate) fragments: Vec<(usize, Vec<Picture>, Vec<Sound>)>,
}

impl Plan {
    /// Fragments of at most 12 pictures, cut at random access points, with the audio that begins meanwhile.
    pub(crate) fn of(footage: &Footage) -> Self {
        let mut fragments: Vec<(usize, Vec<Picture>, Vec<Sound>)> = Vec::new();
        for picture in &footage.video {
            match fragments.last_mut() {
                Some((_, pictures, _)) if !picture.sync && pictures.len() < 12 => pictures.push(picture.clone()),
                _ => fragments.push((0, vec![picture.clone()], Vec::new())),
            }
        }
        let mut sounds = footage.audio.iter().peekable();
        for (_, pictures, audio) in &mut fragments {
            let end = (pictures.last().unwrap().decode + FRAME) * i64::from(RATE) / 90_000;
            while let Some(sound) = sounds.next_if(|sound| sound.decode < end) {
                audio.push(sound.clone());
            }
        }
        if let Some((_, _, audio)) = fragments.last_mut() {
            audio.extend(sounds.cloned());
        }
        Self {
            bytes: 1 << 20,
            sealed: true,
            nonce: 0xABCD_EF01_2345_6789,
            name: "default/cam".into(),
            stream: STREAM,
            number: 1,
            file_number: 7,
            fragments,
        }
    }
}

/// A segment file, and where its boxes are.
#[derive(Clone, Default)]
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment: usize,
    pub(crate) runs: Vec<usize>,
    /// (moof, frames box, mdat, end)
    pub(crate) fragments: Vec<(usize, usize, usize, usize)>,
    pub(crate) index: usize,
    pub(crate) mfra: usize,
    /// The last box.
    pub(crate) free: usize,
    /// What the manifest says of it.
    pub(crate) record: Vec<u8>,
}

impl Built {
    /// Offset behind `mfra`.
    pub(crate) fn index_end(&self) -> usize {
        self.free
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

fn common(length: usize, which: u128, flags: u16, nonce: u64, own: usize) -> Vec<u8> {
    let mut out = box4(b"uuid", &which.to_be_bytes());
    put(&mut out, 0, &(length as u32).to_be_bytes());
    out.extend(1u16.to_be_bytes());
    out.extend(flags.to_be_bytes());
    out.extend([0; 4]);
    out.extend(nonce.to_be_bytes());
    out.extend((own as u64).to_be_bytes());
    out
}

struct RunWritten {
    first_entry: u32,
    entries: u32,
    first_wall: i64,
    last_wall: i64,
    pictures: u32,
}

pub(crate) fn build(plan: &Plan, footage: &Footage) -> Built {
    let mut built = Built::default();
    let mut out = init(footage);
    let hash = xxhash_rust::xxh3::xxh3_64(&out);
    let padding = (8 - out.len() % 8) % 8;
    if padding > 0 {
        out.extend(box4(b"free", &vec![0; padding]));
    }
    built.segment = out.len();
    let first_wall = plan.fragments[0].1[0].wall_us();
    let mut segment = common(512, SEGMENT, 0, plan.nonce, out.len());
    segment.extend(VOLUME.to_be_bytes());
    segment.extend(plan.stream.to_be_bytes());
    for field in [plan.number, plan.file_number, plan.bytes as u64, first_wall as u64, hash] {
        segment.extend(field.to_be_bytes());
    }
    segment.extend(words(&[90_000, if footage.audio.is_empty() { 0 } else { RATE }]));
    segment.extend((plan.name.len() as u16).to_be_bytes());
    segment.extend(plan.name.as_bytes());
    segment.resize(512, 0);
    out.extend(segment);

    let (mut entries, mut sizes, mut runs) = (Vec::new(), Vec::new(), Vec::<RunWritten>::new());
    let mut tfra = Vec::new();
    for (run, pictures, sounds) in &plan.fragments {
        if runs.len() <= *run {
            let previous = built.runs.last().copied().unwrap_or(0);
            built.runs.push(out.len());
            let first = pictures[0].decode + i64::from(pictures[0].composition);
            let mut run_box = common(256, RUN, 0, plan.nonce, out.len());
            run_box.extend((0x1111 + *run as u128).to_be_bytes());
            run_box.extend(1u64.to_be_bytes());
            run_box.extend(words(&[0, if *run == 0 { 1 } else { 2 }]));
            run_box.extend([1u64.to_be_bytes(), 2u64.to_be_bytes()].concat());
            run_box.extend(0x2222u128.to_be_bytes());
            run_box.extend((previous as u64).to_be_bytes());
            for field in [
                pictures[0].wall_us(),
                first + CAMERA_TIME + RTP_OFFSET,
                CAMERA_TIME + RTP_OFFSET,
                77,
                0,
                0,
                runs.last().map_or(0, |run| run.last_wall),
            ] {
                run_box.extend(field.to_be_bytes());
            }
            run_box.extend(if *run == 0 { 0 } else { 0x1110 + *run as u128 }.to_be_bytes());
            run_box.resize(256, 0);
            out.extend(run_box);
            runs.push(RunWritten {
                first_entry: entries.len() as u32,
                entries: 0,
                first_wall: pictures[0].wall_us(),
                last_wall: i64::MIN,
                pictures: 0,
            });
        }
        let fragment = fragment(plan.nonce, built.fragments.len() as u32 + 1, out.len(), pictures, sounds);
        let written = runs.last_mut().unwrap();
        let moof = out.len();
        if pictures.first().is_some_and(|picture| picture.sync) {
            let time = pictures[0].decode + i64::from(pictures[0].composition);
            tfra.extend(time.to_be_bytes());
            tfra.extend((moof as u64).to_be_bytes());
            tfra.extend(words(&[1, 1, 1]));
        }
        built.fragments.push((moof, moof + fragment.1, moof + fragment.2, moof + fragment.0.len()));
        let mut at = moof + fragment.2 + 8;
        let mut first = 0x200;
        for picture in pictures {
            let mut entry = words(&[if picture.sync { 3 } else { 0 } | first, at as u32, picture.data.len() as u32]);
            entry.extend(picture.composition.to_be_bytes());
            entry.extend(picture.decode.to_be_bytes());
            entry.extend(picture.wall_us().to_be_bytes());
            entry.extend(picture.identity().to_be_bytes());
            entries.push(entry);
            at += picture.data.len();
            first = 0;
            written.last_wall = written.last_wall.max(picture.wall_us() + 40_000);
            written.pictures += 1;
            written.entries += 1;
        }
        if let Some(sound) = sounds.first() {
            let length: usize = sounds.iter().map(|sound| sound.data.len()).sum();
            let mut entry = words(&[(sounds.len() as u32) << 16 | 0x100 | first, at as u32, length as u32, 1024]);
            entry.extend(sound.decode.to_be_bytes());
            entry.extend(sound.wall_us().to_be_bytes());
            entry.extend((sizes.len() as u64).to_be_bytes());
            entries.push(entry);
            sizes.extend(sounds.iter().map(|sound| sound.data.len() as u16));
            written.entries += 1;
        }
        out.extend(fragment.0);
    }
    if plan.sealed {
        seal(plan, &mut built, &mut out, hash, first_wall, &entries, &sizes, &runs, &tfra);
    }
    built.free = out.len();
    assert!(out.len() + 8 <= plan.bytes, "{} bytes", out.len());
    out.extend(((plan.bytes - out.len()) as u32).to_be_bytes());
    out.extend(b"free");
    out.resize(plan.bytes, 0);
    built.bytes = out;
    fix(&mut built);
    built
}

#[expect(clippy::too_many_arguments, reason = "everything that was written, in one place")]
fn seal(
    plan: &Plan,
    built: &mut Built,
    out: &mut Vec<u8>,
    hash: u64,
    first_wall: i64,
    entries: &[Vec<u8>],
    sizes: &[u16],
    runs: &[RunWritten],
    tfra: &[u8],
) {
    built.index = out.len();
    let pictures = || plan.fragments.iter().flat_map(|(_, pictures, _)| pictures);
    let sounds = || plan.fragments.iter().flat_map(|(_, _, sounds)| sounds);
    let video_bytes: usize = pictures().map(|picture| picture.data.len()).sum();
    let audio_bytes: usize = sounds().map(|sound| sound.data.len()).sum();
    let keys = tfra.len() / 28;
    let length = (96 + 32 * runs.len() + 40 * entries.len() + 2 * sizes.len()).next_multiple_of(8);
    let last_wall = runs.iter().map(|run| run.last_wall).max().unwrap();
    let mut index = common(length, INDEX, 0, plan.nonce, out.len());
    index.extend(words(&[
        runs.len() as u32,
        entries.len() as u32,
        pictures().count() as u32,
        sizes.len() as u32,
        keys as u32,
        plan.fragments.len() as u32,
    ]));
    index.extend([(video_bytes as u64).to_be_bytes(), (audio_bytes as u64).to_be_bytes()].concat());
    index.extend(last_wall.to_be_bytes());
    let mut record = vec![1, 1, 0, 0];
    record.extend(words(&[plan.fragments.len() as u32]));
    record.extend([plan.file_number.to_be_bytes(), plan.nonce.to_be_bytes()].concat());
    record.extend(plan.stream.to_be_bytes());
    for field in [plan.number, hash, first_wall as u64, last_wall as u64, out.len() as u64, length as u64] {
        record.extend(field.to_be_bytes());
    }
    record.extend(words(&[pictures().count() as u32, sizes.len() as u32, keys as u32, runs.len() as u32]));
    record.extend([(video_bytes as u64).to_be_bytes(), (audio_bytes as u64).to_be_bytes()].concat());
    let path = super::volume::path_below(&plan.name, first_wall);
    for text in [&plan.name, &path] {
        record.extend((text.len() as u16).to_be_bytes());
        record.extend(text.as_bytes());
    }
    for (number, (run, at)) in runs.iter().zip(&built.runs).enumerate() {
        index.extend((*at as u64).to_be_bytes());
        index.extend(words(&[run.first_entry, run.entries]));
        index.extend([run.first_wall.to_be_bytes(), run.last_wall.to_be_bytes()].concat());
        record.extend((0x1111 + number as u128).to_be_bytes());
        record.extend(1u64.to_be_bytes());
        record.extend(words(&[0, if number == 0 { 1 } else { 2 }]));
        record.extend(0x2222u128.to_be_bytes());
        record.extend(if number == 0 { 0 } else { 0x1110 + number as u128 }.to_be_bytes());
        record.extend([run.first_wall.to_be_bytes(), run.last_wall.to_be_bytes()].concat());
        record.extend(words(&[run.pictures, 0]));
        record.extend(number.checked_sub(1).map_or(0, |before| runs[before].last_wall).to_be_bytes());
    }
    built.record = record;
    index.extend(entries.concat());
    index.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    index.resize(length, 0);
    out.extend(index);
    built.mfra = out.len();
    let mut mfra = full(b"tfra", 0x0100_0000, &[words(&[1, 0x3F, keys as u32]), tfra.to_vec()].concat());
    if keys % 2 == 1 {
        mfra.extend(box4(b"free", &[0; 4]));
    }
    let size = mfra.len() as u32 + 8 + 16;
    mfra.extend(full(b"mfro", 0, &words(&[size])));
    out.extend(box4(b"mfra", &mfra));
    let sealed = built.segment + 448;
    put(out, sealed, &words(&[1]));
    put(out, sealed + 8, &plan.nonce.to_be_bytes());
    put(out, sealed + 16, &(built.index as u64).to_be_bytes());
    put(out, sealed + 24, &(length as u64).to_be_bytes());
    put(out, sealed + 32, &last_wall.to_be_bytes());
}

/// (bytes, offset of the frames box, offset of `mdat`)
fn fragment(nonce: u64, sequence: u32, at: usize, pictures: &[Picture], sounds: &[Sound]) -> (Vec<u8>, usize, usize) {
    let composed = pictures.iter().any(|picture| picture.composition != 0);
    // Twice: lengths do not depend on the data offsets that are not known the first time.
    let mut moof_length = 0;
    let mut out = Vec::new();
    let mut frames_at = 0;
    for _ in 0..2 {
        let mut moof = full(b"mfhd", 0, &words(&[sequence]));
        if let Some(first) = pictures.first() {
            let mut trun = words(&[pictures.len() as u32, moof_length as u32 + 8]);
            trun.extend(words(&[if first.sync { 0x0200_0000 } else { 0x0101_0000 }]));
            for picture in pictures {
                trun.extend(words(&[FRAME as u32, picture.data.len() as u32]));
                if composed {
                    trun.extend(picture.composition.to_be_bytes());
                }
            }
            let traf = [
                full(b"tfhd", 0x02_0020, &words(&[1, 0x0101_0000])),
                full(b"tfdt", 0x0100_0000, &first.decode.to_be_bytes()),
                full(b"trun", if composed { 0x0100_0B05 } else { 0x0100_0305 }, &trun),
            ];
            moof.extend(box4(b"traf", &traf.concat()));
        }
        if let Some(first) = sounds.first() {
            let video: usize = pictures.iter().map(|picture| picture.data.len()).sum();
            let mut trun = words(&[sounds.len() as u32, (moof_length + 8 + video) as u32]);
            trun.extend(sounds.iter().flat_map(|sound| (sound.data.len() as u32).to_be_bytes()));
            let traf = [
                full(b"tfhd", 0x02_0028, &words(&[2, 1024, 0x0200_0000])),
                full(b"tfdt", 0x0100_0000, &first.decode.to_be_bytes()),
                full(b"trun", 0x0100_0201, &trun),
            ];
            moof.extend(box4(b"traf", &traf.concat()));
        }
        let data: Vec<u8> =
            pictures.iter().map(|p| &p.data).chain(sounds.iter().map(|s| &s.data)).flatten().copied().collect();
        let frames_length = 72 + 24 * pictures.len();
        frames_at = 8 + moof.len();
        moof_length = frames_at + frames_length;
        let padding = (8 - (moof_length + 8 + data.len()) % 8) % 8;
        let mdat_length = 8 + data.len() + padding;
        let key = pictures.first().is_some_and(|picture| picture.sync);
        let mut frames = common(frames_length, FRAMES, u16::from(key), nonce, at);
        frames.extend(words(&[pictures.len() as u32, sounds.len() as u32, mdat_length as u32, 0]));
        frames.extend(sounds.first().map_or(0, Sound::wall_us).to_be_bytes());
        for picture in pictures {
            frames.extend(picture.wall_us().to_be_bytes());
            frames.extend(picture.identity().to_be_bytes());
            frames.extend(words(&[if picture.sync { 3 } else { 0 }, 0]));
        }
        moof.extend(frames);
        out = box4(b"moof", &moof);
        out.extend(words(&[mdat_length as u32]));
        out.extend(b"mdat");
        out.extend(data);
        out.resize(out.len() + padding, 0);
    }
    (out, frames_at, moof_length)
}

/// Makes all CRCs right again.
pub(crate) fn fix(built: &mut Built) {
    let mut crc = |start: usize, end: usize, at: usize| {
        put(&mut built.bytes, at, &[0; 4]);
        let crc = crc32c::crc32c(&built.bytes[start..end]);
        put(&mut built.bytes, at, &crc.to_be_bytes());
    };
    crc(built.segment, built.segment + 448, built.segment + 28);
    for &run in &built.runs {
        crc(run, run + 256, run + 28);
    }
    for &(moof, frames, _, end) in &built.fragments {
        crc(moof, end, frames + 28);
    }
    if built.index > 0 {
        crc(built.index, built.mfra, built.index + 28);
        crc(built.segment + 448, built.segment + 512, built.segment + 452);
    }
}
