//! The tracks of a session that plays: packets in, items out.

use framekeeper_media::h264::H264Parameters;
use framekeeper_media::unit::VIDEO_CLOCK_HZ;
use framekeeper_media::{AudioFrame, MediaTime};

use super::client::ChannelPair;
use super::parameters::ParameterSets;
use super::presentation::{AudioTrack, Presentation};
use super::receiver::Receiver;
use super::rtcp;
use super::wire::{Channels, FRAME_HEADER_BYTES};
use crate::engine::{Item, Traffic, VideoUnit};
use crate::event::{SenderReport, StreamParameters};
use crate::{rtp_aac, rtp_h264};

/// How far receiver reports are apart; RFC 3550 §6.2 has 5 s as the least of a small session.
const REPORT_INTERVAL_US: u64 = 5_000_000;

/// See the module.
pub(super) struct Tracks {
    /// All that packets come on.
    channels: Channels,
    video: VideoTrack,
    audio: Option<AudioReceiver>,
    own_ssrc: u32,
    next_report_us: Option<u64>,
}

struct VideoTrack {
    channels: ChannelPair,
    receiver: Receiver,
    depacketizer: rtp_h264::Depacketizer,
    sets: ParameterSets,
    /// What frames that come now are to be decoded with; `None` until SPS and PPS have come.
    parameters: Option<Box<StreamParameters>>,
    with_audio: AudioTrack,
    /// The camera may be asked for key frames by a Picture Loss Indication (RFC 4585 §6.3.1).
    takes_pli: bool,
    /// It is to be, with the next reports.
    wants_key_frame: bool,
    /// Kept for its memory.
    units: Vec<rtp_h264::Unit>,
}

struct AudioReceiver {
    channels: ChannelPair,
    receiver: Receiver,
    depacketizer: rtp_aac::Depacketizer,
    /// Kept for its memory.
    frames: Vec<AudioFrame>,
}

impl Tracks {
    /// Of what was set up.
    pub(super) fn new(
        presentation: &Presentation,
        video: ChannelPair,
        audio: Option<ChannelPair>,
        own_ssrc: u32,
    ) -> Self {
        let mut video = VideoTrack {
            channels: video,
            receiver: Receiver::new(VIDEO_CLOCK_HZ),
            depacketizer: rtp_h264::Depacketizer::default(),
            sets: presentation.sets.clone(),
            parameters: None,
            with_audio: presentation.audio.clone(),
            takes_pli: presentation.takes_pli,
            wants_key_frame: false,
            units: Vec::new(),
        };
        // What SDP says may be wrong or incomplete; then what comes in-band counts.
        video.parse_sets();
        let audio = audio.zip(presentation.audio.parameters.as_ref()).map(|(channels, parameters)| AudioReceiver {
            channels,
            receiver: Receiver::new(parameters.sample_rate),
            depacketizer: rtp_aac::Depacketizer::new(parameters.frame_length),
            frames: Vec::new(),
        });
        let mut channels = Channels::default();
        for (rtp, rtcp) in std::iter::once(video.channels).chain(audio.as_ref().map(|audio| audio.channels)) {
            channels.insert(rtp);
            channels.insert(rtcp);
        }
        Self { channels, video, audio, own_ssrc, next_report_us: None }
    }

    /// The channels that packets come on.
    pub(super) fn channels(&self) -> Channels {
        self.channels
    }

    /// The first item of a session.
    pub(super) fn parameters(&self) -> Option<Item> {
        self.video.parameters.clone().map(Item::Parameters)
    }

    /// An interleaved packet.
    pub(super) fn frame(&mut self, channel: u8, data: &[u8], now_us: u64, traffic: &mut Traffic, out: &mut Vec<Item>) {
        traffic.packets += 1;
        traffic.bytes += (data.len() + FRAME_HEADER_BYTES) as u64;
        let good = match &mut self.audio {
            _ if channel == self.video.channels.0 => self.video.rtp(data, now_us, traffic, out),
            _ if channel == self.video.channels.1 => {
                let report = rtcp_report(&mut self.video.receiver, data, now_us);
                report.map(|report| out.extend(report.map(Item::VideoReport))).is_some()
            }
            Some(audio) if channel == audio.channels.0 => audio.rtp(data, now_us, traffic, out),
            Some(audio) if channel == audio.channels.1 => {
                let report = rtcp_report(&mut audio.receiver, data, now_us);
                report.map(|report| out.extend(report.map(Item::AudioReport))).is_some()
            }
            _ => false,
        };
        if !good {
            traffic.malformed_packets += 1;
        }
    }

