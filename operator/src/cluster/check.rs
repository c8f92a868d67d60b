//! Whether an installation works, for `helm test` and for people: the API server serves our kinds, and an operator leads.

use std::time::Duration;

use framekeeper_crds::k8s_openapi::api::coordination::v1::Lease;
use framekeeper_crds::{CameraStream, Recorder, StoragePool};
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::election::{NOBODY, Record, Rules};

/// How often the Lease is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Looks, for as long as a leader may take to renew its Lease twice.
///
/// # Errors
/// What is not as it should be, and what to do.
pub async fn check(namespace: &str, lease: &str) -> anyhow::Result<String> {
    let client = Client::try_default().await?;
    served::<CameraStream>(&client, namespace).await?;
    served::<StoragePool>(&client, namespace).await?;
    served::<Recorder>(&client, namespace).await?;
    let api = Api::<Lease>::namespaced(client, namespace);
    let read = async || {
        let found = api.get_opt(lease).await.map_err(|error| anyhow::anyhow!("Lease {namespace}/{lease}: {error}"))?;
        anyhow::Ok(found.as_ref().map(Record::from))
    };
    let first = read().await?;
    let rules = Rules::default();
    let looks = rules.renew_within / u64::try_from(LOOK.as_micros()).unwrap_or(u64::MAX);
    for _ in 0..looks {
        tokio::time::sleep(LOOK).await;
        let now = read().await?;
        let Some(record) = now.filter(|now| !now.holder.is_empty() && now.holder != NOBODY) else { continue };
        // It was renewed: whoever holds it is alive.
        if first.as_ref().is_none_or(|first| first.version != record.version) {
            return Ok(format!("the operator {} leads in term {}", record.holder, record.term));
        }
    }
    anyhow::bail!(
        "no operator leads: Lease {namespace}/{lease} is not renewed; look at the operators' pods and their logs"
    )
}

async fn served<K>(client: &Client, namespace: &str) -> anyhow::Result<()>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    api.list_metadata(&ListParams::default().limit(1)).await.map(|_| ()).map_err(|error| {
        anyhow::anyhow!("{} is not served: {error}; apply the CustomResourceDefinitions", K::plural(&()))
    })
}
