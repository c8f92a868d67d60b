//! One client's TCP connection: what goes in and out of its socket, and its session's share of each frame.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use crate::camera::{Camera, Frame, Track, event};
use crate::fault::{Corruption, Switches};
use crate::ledger::{Kind, Record};
use crate::recode::Recoder;
use crate::rtp::Numbering;
use crate::spec::StartAt;

/// A session whose oldest unsent byte is older than this loses frames until it has caught up.
const BACKLOG_LIMIT_NS: u64 = 1_000_000_000;
/// Interval of RTCP sender reports.
const REPORT_INTERVAL_NS: u64 = 5_000_000_000;
/// An input buffer larger than this is somebody who does not speak RTSP.
const INPUT_LIMIT_BYTES: usize = 256 * 1024;

/// One track that was set up.
#[derive(Debug)]
pub(crate) struct TrackState {
    pub(crate) rtp_channel: u8,
    pub(crate) rtcp_channel: u8,
    pub(crate) numbering: Numbering,
    /// When the next sender report is due.
    pub(crate) report_due_ns: u64,
    /// RTP packets so far, for the faults that hit every n-th.
    counted: u64,
}

/// How far a session has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Set up, not playing.
    Ready,
    /// PLAY was answered; its first frame has not come.
    Waiting,
    /// Gets every frame.
    Playing,
    /// Had more than a second of backlog and has not caught up.
    Losing,
}

/// An RTSP session. There is at most one a connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    /// Index of the camera.
    pub(crate) camera: usize,
    pub(crate) phase: Phase,
    /// Since when it is set up and does not play, while that is so.
    pub(crate) idle_since_ns: Option<u64>,
    pub(crate) tracks: [Option<TrackState>; 2],
    /// Codes its pictures, where the camera does that for each session.
    pub(crate) recoder: Option<Recoder>,
}

impl Session {
    pub(crate) fn track(&mut self, track: Track) -> Option<&mut TrackState> {
        self.tracks[track as usize].as_mut()
    }
}

impl TrackState {
    pub(crate) fn new(channels: (u8, u8)) -> Self {
        Self {
            rtp_channel: channels.0,
            rtcp_channel: channels.1,
            numbering: Numbering {
                ssrc: rand::random(),
                next_sequence: rand::random(),
                timestamp_offset: rand::random(),
                packets: 0,
                octets: 0,
            },
            report_due_ns: 0,
            counted: 0,
        }
    }
}

