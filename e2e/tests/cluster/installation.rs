//! The chart with the real helm: install, upgrade, roll back.

use std::time::Duration;

use anyhow::{Result, ensure};
use framekeeper_e2e::judge;
use serde_json::Value;

use super::site::{RELEASE, install_chart, install_release, installed};

#[test]
fn the_chart_is_upgraded_and_rolled_back_and_tests_itself() -> Result<()> {
    let cluster = installed()?;
    judge::say(&cluster.helm(&["test", RELEASE, "-n", RELEASE, "--timeout", "60s"])?);
    install_chart(cluster, &["--set", "log=debug"])?;
    cluster.helm(&["rollback", RELEASE, "-n", RELEASE, "--wait", "--timeout", "90s"])?;
    judge::say(&cluster.helm(&["history", RELEASE, "-n", RELEASE])?);
    // One node that fails must not take both operators with it, least of all because they were upgraded.
    cluster
        .wait("the operators are on two nodes", Duration::from_secs(60), || {
            let pods = cluster.list(&[
                "pods",
                "-n",
                RELEASE,
                "-l",
                "app.kubernetes.io/component=operator,pod-template-hash",
            ])?;
            let stay = pods.iter().filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
            let nodes: Vec<&str> =
                stay.filter_map(|pod| pod.pointer("/spec/nodeName").and_then(Value::as_str)).collect();
            ensure!(nodes.len() == 2, "{nodes:?}");
            Ok(Some(nodes.first() != nodes.last()))
        })
        .and_then(|(apart, _)| {
            ensure!(apart, "both operators are on one node");
            Ok(())
        })?;
    for kind in ["camerastreams", "storagepools", "recorders"] {
        cluster.kubectl(&["get", "crd", &format!("{kind}.framekeeper.dev")])?;
    }
    Ok(())
}

/// A second installation, for one namespace: what helm makes of it, and what is left when it is taken away.
#[test]
fn an_installation_for_one_namespace_reads_no_secret_elsewhere_and_leaves_nothing_behind() -> Result<()> {
    const OTHER: &str = "other";
    let cluster = installed()?;
    cluster.kubectl(&["create", "namespace", "tenant"])?;
    let more = ["--set", "watchNamespaces={tenant}", "--set", "crds.install=false", "--set", "replicas=1"];
    install_release(cluster, OTHER, &more)?;
    let labelled = format!("app.kubernetes.io/instance={OTHER}");
    let kinds = "deployments,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,poddisruptionbudgets,configmaps";
    let left = || cluster.kubectl(&["get", kinds, "-A", "-l", &labelled, "-o", "name"]);
    let made = left()?;
    ensure!(made.contains("deployment") && made.contains("role.rbac"), "{made}");
    let accounts = cluster.kubectl(&[
        "get",
        "serviceaccounts",
        "-n",
        OTHER,
        "-l",
        &labelled,
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])?;
    let who = format!("--as=system:serviceaccount:{OTHER}:{}", accounts.trim());
    // kubectl says no by its exit code.
    let may = |namespace: &str| cluster.kubectl(&["auth", "can-i", "list", "secrets", "-n", namespace, &who]).is_ok();
    ensure!(may("tenant") && !may("default") && !may(RELEASE), "it reads Secrets where it has nothing to do");
    cluster.helm(&["uninstall", OTHER, "-n", OTHER, "--wait", "--timeout", "90s"])?;
    let left = left()?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    // They belong to the cluster, and so does what stands in them.
    for kind in ["camerastreams", "storagepools", "recorders"] {
        cluster.kubectl(&["get", "crd", &format!("{kind}.framekeeper.dev")])?;
    }
    cluster.kubectl(&["delete", "namespace", "tenant", OTHER, "--timeout=60s"])?;
    Ok(())
}