    /// The camera is to be asked for a key frame, if it can be.
    pub(super) fn want_key_frame(&mut self) {
        self.video.wants_key_frame = self.video.takes_pli;
    }

    /// Appends receiver reports to `out` when they are due, and what asks for a key frame.
    pub(super) fn reports(&mut self, now_us: u64, out: &mut Vec<u8>) {
        let due_us = *self.next_report_us.get_or_insert(now_us + REPORT_INTERVAL_US);
        let is_due = now_us >= due_us;
        let asks = std::mem::take(&mut self.video.wants_key_frame);
        if !is_due && !asks {
            return;
        }
        // Says nothing of who we are (RFC 7022 §4.2).
        let cname = format!("{:08x}", self.own_ssrc.rotate_left(16) ^ 0x5bd1_e995);
        let video = (&mut self.video.receiver, self.video.channels, asks);
        let audio = self.audio.as_mut().filter(|_| is_due).map(|audio| (&mut audio.receiver, audio.channels, false));
        for (receiver, (_, rtcp_channel), pli) in std::iter::once(video).chain(audio) {
            if let Some(block) = receiver.block(now_us) {
                rtcp::write_receiver_report(out, rtcp_channel, self.own_ssrc, &cname, block, pli);
            }
        }
        if is_due {
            self.next_report_us = Some(now_us + REPORT_INTERVAL_US);
        }
    }
}

/// `None` if the packet is not RTCP; `Some(None)` if it says nothing that is needed.
fn rtcp_report(receiver: &mut Receiver, data: &[u8], now_us: u64) -> Option<Option<SenderReport>> {
    let info = rtcp::sender_info(data).ok()?;
    Some(info.and_then(|info| {
        let media_time = MediaTime(receiver.report(info, now_us)?);
        Some(SenderReport { ntp: info.ntp, media_time })
    }))
}

impl VideoTrack {
    fn parse_sets(&mut self) -> bool {
        match H264Parameters::from_sps_pps(&self.sets.sps, &self.sets.pps) {
            Ok(video) => {
                let new = StreamParameters {
                    video,
                    audio: self.with_audio.parameters.clone(),
                    audio_left_out: self.with_audio.left_out.clone(),
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

    fn rtp(&mut self, data: &[u8], now_us: u64, traffic: &mut Traffic, out: &mut Vec<Item>) -> bool {
        let (depacketizer, units) = (&mut self.depacketizer, &mut self.units);
        let mut good = true;
        let received = self.receiver.packet(data, now_us, |packet| {
            traffic.lost_packets += packet.lost;
            // Some cameras send packets without a payload to keep firewalls open.
            if packet.payload.is_empty() && packet.lost == 0 {
                return;
            }
            let super::receiver::Packet { payload, pts, marker, lost } = packet;
            if let Err(error) = depacketizer.push(rtp_h264::Packet { payload, pts, marker, lost }, units) {
                good = false;
                tracing::debug!(%error, "video packet that cannot be used");
            }
        });
        if let Err(error) = received {
            good = false;
            tracing::debug!(%error, "video packet that is not used");
        }
        traffic.damaged_frames = self.depacketizer.damaged_units();
        // Most packets end no picture.
        if !self.units.is_empty() {
            let mut units = std::mem::take(&mut self.units);
            units.drain(..).for_each(|unit| self.unit(unit, out));
            self.units = units;
        }
        good
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
}

impl AudioReceiver {
    fn rtp(&mut self, data: &[u8], now_us: u64, traffic: &mut Traffic, out: &mut Vec<Item>) -> bool {
        let (depacketizer, frames) = (&mut self.depacketizer, &mut self.frames);
        let mut good = true;
        let received = self.receiver.packet(data, now_us, |packet| {
            traffic.lost_packets += packet.lost;
            if packet.payload.is_empty() && packet.lost == 0 {
                return;
            }
            let super::receiver::Packet { payload, pts, marker, lost } = packet;
            if let Err(error) = depacketizer.push(rtp_aac::Packet { payload, pts, marker, lost }, frames) {
                good = false;
                tracing::debug!(%error, "audio packet that cannot be used");
            }
        });
        if let Err(error) = received {
            good = false;
            tracing::debug!(%error, "audio packet that is not used");
        }
        out.extend(self.frames.drain(..).map(Item::Audio));
        good
    }
}
