//! What a connection carries: RTSP messages and interleaved packets (RFC 2326 §10.12), taken from bytes in place.
//!
//! Pure: bytes in, pieces out. While a session is set up (`Trust::None`), anything else ends the attempt: what answers is not RTSP. Once
//! packets come (`Trust::Session`), junk is skipped up to the next place that looks like a packet of a known channel or like an answer.

use super::message::{HeadError, MAX_HEAD_BYTES, Message, head_end, parse_head};
use super::text::shown;

/// Bytes of the framing before each packet.
pub(super) const FRAME_HEADER_BYTES: usize = 4;

/// The most that [`Wire::next`] leaves for later: a message that is not whole.
pub(super) const MAX_KEPT_BYTES: usize = MAX_HEAD_BYTES + super::message::MAX_BODY_BYTES + FRAME_HEADER_BYTES;

/// Requests that a server may send (RFC 2326 §10).
const SERVER_METHODS: [&[u8]; 8] = [
    b"OPTIONS ",
    b"ANNOUNCE ",
    b"REDIRECT ",
    b"SET_PARAMETER ",
    b"GET_PARAMETER ",
    b"TEARDOWN ",
    b"DESCRIBE ",
    b"PAUSE ",
];

/// The channels that packets may come on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Channels([u64; 4]);

impl Channels {
    /// Adds a channel.
    pub(super) fn insert(&mut self, channel: u8) {
        if let Some(word) = self.0.get_mut(usize::from(channel >> 6)) {
            *word |= 1 << (channel & 63);
        }
    }

    fn contains(self, channel: u8) -> bool {
        self.0.get(usize::from(channel >> 6)).is_some_and(|word| word >> (channel & 63) & 1 == 1)
    }
}

/// How far the other side is known to speak RTSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Not at all yet.
    None,
    /// It has answered; junk is an accident.
    Session,
}

/// One thing that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// An RTP or RTCP packet, as a rule.
    Frame { channel: u8, data: &'a [u8] },
    /// An answer or a request.
    Message(Message),
    /// Bytes that are nothing.
    Junk,
    /// Empty lines, which may stand between messages.
    Blank,
}

/// What came is not RTSP, or more than is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// Another protocol.
    #[error("what answers is not RTSP; it begins with {begin:?}")]
    NotRtsp { begin: String },
    /// No end of headers in sight.
    #[error("an answer with more than {MAX_HEAD_BYTES} bytes of headers")]
    HeadTooLong,
    /// A message that cannot be used.
    #[error("an answer that is not RTSP as it should be: {0}")]
    Head(#[from] HeadError),
}

/// Splits a connection's bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wire {
    /// The last bytes were nothing: only what looks right is taken up again.
    lost: bool,
}

enum Begin {
    Frame,
    Message,
    /// Too few bytes to tell.
    Unknown,
    Junk,
}

impl Wire {
    /// The packet that `input` begins with, and how many bytes it takes: what nearly everything is that comes while a session plays, told
    /// for a tenth of what [`Self::next`] costs. `None`: it tells.
    pub(super) fn packet<'a>(&self, input: &'a [u8]) -> Option<(u8, &'a [u8], usize)> {
        let (&[b'$', channel, high, low], rest) = input.split_first_chunk::<FRAME_HEADER_BYTES>()? else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let data = rest.get(..length).filter(|_| !self.lost)?;
        Some((channel, data, FRAME_HEADER_BYTES + length))
    }

    /// The next piece of `input` and how many bytes it takes; `None` when more must come first.
    pub(super) fn next<'a>(
        &mut self,
        input: &'a [u8],
        channels: Channels,
        trust: Trust,
    ) -> Result<Option<(Piece<'a>, usize)>, WireError> {
        if self.lost {
            return Ok(self.find(input, 0, channels));
        }
        match begin(input) {
            Begin::Unknown => Ok(None),
            Begin::Frame => match frame(input) {
                None if trust == Trust::Session => {
                    // A length that is junk would swallow all that comes for seconds.
                    Ok(chain(input, FRAME_HEADER_BYTES, channels).map(|good| (Piece::Junk, good)))
                }
                piece => Ok(piece),
            },
            Begin::Message => match message(input) {
                Ok(piece) => Ok(piece),
                Err(error) if trust == Trust::None => Err(error),
                Err(_) => Ok(self.find(input, 1, channels)),
            },
            Begin::Junk if matches!(input.first(), Some(b'\r' | b'\n')) => {
                let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                Ok(Some((Piece::Blank, blank)))
            }
            Begin::Junk if trust == Trust::None => {
                let begin = String::from_utf8_lossy(input.get(..input.len().min(40)).unwrap_or_default());
                Err(WireError::NotRtsp { begin: shown(begin.lines().next().unwrap_or_default(), 40) })
            }
            Begin::Junk => Ok(self.find(input, 0, channels)),
        }
    }

    /// Looks for a place to go on from `from` on.
    fn find<'a>(&mut self, input: &'a [u8], from: usize, channels: Channels) -> Option<(Piece<'a>, usize)> {
        self.lost = true;
        let mut at = from;
        let found = loop {
            let Some(next) = input.get(at..).and_then(|rest| memchr::memchr2(b'$', b'R', rest)) else {
                break input.len();
            };
            at += next;
            match plausible(input.get(at..).unwrap_or_default(), channels) {
                Some(true) => {
                    self.lost = false;
                    break at;
                }
                Some(false) => at += 1,
                None => match chain(input, at + 1, channels) {
                    Some(good) => {
                        self.lost = false;
                        break good;
                    }
                    None => break at,
                },
            }
        };
        if found > 0 {
            Some((Piece::Junk, found))
        } else if self.lost {
            None
        } else {
            match begin(input) {
                Begin::Frame => frame(input),
                _ => message(input).unwrap_or_else(|_| {
                    self.lost = true;
                    Some((Piece::Junk, 1))
                }),
            }
        }
    }
}

