//! Receives cameras and drops what they send: what ingest alone costs.
//!
//! `receive SECONDS SESSIONS URL…`: SESSIONS sessions with each URL; user name and password, where needed, from CAMERA_USERNAME and
//! CAMERA_PASSWORD. Prints one line with CPU time a stream-second, and what was received.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use framekeeper_ingest::{Credentials, Event, Ingest, IngestConfig, Sink, SourceSpec, TickTime};

struct Count(Arc<AtomicU64>);

impl Sink for Count {
    fn event(&mut self, _at: TickTime, event: Event) {
        match event {
            Event::Video(_) => {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
            Event::Ended(end) => {
                let _ = writeln!(std::io::stderr(), "{:?}: {}", end.kind, end.message);
            }
            _ => {}
        }
    }
    fn tick(&mut self, _at: TickTime) {}
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "receive SECONDS SESSIONS URL…";
    let seconds: u64 = arguments.next().ok_or(usage)?.parse()?;
    let sessions: usize = arguments.next().ok_or(usage)?.parse()?;
    let credentials = std::env::var("CAMERA_USERNAME")
        .ok()
        .map(|name| Credentials::new(name, std::env::var("CAMERA_PASSWORD").unwrap_or_default()));
    let frames = Arc::new(AtomicU64::new(0));
    let ingest = Ingest::start(IngestConfig::default(), Box::new(|_| {}))?;
    let started = Instant::now();
    let mut sources = 0;
    for url in arguments {
        for _ in 0..sessions {
            let spec = SourceSpec { credentials: credentials.clone(), ..SourceSpec::new(url.parse()?) };
            ingest.add(spec, Box::new(Count(Arc::clone(&frames))))?;
            sources += 1;
        }
    }
    while ingest.stats().iter().filter(|(_, s)| s.video_frames > 0).count() < sources {
        if started.elapsed() > Duration::from_secs(60) {
            return Err("not all sources came up within 60 s".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let up = started.elapsed();
    let sums = || {
        let stats = ingest.stats();
        let sum = |pick: fn(&framekeeper_ingest::SourceStats) -> u64| stats.iter().map(|(_, s)| pick(s)).sum::<u64>();
        (sum(|s| s.bytes), sum(|s| s.packets), sum(|s| s.lost_packets), sum(|s| s.attempts), sum(|s| s.damaged_frames))
    };
    let (before, cpu_before, frames_before, ticks_before) =
        (sums(), cpu(), frames.load(Ordering::Relaxed), ingest.tick_stats());
    let measured = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, cpu_after, frames_after, ticks) = (sums(), cpu(), frames.load(Ordering::Relaxed), ingest.tick_stats());
    let stream_seconds = measured.elapsed().as_secs_f64() * sources as f64;
    writeln!(
        std::io::stdout(),
        "sources {sources}, up in {up:.2?}; cpu {:.3} ms, {:.1} frames, {:.3} Mbit, {:.0} packets a stream-second; lost {} damaged {} attempts {}; ticks {} late {} busy {:.1} %",
        (cpu_after - cpu_before).as_secs_f64() * 1000.0 / stream_seconds,
        (frames_after - frames_before) as f64 / stream_seconds,
        (after.0 - before.0) as f64 * 8e-6 / stream_seconds,
        (after.1 - before.1) as f64 / stream_seconds,
        after.2,
        after.4,
        after.3,
        ticks.ticks - ticks_before.ticks,
        ticks.late_ticks - ticks_before.late_ticks,
        (ticks.busy_us - ticks_before.busy_us) as f64 / measured.elapsed().as_micros() as f64 * 100.0,
    )?;
    Ok(())
}
