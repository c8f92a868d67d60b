//! What was measured, as the page has it.

use std::fmt::Write as _;
use std::time::Duration;

use super::counts::{Writes, told};
use super::scenario::{BURST, RECORDERS, STREAMS};
use super::site::AT_ONCE;

/// Targets.
const MEMORY_BYTES: u64 = 100 << 20;
const ASSIGNED: Duration = Duration::from_secs(60);

/// Memory of the operator, bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// The most that was ever resident.
    pub(super) peak: u64,
    /// What is resident.
    pub(super) now: u64,
    /// Proportional set size.
    pub(super) proportional: u64,
}

/// Some streams, from when they were applied.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// How many.
    pub(super) streams: usize,
    /// Until the last was there.
    pub(super) created: Duration,
    /// Until a Recorder's spec had the last: the assignment, by which it is recorded.
    pub(super) assigned: Duration,
    /// Until the status of the last named its recorder.
    pub(super) shown: Duration,
    /// Until the status of the last said that it is recorded.
    pub(super) recorded: Duration,
    /// What was written, by everybody.
    pub(super) writes: Writes,
    /// CPU time of the operator until then, seconds.
    pub(super) cpu_s: f64,
}

/// A while in which nothing happened.
#[derive(Clone, Debug)]
pub(super) struct Steady {
    /// How long.
    pub(super) window: Duration,
    /// What was written but Leases.
    pub(super) writes: Writes,
    /// Writes of Leases.
    pub(super) leases: u64,
    /// CPU time of the operator, seconds.
    pub(super) cpu_s: f64,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// How long it takes to create all streams where nobody looks after them.
    pub(super) floor: Duration,
    /// With recorders and no streams.
    pub(super) empty: Memory,
    /// All streams at once.
    pub(super) many: Step,
    /// With all of them.
    pub(super) full: Memory,
    /// Afterwards.
    pub(super) steady: Steady,
    /// One more.
    pub(super) one: Step,
    /// Many more.
    pub(super) burst: Step,
    /// With all of these.
    pub(super) most: Memory,
    /// Another operator: how long until it led, what was written, its memory.
    pub(super) again: (Duration, Writes, Memory),
}

impl Step {
    /// In a few words.
    #[must_use]
    pub(super) fn told(&self) -> String {
        format!(
            "created {:.2} s, assigned {:.2} s, shown {:.2} s, recorded {:.2} s; CPU {:.2} s",
            self.created.as_secs_f64(),
            self.assigned.as_secs_f64(),
            self.shown.as_secs_f64(),
            self.recorded.as_secs_f64(),
            self.cpu_s
        )
    }

    fn row(&self) -> String {
        let Self { streams, created, assigned, shown, recorded, cpu_s, .. } = self;
        let seconds = [created, assigned, shown, recorded].map(|it| format!("{:.2}", it.as_secs_f64())).join(" | ");
        format!("| {streams} | {seconds} | {cpu_s:.2} |\n")
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

impl Report {
    /// The section of the page.
    #[must_use]
    pub(super) fn text(&self) -> String {
        let Self { floor, empty, many, full, steady, one, burst, most, again } = self;
        let mut text = format!(
            "One pool of {RECORDERS} recorders, {STREAMS} CameraStreams, class `None`. `framekeeper-operator run` with the account and the rights that the chart gives it; etcd (without fsync) and an API server of `e2e/cluster` on the same machine; \
             recorders, their pods and nodes are objects that the benchmark writes: each recorder renews its Lease, writes its status and answers `/v1/channels` as a real one. Streams are applied {AT_ONCE} at a time (server-side apply).\n\n\
             | what | target | measured | |\n|---|---|---|---|\n"
        );
        let mut row = |what: &str, target: &str, measured: String, is_met: Option<bool>| {
            let _infallible = writeln!(text, "| {what} | {target} | {measured} | {} |", is_met.map_or("", verdict));
        };
        let measured = format!("{:.1} MiB (proportional, at the end: {:.1})", mib(full.peak), mib(full.proportional));
        row("memory, the most that was resident", "≤ 100 MiB", measured, Some(full.peak <= MEMORY_BYTES));
        let measured = format!(
            "{:.1} s; creating the objects alone, without an operator: {:.1} s",
            many.assigned.as_secs_f64(),
            floor.as_secs_f64()
        );
        let what = format!("{STREAMS} streams, from apply until the last is assigned: in the spec of its Recorder");
        row(&what, "≤ 60 s", measured, Some(many.assigned <= ASSIGNED));
        let measured = format!("{:.1} s", many.shown.max(many.assigned).as_secs_f64());
        row("until the status of the last shows it, too", "", measured, None);
        let measured =
            format!("{} in {} s ({} of Leases)", told(&steady.writes), steady.window.as_secs(), steady.leases);
        row("writes in steady state, but Leases", "0", measured, Some(steady.writes.is_empty()));
        let cpu = steady.cpu_s * 1e3 / steady.window.as_secs_f64();
        let _infallible = write!(
            text,
            "\nCPU in steady state: {cpu:.0} ms a second. Seconds until the last of so many streams was there, was in a Recorder's spec, showed its recorder in its status, and that it is recorded; and the operator's CPU time meanwhile:\n\n\
             | streams at once | created | assigned | shown | recorded | CPU s |\n|---|---|---|---|---|---|\n{}{}{}\n",
            many.row(),
            one.row(),
            burst.row()
        );
        let memory = |it: &Memory| format!("{:.1} | {:.1} | {:.1}", mib(it.peak), mib(it.now), mib(it.proportional));
        let (leads, written, after) = again;
        let _infallible = write!(
            text,
            "The {BURST} and the one came on top of the {STREAMS}. Writes, everybody's: with {STREAMS} streams {}; with one more {}; with {BURST} more {}.\n\n\
             Another operator, started when the first had given up its Lease, led after {:.1} s and wrote: {}.\n\n\
             | memory, MiB | most resident | resident | proportional |\n|---|---|---|---|\n| no streams | {} |\n| {STREAMS} streams | {} |\n| and {BURST} and one more | {} |\n| the other operator, with these | {} |\n",
            told(&many.writes),
            told(&one.writes),
            told(&burst.writes),
            leads.as_secs_f64(),
            told(written),
            memory(empty),
            memory(full),
            memory(most),
            memory(after)
        );
        text
    }
}
