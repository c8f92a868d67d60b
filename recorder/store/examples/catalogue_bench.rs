//! How long a coverage query takes with very many segments in the catalogue.
//!
//! `cargo run --release -p framekeeper-store --example catalogue_bench -- [segments] [streams]`: synthesises a volume whose manifest
//! tells of that many segments (10^6 and 10,000 unless given), opens it, lets it build its catalogue, and asks for coverage and
//! segments of random streams and times. The segment files are there and empty; coverage does not look into them.

use std::io::Write;
use std::time::{Duration, Instant};

use framekeeper_media::WallTime;
use framekeeper_store::{Reader, Store, StoreConfig, VolumeConfig, env::Env, synthetic};
use uuid::Uuid;

const SEGMENT_SECONDS: i64 = 131;
const SEGMENTS_A_RUN: u64 = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let segments: u64 = arguments.next().map_or(Ok(1_000_000), |a| a.parse())?;
    let streams: u64 = arguments.next().map_or(Ok(10_000), |a| a.parse())?;
    let dir = std::env::temp_dir().join(format!("catalogue-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = run(&dir, segments, streams);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn run(dir: &std::path::Path, segments: u64, streams: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    const SEGMENT_BYTES: u64 = 1 << 20;
    let with_room_for = |files: u64| {
        let budget_bytes = files * SEGMENT_BYTES;
        let volume = VolumeConfig { dir: dir.to_owned(), uuid: None, segment_bytes: SEGMENT_BYTES, budget_bytes };
        StoreConfig::new("default/bench", "bench-recorder-0", Uuid::from_u128(1), vec![volume])
    };
    // Formatted by the store itself; then the manifest is put in.
    Store::open(with_room_for(4), Env::real())?.close();
    // Room for all of them, or the oldest would be given up at once.
    let config = with_room_for(segments + 64);
    let start = Instant::now();
    let manifest =
        synthetic::Manifest { segments, streams, segment_seconds: SEGMENT_SECONDS, segments_a_run: SEGMENTS_A_RUN };
    let bytes = manifest.write(&dir.join("manifest.log"))?;
    manifest.touch(dir)?;
    writeln!(
        out,
        "manifest of {segments} segments of {streams} streams: {} MB, written in {:?}",
        bytes >> 20,
        start.elapsed()
    )?;

    let start = Instant::now();
    let store = Store::open(config.clone(), Env::real())?;
    writeln!(out, "open, no catalogue: {:?}", start.elapsed())?;
    let reader = complete(&store);
    writeln!(out, "catalogue complete after {:?}", start.elapsed())?;
    store.close();
    drop((store, reader));

    let start = Instant::now();
    let store = Store::open(config, Env::real())?;
    writeln!(out, "open, with catalogue: {:?}", start.elapsed())?;
    let reader = complete(&store);
    writeln!(out, "catalogue read after {:?}", start.elapsed())?;
    for (what, hours) in [("coverage of 1 h", 1), ("coverage of all time", 1_000_000), ("segments of 1 h", 1)] {
        let mut times = Vec::new();
        let mut found = 0;
        for n in 0..20_000_u64 {
            // A cheap walk over streams and times that visits them in no order.
            let stream = synthetic::stream(n.wrapping_mul(7919) % streams);
            let per_stream = segments / streams;
            let at = i64::try_from(n.wrapping_mul(104_729) % per_stream.max(1))? * SEGMENT_SECONDS * 1_000_000;
            let from = WallTime(synthetic::FIRST_WALL.0 + if hours > 1 { 0 } else { at });
            let to = WallTime(from.0 + hours * 3_600_000_000);
            let begin = Instant::now();
            found += match what {
                "segments of 1 h" => reader.segments(stream, from, to)?.len(),
                _ => reader.coverage(stream, from, to)?.len(),
            };
            times.push(begin.elapsed());
        }
        if found == 0 {
            writeln!(out, "{what}: nothing was found, so nothing was measured")?;
            continue;
        }
        times.sort();
        let percentile = |p: usize| times.get(times.len() * p / 1000).copied().unwrap_or_default();
        writeln!(
            out,
            "{what}: p50 {:?}, p99 {:?}, p99.9 {:?}, {:.1} rows each",
            percentile(500),
            percentile(990),
            percentile(999),
            f64::from(u32::try_from(found)?) / 20_000.0
        )?;
    }
    Ok(())
}

/// Waits until everything that is on the volume can be found.
fn complete(store: &Store) -> Reader {
    let reader = store.reader();
    while !reader.is_complete() {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    reader
}
