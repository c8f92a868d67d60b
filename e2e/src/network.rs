//! A network of a test's own, in which the way between two programs can be cut. Needs root.
//!
//! Loopback only. What is cut is gone as on a wire: packets that leave a port, or are for one, are dropped by a rule of routing; connections that
//! stand learn nothing of it, and new ones are not made.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The network namespace that the thread which made it is in, with all programs that it starts.
#[derive(Debug)]
pub struct Network {
    _private: (),
}

/// Packets that are to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packets {
    /// From whoever listens on this port, to whoever dialled it.
    From(u16),
    /// To whoever listens on this port.
    To(u16),
}

/// Rules of a lower number come before the one for local addresses, which is moved to the last of these.
const FIRST: u32 = 100;
const LOCAL: u32 = 200;

impl Network {
    /// Moves this thread, and what it starts from now on, into a network of its own.
    ///
    /// # Errors
    /// Without root, or without iproute2.
    pub fn enter() -> Result<Self> {
        #[expect(
            unsafe_code,
            reason = "unsharing the network touches no table of descriptors, which is what is unsafe about it"
        )]
        // SAFETY: see the reason above.
        unsafe {
            rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET).context("a network of its own")?;
        }
        let network = Self { _private: () };
        ip("link set lo up")?;
        ip(&format!("rule add pref {LOCAL} lookup local"))?;
        ip("rule del pref 0")?;
        Ok(network)
    }

    /// Drops these from now on.
    ///
    /// # Errors
    /// When the rules are refused.
    pub fn cut(&self, packets: &[Packets]) -> Result<()> {
        for (pref, packets) in (FIRST..LOCAL).zip(packets) {
            let of = match packets {
                Packets::From(port) => format!("sport {port}"),
                Packets::To(port) => format!("dport {port}"),
            };
            ip(&format!("rule add pref {pref} ipproto tcp {of} blackhole"))?;
        }
        Ok(())
    }

    /// Drops nothing any more.
    ///
    /// # Errors
    /// When the rules cannot be taken back.
    pub fn heal(&self) -> Result<()> {
        let rules = Command::new("ip").args(["rule", "show"]).output().context("ip")?;
        for rule in String::from_utf8_lossy(&rules.stdout).lines() {
            let pref = rule.split_once(':').and_then(|(pref, _)| pref.parse::<u32>().ok());
            if let Some(pref) = pref.filter(|pref| *pref < LOCAL) {
                ip(&format!("rule del pref {pref}"))?;
            }
        }
        Ok(())
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("ip: is iproute2 there?")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
