//! What recorders that share streams tell each other four times a second, as bytes.
//!
//! All numbers are big-endian, UUIDs 16 bytes. Lists are counted, and every length is checked against a bound before anything is made of it:
//! a peer is trusted to be who it is, not to be right.
//!
//! ```text
//!  heartbeat   "FKHB"  u16 version  u16 oldest version that can read it  u32 bytes that follow
//!              uuid sender  u64 life of the sender's process  u64 number  i64 sender's wall clock, µs  u8 flags (1 hears you)
//!              u32 streams, each: uuid stream  u16 bytes of its report  report
//!              from version 2 on: u8 1 where it echoes one of the receiver's  u64 its number  u64 for how long it has been there, µs
//!              from version 3 on: u16 port at which the sender listens, 0 for none
//!              u16 recorders that it does not reach, each: uuid
//!              u16 recorders that the receiver does not reach and the sender does, each: uuid  16 bytes IPv6 address, or IPv4 mapped  u16 port
//!  report      u64 term  u64 sequence  u64 epoch  u8 flags (1 recording, 2 able, 4 leaving, 8 you are superseded, 16 footage, 32 last takeover)
//!              u64 unsynced  u64 recording for  u64 holding for  i64 first, i64 durable  u64 hold, u64 ended ago
//!              u8 heard, each: uuid recorder  i64 durable
//! ```
//! A later version adds to the end of a report or of the message; what a reader does not know there it passes over. A change that an older reader
//! would misunderstand raises the oldest version that can read it, and that reader refuses the message.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use framekeeper_media::WallTime;
use framekeeper_media::boxes::run::PlanVersion;
use framekeeper_media::boxes::{BoxWriter, Ended, Reader};
use uuid::Uuid;

use crate::report::{Footage, Report, Standing};

const MAGIC: [u8; 4] = *b"FKHB";
const VERSION: u16 = 3;
/// The oldest that can read what is written here.
const NEEDS: u16 = 1;
/// Magic, versions and length.
pub const HEAD_BYTES: usize = 12;
/// More than two recorders ever share: a recorder has 500 channels at most.
pub const STREAMS_AT_MOST: usize = 2_000;
/// More holders than a stream may have.
pub const HEARD_AT_MOST: usize = 16;
/// Recorders that are sought, or whose addresses are told, in one message; a recorder seeks and tells of others in turn where there are more.
pub const PLACES_AT_MOST: usize = 32;
/// What a message may measure behind its head: all of the above, with room for what later versions add.
pub const BYTES_AT_MOST: usize = 2 << 20;

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The recorder that sends it.
    pub sender: Uuid,
    /// Differs with each start of the sender's process, and grows.
    pub life: u64,
    /// Grows with each heartbeat of a life.
    pub number: u64,
    /// The sender's clock when it sent it.
    pub sent: WallTime,
    /// The sender heard the receiver lately ([`crate::Link::hears`]).
    pub hears_you: bool,
    /// The receiver's newest one that came to the sender, if any did.
    pub echo: Option<Echo>,
    /// Of each stream that both have to do with, what the sender says, with times by [`Heartbeat::sent`]'s clock.
    pub reports: Vec<(Uuid, Report<WallTime>)>,
    /// At which port the sender listens, of the address that it comes from; 0: it does not.
    pub port: u16,
    /// Recorders that the sender does not reach, [`PLACES_AT_MOST`] at most.
    pub seeks: Vec<Uuid>,
    /// Where those are reached that the receiver said it does not reach, as far as the sender does; [`PLACES_AT_MOST`] at most.
    pub places: Vec<(Uuid, SocketAddr)>,
}

/// That a heartbeat came, told to whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// [`Heartbeat::number`] of the one that came.
    pub number: u64,
    /// For how long it has been there, microseconds.
    pub held: u64,
}

/// Why bytes are no heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// It does not begin as one.
    #[error("no heartbeat: it does not begin with FKHB")]
    NotOne,
    /// It can be read from this version on only.
    #[error("a heartbeat for version {needs} and later, this recorder knows version {VERSION}: upgrade it")]
    TooNew {
        /// The version that is needed.
        needs: u16,
    },
    /// A length or a count is more than it can be.
    #[error("a heartbeat with {said} {what}, expected {at_most} at most")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How much was said.
        said: usize,
        /// How much there may be.
        at_most: usize,
    },
    /// It ends too early.
    #[error("a heartbeat that ends before it is complete")]
    Short,
}

impl From<Ended> for HeartbeatError {
    fn from(_: Ended) -> Self {
        Self::Short
    }
}

/// The newest heartbeat of a peer, so that one that comes twice, or from a former life of its process, is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Newest {
    /// Life and number.
    newest: Option<(u64, u64)>,
    /// That life may be over: one that has begun since is news, also where it is the lower one.
    may_be_over: bool,
}

