//! The Native engine: RTSP 1.0 (RFC 2326) over TCP, RTP interleaved, on the `retina` crate.
//!
//! Of retina only the RTSP client is used, packet by packet; pictures are put together here (`rtp_h264.rs`, `rtp_aac.rs`), so that every
//! packet is counted, memory is bounded, and a payload that makes no sense costs one picture and not the session.
//!
//! What retina cannot do, and its successor must: go on after a broken RTP or RTCP header (the session begins anew, at once if it had been
//! good for 10 s); send RTCP; take a new nonce in mid-session (a camera that wants one closes sooner or later); bound an RTSP message's
//! size (a peer that sends an endless one fills memory at line rate until the hand-shake or silence limit); TLS.

mod failure;
mod handshake;
mod redirect;
mod session;

use std::sync::Arc;
use std::time::Duration;

use retina::client::SessionGroup;

use crate::engine::{Engine, Session};
use crate::spec::SourceSpec;

/// See the module.
pub(crate) struct NativeEngine {
    user_agent: String,
    /// Closed sessions whose TEARDOWN is not answered yet.
    farewells: Arc<SessionGroup>,
}

impl NativeEngine {
    pub(crate) fn new(user_agent: String) -> Self {
        Self { user_agent, farewells: Arc::new(SessionGroup::default()) }
    }
}

impl Engine for NativeEngine {
    fn open(&self, spec: &SourceSpec) -> Box<dyn Session> {
        let opening = handshake::open(spec.clone(), self.user_agent.clone(), Arc::clone(&self.farewells));
        Box::new(session::NativeSession::new(Box::pin(opening)))
    }

    fn drain(&self, limit: Duration) -> futures::future::LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            // Whether every camera answered makes no difference any more.
            let _ = tokio::time::timeout(limit, self.farewells.await_teardown()).await;
        })
    }
}
