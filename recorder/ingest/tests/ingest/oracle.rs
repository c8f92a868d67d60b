//! The same camera through this crate and through another client, `retina`: the same pictures, the same sound, the same times.

use crate::common::*;
use framekeeper_ingest::Event;
use framekeeper_media::MediaTime;
use futures::StreamExt as _;
use retina::client::{InitialTimestampPolicy, PlayOptions, Session, SessionOptions, SetupOptions};
use retina::codec::{CodecItem, FrameFormat};

const AUDIO_SDP: &str = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 mpeg4-generic/16000/1\r\na=fmtp:97 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408\r\na=control:track2\r\n";

const PICTURES: u32 = 400;
const FIRST_TIME: u32 = u32::MAX - 200 * 3600;

/// xorshift64: the same camera each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| 1 + self.roll(255) as u8).collect()
    }
}

/// Sends pictures of one to four slices, whole, fragmented or aggregated, with parameter sets and SEI, and sound between them.
fn stream(conn: &mut Conn) -> Option<()> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let ok = |sent: bool| sent.then_some(());
    let mut audio_time = 0;
    for n in 0..PICTURES {
        let time = FIRST_TIME.wrapping_add(n * 3600);
        let key = n % 30 == 0;
        let mut nals = Vec::new();
        if key {
            nals.extend([SPS_A.to_vec(), PPS_A.to_vec()]);
        }
        if dice.roll(3) == 0 {
            let count = 1 + dice.roll(40);
            nals.push([vec![0x06], dice.bytes(count)].concat());
        }
        for slice in 0..1 + dice.roll(4) {
            let first = if slice == 0 { 0x88 } else { 0x44 };
            let count = 1 + dice.roll(if key { 9000 } else { 2000 });
            nals.push([vec![if key { 0x65 } else { 0x41 }, first], dice.bytes(count)].concat());
        }
        let mut at = 0;
        while at < nals.len() {
            let nal = &nals[at];
            let last = at + 1 == nals.len();
            if nal.len() > 1400 {
                let chunks: Vec<&[u8]> = nal[1..].chunks(1400).collect();
                for (i, chunk) in chunks.iter().enumerate() {
                    let (start, end) = (i == 0, i + 1 == chunks.len());
                    let header = [nal[0] & 0xe0 | 28, u8::from(start) << 7 | u8::from(end) << 6 | nal[0] & 0x1f];
                    ok(conn.rtp(0, time, last && end, &[&header[..], chunk].concat()))?;
                }
            } else if !last && nal.len() + nals[at + 1].len() < 1400 && dice.roll(2) == 0 {
                let mut packet = vec![24];
                for nal in &nals[at..at + 2] {
                    packet.extend_from_slice(&(nal.len() as u16).to_be_bytes());
                    packet.extend_from_slice(nal);
                }
                at += 1;
                ok(conn.rtp(0, time, at + 1 == nals.len(), &packet))?;
            } else {
                ok(conn.rtp(0, time, last, nal))?;
            }
            at += 1;
        }
        let count = 1 + dice.roll(3);
        let frames: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                let size = 1 + dice.roll(300);
                dice.bytes(size)
            })
            .collect();
        let mut packet = (16 * frames.len() as u16).to_be_bytes().to_vec();
        packet.extend(frames.iter().flat_map(|frame| ((frame.len() as u16) << 3).to_be_bytes()));
        packet.extend(frames.concat());
        ok(conn.rtp(1, audio_time, true, &packet))?;
        audio_time += 1024 * frames.len() as u32;
        if n % 50 == 49 {
            ok(conn.sender_report(0, u64::from(n) << 32, time))?;
        }
    }
    Some(())
}

/// Slices, in order: what other units a picture is stored with is each client's own business.
fn slices(data: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut found) = (data, Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (nal, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        if matches!(nal[0] & 0x1f, 1..=5) {
            found.push(nal.to_vec());
        }
        rest = tail;
    }
    found
}

#[derive(Debug, PartialEq)]
enum Heard {
    Video(i64, Vec<Vec<u8>>),
    Audio(i64, Vec<u8>),
}

fn by_retina(camera: &Camera) -> Vec<Heard> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut session = Session::describe(camera.url(), SessionOptions::default()).await.unwrap();
        for track in 0..session.streams().len() {
            session.setup(track, SetupOptions::default().frame_format(FrameFormat::MP4)).await.unwrap();
        }
        let play = PlayOptions::default().initial_timestamp(InitialTimestampPolicy::Ignore);
        let mut session = session.play(play).await.unwrap().demuxed().unwrap();
        let mut heard = Vec::new();
        while let Some(Ok(item)) = session.next().await {
            match item {
                CodecItem::VideoFrame(f) => heard.push(Heard::Video(f.timestamp().timestamp(), slices(f.data()))),
                CodecItem::AudioFrame(f) => heard.push(Heard::Audio(f.timestamp().timestamp(), f.data().to_vec())),
                _ => {}
            }
        }
        heard
    })
}

#[test]
fn another_client_sees_the_same() {
    let sdp = sdp(&format!("{VIDEO_SDP}a=fmtp:96 packetization-mode=1;sprop-parameter-sets={SPROP_A}\r\n{AUDIO_SDP}"));
    let camera = Camera::new(move |mut conn| {
        if conn.play(&sdp, "s") {
            stream(&mut conn);
        }
    });
    let ingest = start();
    let (sink, heard) = sink();
    ingest.add(camera.spec(), sink).unwrap();
    let mut ours = Vec::new();
    let mut reports = Vec::new();
    loop {
        match heard.next().1 {
            Event::Video(unit) => ours.push(Heard::Video(unit.pts.0, slices(&unit.data))),
            Event::Audio(frame) => ours.push(Heard::Audio(frame.pts.0, frame.data.to_vec())),
            Event::VideoReport(report) => reports.push((report.ntp >> 32, report.media_time)),
            Event::Ended(_) => break,
            Event::Connecting | Event::Playing(_) => {}
            other => panic!("{other:?}"),
        }
    }
    ingest.shutdown();
    let theirs = by_retina(&camera);
    let count = |all: &[Heard]| all.iter().filter(|h| matches!(h, Heard::Video(..))).count();
    assert_eq!((count(&ours), count(&theirs)), (PICTURES as usize, PICTURES as usize));
    for kind in [true, false] {
        let of = |all: &'_ [Heard]| -> Vec<String> {
            all.iter().filter(|h| matches!(h, Heard::Video(..)) == kind).map(|h| format!("{h:?}")).collect()
        };
        let (ours, theirs) = (of(&ours), of(&theirs));
        for (n, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(a, b, "number {n}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
    let at = |n: u32| MediaTime(i64::from(FIRST_TIME) + i64::from(n) * 3600);
    assert_eq!(reports, [49, 99, 149, 199, 249, 299, 349, 399].map(|n| (u64::from(n), at(n))));
}