impl Newest {
    /// Whether this one is newer than all before it.
    pub fn is_news(&mut self, heartbeat: &Heartbeat) -> bool {
        let this = (heartbeat.life, heartbeat.number);
        let is_over = |life: u64| self.may_be_over && life != heartbeat.life;
        let news = self.newest.is_none_or(|newest| this > newest || is_over(newest.0));
        if news {
            *self = Self { newest: Some(this), may_be_over: false };
        }
        news
    }

    /// A connection with the peer ended: its process may have begun anew, with a clock that was set back. What comes on another connection of the same
    /// life is no news by that.
    pub fn ended(&mut self) {
        self.may_be_over = true;
    }
}

/// How many bytes follow a head.
///
/// # Errors
/// When it is no head, one that this version cannot read, or one of a message that is too long.
pub fn body_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, HeartbeatError> {
    let mut r = Reader::new(head);
    if r.array()? != MAGIC {
        return Err(HeartbeatError::NotOne);
    }
    let (_version, needs, said) = (r.u16()?, r.u16()?, r.u32()? as usize);
    if needs > VERSION {
        return Err(HeartbeatError::TooNew { needs });
    }
    bounded("bytes", said, BYTES_AT_MOST)
}

fn bounded(what: &'static str, said: usize, at_most: usize) -> Result<usize, HeartbeatError> {
    if said > at_most { Err(HeartbeatError::TooLong { what, said, at_most }) } else { Ok(said) }
}

impl Heartbeat {
    /// As bytes, with the head. Of more streams or holders than may be told of, the first are.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = BoxWriter::with_capacity(HEAD_BYTES + 64 + self.reports.len() * 160);
        w.bytes(&MAGIC);
        w.u16(VERSION);
        w.u16(NEEDS);
        w.u32(0);
        w.bytes(self.sender.as_bytes());
        w.u64(self.life);
        w.u64(self.number);
        w.i64(self.sent.0);
        w.u8(u8::from(self.hears_you));
        let told = self.reports.len().min(STREAMS_AT_MOST);
        w.u32(u32::try_from(told).unwrap_or(0));
        for (stream, report) in self.reports.iter().take(told) {
            w.bytes(stream.as_bytes());
            let bytes = encode_report(report);
            w.u16(u16::try_from(bytes.len()).unwrap_or(0));
            w.bytes(&bytes);
        }
        w.u8(u8::from(self.echo.is_some()));
        if let Some(Echo { number, held }) = self.echo {
            w.u64(number);
            w.u64(held);
        }
        w.u16(self.port);
        let seeks = self.seeks.len().min(PLACES_AT_MOST);
        w.u16(u16::try_from(seeks).unwrap_or(0));
        for sought in self.seeks.iter().take(seeks) {
            w.bytes(sought.as_bytes());
        }
        let places = self.places.len().min(PLACES_AT_MOST);
        w.u16(u16::try_from(places).unwrap_or(0));
        for (recorder, place) in self.places.iter().take(places) {
            w.bytes(recorder.as_bytes());
            let address = match place.ip() {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            w.bytes(&address.octets());
            w.u16(place.port());
        }
        let body = w.len() - HEAD_BYTES;
        w.patch_u32(HEAD_BYTES - 4, u32::try_from(body).unwrap_or(0));
        w.into_vec()
    }

    /// Reads what follows a head ([`body_bytes`]).
    ///
    /// # Errors
    /// When it ends too early, or counts more than there may be.
    pub fn decode(body: &[u8]) -> Result<Self, HeartbeatError> {
        let mut r = Reader::new(body);
        let sender = Uuid::from_bytes(r.array()?);
        let (life, number, sent, flags) = (r.u64()?, r.u64()?, WallTime(r.i64()?), r.u8()?);
        let streams = bounded("streams", r.u32()? as usize, STREAMS_AT_MOST)?;
        let mut reports = Vec::with_capacity(streams.min(r.rest().len() / 16));
        for _ in 0..streams {
            let stream = Uuid::from_bytes(r.array()?);
            let bytes = usize::from(r.u16()?);
            reports.push((stream, decode_report(r.take(bytes)?)?));
        }
        // The first version ends here.
        let has_echo = !r.rest().is_empty() && r.u8()? & 1 != 0;
        let echo = if has_echo { Some(Echo { number: r.u64()?, held: r.u64()? }) } else { None };
        let (mut port, mut seeks, mut places) = (0, Vec::new(), Vec::new());
        // The second one here.
        if !r.rest().is_empty() {
            port = r.u16()?;
            for _ in 0..bounded("recorders sought", usize::from(r.u16()?), PLACES_AT_MOST)? {
                seeks.push(Uuid::from_bytes(r.array()?));
            }
            for _ in 0..bounded("addresses", usize::from(r.u16()?), PLACES_AT_MOST)? {
                let recorder = Uuid::from_bytes(r.array()?);
                let address = Ipv6Addr::from(r.array::<16>()?).to_canonical();
                places.push((recorder, SocketAddr::new(address, r.u16()?)));
            }
        }
        Ok(Self { sender, life, number, sent, hears_you: flags & 1 != 0, echo, reports, port, seeks, places })
    }
}

