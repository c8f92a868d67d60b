//! Trouble at random: what fails, when, for how long.

use rand::RngExt as _;

use crate::node::{MS, SECOND};
use crate::world::{TOLD, World};

/// Something that ends by itself.
#[derive(Clone, Debug)]
enum Fault {
    Dead(usize),
    Paused,
    Cut(Vec<(usize, usize)>),
    Blind(Vec<(usize, usize)>),
    DiskFails(usize),
    DiskHangs(usize),
    DiskIsSlow(usize),
    Slow(u64),
}

/// A recorder that is back takes the place of a standby when its camera plays and a group of pictures is in its memory, and a primary that is back
/// when those are durable: until then the stream is not protected, and the next failure not promised anything.
const SETTLES: u64 = 5 * SECOND;

/// The faults of one course of events.
pub(crate) struct Trouble {
    /// No new ones from then on.
    until: u64,
    next: u64,
    /// Most recorders that are out of order at the same time.
    together: usize,
    /// Longest time between two, in milliseconds.
    apart: u64,
    going: Vec<(u64, usize, Fault)>,
    /// Recorders whose trouble is over, and until when they count as out of order all the same.
    settling: Vec<(u64, usize)>,
    pub(crate) count: usize,
}

impl Trouble {
    pub(crate) fn new(until: u64, together: usize, apart: u64) -> Self {
        Self { until, next: 20 * SECOND, together, apart, going: Vec::new(), settling: Vec::new(), count: 0 }
    }

    /// To be called before each step.
    pub(crate) fn step(&mut self, world: &mut World) {
        let now = world.now;
        let (over, going): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.going).into_iter().partition(|(end, ..)| *end <= now);
        self.going = going;
        self.settling.retain(|(until, _)| *until > now);
        for (_, node, fault) in over {
            self.settling.push((now + SETTLES, node));
            end(world, fault);
        }
        if now < self.next || now >= self.until {
            return;
        }
        self.next = now + world.random.random_range(500..self.apart) * MS;
        let node = world.random.random_range(0..world.nodes.len());
        let nodes = self.going.iter().map(|(_, of, _)| *of).chain(self.settling.iter().map(|(_, of)| *of));
        let nodes: Vec<usize> = nodes.collect();
        let busy = |node: usize| nodes.contains(&node);
        let others = (0..world.nodes.len()).filter(|other| *other != node && busy(*other)).count();
        // More than the plan has standbys for is promised to nobody.
        if busy(node) || others >= self.together.min(world.fewest_standbys()) {
            return;
        }
        self.count += 1;
        let length = world.random.random_range(300..25_000) * MS;
        let plans = world.plans_made;
        if let Some(fault) = begin(world, node, length, nodes.is_empty()) {
            self.going.push((now + length, node, fault));
        }
        if world.plans_made != plans {
            // A new holder is one when it has heard of it and settled.
            self.next = self.next.max(now + TOLD + SETTLES);
        }
    }
}

/// `calm`: nothing else is out of order.
fn begin(world: &mut World, node: usize, length: u64, calm: bool) -> Option<Fault> {
    let (nodes, streams) = (world.nodes.len(), world.plans.len());
    let other = (node + world.random.random_range(1..nodes)) % nodes;
    let (one, all) = (world.random.random_range(0..world.nodes[node].site.count()), world.random.random_bool(0.5));
    let kind = world.random.random_range(0..17);
    let fault = match kind {
        0 | 1 => {
            world.kill(node, kind == 1);
            return Some(Fault::Dead(node));
        }
        2 => {
            world.nodes[node].paused_until = world.now + length;
            Fault::Paused
        }
        // One way, both ways, from everybody.
        3 => Fault::Cut(vec![(node, other)]),
        4 => Fault::Cut(vec![(node, other), (other, node)]),
        5 => Fault::Cut((0..nodes).filter(|at| *at != node).flat_map(|at| [(node, at), (at, node)]).collect()),
        // One camera, all cameras.
        6 => Fault::Blind(vec![(node, world.random.random_range(0..streams))]),
        7 => Fault::Blind((0..streams).map(|stream| (node, stream)).collect()),
        8 => {
            world.nodes[node].site.fail(|at| all || at == one);
            Fault::DiskFails(node)
        }
        9 => {
            world.nodes[node].site.hang(|at| all || at == one);
            Fault::DiskHangs(node)
        }
        10 => {
            let before = std::mem::replace(&mut world.delay, 300 * MS);
            Fault::Slow(before.min(20 * MS))
        }
        11 => {
            let by = world.random.random_range(500..5_000) * MS;
            world.nodes[node].site.slow_down(by);
            Fault::DiskIsSlow(node)
        }
        12 => {
            let stream = world.random.random_range(0..streams);
            world.replan(stream);
            return None;
        }
        13 | 14 => {
            world.set_clock(node);
            return None;
        }
        _ => {
            if calm {
                world.change_pool(node);
            }
            return None;
        }
    };
    world.say(format!("for {:.1} s, recorder {node}: {fault:?}", length as f64 / 1e6));
    match &fault {
        Fault::Cut(ways) => world.cut.extend(ways),
        Fault::Blind(cameras) => world.blind.extend(cameras),
        _ => {}
    }
    Some(fault)
}

fn end(world: &mut World, fault: Fault) {
    match fault {
        Fault::Dead(node) => world.start(node),
        Fault::Paused => {}
        Fault::Cut(ways) => world.cut.retain(|way| !ways.contains(way)),
        Fault::Blind(cameras) => world.blind.retain(|camera| !cameras.contains(camera)),
        Fault::DiskFails(node) | Fault::DiskHangs(node) | Fault::DiskIsSlow(node) => {
            world.nodes[node].site.mend(world.now)
        }
        Fault::Slow(before) => world.delay = before,
    }
}
