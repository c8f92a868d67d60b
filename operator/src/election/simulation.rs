//! Operators with clocks of their own, an API server that answers late or not at all, and people who delete the Lease or restore an older state.

use super::*;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
const TICK: u64 = 50 * MS;
const OPERATORS: usize = 3;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What is under way between an operator and the API server.
enum Message {
    Look,
    Seen {
        record: Option<Record>,
        highest: u64,
    },
    Write {
        asked: u64,
        claim: Claim,
    },
    Answer {
        asked: u64,
        claim: Claim,
        granted: bool,
    },
    /// A write of something that only a leader may write, with its term.
    Decision {
        term: u64,
    },
}

struct Operator {
    candidate: Candidate,
    /// Its clock, in thousandths of real time.
    rate: u64,
    next_look: u64,
    /// It waits for an answer, up to then.
    waits_until: u64,
    /// It does not run before.
    paused_until: u64,
    cut_until: u64,
}

struct World {
    now: u64,
    dice: Dice,
    operators: Vec<Operator>,
    ways: Vec<(u64, usize, Message)>,
    lease: Option<Record>,
    version: u64,
    older: Option<(Option<Record>, u64)>,
    /// The highest term in which something was written, as recorders know it: that cannot be restored from an older state.
    written: u64,
    down_until: u64,
    /// Since when nobody leads.
    leaderless_since: Option<u64>,
    longest_without: u64,
    terms: Vec<(u64, usize)>,
    refused: u64,
    /// Whether anything goes wrong at all.
    is_disturbed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let operator = |number: usize, dice: &mut Dice| Operator {
            candidate: Candidate::new(format!("operator-{number}"), Rules::default()),
            rate: 950 + dice.below(101),
            next_look: 0,
            waits_until: 0,
            paused_until: 0,
            cut_until: 0,
        };
        let operators = (0..OPERATORS).map(|number| operator(number, &mut dice)).collect();
        World {
            now: 0,
            dice,
            operators,
            ways: Vec::new(),
            lease: None,
            version: 0,
            older: None,
            written: 0,
            down_until: 0,
            leaderless_since: Some(0),
            longest_without: 0,
            terms: Vec::new(),
            refused: 0,
            is_disturbed: false,
        }
    }

    /// An operator's own clock.
    fn clock(&self, operator: usize) -> u64 {
        self.now / 1_000 * self.operators[operator].rate + operator as u64 * 777 * SECOND
    }

    fn send(&mut self, operator: usize, message: Message) {
        // A request that got lost is one that never arrives.
        let cut = self.operators[operator].cut_until > self.now;
        if cut && self.dice.once_in(2) {
            return;
        }
        // A decision may be under way for longer than its leader leads: that is what terms are for.
        let longest = if matches!(message, Message::Decision { .. }) { 40 * SECOND } else { 4 * SECOND };
        let late = if self.is_disturbed && self.dice.once_in(20) {
            self.dice.below(longest)
        } else {
            self.dice.below(60 * MS)
        };
        self.ways.push((self.now + late, operator, message));
    }

    fn step(&mut self) {
        self.now += TICK;
        if self.is_disturbed {
            self.disturb();
        }
        let (due, later) = std::mem::take(&mut self.ways).into_iter().partition(|(at, ..)| *at <= self.now);
        self.ways = later;
        let due: Vec<_> = due;
        for (at, operator, message) in due {
            self.arrive(at, operator, message);
        }
        for operator in 0..OPERATORS {
            self.run(operator);
        }
        self.judge();
    }

    fn disturb(&mut self) {
        let who = self.dice.below(OPERATORS as u64) as usize;
        let long = self.now + self.dice.below(40 * SECOND);
        match self.dice.below(4_000) {
            0..10 => self.operators[who].paused_until = long,
            10..20 => self.operators[who].cut_until = long,
            20..23 => self.down_until = long,
            23..25 => self.lease = None,
            25..28 => self.older = Some((self.lease.clone(), self.version)),
            28..30 => {
                if let Some((lease, _)) = self.older.take() {
                    // Versions go on: they are of the whole store, and a restored one is marked as later.
                    self.version += 1_000;
                    self.lease = lease.map(|lease| Record { version: self.version.to_string(), ..lease });
                }
            }
            // It begins anew under another name.
            30..33 => {
                let name = format!("operator-{who}-{}", self.now);
                self.operators[who].candidate = Candidate::new(name, Rules::default());
                (self.operators[who].next_look, self.operators[who].waits_until) = (0, 0);
            }
            _ => {}
        }
    }

    fn arrive(&mut self, at: u64, operator: usize, message: Message) {
        match message {
            Message::Look | Message::Write { .. } | Message::Decision { .. } if self.down_until > self.now => {}
            Message::Look => {
                let message = Message::Seen { record: self.lease.clone(), highest: self.written };
                self.send(operator, message);
            }
            Message::Write { asked, claim } => {
                let granted = self.lease.as_ref().map(|lease| &lease.version) == claim.version.as_ref();
                if granted {
                    self.version += 1;
                    self.lease = Some(Record {
                        holder: claim.holder.clone(),
                        transitions: claim.transitions,
                        term: claim.term,
                        lease: claim.lease,
                        writes: claim.writes,
                        version: self.version.to_string(),
                    });
                }
                self.send(operator, Message::Answer { asked, claim, granted });
            }
            // What a rule of the API server does: an older term is refused.
            Message::Decision { term } => {
                self.refused += u64::from(term < self.written);
                self.written = self.written.max(term);
            }
            // What comes for one that stands still waits in its socket.
            answer if self.operators[operator].paused_until > self.now => {
                self.ways.push((at.max(self.now) + TICK, operator, answer));
            }
            Message::Seen { record, highest } => {
                let now = self.clock(operator);
                let candidate = &mut self.operators[operator].candidate;
                candidate.saw_term(highest);
                let claim = candidate.looked(now, record.as_ref());
                self.operators[operator].next_look = self.operators[operator].candidate.next_look(now);
                match claim {
                    Some(claim) => self.send(operator, Message::Write { asked: now, claim }),
                    None => self.operators[operator].waits_until = 0,
                }
            }
            Message::Answer { asked, claim, granted } => {
                self.operators[operator].waits_until = 0;
                let candidate = &mut self.operators[operator].candidate;
                // An answer to a former life of this process.
                if claim.holder != candidate.me && claim.holder != NOBODY {
                    return;
                }
                if granted { candidate.granted(asked, &claim) } else { candidate.refused() }
            }
        }
    }

    fn run(&mut self, operator: usize) {
        if self.operators[operator].paused_until > self.now {
            return;
        }
        let now = self.clock(operator);
        if let Some(term) = self.operators[operator].candidate.term(now)
            && self.dice.once_in(10)
        {
            self.send(operator, Message::Decision { term });
        }
        let Operator { next_look, waits_until, .. } = &mut self.operators[operator];
        if now >= *next_look && now >= *waits_until {
            // A request is given up after five seconds.
            *waits_until = now + 5 * SECOND;
            self.send(operator, Message::Look);
        }
    }

    fn judge(&mut self) {
        let leads = |(number, operator): (usize, &Operator)| {
            // Whoever stands still decides nothing; what it had sent already is what terms are for.
            let runs = operator.paused_until <= self.now;
            operator.candidate.term(self.clock(number)).filter(|_| runs).map(|term| (term, number))
        };
        let leaders: Vec<(u64, usize)> = self.operators.iter().enumerate().filter_map(leads).collect();
        assert!(leaders.len() <= 1, "at {} ms: {leaders:?}", self.now / MS);
        match leaders.first() {
            None => {
                let since = *self.leaderless_since.get_or_insert(self.now);
                self.longest_without = self.longest_without.max(self.now - since);
            }
            Some(leader) => {
                self.leaderless_since = None;
                match self.terms.last() {
                    Some(last) if last == leader => {}
                    // Of a term in which nothing was written yet nobody knows, once its Lease was deleted or an older one restored.
                    Some(_) => {
                        let (now, written) = (self.now / MS, self.written);
                        assert!(leader.0 > written, "at {now} ms: {leader:?} after {:?}", self.terms);
                        self.terms.push(*leader);
                    }
                    None => self.terms.push(*leader),
                }
            }
        }
    }

    fn run_for(&mut self, time: u64, faults: bool) {
        let end = self.now + time;
        self.is_disturbed = faults;
        while self.now < end {
            self.step();
        }
    }

    /// Nothing disturbs any more.
    fn calm(&mut self) {
        self.down_until = 0;
        for operator in &mut self.operators {
            (operator.paused_until, operator.cut_until) = (0, 0);
        }
    }
}

