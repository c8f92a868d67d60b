//! Asks a camera for key frames over ONVIF whenever its channel wants one.

use std::sync::Arc;
use std::time::Duration;

use framekeeper_onvif::{Camera, OnvifError};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::control::Control;
use super::stats::ChannelStats;

/// A camera that refused is not asked again before this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks until it is dropped.
#[derive(Debug)]
pub(crate) struct Asker(AbortHandle);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Asker {
    /// For the channel of `name` (`namespace/name`).
    pub(crate) fn start(
        runtime: &Handle,
        name: String,
        camera: Camera,
        control: Arc<Control>,
        stats: Arc<ChannelStats>,
    ) -> Self {
        Self(runtime.spawn(ask(name, camera, control, stats)).abort_handle())
    }
}

async fn ask(name: String, mut camera: Camera, control: Arc<Control>, stats: Arc<ChannelStats>) {
    let mut complained = false;
    let mut tell = |result: &Result<(), OnvifError>| match result {
        Ok(()) if std::mem::take(&mut complained) => {
            info!(stream = name, "the camera can be asked for key frames again")
        }
        Err(error) if !std::mem::replace(&mut complained, true) => {
            warn!(
                stream = name,
                "the camera cannot be asked for key frames, so that its next one is waited for: {error}"
            );
        }
        Ok(()) | Err(_) => {}
    };
    // What takes several questions is not for the moment in which one is needed.
    tell(&camera.prepare().await);
    loop {
        control.key_frame_wanted().await;
        let result = camera.ask().await;
        stats.asked_for_key_frame(result.is_ok());
        tell(&result);
        if result.is_err() {
            tokio::time::sleep(PATIENCE).await;
        }
    }
}
