//! A session of the Native engine: first a hand-shake, then packets until nothing more has arrived.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use framekeeper_media::MediaTime;
use framekeeper_media::h264::H264Parameters;
use futures::{Future, Stream as _};
use retina::client::PacketItem;

use super::failure::{Stage, from_retina};
use super::handshake::Opened;
use crate::engine::{Failure, Item, Progress, Session, Traffic, VideoUnit};
use crate::event::{SenderReport, SessionEndKind, StreamParameters, TickTime};
use crate::{rtp_aac, rtp_h264};

/// Most bytes read of one session in one tick: what is more waits for the next one, so that a camera that floods does not hold up
/// the others. 640 Mbit/s at ten ticks a second.
const MAX_BYTES_A_TICK: u64 = 8 << 20;

/// Bytes of the interleaved framing before each packet (RFC 2326 §10.12).
const INTERLEAVED_HEADER: u64 = 4;

type Opening = Pin<Box<dyn Future<Output = Result<Opened, Failure>>>>;

pub(super) struct NativeSession {
    state: State,
    traffic: Traffic,
}

enum State {
    Opening(Opening),
    Playing(Box<Playing>),
    Over,
}

impl NativeSession {
    pub(super) fn new(opening: Opening) -> Self {
        Self { state: State::Opening(opening), traffic: Traffic::default() }
    }
}

impl Session for NativeSession {
    fn read(&mut self, _at: TickTime, out: &mut Vec<Item>) -> Progress {
        // Nothing may wake the tick thread; everything is looked at on the next tick anyway.
        let mut cx = Context::from_waker(Waker::noop());
        if let State::Opening(opening) = &mut self.state {
            match opening.as_mut().poll(&mut cx) {
                Poll::Pending => return Progress::Opening,
                Poll::Ready(Err(failure)) => {
                    self.state = State::Over;
                    return Progress::Ended(failure);
                }
                Poll::Ready(Ok(opened)) => {
                    let playing = Playing::new(opened);
                    if let Some(parameters) = &playing.parameters {
                        out.push(Item::Parameters(parameters.clone()));
                    }
                    self.state = State::Playing(Box::new(playing));
                }
            }
        }
        let State::Playing(playing) = &mut self.state else {
            return Progress::Ended(Failure::new(SessionEndKind::Internal, "read after the end"));
        };
        match playing.read(&mut cx, &mut self.traffic, out) {
            None => Progress::Playing,
            Some(failure) => {
                self.state = State::Over;
                Progress::Ended(failure)
            }
        }
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }
}

struct Playing {
    session: retina::client::Session<retina::client::Playing>,
    video_stream: usize,
    audio_stream: Option<usize>,
    video: rtp_h264::Depacketizer,
    audio: Option<rtp_aac::Depacketizer>,
    sets: ParameterSets,
    /// What frames that come now are to be decoded with; `None` until SPS and PPS have come.
    parameters: Option<Box<StreamParameters>>,
    without_video: super::handshake::AudioTrack,
    units: Vec<rtp_h264::Unit>,
    frames: Vec<framekeeper_media::AudioFrame>,
}

/// The parameter sets in force.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct ParameterSets {
    pub(super) sps: bytes::Bytes,
    pub(super) pps: Vec<bytes::Bytes>,
}

impl ParameterSets {
    /// Takes in what came with a picture; true if anything is different now.
    fn take(&mut self, sps: Vec<bytes::Bytes>, pps: Vec<bytes::Bytes>) -> bool {
        let before = self.clone();
        if let Some(sps) = sps.into_iter().next_back()
            && sps != self.sps
        {
            // PPSs belong to an SPS; those of the old one say nothing about the new one, unless no others come along.
            if !pps.is_empty() {
                self.pps.clear();
            }
            self.sps = sps;
        }
        for new in pps {
            match self.pps.iter_mut().find(|old| pps_id(old) == pps_id(&new)) {
                Some(old) => *old = new,
                None => self.pps.push(new),
            }
        }
        *self != before
    }
}

/// pic_parameter_set_id, ue(v), the first element of a PPS (H.264 §7.3.2.2).
fn pps_id(pps: &[u8]) -> Option<u32> {
    let bits = u32::from_be_bytes([*pps.get(1)?, *pps.get(2).unwrap_or(&0), *pps.get(3).unwrap_or(&0), 0]);
    let zeros = bits.leading_zeros();
    (zeros <= 8).then(|| (bits << zeros >> (31 - zeros)) - 1)
}

impl Playing {
    fn new(opened: Opened) -> Self {
        let Opened { session, video_stream, audio_stream, sets, audio } = opened;
        let mut playing = Self {
            session,
            video_stream,
            audio_stream,
            video: rtp_h264::Depacketizer::default(),
            audio: audio.parameters.as_ref().map(|p| rtp_aac::Depacketizer::new(p.frame_length)),
            sets,
            parameters: None,
            without_video: audio,
            units: Vec::new(),
            frames: Vec::new(),
        };
        // What SDP says may be wrong or incomplete; then what comes in-band counts.
        playing.parse_sets();
        playing
    }

    fn parse_sets(&mut self) -> bool {
        match H264Parameters::from_sps_pps(&self.sets.sps, &self.sets.pps) {
            Ok(video) => {
                let new = StreamParameters {
                    video,
                    audio: self.without_video.parameters.clone(),
                    audio_left_out: self.without_video.left_out.clone(),
                };
                let changed = self.parameters.as_deref() != Some(&new);
                self.parameters = Some(Box::new(new));
                changed
            }
            Err(error) => {
                tracing::debug!(%error, "parameter sets that cannot be used");
                false
            }
        }
    }

