//! How long planning takes, beside floors of the same run: sorting the same streams, and copying the same previous plan.
//!
//! `cargo run --release -p framekeeper-plan --example plan_bench [STREAMS RECORDERS]`; 100,000 and 1,000 by default. Ends with status 1 when
//! a target of design section 9 is missed: a plan ≤ 1 s, one stream added ≤ 5 ms.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use framekeeper_plan::{Class, Condition, Demand, Held, Planner, Promise, Recorder, divide, mix};

const PLAN_TARGET: Duration = Duration::from_secs(1);
const ADD_TARGET: Duration = Duration::from_millis(5);
const ADDED: usize = 1_000;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u32>());
    let (streams, count) = match (numbers.next().unwrap_or(Ok(100_000)), numbers.next().unwrap_or(Ok(1_000))) {
        (Ok(streams), Ok(count)) if streams > 0 && count > 1 => (streams, count),
        _ => {
            println!("plan_bench [STREAMS RECORDERS]: two numbers, at least 1 and 2");
            return ExitCode::from(2);
        }
    };
    let recorders: Vec<Recorder> =
        (0..count).map(|ordinal| Recorder { ordinal, domain: ordinal, condition: Condition::Active }).collect();
    let mut is_met = true;
    for (name, failures, classes) in [
        ("class None", 0, &[Class::None][..]),
        ("class Ready, f = 1", 1, &[Class::Ready]),
        ("class Ready, f = 2", 2, &[Class::Ready]),
        ("class Playing, K = 1", 1, &[Class::Playing]),
        ("all classes, f = 2", 2, &Class::ALL),
    ] {
        // Room for what the class reserves, and for the streams that are added.
        let each = streams.div_ceil(count) + ADDED as u32 / count + 2;
        let max_channels = each * (failures + 1) + 8;
        let promise = Promise { max_channels, tolerated_failures: failures, standbys: failures };
        is_met &= measure(name, streams, classes, promise, &recorders);
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = black_box(work());
    (done, started.elapsed())
}

fn measure(name: &str, streams: u32, classes: &[Class], promise: Promise, recorders: &[Recorder]) -> bool {
    let demand = |number: u32| {
        let class = classes.iter().cycle().nth(number as usize % classes.len()).copied().unwrap_or_default();
        // Names as they are in a cluster; the order of numbers is not that of names.
        (format!("site-{:03}/camera-{number}", number % 500), Demand { class, ..Demand::default() })
    };
    let given: Vec<(String, Demand)> = (0..streams).map(demand).collect();
    let (demands, sorted) = timed(|| given.iter().cloned().collect::<BTreeMap<String, Demand>>());
    let (division, dividing) = timed(|| divide(promise, recorders, mix(promise, demands.values())));

    let nothing = BTreeMap::new();
    let (mut planner, planning) = timed(|| Planner::new(promise, division, recorders, &demands, &nothing));
    let plan = planner.plan();
    let previous: BTreeMap<String, Held> =
        plan.placed.iter().map(|(stream, now)| (stream.clone(), now.held())).collect();
    let (_, copied) = timed(|| (demands.clone(), previous.clone()));
    let (again, replanning) = timed(|| Planner::new(promise, division, recorders, &demands, &previous));
    let is_same = again.plan() == plan;
    let mut lost = recorders.to_vec();
    if let Some(one) = lost.first_mut() {
        one.condition = Condition::Gone;
    }
    let (_, losing) = timed(|| Planner::new(promise, division, &lost, &demands, &previous));

    let mut adding: Vec<Duration> = (streams..)
        .take(ADDED)
        .map(|number| {
            let (stream, demand) = demand(number);
            let (changed, took) = timed(|| planner.set(stream, demand));
            assert!(changed.len() == 1, "a stream that finds room touches no other");
            took
        })
        .collect();
    adding.sort_unstable();
    let (median, slowest) =
        (adding.get(ADDED / 2).copied().unwrap_or_default(), adding.last().copied().unwrap_or_default());

    let protected = plan.placed.values().filter(|assigned| assigned.protected == Some(true)).count();
    let slots = division.slots;
    println!(
        "{name}: {streams} streams, {} recorders, {} normal + {} reserved slots each",
        recorders.len(),
        slots.normal,
        slots.reserved
    );
    println!(
        "  {} placed, {protected} protected; planned again from there: {}",
        plan.placed.len(),
        if is_same { "the same" } else { "DIFFERENT" }
    );
    let line = |what: &str, took: Duration, floor: Duration, of: &str| {
        println!(
            "  {what:<28} {:>9.2} ms = {:>7.2} × {of}",
            took.as_secs_f64() * 1e3,
            took.as_secs_f64() / floor.as_secs_f64()
        );
    };
    line("floor: sorting by name", sorted, sorted, "itself");
    line("floor: copying the plan", copied, copied, "itself");
    line("dividing the slots", dividing, sorted, "sorting");
    line("plan from nothing", planning, sorted, "sorting");
    line("plan again, nothing new", replanning, copied, "copying");
    line("plan again, one lost", losing, copied, "copying");
    line("one stream added, median", median, copied, "copying");
    line("one stream added, slowest", slowest, copied, "copying");
    let plans = [planning, replanning, losing].into_iter().max().unwrap_or_default();
    let is_met = plans <= PLAN_TARGET && slowest <= ADD_TARGET && is_same && plan.waiting.is_empty();
    println!("  targets (plan ≤ 1 s, one added ≤ 5 ms): {}\n", if is_met { "met" } else { "MISSED" });
    is_met
}
