//! The measurement itself, inside the cluster's network.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use framekeeper_crds::k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::{Client, Config};
use tokio::time::sleep;

use super::counts::{self, Writes};
use super::page::{Memory, Report, Steady, Step};
use super::tally::Tally;
use super::{recorders, site};
use crate::bench::process;
use crate::harness::{Running, program};

/// What the targets are about.
pub(super) const STREAMS: usize = 10_000;
/// As above.
pub(super) const RECORDERS: usize = 100;
/// Streams of a recorder: what all of it needs, and some room.
const MAX_CHANNELS: usize = 130;
/// Applied at once on top.
pub(super) const BURST: usize = 2_000;
/// How long nothing may be written before it counts as steady.
const STILL: Duration = Duration::from_secs(8);
/// What takes longer will not come about.
const PATIENCE: Duration = Duration::from_secs(400);
/// The first port of the recorders.
const PORT: u16 = 20_000;

/// Measures in the network that this process is in; `window`: how long steady state is looked at. The text is what goes into the page.
///
/// # Errors
/// When something does not come about.
pub fn run(folder: &Path, window: Duration, tell: &impl Fn(&str)) -> Result<String> {
    // The thread that starts the operator is this one: the kernel ends the operator with it.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(folder, window, tell))
}

/// An operator that runs.
struct Operator {
    process: Running,
}

impl Operator {
    fn start(config: &Path, folder: &Path) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program("framekeeper-operator")?);
        command.args(["run", "--recorder-image", "localhost/framekeeper:bench", "--namespace", site::OPERATOR]);
        command.args(["--listen", "127.0.0.1:8080"]).env("KUBECONFIG", config);
        let process = Running::start("framekeeper-operator", &mut command, &folder.join("operator.log"))?;
        Ok(Self { process })
    }

    fn memory(&self) -> Memory {
        let pid = self.process.pid();
        let (peak, now) = process::resident(pid);
        Memory { peak, now, proportional: process::read(&[pid]).memory_bytes }
    }

    fn cpu_s(&self) -> f64 {
        process::read(&[self.process.pid()]).cpu_s
    }
}

async fn client() -> Result<Client> {
    Ok(Client::try_from(Config::infer().await?)?)
}

fn range(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(site::camera_name).collect()
}

async fn measure(folder: &Path, window: Duration, tell: &impl Fn(&str)) -> Result<String> {
    let config: PathBuf = site::install(folder)?;
    // A client is one connection: what looks on must not wait for what works.
    let (hands, eyes, talk) = (client().await?, client().await?, client().await?);

    tell(&format!("floor: {STREAMS} CameraStreams, and no operator"));
    let (began, created) = site::apply(&hands, 0..STREAMS).await?;
    let floor = created - began;
    site::forget(&hands).await?;

    tell(&format!("{RECORDERS} recorders"));
    let tally = Arc::new(Tally::default());
    site::pool(&hands, RECORDERS, MAX_CHANNELS, "", STREAMS + BURST + 1).await?;
    tally.follow(eyes.clone(), site::CAMERAS);
    recorders::start(talk, site::CAMERAS, PORT, Arc::clone(&tally));
    let mut operator = Operator::start(&config, folder)?;
    let all = async {
        site::run_pods(&hands, RECORDERS, PATIENCE).await?;
        tally.recorders(RECORDERS, PATIENCE).await?;
        counts::quiet(&hands, STILL, PATIENCE).await
    };
    let before = all.await.with_context(|| operator.process.log_tail())?;
    let empty = operator.memory();

    tell(&format!("{STREAMS} streams at once"));
    let many =
        step(&hands, &tally, &operator, &before, 0..STREAMS).await.with_context(|| operator.process.log_tail())?;
    let full = operator.memory();
    tell(&format!("{}; steady state, {} s", many.told(), window.as_secs()));
    let steady = steady(&hands, &operator, window).await?;

    tell("one stream more");
    let before = counts::without_leases(&counts::writes(&hands).await?);
    let one = step(&hands, &tally, &operator, &before, STREAMS..STREAMS + 1).await?;
    tell(&format!("{}; {BURST} streams more", one.told()));
    let before = counts::without_leases(&counts::writes(&hands).await?);
    let burst = step(&hands, &tally, &operator, &before, STREAMS + 1..STREAMS + 1 + BURST).await?;
    tell(&format!("{}; another operator", burst.told()));
    let most = operator.memory();

    operator.process.stop(Duration::from_secs(20))?;
    let before = counts::without_leases(&counts::writes(&hands).await?);
    let began = Instant::now();
    operator = Operator::start(&config, folder)?;
    leads(&hands).await.with_context(|| operator.process.log_tail())?;
    let leads_after = began.elapsed();
    let after = counts::quiet(&hands, STILL, PATIENCE).await.with_context(|| operator.process.log_tail())?;
    let again = (leads_after, counts::between(&before, &after), operator.memory());
    operator.process.stop(Duration::from_secs(20))?;
    Ok(Report { floor, empty, many, full, steady, one, burst, most, again }.text())
}

/// Applies some cameras, and waits until they are recorded and nothing more is written.
async fn step(
    client: &Client,
    tally: &Tally,
    operator: &Operator,
    before: &Writes,
    numbers: std::ops::Range<usize>,
) -> Result<Step> {
    let (names, cpu) = (range(numbers.clone()), operator.cpu_s());
    let (began, created) = site::apply(client, numbers).await?;
    let reached = tally.reached(&names, PATIENCE).await?;
    let cpu_s = operator.cpu_s() - cpu;
    let after = counts::quiet(client, STILL, PATIENCE).await?;
    Ok(Step {
        streams: names.len(),
        created: created - began,
        assigned: reached.assigned - began,
        shown: reached.shown - began,
        recorded: reached.recorded - began,
        writes: counts::between(before, &after),
        cpu_s,
    })
}

async fn steady(client: &Client, operator: &Operator, window: Duration) -> Result<Steady> {
    let (before, cpu, began) = (counts::writes(client).await?, operator.cpu_s(), Instant::now());
    sleep(window).await;
    let (cpu_s, window) = (operator.cpu_s() - cpu, began.elapsed());
    let all = counts::between(&before, &counts::writes(client).await?);
    let writes = counts::without_leases(&all);
    let leases = all.values().sum::<u64>() - writes.values().sum::<u64>();
    Ok(Steady { window, writes, leases, cpu_s })
}

/// Waits until an operator holds the Lease that nobody holds now.
async fn leads(client: &Client) -> Result<()> {
    let api = Api::<Lease>::namespaced(client.clone(), site::OPERATOR);
    let until = Instant::now() + PATIENCE;
    loop {
        let lease = api.get_opt("framekeeper-operator").await?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty());
        if holder.is_some() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < until, "no operator leads");
        sleep(Duration::from_millis(100)).await;
    }
}
