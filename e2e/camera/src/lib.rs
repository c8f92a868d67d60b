//! Ledger cameras: RTSP test cameras that number and log every coded frame.
//!
//! ```text
//! CameraSpec ──► Server (one thread, one tick) ──► Camera ──► VideoSource, AacSource: coded frames
//!                   │                                 └─────► ledger: a record a frame, before anybody gets it
//!                   └─► Connection: RTSP session, its copy of each frame with its own RTP numbers, its backlog
//! ```
//!
//! Every coded picture has a SEI NAL unit user_data_unregistered (type 6, payload type 5) in front of its first slice:
//! [`SEI_UUID`], then frame number and media time (1/90000 s), 8 bytes each, big-endian, with emulation prevention as
//! in any NAL unit ([`read_sei`]). Synthetic pictures show the number too ([`read_stamp`]). Every audio frame begins
//! with a data_stream_element: [`AUDIO_MAGIC`], frame number, 8 bytes, big-endian ([`read_audio_stamp`]).
//! The ledger's layout is in [`ledger`]. `gst_camera.py` beside this crate's manifest is a camera on GStreamer's RTSP
//! server that writes the same ledger.

mod aac;
mod auth;
mod bits;
mod camera;
mod clip;
mod conn;
mod control;
mod fault;
pub mod h264;
pub mod ledger;
mod onvif;
mod recode;
mod rtp;
mod rtsp;
mod sdp;
mod serve;
mod server;
mod source;
mod spec;
mod stamp;

pub use aac::{AUDIO_MAGIC, FRAME_SAMPLES, read_audio_stamp};
pub use camera::{Latest, LatestFrames, SessionCounts};
pub use fault::{Corruption, DescribeFault, Fault, SdpFault, Switches};
pub use ledger::{EndReason, Kind, Ledger, Record, crc32_size, crc32_size_identity, video_identity};
pub use server::{Server, ServerConfig};
pub use spec::{AudioKind, AuthKind, CameraSpec, DigestAlgorithms, StartAt, VideoKind};
pub use stamp::{SEI_UUID, read_sei, read_stamp};
