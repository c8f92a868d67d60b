//! Where other recorders are asked for footage, when they are not where the plan says: a pod whose sandbox was made anew has another address, and while the
//! API server is away no plan tells it. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Names and HTTP addresses of recorders, with the hosts that they are heard from in place of those that the plan has. Names in DNS stay.
pub(super) fn all(planned: &[(String, String)], hosts: &HashMap<String, IpAddr>) -> Vec<(String, String)> {
    planned.iter().map(|(name, address)| (name.clone(), one(address, hosts.get(name)))).collect()
}

fn one(planned: &str, host: Option<&IpAddr>) -> String {
    match (planned.parse::<SocketAddr>(), host) {
        (Ok(planned), Some(host)) => SocketAddr::new(*host, planned.port()).to_string(),
        _ => planned.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_heard_from_elsewhere_is_asked_there() {
        let text = |text: &str| text.to_owned();
        let planned = ["10.0.0.1:8080", "10.0.0.2:8080", "b.pool.svc:8080", "[::1]:8080"];
        let planned: Vec<_> = ["a", "b", "c", "d"].map(text).into_iter().zip(planned.map(text)).collect();
        let hosts = [("b", "10.0.0.9"), ("c", "10.0.0.7"), ("d", "fd00::1")];
        let hosts = hosts.map(|(name, host)| (text(name), host.parse().unwrap())).into();
        let expected = ["10.0.0.1:8080", "10.0.0.9:8080", "b.pool.svc:8080", "[fd00::1]:8080"];
        let addresses: Vec<String> = all(&planned, &hosts).into_iter().map(|(_, address)| address).collect();
        assert_eq!(addresses, expected);
    }
}
