//! The Native engine: RTSP 1.0 (RFC 2326) over TCP, RTP interleaved. Sockets of our own, read once a tick on the ingest's one thread.
//!
//! ```text
//! session.rs    one attempt and what comes of it: the connection, the client, the tracks
//!   connection.rs  the socket, into a buffer that all share    (I/O; everything below has none)
//!   wire.rs        bytes → messages and packets, over junk
//!   client.rs      the state machine: DESCRIBE, SETUP, PLAY, keep-alive, TEARDOWN
//!     message.rs, auth.rs, urls.rs, transport.rs, sdp.rs, presentation.rs, failure.rs
//!   tracks.rs      packets → items
//!     receiver.rs, rtcp.rs, parameters.rs; ../key_frames.rs, ../rtp_h264.rs, ../rtp_aac.rs
//! ```
//! Every length that a camera names is bounded, and what breaks a rule costs as little as the rule protects: a packet, a picture, and only
//! while a session is set up the session. What cannot be done yet: UDP, TLS, other codecs than H.264 and AAC.

mod auth;
mod client;
mod connection;
mod failure;
mod message;
mod parameters;
mod presentation;
mod receiver;
mod rtcp;
mod sdp;
mod session;
mod text;
mod tracks;
mod transport;
mod urls;
mod wire;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::rc::Rc;
use std::time::Duration;

use crate::engine::{Engine, Session};
use crate::event::TickTime;
use crate::spec::SourceSpec;

/// How often answers to TEARDOWN are looked for at the very end, when there are no ticks any more.
const DRAIN_INTERVAL: Duration = Duration::from_millis(5);

/// See the module.
pub(crate) struct NativeEngine {
    user_agent: String,
    shared: Rc<session::Shared>,
    /// Seeded by the system: SSRCs must differ between sessions and recorders (RFC 3550 §8), and no more.
    ssrcs: RandomState,
    opened: std::cell::Cell<u64>,
}

impl NativeEngine {
    pub(crate) fn new(user_agent: String) -> Self {
        Self { user_agent, shared: Rc::default(), ssrcs: RandomState::new(), opened: std::cell::Cell::new(0) }
    }

    fn new_ssrc(&self) -> u32 {
        self.opened.set(self.opened.get().wrapping_add(1));
        let mut hasher = self.ssrcs.build_hasher();
        hasher.write_u64(self.opened.get());
        hasher.finish() as u32
    }

    /// False when nobody is left.
    fn say_farewell(&self, now_us: Option<u64>) -> bool {
        let (Ok(mut farewells), Ok(mut buffer)) =
            (self.shared.farewells.try_borrow_mut(), self.shared.buffer.try_borrow_mut())
        else {
            return false;
        };
        farewells.retain_mut(|farewell| !farewell.step(&mut buffer, now_us.unwrap_or(0)));
        !farewells.is_empty()
    }
}

impl Engine for NativeEngine {
    fn open(&self, spec: &SourceSpec, hold: bool) -> Box<dyn Session> {
        let client = client::Client::new(spec, hold, &self.user_agent);
        Box::new(session::NativeSession::new(client, self.new_ssrc(), Rc::clone(&self.shared)))
    }

    fn tick(&self, at: TickTime) {
        self.say_farewell(Some(at.monotonic_us));
    }

    fn drain(&self, limit: Duration) -> futures::future::LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let said = async {
                while self.say_farewell(None) {
                    tokio::time::sleep(DRAIN_INTERVAL).await;
                }
            };
            // Whether every camera answered makes no difference any more.
            let _ = tokio::time::timeout(limit, said).await;
        })
    }
}