/// A connection that broke, and has to be forgotten.
#[derive(Debug)]
pub(crate) struct Gone;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) input: Vec<u8>,
    pub(crate) session: Option<Session>,
    pub(crate) last_heard_ns: u64,
    /// Bytes that the socket has not accepted, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// For each frame in `unsent`: where it ends (in bytes queued since the connection began), and when it was queued.
    queued: VecDeque<(u64, u64)>,
    queued_bytes: u64,
    /// What the slow fault still allows.
    allowance_bytes: u64,
    /// Nothing is sent any more.
    muted: bool,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, now_ns: u64) -> Self {
        Self {
            stream,
            input: Vec::new(),
            session: None,
            last_heard_ns: now_ns,
            unsent: Vec::new(),
            sent: 0,
            queued: VecDeque::new(),
            queued_bytes: 0,
            allowance_bytes: 0,
            muted: false,
        }
    }

    /// Whether bytes wait for the socket.
    pub(crate) fn has_backlog(&self) -> bool {
        self.sent < self.unsent.len()
    }

    /// Reads what the socket has.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> Result<(), Gone> {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => return Err(Gone),
                Ok(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    if self.input.len() > INPUT_LIMIT_BYTES {
                        return Err(Gone);
                    }
                    if count < scratch.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Nothing is sent any more, if the client is at this port.
    pub(crate) fn mute(&mut self, client: u16) {
        self.muted |= self.stream.peer_addr().is_ok_and(|peer| peer.port() == client);
    }

    /// Sends `bytes`, or keeps what the socket does not take. `slow_bytes_per_second` 0 is no limit.
    pub(crate) fn send(&mut self, bytes: &[u8], now_ns: u64, slow_bytes_per_second: u32) -> Result<(), Gone> {
        if self.muted {
            return Ok(());
        }
        let mut written = 0;
        if !self.has_backlog() && slow_bytes_per_second == 0 {
            written = write_some(&mut self.stream, bytes)?;
        }
        self.queued_bytes += bytes.len() as u64;
        if written < bytes.len() {
            self.unsent.extend_from_slice(&bytes[written..]);
            self.queued.push_back((self.queued_bytes, now_ns));
        }
        Ok(())
    }

    /// Tries to send what waits. `slow_bytes` limits it where the slow fault is on.
    pub(crate) fn flush(&mut self, slow_bytes: Option<u64>) -> Result<(), Gone> {
        if !self.has_backlog() {
            return Ok(());
        }
        let mut end = self.unsent.len();
        if let Some(slow_bytes) = slow_bytes {
            self.allowance_bytes = (self.allowance_bytes + slow_bytes).min(64 * 1024 + slow_bytes);
            end = end.min(self.sent + self.allowance_bytes as usize);
        }
        let written = write_some(&mut self.stream, &self.unsent[self.sent..end])?;
        self.allowance_bytes = self.allowance_bytes.saturating_sub(written as u64);
        self.sent += written;
        if self.has_backlog() {
            let unsent = (self.unsent.len() - self.sent) as u64;
            while self.queued.front().is_some_and(|&(frame_end, _)| frame_end + unsent <= self.queued_bytes) {
                self.queued.pop_front();
            }
            if self.sent > 1 << 20 {
                self.unsent.drain(..self.sent);
                self.sent = 0;
            }
        } else {
            self.unsent = Vec::new();
            self.sent = 0;
            self.queued.clear();
        }
        Ok(())
    }

    /// Gives the session its copy of frames that the camera just emitted.
    ///
    /// Errors: the connection broke. Ledger errors are the caller's to find at the camera's next emission.
    pub(crate) fn deliver(
        &mut self,
        frames: &[Frame],
        camera: &mut Camera,
        now_ns: u64,
        wall_ns: i64,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Gone> {
        let oldest_ns = self.queued.front().map_or(now_ns, |&(_, queued_ns)| queued_ns);
        let has_backlog = self.has_backlog();
        let Some(session) = &mut self.session else { return Ok(()) };
        match session.phase {
            Phase::Ready => return Ok(()),
            Phase::Playing if now_ns - oldest_ns > BACKLOG_LIMIT_NS => session.phase = Phase::Losing,
            Phase::Losing if !has_backlog => session.phase = Phase::Playing,
            Phase::Waiting | Phase::Playing | Phase::Losing => {}
        }
        scratch.clear();
        let mut ends = Vec::new();
        let has_video = session.tracks[Track::Video as usize].is_some();
        for shared in frames {
            let id = session.id;
            let own = session.recoder.as_mut().filter(|_| shared.track == Track::Video).map(|coder| coder.code(shared));
            if let Some((frame, hash)) = &own {
                let &Frame { number, media_time, key, bytes, .. } = frame;
                let flags = if key { Record::KEY } else { 0 };
                let record = Record { flags, bytes, number, media_time, hash: *hash, ..event(Kind::Recoded, wall_ns) };
                if camera.log(record).is_err() {
                    return Err(Gone);
                }
            }
            let frame = own.as_ref().map_or(shared, |(frame, _)| frame);
            let phase = session.phase;
            if session.track(frame.track).is_none() {
                continue;
            }
            if phase == Phase::Waiting {
                let begins = match frame.track {
                    Track::Video => frame.key || camera.spec.start == StartAt::Any,
                    Track::Audio => !has_video,
                };
                if !begins {
                    continue;
                }
                let record = Record {
                    number: id,
                    media_time: frame.media_time,
                    hash: frame.number,
                    ..event(Kind::SessionBegan, wall_ns)
                };
                if camera.log(record).is_err() {
                    return Err(Gone);
                }
                session.phase = Phase::Playing;
            }
            let Some(track) = session.track(frame.track) else { continue };
            if phase == Phase::Losing {
                // Their sequence numbers are used up, so that the client can tell.
                track.numbering.next_sequence =
                    track.numbering.next_sequence.wrapping_add(frame.packets.count() as u16);
                let record = Record {
                    flags: if frame.track == Track::Audio { Record::AUDIO } else { 0 },
                    bytes: frame.bytes,
                    number: frame.number,
                    media_time: frame.media_time,
                    hash: id,
                    ..event(Kind::Lost, wall_ns)
                };
                if camera.log(record).is_err() {
                    return Err(Gone);
                }
                continue;
            }
            let timestamp = track.numbering.timestamp(frame.media_time);
            if now_ns >= track.report_due_ns {
                let channel = track.rtcp_channel;
                let media_wall_ns = camera.wall_ns_at(frame.track, frame.media_time);
                track.numbering.append_report(scratch, channel, media_wall_ns, timestamp);
                track.report_due_ns = now_ns + REPORT_INTERVAL_NS;
            }
            for packet in frame.packets.iter() {
                track.append(scratch, packet, timestamp, &camera.switches);
                if camera.spec.apart {
                    ends.push(scratch.len());
                }
            }
        }
        let slow = camera.switches.slow_bytes_per_second;
        if !camera.spec.apart {
            return if scratch.is_empty() { Ok(()) } else { self.send(scratch, now_ns, slow) };
        }
        let mut start = 0;
        for end in ends {
            self.send(&scratch[start..end], now_ns, slow)?;
            start = end;
        }
        Ok(())
    }
}

impl TrackState {
    /// Appends one packet as the faults want it.
    fn append(&mut self, out: &mut Vec<u8>, packet: &[u8], timestamp: u32, switches: &Switches) {
        self.counted += 1;
        let hits = |every: u32| every > 0 && self.counted.is_multiple_of(every.into());
        if hits(switches.drop_every) {
            self.numbering.next_sequence = self.numbering.next_sequence.wrapping_add(1);
            return;
        }
        let corruption = switches.corrupt.filter(|&(_, every)| hits(every)).map(|(what, _)| what);
        let interleaved = |out: &mut Vec<u8>, channel: u8, bytes: &[u8]| {
            out.extend_from_slice(&[b'$', channel]);
            out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        match corruption {
            Some(Corruption::Short) => interleaved(out, self.rtp_channel, &[0x80, 96, 0]),
            Some(Corruption::JunkRtcp) => interleaved(out, self.rtcp_channel, &[0x17; 29]),
            Some(Corruption::ForeignSsrc) => {
                let mut foreign = Numbering { ssrc: !self.numbering.ssrc, ..self.numbering.clone() };
                foreign.append(out, packet, self.rtp_channel, timestamp);
            }
            Some(Corruption::OrphanFragment) => {
                // The middle of a slice (FU-A with neither start nor end bit).
                let mut orphan = packet[..crate::rtp::HEADER_BYTES].to_vec();
                orphan[1] &= 0x7f;
                orphan.extend_from_slice(&[0x7c, 0x01, 1, 2, 3]);
                self.numbering.append(out, &orphan, self.rtp_channel, timestamp);
            }
            Some(Corruption::Version) | None => {}
        }
        let header = out.len() + 4;
        self.numbering.append(out, packet, self.rtp_channel, timestamp);
        if corruption == Some(Corruption::Version) {
            out[header] = out[header] & 0x3f | 0x40;
        }
    }
}

/// Writes what the socket takes now; gives back how much that was.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize, Gone> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => return Err(Gone),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Gone),
        }
    }
    Ok(written)
}
