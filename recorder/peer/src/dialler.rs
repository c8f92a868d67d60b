//! Dials one peer whenever there is no connection with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{debug, info};

use crate::connection::{self, Event};
use crate::links::{Clock, Peer};
use crate::places::Places;
use crate::tls::{Ends, Known};
use crate::trouble::Trouble;

/// A peer that cannot be reached is dialled again after so long, and after twice as long each time, up to the second one.
const REDIAL: Duration = Duration::from_millis(100);
const REDIAL_AT_MOST: Duration = Duration::from_secs(2);

/// The task that dials.
pub(crate) struct Dialler {
    pub(crate) peer: Peer,
    pub(crate) places: Places,
    /// Whether a connection with the peer stands.
    pub(crate) is_linked: watch::Receiver<bool>,
    pub(crate) ends: Arc<Ends>,
    pub(crate) known: Arc<Known>,
    pub(crate) events: mpsc::Sender<Event>,
    /// How many connections there were, to number them.
    pub(crate) numbers: Arc<AtomicU64>,
    pub(crate) clock: Clock,
}

impl Dialler {
    /// Until nobody wants to know any more.
    pub(crate) async fn run(mut self) {
        if self.peer.keys.is_empty() {
            // Whoever answered would be refused.
            return drop(self.events.send(Event::NotReached { peer: self.peer.recorder, why: Trouble::NoKey }).await);
        }
        let mut wait = REDIAL;
        loop {
            if *self.is_linked.borrow_and_update() {
                // One that stood ended: its process begins anew, for instance.
                wait = REDIAL;
            }
            if self.is_linked.wait_for(|linked| !linked).await.is_err() {
                return;
            }
            if self.round().await {
                wait = REDIAL;
            }
            // Not all at the same moment, behind an outage.
            let jitter = Duration::from_micros((self.clock.monotonic_us)() % 50_000);
            sleep(wait + jitter).await;
            wait = (wait * 2).min(REDIAL_AT_MOST);
        }
    }

    /// Tries each address, up to the first one where the peer is. Whether that was of any use for a while.
    async fn round(&self) -> bool {
        let peer = &self.peer;
        let mut trouble = None;
        let elsewhere = self.places.to_try().into_iter().map(|place| place.to_string());
        let elsewhere = elsewhere.filter(|place| !peer.addresses.contains(place)).map(|place| (place, false));
        let planned = peer.addresses.iter().map(|address| (address.clone(), true));
        for (address, is_planned) in planned.chain(elsewhere) {
            match connection::dial(&address, &self.ends, &self.known).await {
                // Its address is another one's by now: a link with that one, which may last for ever, is none with this one.
                Ok(other) if other.peer != peer.recorder => {
                    let found = Event::Found { peer: other.peer, at: other.remote };
                    let this = Trouble::OtherKey { address, key: other.key };
                    drop(other);
                    let _ = self.events.send(found).await;
                    if is_planned {
                        trouble = trouble.filter(Trouble::needs_somebody).or(Some(this));
                    }
                }
                Ok(shaken) => {
                    if !is_planned {
                        info!(peer = peer.name, address, "a recorder is not where the plan says, and is reached here");
                    }
                    let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                    // By itself: it outlives the one who dials, when the peer has another address or one key more.
                    let run = tokio::spawn(connection::run(shaken, number, self.events.clone()));
                    return run.await.unwrap_or(false);
                }
                // Who is not where others say that it is has gone on.
                Err(error) if !is_planned => debug!(peer = peer.name, address, %error, "nobody is there"),
                Err(error) => {
                    let this = Trouble::of_dial(&address, &error);
                    trouble = trouble.filter(Trouble::needs_somebody).or(Some(this));
                }
            }
        }
        if let Some(why) = trouble {
            let _ = self.events.send(Event::NotReached { peer: peer.recorder, why }).await;
        }
        false
    }
}
