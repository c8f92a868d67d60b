//! One channel of a `Recorder` object, checked.

use framekeeper_crds::{Channel, Onvif, Role};
use framekeeper_ingest::SourceSpec;
use framekeeper_store::{PlanVersion, StreamIdent};
use url::Url;
use uuid::Uuid;

use super::holders::shared;
use super::plan::{ChannelPlan, OnvifPlan, SecretName, check_name, uid_of};

/// What a channel of the object is to be, or why it can't: a reason, and a sentence.
pub(super) fn channel_plan(channel: &Channel, me: Uuid) -> Result<ChannelPlan, (&'static str, String)> {
    const INVALID: &str = "InvalidChannel";
    let stream = &channel.stream;
    for (field, value) in [("stream.namespace", &stream.namespace), ("stream.name", &stream.name)] {
        check_name(field, value).map_err(|error| (INVALID, error.to_string()))?;
    }
    let uid = uid_of("stream.uid", &stream.uid).map_err(|error| (INVALID, error.to_string()))?;
    if (channel.role == Role::Primary) != (channel.rank == 0) {
        let (role, rank) = (channel.role, channel.rank);
        return Err((
            INVALID,
            format!("role is {role:?} and rank {rank}; the primary has rank 0, standbys have others"),
        ));
    }
    let shared = shared(channel, me).map_err(|message| (INVALID, message))?;
    if shared.is_none() && channel.role == Role::Standby {
        return Err((INVALID, "holders is empty; a standby stands by for somebody".to_owned()));
    }
    let shown = framekeeper_crds::validate::redact_url(&channel.source.url);
    let url = Url::parse(&channel.source.url).map_err(|error| {
        (
            "InvalidSource",
            format!(
                "source.url is {shown:?}: {error}; it must be an address such as rtsp://camera.example:554/stream1"
            ),
        )
    })?;
    SourceSpec::new(url.clone()).validate().map_err(|error| ("InvalidSource", format!("source.{error}")))?;
    let onvif = channel.source.onvif.as_ref().map(onvif_plan).transpose()?;
    Ok(ChannelPlan {
        stream: StreamIdent { uid, namespace: stream.namespace.clone(), name: stream.name.clone() },
        epoch: channel.epoch,
        rank: channel.rank,
        plan_version: PlanVersion { term: channel.plan_version.term, sequence: channel.plan_version.sequence },
        url,
        secret: channel
            .source
            .credentials_secret_ref
            .as_ref()
            .map(|secret| SecretName { namespace: stream.namespace.clone(), name: secret.name.clone() }),
        audio: channel.audio,
        priority: channel.priority,
        onvif,
        shared,
    })
}

fn onvif_plan(onvif: &Onvif) -> Result<OnvifPlan, (&'static str, String)> {
    let shown = framekeeper_crds::validate::redact_url(&onvif.endpoint);
    let plain =
        |url: &Url| url.scheme() == "http" && url.username().is_empty() && url.password().is_none() && url.has_host();
    let endpoint = Url::parse(&onvif.endpoint).ok().filter(plain).ok_or_else(|| {
        let must =
            "it must be an address such as http://camera.example/onvif/device_service, without user name and password";
        ("InvalidSource", format!("source.onvif.endpoint is {shown:?}; {must}"))
    })?;
    Ok(OnvifPlan { endpoint, profile: onvif.profile.clone() })
}