fn begin(input: &[u8]) -> Begin {
    match input.first() {
        None => Begin::Unknown,
        Some(b'$') => Begin::Frame,
        Some(b'A'..=b'Z') => {
            let is = |word: &[u8]| input.starts_with(word);
            let may_be = |word: &[u8]| word.starts_with(input);
            if is(b"RTSP/") || SERVER_METHODS.iter().any(|method| is(method)) {
                Begin::Message
            } else if may_be(b"RTSP/") || SERVER_METHODS.iter().any(|method| may_be(method)) {
                Begin::Unknown
            } else {
                Begin::Junk
            }
        }
        Some(_) => Begin::Junk,
    }
}

/// Where in `input`, from `from` on, two whole packets follow each other and a third begins: not by chance.
fn chain(input: &[u8], from: usize, channels: Channels) -> Option<usize> {
    let next = |at: usize| {
        let rest = input.get(at..).filter(|rest| rest.first() == Some(&b'$'))?;
        plausible(rest, channels).filter(|good| *good)?;
        let (_, used) = frame(rest)?;
        Some(at + used)
    };
    let rest = input.get(from..)?;
    memchr::memchr_iter(b'$', rest)
        .map(|at| from + at)
        .find(|at| next(*at).and_then(next).is_some_and(|third| input.get(third) == Some(&b'$')))
}

fn frame(input: &[u8]) -> Option<(Piece<'_>, usize)> {
    let (&[_, channel, high, low], rest) = input.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let data = rest.get(..length)?;
    Some((Piece::Frame { channel, data }, FRAME_HEADER_BYTES + length))
}

fn message(input: &[u8]) -> Result<Option<(Piece<'_>, usize)>, WireError> {
    let Some(head_bytes) = head_end(input.get(..input.len().min(MAX_HEAD_BYTES)).unwrap_or_default()) else {
        return if input.len() < MAX_HEAD_BYTES { Ok(None) } else { Err(WireError::HeadTooLong) };
    };
    let head = parse_head(input.get(..head_bytes).unwrap_or_default())?;
    let Some(body) = input.get(head_bytes..head_bytes + head.body_bytes) else { return Ok(None) };
    let message = Message { start: head.start, headers: head.headers, body: body.to_vec() };
    Ok(Some((Piece::Message(message), head_bytes + head.body_bytes)))
}

