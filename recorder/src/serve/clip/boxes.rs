//! The boxes of a clip that do not depend on its frames one by one (ISO/IEC 14496-12 §8).

use super::layout::Table;
use super::plan::{Edit, Plan, TIMESCALE};

/// A part of `moov`: bytes, or a table that is made while it is sent.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Bytes(Vec<u8>),
    Table(Table),
}

/// Seconds from 1904-01-01, where the times in MP4 boxes begin, to 1970-01-01.
const EPOCH_1904_S: i64 = 2_082_844_800;
const VIDEO_TRACK: u32 = 1;
const AUDIO_TRACK: u32 = 2;

pub(super) fn file_type() -> Vec<u8> {
    let mut body = b"isom\0\0\x02\0".to_vec();
    for brand in [b"isom", b"iso4", b"avc1", b"mp41"] {
        body.extend_from_slice(brand);
    }
    boxed(b"ftyp", &body)
}

/// The header of `mdat` in the form with a 64-bit length, so that it is equally long for every clip.
pub(super) fn media_data_header(samples: u64) -> Vec<u8> {
    let mut header = 1u32.to_be_bytes().to_vec();
    header.extend_from_slice(b"mdat");
    header.extend_from_slice(&(samples + 16).to_be_bytes());
    header
}

pub(super) fn movie(plan: &Plan) -> Vec<Node> {
    let mut children = vec![Node::Bytes(movie_header(plan))];
    children.extend(video_track(plan));
    if plan.audio_span.is_some() {
        children.extend(audio_track(plan));
    }
    container(b"moov", plan, children)
}

fn movie_header(plan: &Plan) -> Vec<u8> {
    let mut body = times(plan);
    body.extend_from_slice(&(TIMESCALE as u32).to_be_bytes());
    body.extend_from_slice(&plan.duration().to_be_bytes());
    body.extend_from_slice(&0x0001_0000u32.to_be_bytes()); // rate 1
    body.extend_from_slice(&0x0100u16.to_be_bytes()); // volume 1
    body.extend_from_slice(&[0; 10]);
    body.extend_from_slice(&matrix());
    body.extend_from_slice(&[0; 24]);
    body.extend_from_slice(&(AUDIO_TRACK + 1).to_be_bytes()); // next_track_ID
    full(b"mvhd", 1, 0, &body)
}

fn video_track(plan: &Plan) -> Vec<Node> {
    let (width, height) = plan.descriptions.dimensions();
    let description = full(b"vmhd", 0, 1, &[0; 8]);
    let changes = plan.pieces.iter().map(|piece| (piece.video.len(), piece.video_description));
    let mut tables = vec![Node::Bytes(sample_descriptions(&plan.descriptions.video))];
    tables.extend(table(b"stts", 0, plan, Table::VideoTimes));
    if plan.descriptions.reorders {
        tables.extend(table(b"ctts", 1, plan, Table::VideoOffsets));
    }
    tables.extend(table(b"stss", 0, plan, Table::VideoSync));
    tables.extend(table(b"stsz", 0, plan, Table::VideoSizes));
    tables.push(Node::Bytes(sample_to_chunk(changes)));
    tables.extend(table(b"co64", 0, plan, Table::VideoChunks));
    let mut children = vec![
        Node::Bytes(track_header(plan, VIDEO_TRACK, 0, width, height)),
        Node::Bytes(edit_list(plan.edits.iter().map(|edit| (edit.duration, edit.media_time)))),
    ];
    let header = media_header(plan, TIMESCALE, plan.video_end);
    children.extend(media(plan, header, handler(b"vide", b"video\0"), description, tables));
    container(b"trak", plan, children)
}

fn audio_track(plan: &Plan) -> Vec<Node> {
    let Some(span) = plan.audio_span.clone() else { return Vec::new() };
    let rate = i64::from(plan.descriptions.audio_rate);
    let changes = plan.pieces.iter().map(|piece| (piece.audio.len(), piece.audio_description));
    let mut tables = vec![Node::Bytes(sample_descriptions(&plan.descriptions.audio))];
    tables.extend(table(b"stts", 0, plan, Table::AudioTimes));
    tables.extend(table(b"stsz", 0, plan, Table::AudioSizes));
    tables.push(Node::Bytes(sample_to_chunk(changes)));
    tables.extend(table(b"co64", 0, plan, Table::AudioChunks));
    let mut children = vec![
        Node::Bytes(track_header(plan, AUDIO_TRACK, 0x0100, 0, 0)),
        Node::Bytes(edit_list(audio_edits(&plan.edits, span.start, rate).into_iter())),
    ];
    let header = media_header(plan, rate, span.end - span.start);
    let description = full(b"smhd", 0, 0, &[0; 4]);
    children.extend(media(plan, header, handler(b"soun", b"audio\0"), description, tables));
    container(b"trak", plan, children)
}

/// The video's edits for the audio track, whose media begins at clip time `origin` (its own ticks): (duration at 90 kHz, media time);
/// media time −1 is silence (§8.6.6.3).
fn audio_edits(edits: &[Edit], origin: i64, rate: i64) -> Vec<(i64, i64)> {
    let mut result = Vec::new();
    for edit in edits {
        let scaled = |video: i64| ((i128::from(video) * i128::from(rate)).div_euclid(i128::from(TIMESCALE))) as i64;
        let start = scaled(edit.media_time) - origin;
        if start >= 0 {
            result.push((edit.duration, start));
            continue;
        }
        let silence = ((i128::from(-start) * i128::from(TIMESCALE)).div_euclid(i128::from(rate.max(1)))) as i64;
        result.push((silence.min(edit.duration), -1));
        if silence < edit.duration {
            result.push((edit.duration - silence, 0));
        }
    }
    result
}

