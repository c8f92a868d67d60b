//! What an API server counted: writes by verb and resource, from its own metrics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::http::Request;
use kube::Client;
use tokio::time::sleep;

/// Verbs that write nothing.
const READS: [&str; 6] = ["GET", "LIST", "WATCH", "WATCHLIST", "CONNECT", "PROXY"];
/// Reviews are requests to create something that is never kept.
const NEVER_KEPT: &str = "reviews";

/// Writes so far, by "VERB resource/subresource". Those that were refused count, too.
pub(super) type Writes = BTreeMap<String, u64>;

/// What the API server has counted so far.
///
/// # Errors
/// When it does not answer.
pub(super) async fn writes(client: &Client) -> Result<Writes> {
    let request = Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await.context("the metrics of the API server")?;
    Ok(read(&text))
}

fn read(text: &str) -> Writes {
    let mut writes = Writes::new();
    for line in text.lines() {
        let Some((labels, value)) = line.strip_prefix("apiserver_request_total{").and_then(|it| it.split_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let found = labels.split(',').filter_map(|label| label.split_once('=')).find(|(key, _)| *key == name);
            found.map(|(_, value)| value.trim_matches('"')).unwrap_or_default()
        };
        let (verb, resource, sub) = (label("verb"), label("resource"), label("subresource"));
        let count = value.trim().parse::<f64>().unwrap_or(0.0) as u64;
        if READS.contains(&verb)
            || resource.is_empty()
            || resource.ends_with(NEVER_KEPT)
            || !label("dry_run").is_empty()
        {
            continue;
        }
        let slash = if sub.is_empty() { "" } else { "/" };
        *writes.entry(format!("{verb} {resource}{slash}{sub}")).or_default() += count;
    }
    writes
}

/// What came between two readings, without what stayed the same.
#[must_use]
pub(super) fn between(before: &Writes, after: &Writes) -> Writes {
    let grown = after.iter().map(|(key, now)| (key.clone(), now - before.get(key).copied().unwrap_or(0).min(*now)));
    grown.filter(|(_, count)| *count > 0).collect()
}

/// All but those of Leases.
#[must_use]
pub(super) fn without_leases(writes: &Writes) -> Writes {
    writes.iter().filter(|(key, _)| !key.ends_with(" leases")).map(|(key, count)| (key.clone(), *count)).collect()
}

/// As a sentence has it.
#[must_use]
pub(super) fn told(writes: &Writes) -> String {
    let all: Vec<String> = writes.iter().map(|(key, count)| format!("{count} {key}")).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// Waits until nothing but Leases was written for `still`.
///
/// # Errors
/// When that takes longer than `patience`; says what is being written.
pub(super) async fn quiet(client: &Client, still: Duration, patience: Duration) -> Result<Writes> {
    let began = Instant::now();
    let (mut before, mut since) = (without_leases(&writes(client).await?), Instant::now());
    loop {
        // The metrics are some megabytes: asked for more often, they would be what is measured.
        sleep(Duration::from_secs(2)).await;
        let now = without_leases(&writes(client).await?);
        if now == before {
            if since.elapsed() >= still {
                return Ok(now);
            }
        } else if began.elapsed() > patience {
            bail!("after {} s there is still written: {}", patience.as_secs(), told(&between(&before, &now)));
        } else {
            (before, since) = (now, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE apiserver_request_total counter\n\
        apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"coordination.k8s.io\",resource=\"leases\",scope=\"resource\",subresource=\"\",verb=\"PATCH\",version=\"v1\"} 7\n\
        apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"framekeeper.dev\",resource=\"camerastreams\",scope=\"resource\",subresource=\"status\",verb=\"APPLY\",version=\"v1alpha1\"} 3\n\
        apiserver_request_total{code=\"409\",component=\"apiserver\",dry_run=\"\",group=\"framekeeper.dev\",resource=\"camerastreams\",scope=\"resource\",subresource=\"status\",verb=\"APPLY\",version=\"v1alpha1\"} 2\n\
        apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"nodes\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 9\n\
        apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"authorization.k8s.io\",resource=\"subjectaccessreviews\",scope=\"cluster\",subresource=\"\",verb=\"POST\",version=\"v1\"} 9\n";

    #[test]
    fn writes_are_counted_by_verb_and_resource_whatever_became_of_them() {
        let found = read(TEXT);
        let expected = [("APPLY camerastreams/status".to_owned(), 5), ("PATCH leases".to_owned(), 7)];
        assert_eq!(found, expected.into());
        assert_eq!(told(&without_leases(&found)), "5 APPLY camerastreams/status");
        assert_eq!(between(&found, &found), Writes::new());
        assert_eq!(between(&Writes::new(), &found), found);
    }
}