/// Whether `input`, which begins with `$` or `R`, looks like a packet of a known channel or an answer; `None` when more bytes must tell.
fn plausible(input: &[u8], channels: Channels) -> Option<bool> {
    if input.first() == Some(&b'R') {
        const ANSWER: &[u8] = b"RTSP/1.0 ";
        let length = input.len().min(ANSWER.len());
        return match (input.get(..length), ANSWER.get(..length)) {
            (a, b) if a != b => Some(false),
            _ if length < ANSWER.len() => None,
            _ => Some(true),
        };
    }
    let &channel = input.get(1)?;
    if !channels.contains(channel) {
        return Some(false);
    }
    // Version 2 and the least length of RTP and RTCP (RFC 3550 §5.1, §6.4).
    let (header, rest) = input.split_first_chunk::<FRAME_HEADER_BYTES>()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if length < 8 || *rest.first()? >> 6 != 2 {
        return Some(false);
    }
    if rest.len() < length {
        return None;
    }
    // By chance alone a payload has such a place every 100 kB or so; what follows must look right as well.
    Some(rest.get(length).is_none_or(|after| matches!(after, b'$' | b'\r' | b'\n' | b'A'..=b'Z')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::message::Start;

    fn channels() -> Channels {
        let mut c = Channels::default();
        c.insert(0);
        c.insert(1);
        c.insert(200);
        c
    }

    /// Feeds `bytes` in pieces of `step`, and says what came.
    fn run(bytes: &[u8], step: usize, trust: Trust) -> Result<Vec<String>, WireError> {
        let (mut wire, mut kept, mut out) = (Wire::default(), Vec::new(), Vec::new());
        for chunk in bytes.chunks(step.max(1)) {
            kept.extend_from_slice(chunk);
            let mut used = 0;
            loop {
                let packet = wire.packet(&kept[used..]).map(|(channel, data, n)| (Piece::Frame { channel, data }, n));
                let before = wire;
                let next = wire.next(&kept[used..], channels(), trust)?;
                if packet.is_some() {
                    assert_eq!(packet, next, "the short way tells the same");
                    assert_eq!(wire.lost, before.lost);
                }
                let Some((piece, n)) = next else { break };
                assert!(n > 0 && used + n <= kept.len());
                used += n;
                out.push(match piece {
                    Piece::Frame { channel, data } => format!("{channel}:{}", data.len()),
                    Piece::Message(Message { start: Start::Response { status, .. }, body, .. }) => {
                        format!("{status}+{}", body.len())
                    }
                    Piece::Message(Message { start: Start::Request { method, .. }, .. }) => method,
                    Piece::Junk => "junk".to_owned(),
                    Piece::Blank => continue,
                });
            }
            kept.drain(..used);
            assert!(kept.len() <= MAX_KEPT_BYTES, "{}", kept.len());
        }
        out.dedup_by(|a, b| a == "junk" && b == "junk");
        Ok(out)
    }

    fn packet(channel: u8, bytes: usize) -> Vec<u8> {
        let mut p = vec![b'$', channel];
        p.extend_from_slice(&(bytes as u16).to_be_bytes());
        p.push(0x80);
        p.resize(4 + bytes, 7);
        p
    }

    #[test]
    fn messages_and_packets_in_any_cut() {
        let bytes = [
            &b"RTSP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..],
            &packet(0, 20),
            b"\r\n",
            &packet(200, 12),
            b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            &packet(9, 12),
            b"RTSP/1.0 404\n\n",
        ]
        .concat();
        for step in 1..bytes.len() + 1 {
            for trust in [Trust::None, Trust::Session] {
                let got = run(&bytes, step, trust).unwrap();
                assert_eq!(got, ["200+3", "0:20", "200:12", "OPTIONS", "9:12", "404+0"], "{step}");
            }
        }
    }

    #[test]
    fn junk_between_packets_is_skipped_in_any_cut() {
        for junk in [
            &b"garbage that is not RTSP\r\n\r\n"[..],
            b"$\x09\xff\xff junk on a channel that is not there $\0\0\x05\0",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n$$$$",
            b"\0\0\0\0$\0\0\x20\x80 looks like one",
            b"RTSP/1.0 xyz\r\n\r\n",
            b"RTSP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            &[0xff; 3000],
            b"\0$\0\xff\xff\x80 and nothing more",
            b"$\0\xff\xff\x80 and nothing more",
        ] {
            let mut bytes = [&packet(0, 30), junk].concat();
            for _ in 0..3000 {
                bytes.extend_from_slice(&packet(1, 40));
            }
            for step in [61, 1000, 1_000_000] {
                let got = run(&bytes, step, Trust::Session).unwrap();
                assert_eq!(got[0], "0:30");
                let good = got.iter().filter(|what| *what == "1:40").count();
                // A length is believed where all of it is there.
                let least = if junk.starts_with(b"$") && step > 66_000 { 1400 } else { 2900 };
                assert!(good > least, "{junk:?} {step}: {good} of 3000");
                assert_eq!(got.last().unwrap(), "1:40");
            }
        }
    }

    #[test]
    fn what_is_not_rtsp_is_said_so_at_once_while_a_session_is_set_up() {
        for bytes in
            [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2\r\n", &[0xff; 9], b"\x16\x03\x01\x02\0"]
        {
            let error = run(bytes, 1000, Trust::None).unwrap_err();
            assert!(error.to_string().contains("not RTSP"), "{error}");
        }
        let endless = [b"RTSP/1.0 200 OK\r\n".to_vec(), b"X: 1\r\n".repeat(20_000)].concat();
        assert_eq!(run(&endless, 1000, Trust::None), Err(WireError::HeadTooLong));
    }

    #[test]
    fn random_bytes_are_bounded_and_never_panic() {
        use proptest::prelude::*;
        let word = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            Just(b"RTSP/1.0 200 OK\r\n".to_vec()),
            Just(b"Content-Length: 70\r\n\r\n".to_vec()),
            Just(b"$\0\0\x20\x80".to_vec()),
            Just(packet(0, 50)),
            Just(b"\r\n\r\n".to_vec()),
        ];
        proptest!(ProptestConfig::with_cases(300), |(words in proptest::collection::vec(word, 0..60), step in 1_usize..300)| {
            let bytes = words.concat();
            let _ = run(&bytes, step, Trust::None);
            let _ = run(&bytes, step, Trust::Session).unwrap();
        });
    }
}