fn encode_report(report: &Report<WallTime>) -> Vec<u8> {
    let mut w = BoxWriter::with_capacity(160);
    w.u64(report.version.term);
    w.u64(report.version.sequence);
    w.u64(report.epoch);
    let flags = [
        report.recording,
        report.able,
        report.leaving,
        report.you == Standing::Superseded,
        report.footage.is_some(),
        report.last_takeover.is_some(),
    ];
    w.u8(flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit).sum());
    w.u64(report.unsynced);
    w.u64(report.recording_for);
    w.u64(report.holding_for);
    let footage = report.footage.unwrap_or(Footage { first: WallTime(0), durable: WallTime(0) });
    w.i64(footage.first.0);
    w.i64(footage.durable.0);
    let (hold, ago) = report.last_takeover.unwrap_or_default();
    w.u64(hold);
    w.u64(ago);
    let heard = report.hears.len().min(HEARD_AT_MOST);
    w.u8(u8::try_from(heard).unwrap_or(0));
    for (recorder, durable) in report.hears.iter().take(heard) {
        w.bytes(recorder.as_bytes());
        w.i64(durable.0);
    }
    w.into_vec()
}

fn decode_report(bytes: &[u8]) -> Result<Report<WallTime>, HeartbeatError> {
    let mut r = Reader::new(bytes);
    let version = PlanVersion { term: r.u64()?, sequence: r.u64()? };
    let (epoch, flags) = (r.u64()?, r.u8()?);
    let is = |bit: u8| flags & 1 << bit != 0;
    let (unsynced, recording_for, holding_for) = (r.u64()?, r.u64()?, r.u64()?);
    let footage = Footage { first: WallTime(r.i64()?), durable: WallTime(r.i64()?) };
    let takeover = (r.u64()?, r.u64()?);
    let heard = bounded("recorders heard", usize::from(r.u8()?), HEARD_AT_MOST)?;
    let mut hears = Vec::with_capacity(heard);
    for _ in 0..heard {
        hears.push((Uuid::from_bytes(r.array()?), WallTime(r.i64()?)));
    }
    Ok(Report {
        version,
        epoch,
        you: if is(3) { Standing::Superseded } else { Standing::Holder },
        recording: is(0),
        able: is(1),
        leaving: is(2),
        unsynced,
        footage: is(4).then_some(footage),
        recording_for,
        holding_for,
        hears,
        last_takeover: is(5).then_some(takeover),
    })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn any(random: &mut StdRng) -> Heartbeat {
        let id = |random: &mut StdRng| Uuid::from_u128(random.random());
        let wall = |random: &mut StdRng| WallTime(random.random());
        let place = |random: &mut StdRng| {
            let address = match random.random() {
                true => IpAddr::from(random.random::<[u8; 4]>()),
                false => IpAddr::from(random.random::<[u8; 16]>()),
            };
            SocketAddr::new(address, random.random())
        };
        let report = |random: &mut StdRng| Report {
            version: PlanVersion { term: random.random(), sequence: random.random() },
            epoch: random.random(),
            you: if random.random() { Standing::Holder } else { Standing::Superseded },
            recording: random.random(),
            able: random.random(),
            leaving: random.random(),
            unsynced: random.random(),
            footage: random.random_bool(0.5).then(|| Footage { first: wall(random), durable: wall(random) }),
            recording_for: random.random(),
            holding_for: random.random(),
            hears: (0..random.random_range(0..4)).map(|_| (id(random), wall(random))).collect(),
            last_takeover: random.random_bool(0.5).then(|| (random.random(), random.random())),
        };
        Heartbeat {
            sender: id(random),
            life: random.random(),
            number: random.random(),
            sent: wall(random),
            hears_you: random.random(),
            echo: random.random_bool(0.5).then(|| Echo { number: random.random(), held: random.random() }),
            reports: (0..random.random_range(0..6)).map(|_| (id(random), report(random))).collect(),
            port: random.random(),
            seeks: (0..random.random_range(0..4)).map(|_| id(random)).collect(),
            places: (0..random.random_range(0..4)).map(|_| (id(random), place(random))).collect(),
        }
    }

    fn read(bytes: &[u8]) -> Result<Heartbeat, HeartbeatError> {
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or(HeartbeatError::Short)?;
        let body = body_bytes(head)?;
        Heartbeat::decode(bytes.get(HEAD_BYTES..HEAD_BYTES + body).ok_or(HeartbeatError::Short)?)
    }

    #[test]
    fn what_is_sent_is_read() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..500 {
            let sent = any(&mut random);
            assert_eq!(read(&sent.encode()), Ok(sent));
        }
        // Where fuzzing begins.
        let seed = read(include_bytes!("../fuzz/seeds/heartbeat/first")).unwrap();
        assert_eq!((seed.number, seed.reports.len(), seed.echo), (7, 1, Some(Echo { number: 3, held: 120_000 })));
    }

    #[test]
    fn what_comes_again_is_no_news() {
        let beat = |life, number| Heartbeat { life, number, ..any(&mut StdRng::seed_from_u64(5)) };
        let mut newest = Newest::default();
        let comes = [(1, 0), (1, 1), (1, 1), (1, 0), (1, 7), (2, 0), (1, 8), (2, 1)];
        let news = comes.map(|(life, number)| newest.is_news(&beat(life, number)));
        assert_eq!(news, [true, true, false, false, true, true, false, true]);
    }

    #[test]
    fn a_life_with_an_earlier_clock_is_news_when_a_connection_ended() {
        let beat = |life, number| Heartbeat { life, number, ..any(&mut StdRng::seed_from_u64(5)) };
        let mut newest = Newest::default();
        let news = |comes: &[(u64, u64)], newest: &mut Newest| -> Vec<bool> {
            comes.iter().map(|(life, number)| newest.is_news(&beat(*life, *number))).collect()
        };
        assert_eq!(news(&[(9, 5), (2, 1)], &mut newest), [true, false]);
        // One of two connections of the same life: the other one is behind, and says nothing new.
        newest.ended();
        assert_eq!(news(&[(9, 4), (9, 5), (9, 6)], &mut newest), [false, false, true]);
        assert_eq!(news(&[(2, 2)], &mut newest), [false], "the life that it was went on");
        newest.ended();
        assert_eq!(news(&[(2, 3), (2, 3), (9, 7), (9, 8)], &mut newest), [true, false, true, true]);
    }

    #[test]
    fn whatever_comes_is_read_or_refused() {
        let mut random = StdRng::seed_from_u64(2);
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = any(&mut random).encode();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
            }
            bytes.truncate(random.random_range(0..=bytes.len() * 2).min(bytes.len()));
            refused += usize::from(read(&bytes).is_err());
        }
        assert!(refused > 5_000, "{refused}");
    }

    #[test]
    fn earlier_and_later_versions_are_understood_or_refused() {
        let mut random = StdRng::seed_from_u64(3);
        let sent = Heartbeat { echo: Some(Echo { number: 7, held: 9 }), ..any(&mut random) };
        let sized = |mut bytes: Vec<u8>| {
            let body = u32::try_from(bytes.len() - HEAD_BYTES).unwrap();
            bytes[8..12].copy_from_slice(&body.to_be_bytes());
            bytes
        };
        // The second one, which seeks nobody, and the first one, which echoes nothing besides.
        let plain = Heartbeat { port: 0, seeks: Vec::new(), places: Vec::new(), ..sent };
        let mut bytes = plain.encode();
        bytes[5] = 2;
        bytes.truncate(bytes.len() - 6);
        assert_eq!(read(&sized(bytes.clone())), Ok(plain.clone()));
        bytes[5] = 1;
        bytes.truncate(bytes.len() - 17);
        assert_eq!(read(&sized(bytes)), Ok(Heartbeat { echo: None, ..plain.clone() }));
        // A later one with more behind what is known.
        let mut bytes = plain.encode();
        bytes[5] = 4;
        bytes.extend_from_slice(b"more");
        let mut bytes = sized(bytes);
        assert_eq!(read(&bytes), Ok(plain));
        // One that must not be misunderstood.
        bytes[7] = 4;
        assert_eq!(read(&bytes), Err(HeartbeatError::TooNew { needs: 4 }));
        let said = HeartbeatError::TooNew { needs: 4 }.to_string();
        assert!(said.contains("version 4") && said.contains("upgrade"), "{said}");
    }

    #[test]
    fn nothing_is_made_of_what_is_only_said() {
        let mut bytes = any(&mut StdRng::seed_from_u64(4)).encode();
        let streams = HEAD_BYTES + 41;
        bytes[streams..streams + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        let said = u32::MAX as usize;
        assert_eq!(read(&bytes), Err(HeartbeatError::TooLong { what: "streams", said, at_most: STREAMS_AT_MOST }));
        bytes[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(read(&bytes), Err(HeartbeatError::TooLong { what: "bytes", said, at_most: BYTES_AT_MOST }));
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Err(HeartbeatError::NotOne));
    }
}
