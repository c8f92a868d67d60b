//! Metrics: one table says what there is, and the exposition (OpenMetrics text) and `docs/metrics.md` are made from it.
//!
//! Nothing is counted here. At a scrape everything is copied once from where it is counted anyway, so metrics cost a
//! frame nothing.

mod peers;
mod process;
mod table;

use std::fmt::Write as _;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use framekeeper_peer::LinkStats;

pub(crate) use process::ProcessNumbers;
use table::{Kind, Metric};

use crate::limits::LimitNumbers;
use crate::serve::ServeNumbers;
use crate::standby::Counts;
use crate::view::{ChannelView, VolumeView};

/// Everything that metrics are made from, copied at one moment.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) channels: Vec<ChannelView>,
    pub(crate) refused_channels: u64,
    pub(crate) volumes: Vec<VolumeView>,
    pub(crate) ticks: TickNumbers,
    pub(crate) process: ProcessNumbers,
    pub(crate) limits: LimitNumbers,
    pub(crate) serve: ServeNumbers,
    /// What readers keep.
    pub(crate) reader_cache_bytes: u64,
    /// Bytes of all streams' frames in memory, and how many there may be.
    pub(crate) frames_bytes: (usize, usize),
    pub(crate) restarts: u64,
    pub(crate) peers: PeerNumbers,
}

/// What is counted of other recorders, and measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerNumbers {
    pub(crate) counts: Counts,
    pub(crate) links: LinkStats,
    /// Names of recorders that are not heard, and why, as far as that is known.
    pub(crate) silent: Vec<(String, Option<String>)>,
    /// By how much the clock that is furthest from the one here is ahead of it.
    pub(crate) clock_ahead_us: Option<i64>,
    /// Names of recorders whose clocks are not in step, and by how much they are ahead.
    pub(crate) clocks_apart: Vec<(String, i64)>,
}

/// Every metric, in the order of the exposition.
fn metrics() -> impl Iterator<Item = &'static Metric> {
    table::METRICS.iter().chain(peers::METRICS)
}

/// How the tick does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TickNumbers {
    pub(crate) ticks: u64,
    pub(crate) late: u64,
    pub(crate) busy_us: u64,
}

/// One value of a metric: its labels' values, in the table's order.
pub(crate) struct Sample {
    labels: Vec<String>,
    value: Value,
}

/// What a value can be.
pub(crate) enum Value {
    Count(u64),
    Number(f64),
    Histogram { sum: f64, count: u64, buckets: Vec<(f64, u64)> },
}

/// The exposition: OpenMetrics 1.0 text.
///
/// # Errors
/// Never in practice: writing to a string cannot fail.
pub(crate) fn expose(scrape: Scrape) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::new(Exposition { scrape })));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Exposition {
    scrape: Scrape,
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for metric in metrics() {
            let samples = (metric.samples)(&self.scrape);
            let unit = metric.unit.map(|unit| match unit {
                "bytes" => Unit::Bytes,
                "seconds" => Unit::Seconds,
                other => Unit::Other(other.to_owned()),
            });
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, unit.as_ref(), kind)?;
            for sample in &samples {
                let labels: Vec<(&str, &str)> =
                    metric.labels.iter().copied().zip(sample.labels.iter().map(String::as_str)).collect();
                if labels.is_empty() {
                    encode(&mut family, metric.kind, &sample.value)?;
                } else {
                    encode(&mut family.encode_family(&labels)?, metric.kind, &sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> Result<(), std::fmt::Error> {
    use prometheus_client::encoding::NoLabelSet;
    match (kind, value) {
        (Kind::Counter, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
        (Kind::Counter, Value::Number(number)) => encoder.encode_counter::<NoLabelSet, _, u64>(number, None),
        (_, Value::Count(count)) => encoder.encode_gauge(count),
        (_, Value::Number(number)) => encoder.encode_gauge(number),
        (_, Value::Histogram { sum, count, buckets }) => {
            encoder.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
        }
    }
}

/// The text of `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics of a recorder\n\n\
         `GET /metrics` answers in the OpenMetrics text format. This page is made from the table that the answer is made from\n\
         (`recorder/src/metrics/table.rs`) by `UPDATE_DOCS=1 cargo test -p framekeeper-recorder --test recorder metrics_page`.\n\n\
         Counters begin at 0 when the recorder's process starts. `state` and `reason` labels have the words of the `Recorder`\n\
         status and of `docs/format.md`.\n\n\
         | metric | type | labels | what |\n|---|---|---|---|\n",
    );
    for metric in metrics() {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{}` | {kind} | {labels} | {} |", full_name(metric), metric.help);
    }
    text
}

/// The name that a query uses.
fn full_name(metric: &table::Metric) -> String {
    let mut name = metric.name.to_owned();
    if let Some(unit) = metric.unit {
        name.push('_');
        name.push_str(unit);
    }
    if metric.kind == Kind::Counter {
        name.push_str("_total");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_in_order() {
        let mut seen = HashSet::new();
        for metric in metrics() {
            assert!(seen.insert(full_name(metric)), "{} stands twice", metric.name);
            assert!(metric.name.starts_with("framekeeper_"), "{}", metric.name);
            assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{}", metric.help);
            assert!(metric.unit.is_none_or(|unit| !metric.name.ends_with(unit)), "{}", metric.name);
        }
    }

    #[test]
    fn an_empty_recorder_has_an_exposition() {
        let text = expose(Scrape {
            channels: Vec::new(),
            refused_channels: 0,
            volumes: Vec::new(),
            ticks: TickNumbers::default(),
            process: ProcessNumbers::default(),
            limits: LimitNumbers::default(),
            serve: ServeNumbers::default(),
            reader_cache_bytes: 0,
            frames_bytes: (0, 0),
            restarts: 3,
            peers: PeerNumbers::default(),
        })
        .unwrap();
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("framekeeper_restarts_total 3\n"), "{text}");
    }
}
