//! Decode times. RTP carries presentation times only (RFC 6184 §5.1); MP4 wants both.
//!
//! Frames come in decoding order. With reorder depth D, the decode time of frame i is the (i − D)-th smallest presentation
//! time so far, which is the (D + 1)-th largest: a decoder that holds D frames back then shows each frame in time.

use crate::unit::MediaTime;

/// Largest reorder depth of H.264 and H.265 (max_dec_frame_buffering, ISO/IEC 14496-10 §A.3.1).
pub const MAX_REORDER_FRAMES: usize = 16;

/// The decode time of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeTime {
    /// Strictly greater than that of the frame before.
    pub dts: MediaTime,
    /// Presentation time less decode time. Negative where the camera reorders deeper than it said. Saturates at 2^31 ticks
    /// (6 hours at 90 kHz), which a run that begins anew at jumps of RTP time never reaches.
    pub composition_offset: i32,
}

/// Decode times for one run of a stream.
#[derive(Clone, Debug)]
pub struct DecodeTimes {
    depth: usize,
    depth_is_known: bool,
    nominal_duration: i64,
    /// The largest presentation times so far, largest first, at most `MAX_REORDER_FRAMES + 1`.
    largest: Vec<i64>,
    first_pts: i64,
    last_dts: Option<i64>,
}

impl DecodeTimes {
    /// With the stream's max_num_reorder_frames, where it is known (else 0 is taken, and raised when times go backwards), and the
    /// duration of a frame in ticks, by which the first decode times are extrapolated.
    #[must_use]
    pub fn new(max_num_reorder_frames: Option<u8>, nominal_duration: u32) -> Self {
        Self {
            depth: usize::from(max_num_reorder_frames.unwrap_or(0)).min(MAX_REORDER_FRAMES),
            depth_is_known: max_num_reorder_frames.is_some(),
            nominal_duration: i64::from(nominal_duration),
            largest: Vec::with_capacity(MAX_REORDER_FRAMES + 2),
            first_pts: 0,
            last_dts: None,
        }
    }

    /// The decode time of the next frame in decoding order.
    pub fn push(&mut self, pts: MediaTime) -> DecodeTime {
        let pts = pts.0;
        if self.last_dts.is_none() {
            self.first_pts = pts;
        }
        let later = self.largest.partition_point(|&other| other > pts);
        if !self.depth_is_known {
            self.depth = self.depth.max(later.min(MAX_REORDER_FRAMES));
        }
        self.largest.insert(later, pts);
        self.largest.truncate(MAX_REORDER_FRAMES + 1);

        let wanted = match self.largest.get(self.depth) {
            Some(&time) => time,
            None => {
                let missing = i64::try_from(self.depth + 1 - self.largest.len()).unwrap_or(0);
                self.first_pts.saturating_sub(missing.saturating_mul(self.nominal_duration))
            }
        };
        // Where the depth is found out late, decode times must wait for presentation times to come up to them. Steps of one tick
        // would look like a discontinuity to ffmpeg when they end.
        let found_late = !self.depth_is_known && self.depth > 0;
        let step = if found_late { (self.nominal_duration / 16).max(1) } else { 1 };
        let dts = match self.last_dts {
            Some(last) => wanted.max(last.saturating_add(step)),
            None => wanted,
        };
        self.last_dts = Some(dts);
        let offset = pts.saturating_sub(dts);
        let composition_offset = i32::try_from(offset).unwrap_or(if offset < 0 { i32::MIN } else { i32::MAX });
        DecodeTime { dts: MediaTime(dts), composition_offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(depth: Option<u8>, pts: &[i64]) -> Vec<(i64, i32)> {
        let mut times = DecodeTimes::new(depth, 10);
        pts.iter().map(|&pts| times.push(MediaTime(pts))).map(|time| (time.dts.0, time.composition_offset)).collect()
    }

    #[test]
    fn frames_in_order_need_no_offsets() {
        assert_eq!(decode(Some(0), &[100, 110, 125, 130]), [(100, 0), (110, 0), (125, 0), (130, 0)]);
        assert_eq!(decode(None, &[100, 110, 125]), [(100, 0), (110, 0), (125, 0)]);
    }

    #[test]
    fn ibbp_with_the_depth_known() {
        // I0 P3 B1 B2 P6 B4 B5
        let times = decode(Some(1), &[0, 30, 10, 20, 60, 40, 50]);
        assert_eq!(times, [(-10, 10), (0, 30), (10, 0), (20, 0), (30, 30), (40, 0), (50, 0)]);
    }

    #[test]
    fn a_depth_nobody_told_is_found_at_the_first_frame_out_of_order() {
        let times = decode(None, &[0, 30, 10, 20, 60, 40, 50]);
        assert_eq!(times, [(0, 0), (30, 0), (31, -21), (32, -12), (33, 27), (40, 0), (50, 0)]);
    }

    #[test]
    fn equal_times_are_pulled_apart() {
        assert_eq!(decode(Some(0), &[5, 5, 5, 6]), [(5, 0), (6, -1), (7, -2), (8, -2)]);
    }
}
