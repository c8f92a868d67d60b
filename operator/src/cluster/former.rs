//! What operators before this one said of streams, asked for page by page when this one begins to lead.

use std::collections::BTreeMap;
use std::sync::Arc;

use framekeeper_crds::{CameraStream, CameraStreamStatus};
use kube::api::{Api, ListParams};
use kube::{Client, Error, ResourceExt as _};
use tokio::time::timeout;

use super::apply::WriteError;
use super::guarded::Guarded;
use super::plane::ANSWER;
use crate::decide::wanted::Key;

/// So many are asked for at once.
const PAGE: u32 = 500;

/// The statuses of all streams that have one and can be understood.
///
/// # Errors
/// [`WriteError::Refused`] when the API server does not say.
pub(super) async fn streams(
    client: &Client,
    namespaces: &[String],
) -> Result<BTreeMap<Key, CameraStreamStatus>, WriteError> {
    let mut found = BTreeMap::new();
    if namespaces.is_empty() {
        of(&Api::all(client.clone()), &mut found).await?;
    }
    for namespace in namespaces {
        of(&Api::namespaced(client.clone(), namespace), &mut found).await?;
    }
    Ok(found)
}

async fn of(api: &Api<Guarded<CameraStream>>, found: &mut BTreeMap<Key, CameraStreamStatus>) -> Result<(), WriteError> {
    let mut params = ListParams::default().limit(PAGE);
    loop {
        // Whoever begins to lead waits for this, and everybody for whoever leads.
        let page = match timeout(ANSWER, api.list(&params)).await {
            Ok(page) => page,
            Err(_) => Err(Error::Service("no answer in time".into())),
        };
        let page = page.map_err(|source| WriteError::Refused {
            what: "the list of CameraStreams".to_owned(),
            source: Box::new(source),
        })?;
        let more = page.metadata.continue_.filter(|token| !token.is_empty());
        let streams = page.items.into_iter().filter_map(|guard| Some(Arc::unwrap_or_clone(guard.0.ok()?)));
        found.extend(streams.filter_map(|stream| {
            let key = Key::new(stream.namespace().unwrap_or_default(), stream.name_any());
            Some((key, stream.status?))
        }));
        let Some(token) = more else { return Ok(()) };
        params = params.continue_token(&token);
    }
}
