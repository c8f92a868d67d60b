//! Ports of the recorders: of their HTTP servers, and where their peers reach them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use crate::decide::wanted::Key;

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else has it.
    #[error(
        "port {port} on {address}, meant for {recorder}, is in use by another program; choose another --http-base-port, \
         or 0 for any free ports"
    )]
    InUse {
        /// The port.
        port: u16,
        /// The address.
        address: IpAddr,
        /// Whose it was to be.
        recorder: Key,
    },
    /// The address is not ours, or there are no ports left, or they are not for us.
    #[error("cannot listen on {address}, port {port}: {source}; see --listen and --http-base-port")]
    Refused {
        /// The port.
        port: u16,
        /// The address.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// The range ends at 65535.
    #[error("--http-base-port {base} leaves no port for {recorder}; choose a lower one")]
    OutOfRange {
        /// The first port.
        base: u16,
        /// Who gets none.
        recorder: Key,
    },
}

/// The ports of a recorder; 0: none was chosen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Of its HTTP server.
    pub http: u16,
    /// Where its peers reach it.
    pub peer: u16,
}

/// Where on this machine one is reached that listens on this address: nobody can be reached at "all addresses".
#[must_use]
pub fn from_here(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    }
}

/// Ports for each recorder: those it had if they are still free, else for HTTP the next of the range from `base`, or any where `base` is 0, and for
/// peers, whom the operator tells, any. Ports of recorders that run are theirs already and are not tried.
///
/// # Errors
/// When a port that was asked for can't be had.
pub fn choose(
    recorders: &BTreeMap<Key, Ports>,
    running: &BTreeSet<Key>,
    base: u16,
    address: IpAddr,
) -> Result<BTreeMap<Key, Ports>, PortError> {
    let theirs = recorders.iter().filter(|(key, _)| running.contains(*key));
    let mut choice = Choice {
        address,
        running,
        taken: theirs.flat_map(|(_, ports)| [ports.http, ports.peer]).collect(),
        held: Vec::new(),
    };
    let of = |port: fn(&Ports) -> u16| recorders.iter().map(|(key, ports)| (key.clone(), port(ports))).collect();
    let http = choice.make(&of(|ports| ports.http), base)?;
    let peer = choice.make(&of(|ports| ports.peer), 0)?;
    let both = http.into_iter().zip(peer.into_values());
    Ok(both.map(|((key, http), peer)| (key, Ports { http, peer })).collect())
}

/// Ports as they are being chosen.
struct Choice<'r> {
    address: IpAddr,
    running: &'r BTreeSet<Key>,
    taken: BTreeSet<u16>,
    /// Held until all are chosen, so that none is given twice.
    held: Vec<TcpListener>,
}