    /// Reads until nothing more has arrived.
    fn read(&mut self, cx: &mut Context<'_>, traffic: &mut Traffic, out: &mut Vec<Item>) -> Option<Failure> {
        let enough = traffic.bytes.saturating_add(MAX_BYTES_A_TICK);
        while traffic.bytes < enough {
            match Pin::new(&mut self.session).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(PacketItem::Rtp(packet)))) => {
                    traffic.packets += 1;
                    traffic.bytes += packet.raw().len() as u64 + INTERLEAVED_HEADER;
                    traffic.lost_packets += u64::from(packet.loss());
                    self.rtp(&packet, traffic, out);
                }
                Poll::Ready(Some(Ok(PacketItem::Rtcp(packet)))) => {
                    traffic.packets += 1;
                    traffic.bytes += packet.raw().len() as u64 + INTERLEAVED_HEADER;
                    self.rtcp(&packet, out);
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => {
                    let failure = from_retina(Stage::Playing, &error, true);
                    if failure.kind == SessionEndKind::Malformed {
                        traffic.malformed_packets += 1;
                    }
                    return Some(failure);
                }
                Poll::Ready(None) => {
                    return Some(Failure::new(SessionEndKind::ClosedByCamera, "the camera closed the connection"));
                }
            }
        }
        None
    }

    fn rtp(&mut self, packet: &retina::rtp::ReceivedPacket, traffic: &mut Traffic, out: &mut Vec<Item>) {
        let (payload, pts, marker) = (packet.payload(), packet.timestamp().timestamp(), packet.mark());
        let lost = u64::from(packet.loss());
        if packet.stream_id() == self.video_stream {
            let packet = rtp_h264::Packet { payload, pts, marker, lost };
            if let Err(error) = self.video.push(packet, &mut self.units) {
                traffic.malformed_packets += 1;
                tracing::debug!(%error, "video packet that cannot be used");
            }
            traffic.damaged_frames = self.video.damaged_units();
            for unit in std::mem::take(&mut self.units) {
                self.unit(unit, out);
            }
        } else if let Some(audio) = &mut self.audio {
            let packet = rtp_aac::Packet { payload, pts, marker, lost };
            if let Err(error) = audio.push(packet, &mut self.frames) {
                traffic.malformed_packets += 1;
                tracing::debug!(%error, "audio packet that cannot be used");
            }
            out.extend(self.frames.drain(..).map(Item::Audio));
        }
    }

    fn unit(&mut self, unit: rtp_h264::Unit, out: &mut Vec<Item>) {
        let rtp_h264::Unit { data, pts, lost, sps, pps } = unit;
        if !(sps.is_empty() && pps.is_empty())
            && self.sets.take(sps, pps)
            && self.parse_sets()
            && let Some(parameters) = &self.parameters
        {
            out.push(Item::Parameters(parameters.clone()));
        }
        out.push(Item::Video(VideoUnit { data, pts: MediaTime(pts), lost_packets: lost }));
    }

    fn rtcp(&self, packet: &retina::rtcp::ReceivedCompoundPacket, out: &mut Vec<Item>) {
        let Some(media_time) = packet.rtp_timestamp() else { return };
        let Some(ntp) = packet.pkts().find_map(|p| p.as_sender_report().ok().flatten()).map(|sr| sr.ntp_timestamp().0)
        else {
            return;
        };
        let report = SenderReport { ntp, media_time: MediaTime(media_time.timestamp()) };
        if packet.stream_id() == self.video_stream {
            out.push(Item::VideoReport(report));
        } else if Some(packet.stream_id()) == self.audio_stream {
            out.push(Item::AudioReport(report));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const SPS: Bytes = Bytes::from_static(&[0x67, 1]);
    const PPS0: Bytes = Bytes::from_static(&[0x68, 0b1000_0000]);
    const PPS0B: Bytes = Bytes::from_static(&[0x68, 0b1100_0000]);
    const PPS1: Bytes = Bytes::from_static(&[0x68, 0b0100_0000]);

    #[test]
    fn pps_ids() {
        assert_eq!(pps_id(&PPS0), Some(0));
        assert_eq!(pps_id(&PPS1), Some(1));
        assert_eq!(pps_id(&[0x68, 0b0110_0000]), Some(2));
        assert_eq!(pps_id(&[0x68, 0, 0b1111_1111, 0x80]), Some(510));
        assert_eq!(pps_id(&[0x68]), None);
        assert_eq!(pps_id(&[0x68, 0, 0, 0]), None);
    }

    #[test]
    fn repeated_sets_change_nothing() {
        let mut s = ParameterSets { sps: SPS, pps: vec![PPS0, PPS1] };
        assert!(!s.take(vec![SPS], vec![PPS0]));
        assert!(!s.take(vec![SPS, SPS], vec![PPS1]));
        assert!(s.take(vec![], vec![PPS0B]));
        assert_eq!(s.pps, [PPS0B, PPS1]);
        assert!(s.take(vec![Bytes::from_static(&[0x67, 2])], vec![PPS0]));
        assert_eq!(s.pps, [PPS0], "another SPS brings its own PPSs");
    }
}
