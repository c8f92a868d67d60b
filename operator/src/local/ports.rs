//! Ports of the recorders' HTTP servers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, TcpListener};

use super::manifest::Key;

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

/// A port for each recorder: the one it had if it is still free, else the next of the range from `base`, or any where `base` is 0.
/// Ports of recorders that run are theirs already and are not tried.
///
/// # Errors
/// When a port that was asked for can't be had.
pub fn choose(
    recorders: &BTreeMap<Key, u16>,
    running: &BTreeSet<Key>,
    base: u16,
    address: IpAddr,
) -> Result<BTreeMap<Key, u16>, PortError> {
    let last = usize::from(base) + recorders.len();
    let in_range = |port: u16| port != 0 && (base == 0 || (port >= base && usize::from(port) < last));
    let mut chosen: BTreeMap<Key, u16> =
        recorders.iter().filter(|(key, _)| running.contains(*key)).map(|(key, port)| (key.clone(), *port)).collect();
    // Held until all are chosen, so that none is given twice.
    let mut held = Vec::new();
    let mut open: Vec<&Key> = Vec::new();
    for (key, port) in recorders.iter().filter(|(key, _)| !running.contains(*key)) {
        if in_range(*port)
            && !chosen.values().any(|taken| taken == port)
            && let Ok(listener) = TcpListener::bind((address, *port))
        {
            held.push(listener);
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
            while chosen.values().any(|taken| usize::from(*taken) == next) {
                next += 1;
            }
            u16::try_from(next).map_err(|_| PortError::OutOfRange { base, recorder: key.clone() })?
        };
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => PortError::InUse { port, address, recorder: key.clone() },
            _ => PortError::Refused { port, address, source },
        };
        let listener = TcpListener::bind((address, port)).map_err(refused)?;
        let port = listener.local_addr().map_err(refused)?.port();
        held.push(listener);
        chosen.insert(key.clone(), port);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn recorders(ports: &[u16]) -> BTreeMap<Key, u16> {
        ports.iter().enumerate().map(|(n, port)| (Key::new("default", format!("r{n}")), *port)).collect()
    }

    /// A port with free ones behind it; others may take them meanwhile, so the caller tries again.
    fn free() -> u16 {
        TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port().min(65_000)
    }

    #[test]
    fn any_free_ports_differ_and_are_kept() {
        let first = choose(&recorders(&[0, 0, 0]), &BTreeSet::new(), 0, LOCAL).unwrap();
        let ports: BTreeSet<u16> = first.values().copied().collect();
        assert_eq!(ports.len(), 3);
        assert!(!ports.contains(&0));
        assert_eq!(choose(&first, &BTreeSet::new(), 0, LOCAL).unwrap(), first);
    }

    #[test]
    fn a_range_is_used_in_order_and_a_taken_port_is_named() {
        let base = (0..20).find_map(|_| {
            let base = free();
            let chosen = choose(&recorders(&[0, 0]), &BTreeSet::new(), base, LOCAL).ok()?;
            assert_eq!(chosen.values().copied().collect::<Vec<_>>(), [base, base + 1]);
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
        assert_eq!(chosen[&Key::new("default", "r0")], port);
        assert_ne!(chosen[&Key::new("default", "r1")], port);
    }

    #[test]
    fn ranges_end() {
        let error = choose(&recorders(&[0, 0]), &BTreeSet::new(), u16::MAX, LOCAL).unwrap_err();
        assert!(matches!(error, PortError::OutOfRange { .. } | PortError::InUse { .. }), "{error}");
    }
}