impl Choice<'_> {
    /// A port for each of these.
    fn make(&mut self, wanted: &BTreeMap<Key, u16>, base: u16) -> Result<BTreeMap<Key, u16>, PortError> {
        let last = usize::from(base) + wanted.len();
        let in_range = |port: u16| port != 0 && (base == 0 || (port >= base && usize::from(port) < last));
        let mut chosen = BTreeMap::new();
        let mut open = Vec::new();
        for (key, port) in wanted {
            if self.running.contains(key) {
                chosen.insert(key.clone(), *port);
            } else if in_range(*port)
                && !self.taken.contains(port)
                && let Ok(listener) = TcpListener::bind((self.address, *port))
            {
                self.hold(listener, *port);
                chosen.insert(key.clone(), *port);
            } else {
                open.push(key);
            }
        }
        let mut next = usize::from(base);
        for key in open {
            let port = if base == 0 {
                0
            } else {
                while self.taken.iter().any(|taken| usize::from(*taken) == next) {
                    next += 1;
                }
                u16::try_from(next).map_err(|_| PortError::OutOfRange { base, recorder: key.clone() })?
            };
            let refused = |source: io::Error| match source.kind() {
                io::ErrorKind::AddrInUse => PortError::InUse { port, address: self.address, recorder: key.clone() },
                _ => PortError::Refused { port, address: self.address, source },
            };
            let listener = TcpListener::bind((self.address, port)).map_err(refused)?;
            let port = listener.local_addr().map_err(refused)?.port();
            self.hold(listener, port);
            chosen.insert(key.clone(), port);
        }
        Ok(chosen)
    }

    fn hold(&mut self, listener: TcpListener, port: u16) {
        self.held.push(listener);
        self.taken.insert(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn recorders(ports: &[u16]) -> BTreeMap<Key, Ports> {
        let ports = ports.iter().map(|http| Ports { http: *http, peer: 0 });
        ports.enumerate().map(|(n, ports)| (Key::new("default", format!("r{n}")), ports)).collect()
    }

    /// A port with free ones behind it; others may take them meanwhile, so the caller tries again.
    fn free() -> u16 {
        TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port().min(65_000)
    }

    #[test]
    fn any_free_ports_differ_and_are_kept() {
        let first = choose(&recorders(&[0, 0, 0]), &BTreeSet::new(), 0, LOCAL).unwrap();
        let ports: BTreeSet<u16> = first.values().flat_map(|ports| [ports.http, ports.peer]).collect();
        assert_eq!(ports.len(), 6);
        assert!(!ports.contains(&0));
        assert_eq!(choose(&first, &BTreeSet::new(), 0, LOCAL).unwrap(), first);
    }

    #[test]
    fn a_range_is_used_in_order_and_a_taken_port_is_named() {
        let base = (0..20).find_map(|_| {
            let base = free();
            let chosen = choose(&recorders(&[0, 0]), &BTreeSet::new(), base, LOCAL).ok()?;
            assert_eq!(chosen.values().map(|ports| ports.http).collect::<Vec<_>>(), [base, base + 1]);
            Some(base)
        });
        let base = base.unwrap();
        let _taken = TcpListener::bind((LOCAL, base + 1)).unwrap();
        let error = choose(&recorders(&[0, 0]), &BTreeSet::new(), base, LOCAL).unwrap_err().to_string();
        assert!(error.contains(&(base + 1).to_string()) && error.contains("--http-base-port"), "{error}");
    }

    #[test]
    fn who_runs_keeps_its_port() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let running = BTreeSet::from([Key::new("default", "r0")]);
        let chosen = choose(&recorders(&[port, 0]), &running, 0, LOCAL).unwrap();
        assert_eq!(chosen[&Key::new("default", "r0")].http, port);
        assert_ne!(chosen[&Key::new("default", "r1")].http, port);
    }

    #[test]
    fn a_peers_port_in_the_range_is_passed_over() {
        let base = free();
        let running = BTreeSet::from([Key::new("default", "r0")]);
        let mut recorders = recorders(&[base, 0]);
        recorders.insert(Key::new("default", "r0"), Ports { http: base, peer: base + 1 });
        let chosen = choose(&recorders, &running, base, LOCAL).unwrap();
        assert_eq!(chosen[&Key::new("default", "r0")], Ports { http: base, peer: base + 1 });
        assert_eq!(chosen[&Key::new("default", "r1")].http, base + 2);
    }

    #[test]
    fn peers_on_this_machine_are_reached_at_an_address_of_their_own() {
        let reached = |listen: &str| from_here(listen.parse().unwrap()).to_string();
        assert_eq!([reached("0.0.0.0"), reached("::"), reached("10.0.0.7")], ["127.0.0.1", "::1", "10.0.0.7"]);
    }

    #[test]
    fn ranges_end() {
        let error = choose(&recorders(&[0, 0]), &BTreeSet::new(), u16::MAX, LOCAL).unwrap_err();
        assert!(matches!(error, PortError::OutOfRange { .. } | PortError::InUse { .. }), "{error}");
    }
}