#[test]
fn whatever_happens_at_most_one_leads_and_terms_grow() {
    let (mut leaders, mut refused) = (0, 0);
    for seed in 1..=60 {
        let mut world = World::new(seed);
        // A Lease that is deleted before its first holder has written anything else is as if there never was one.
        world.run_for(30 * SECOND, false);
        world.run_for(1_200 * SECOND, true);
        world.calm();
        // Two leases may have to run out: that of one who was lost just now, and a request that was on its way.
        world.run_for(60 * SECOND, false);
        assert_eq!(world.leaderless_since, None, "seed {seed}: nobody leads");
        leaders += world.terms.len();
        refused += world.refused;
    }
    assert!(leaders > 300 && refused > 0, "{leaders} leaders, {refused} refused: this test shows nothing");
}

#[test]
fn a_leader_that_is_lost_has_a_successor_within_a_lease_and_two_seconds() {
    let mut slowest = 0;
    for seed in 1..=100 {
        let mut world = World::new(seed);
        world.run_for(5 * SECOND + seed * 37 * MS, false);
        let leader = world.terms.last().expect("somebody leads").1;
        // It never runs again: killed, or standing still past its lease.
        world.operators[leader].paused_until = u64::MAX;
        world.longest_without = 0;
        world.run_for(25 * SECOND, false);
        assert_ne!(world.terms.last().expect("somebody leads").1, leader, "seed {seed}");
        slowest = slowest.max(world.longest_without);
    }
    // By clocks that are a twentieth slow.
    let allowed = (Rules::default().lease + 2 * SECOND) * 20 / 19;
    assert!(slowest <= allowed + SECOND, "{} ms", slowest / MS);
}