fn times(plan: &Plan) -> Vec<u8> {
    // Creation and modification time: when the first frame was taken, so that equal clips are equal bytes.
    let seconds = plan.first_wall.0.div_euclid(1_000_000) + EPOCH_1904_S;
    [seconds.to_be_bytes(), seconds.to_be_bytes()].concat()
}

fn track_header(plan: &Plan, track: u32, volume: u16, width: u16, height: u16) -> Vec<u8> {
    let mut body = times(plan);
    body.extend_from_slice(&track.to_be_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&plan.duration().to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    body.extend_from_slice(&[0; 4]); // layer, alternate group
    body.extend_from_slice(&volume.to_be_bytes());
    body.extend_from_slice(&[0; 2]);
    body.extend_from_slice(&matrix());
    body.extend_from_slice(&(u32::from(width) << 16).to_be_bytes());
    body.extend_from_slice(&(u32::from(height) << 16).to_be_bytes());
    full(b"tkhd", 1, 3, &body) // enabled, in movie
}

fn edit_list(edits: impl ExactSizeIterator<Item = (i64, i64)>) -> Vec<u8> {
    let mut body = (edits.len() as u32).to_be_bytes().to_vec();
    for (duration, media_time) in edits {
        body.extend_from_slice(&duration.to_be_bytes());
        body.extend_from_slice(&media_time.to_be_bytes());
        body.extend_from_slice(&0x0001_0000u32.to_be_bytes()); // media rate 1
    }
    boxed(b"edts", &full(b"elst", 1, 0, &body))
}

fn media_header(plan: &Plan, timescale: i64, duration: i64) -> Vec<u8> {
    let mut body = times(plan);
    body.extend_from_slice(&(timescale as u32).to_be_bytes());
    body.extend_from_slice(&duration.to_be_bytes());
    body.extend_from_slice(&[0x55, 0xc4, 0, 0]); // language "und"
    full(b"mdhd", 1, 0, &body)
}

fn handler(kind: &[u8; 4], name: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(kind);
    body.extend_from_slice(&[0; 12]);
    body.extend_from_slice(name);
    full(b"hdlr", 0, 0, &body)
}

fn media(plan: &Plan, header: Vec<u8>, handler: Vec<u8>, description: Vec<u8>, tables: Vec<Node>) -> Vec<Node> {
    let here = full(b"url ", 0, 1, &[]); // the data is in this file
    let references = boxed(b"dinf", &full(b"dref", 0, 0, &[&1u32.to_be_bytes()[..], &here].concat()));
    let mut information = vec![Node::Bytes(description), Node::Bytes(references)];
    information.extend(container(b"stbl", plan, tables));
    let mut children = vec![Node::Bytes(header), Node::Bytes(handler)];
    children.extend(container(b"minf", plan, information));
    container(b"mdia", plan, children)
}

fn sample_descriptions(entries: &[bytes::Bytes]) -> Vec<u8> {
    full(b"stsd", 0, 0, &[&(entries.len() as u32).to_be_bytes()[..], &entries.concat()].concat())
}

/// `stsc` (§8.7.4): one sample a chunk; an entry wherever the description changes.
fn sample_to_chunk(pieces: impl Iterator<Item = (usize, usize)>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut chunk = 1u32;
    let mut current = None;
    for (samples, description) in pieces {
        if samples > 0 && current != Some(description) {
            entries.extend([chunk, 1, description as u32 + 1].map(u32::to_be_bytes));
            current = Some(description);
        }
        chunk += samples as u32;
    }
    let count = (entries.len() / 3) as u32;
    full(b"stsc", 0, 0, &[&count.to_be_bytes()[..], entries.as_flattened()].concat())
}

/// A table's box: its header, its number of rows, and the rows to come.
fn table(kind: &[u8; 4], version: u8, plan: &Plan, table: Table) -> [Node; 2] {
    let rows = table.rows(plan);
    let mut head = (u32::from(version) << 24).to_be_bytes().to_vec();
    if kind == b"stsz" {
        head.extend_from_slice(&[0; 4]); // sample_size 0: each has its own
    }
    head.extend_from_slice(&(rows as u32).to_be_bytes());
    let length = 8 + head.len() as u64 + rows * table.row_bytes();
    [Node::Bytes([&(length as u32).to_be_bytes()[..], kind, &head].concat()), Node::Table(table)]
}

/// A box around others.
fn container(kind: &[u8; 4], plan: &Plan, children: Vec<Node>) -> Vec<Node> {
    let length: u64 = children
        .iter()
        .map(|child| match child {
            Node::Bytes(bytes) => bytes.len() as u64,
            Node::Table(table) => table.rows(plan) * table.row_bytes(),
        })
        .sum();
    let header = [&(length as u32 + 8).to_be_bytes()[..], kind].concat();
    std::iter::once(Node::Bytes(header)).chain(children).collect()
}

fn matrix() -> Vec<u8> {
    [0x0001_0000u32, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000].map(u32::to_be_bytes).concat()
}

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], kind, body].concat()
}

fn full(kind: &[u8; 4], version: u8, flags: u32, body: &[u8]) -> Vec<u8> {
    let head = (u32::from(version) << 24 | flags).to_be_bytes();
    boxed(kind, &[&head[..], body].concat())
}
