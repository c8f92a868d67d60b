//! What an operator in a cluster was told on its command line.

use std::net::SocketAddr;

/// The command line of `run`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace that the operator itself is in; its Lease is there.
    pub namespace: String,
    /// Who this is: the UID of its pod, or whatever else nobody shares.
    pub identity: String,
    /// Namespaces whose objects are looked after; none: all.
    pub watch_namespaces: Vec<String>,
    /// Name of the Lease that all operators of an installation go by.
    pub lease_name: String,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub listen: SocketAddr,
    /// What recorders are made of.
    pub image: Image,
}

/// The image of recorders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its name, with a tag or a digest.
    pub name: String,
    /// `Always`, `IfNotPresent` or `Never`; the cluster's own choice where nothing is said.
    pub pull_policy: Option<String>,
    /// Names of Secrets for the registry, in the namespace of each pool.
    pub pull_secrets: Vec<String>,
}
