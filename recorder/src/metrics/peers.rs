//! What is counted of other recorders: a part of the table.

use super::Value;
use super::table::{Kind, Metric, one};
use crate::standby::Spread;

/// Behind the others.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "framekeeper_peers",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Recorders that streams are shared with.",
        samples: |scrape| one(Value::Count(scrape.peers.counts.peers)),
    },
    Metric {
        name: "framekeeper_peers_alive",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Of these, those that are heard and hear this one. Fewer than framekeeper_peers: a failure, or a network that is torn.",
        samples: |scrape| one(Value::Count(scrape.peers.counts.alive)),
    },
    Metric {
        name: "framekeeper_peer_connections",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Connections with other recorders; two with one do no harm.",
        samples: |scrape| one(Value::Count(scrape.peers.links.connections)),
    },
    Metric {
        name: "framekeeper_heartbeats_sent",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Heartbeats sent to other recorders.",
        samples: |scrape| one(Value::Count(scrape.peers.links.sent)),
    },
    Metric {
        name: "framekeeper_heartbeats_heard",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Heartbeats of other recorders that came.",
        samples: |scrape| one(Value::Count(scrape.peers.links.heard)),
    },
    Metric {
        name: "framekeeper_peer_refused",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Who came as a recorder and was not let in: its key is not one of the assignment's, it does not take this recorder's, or it was none.",
        samples: |scrape| one(Value::Count(scrape.peers.links.refused)),
    },
    Metric {
        name: "framekeeper_peer_malformed",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Connections with other recorders that were closed because what came was no heartbeat of theirs.",
        samples: |scrape| one(Value::Count(scrape.peers.links.malformed)),
    },
    Metric {
        name: "framekeeper_peer_clock_offset",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        labels: &[],
        help: "By how much the clock of another recorder is ahead of this one's: of the one that is furthest from it. Missing while none is heard.",
        samples: |scrape| {
            let ahead_us = scrape.peers.clock_ahead_us;
            ahead_us.map_or_else(Vec::new, |ahead_us| one(Value::Number(ahead_us as f64 / 1e6)))
        },
    },
    Metric {
        name: "framekeeper_shared_streams",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Streams that are held together with other recorders.",
        samples: |scrape| one(Value::Count(scrape.peers.counts.shared)),
    },
    Metric {
        name: "framekeeper_taken_streams",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Streams that are recorded in another recorder's place now.",
        samples: |scrape| one(Value::Count(scrape.peers.counts.taken)),
    },
    Metric {
        name: "framekeeper_takeovers",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Times that a stream was taken over from another recorder.",
        samples: |scrape| one(Value::Count(scrape.peers.counts.takeovers)),
    },
    Metric {
        name: "framekeeper_handbacks",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Times that a stream that was taken over was given back.",
        samples: |scrape| one(Value::Count(scrape.peers.counts.handbacks)),
    },
    Metric {
        name: "framekeeper_false_takeovers",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Of those that were given back, times that the other recorder had been recording all the time and was only not heard. Both recorded, and \
               nothing is lost by it; many of them: the network between recorders, or processors that are too busy.",
        samples: |scrape| one(Value::Count(scrape.peers.counts.false_takeovers)),
    },
    Metric {
        name: "framekeeper_takeover_detection",
        unit: Some("seconds"),
        kind: Kind::Histogram,
        labels: &[],
        help: "From the last heartbeat of a recorder that recorded the stream until it was decided to take the stream over. What came meanwhile is in \
               memory with class Playing.",
        samples: |scrape| one(spread(scrape.peers.counts.detection)),
    },
    Metric {
        name: "framekeeper_takeover_switching",
        unit: Some("seconds"),
        kind: Kind::Histogram,
        labels: &[],
        help: "From the decision to take a stream over until the first frames of it were durable. With class Ready the camera begins to play meanwhile, \
               and its next key frame comes.",
        samples: |scrape| one(spread(scrape.peers.counts.switching)),
    },
];

fn spread(spread: Spread) -> Value {
    let (count, sum) = spread.total();
    Value::Histogram { sum: sum.as_secs_f64(), count, buckets: spread.buckets() }
}
