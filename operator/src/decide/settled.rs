//! Whether a stream still is as it was told last. Ten thousand streams that record steadily are looked at each second, and what is said of them need not be
//! made anew to find out that it is the same. Pure.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use framekeeper_crds::ChannelState;

use super::observe::ChannelReport;
use super::place::PoolPlan;
use super::seen::Seen;
use super::status;
use super::wanted::Key;

/// What a status that did not change was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// Of what is wanted, remembered and planned.
    revision: u64,
    /// Of what its holders say.
    said: u64,
}

/// Where what a stream depends on is found at once.
pub(super) struct Basis<'v> {
    revision: u64,
    now: Instant,
    pools: HashMap<(&'v str, &'v str), OfPool<'v>>,
}

struct OfPool<'v> {
    plan: Option<&'v PoolPlan>,
    /// By ordinal.
    recorders: Vec<Option<&'v Seen>>,
}

impl<'v> Basis<'v> {
    pub(super) fn new<R: AsRef<Seen>>(
        revision: u64,
        now: Instant,
        plans: &'v BTreeMap<Key, PoolPlan>,
        running: &'v BTreeMap<Key, R>,
    ) -> Self {
        let mut pools: HashMap<(&str, &str), OfPool<'_>> = HashMap::new();
        for (key, plan) in plans {
            pools.insert((&key.namespace, &key.name), OfPool { plan: Some(plan), recorders: Vec::new() });
        }
        for (key, seen) in running {
            let seen = seen.as_ref();
            let spec = &seen.recorder.spec;
            let pool =
                pools.entry((&key.namespace, &spec.pool)).or_insert(OfPool { plan: None, recorders: Vec::new() });
            let at = spec.ordinal as usize;
            pool.recorders.resize(pool.recorders.len().max(at + 1), None);
            if let Some(place) = pool.recorders.get_mut(at) {
                *place = Some(seen);
            }
        }
        Self { revision, now, pools }
    }

    /// What all of them are made from now: while it is the same none of them needs to be looked at.
    pub(super) fn of_all(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.revision.hash(&mut hasher);
        let mut pools: Vec<_> = self.pools.iter().collect();
        pools.sort_by_key(|(key, _)| **key);
        for (key, pool) in pools {
            key.hash(&mut hasher);
            for seen in &pool.recorders {
                seen.map(|seen| (seen.is_down, seen.says_since(self.now))).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// What a stream's status is made from now.
    pub(super) fn of(&self, stream: &Key, pool: &str) -> Settled {
        let mut hasher = DefaultHasher::new();
        if let Some(pool) = self.pools.get(&(stream.namespace.as_str(), pool))
            && let Some(assigned) = pool.plan.and_then(|plan| plan.plan.placed.get(stream))
        {
            for ordinal in std::iter::once(&assigned.primary).chain(&assigned.standbys) {
                let seen = pool.recorders.get(*ordinal as usize).copied().flatten();
                seen.map(|seen| seen.is_down).hash(&mut hasher);
                match seen.and_then(|seen| seen.report(stream, self.now)) {
                    None => 0_u8.hash(&mut hasher),
                    Some(report) => tells(report, &mut hasher),
                }
            }
        }
        Settled { revision: self.revision, said: hasher.finish() }
    }
}

/// What of a report statuses tell, while they tell it.
fn tells(report: &ChannelReport, hasher: &mut DefaultHasher) {
    let ChannelReport { state, reason, message, epoch, codec, width, height, .. } = report;
    let records = *state == Some(ChannelState::Recording);
    state.map(|state| state as u8).hash(hasher);
    (reason, message, epoch, codec, width, height).hash(hasher);
    // The longest gap is told in whole seconds, the bit rate once, and the last frame of what is not recorded.
    report.gop.map(|gop| gop.ceil() as i64).hash(hasher);
    status::measured_bitrate(report).is_some().hash(hasher);
    report.last_frame.filter(|_| !records).hash(hasher);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use framekeeper_crds::k8s_openapi::jiff::Timestamp;
    use framekeeper_crds::{RecorderStatus, Role};
    use uuid::Uuid;

    use super::*;
    use crate::cluster::sink::Outbox;
    use crate::decide::assign::{self, Assignment, World};
    use crate::decide::observe::Reports;
    use crate::decide::report::{Reporter, View};
    use crate::decide::state::State;
    use crate::decide::wanted::Wanted;
    use crate::local::manifest;

    struct Nothing(u128);

    impl World for Nothing {
        fn new_uuid(&mut self) -> Uuid {
            self.0 += 1;
            Uuid::from_u128(self.0)
        }
        fn volume_uuid(&mut self, _: &Key, _: &Key, _: &str) -> Option<Uuid> {
            None
        }
        fn status(&self, _: &Key) -> Option<&RecorderStatus> {
            None
        }
        fn peer_address(&self, _: &Key) -> Option<String> {
            None
        }
        fn http_address(&self, _: &Key) -> Option<String> {
            None
        }
    }

    /// Numbers that look random and are the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }

        fn of<T: Copy>(&mut self, from: &[T]) -> T {
            let at = self.below(from.len() as u64);
            from[usize::try_from(at).unwrap()]
        }

        fn report(&mut self, role: Role) -> ChannelReport {
            use ChannelState::{Backoff, Connecting, Failed, Recording, Standby};
            let state = match role {
                Role::Primary => self.of(&[Recording, Recording, Recording, Recording, Connecting, Backoff, Failed]),
                Role::Standby => self.of(&[Standby, Standby, Standby, Connecting, Recording]),
            };
            let reason = match state {
                Recording | Connecting => None,
                Standby => Some(self.of(&["StandingBy", "FillingMemory"])),
                _ => Some(self.of(&["Unreachable", "WrongCredentials"])),
            };
            let text = |text: &str| Some(text.to_owned());
            ChannelReport {
                state: Some(state),
                reason: reason.map(str::to_owned),
                message: reason.and_then(|reason| text(&format!("{reason}, attempt {}", self.below(3)))),
                epoch: Some(1),
                codec: text(self.of(&["avc1.64001f", "avc1.64001f", "hvc1.1.6.L93.B0"])),
                width: Some(self.of(&[1920, 1920, 640])),
                height: Some(1080),
                fps: Some(25.0),
                bitrate: Some(self.of(&[4_000_000.0, 4_700_000.0])),
                gop: Some(self.of(&[1.0, 2.0, 2.5])),
                last_frame: Timestamp::from_second(1_800_000_000 + i64::try_from(self.below(4)).unwrap()).ok(),
                frames: self.of(&[3, 500, 501]),
                ..ChannelReport::default()
            }
        }
    }

    /// A pool of three recorders, five streams, and what is decided of them.
    fn decided() -> (Wanted, Assignment) {
        let mut text = String::from(
            "apiVersion: framekeeper.dev/v1alpha1\nkind: StoragePool\nmetadata: {name: main}\nspec: {recorders: 3, maxChannels: 10, toleratedFailures: 1, \
             storage: {volumes: [{name: a, claimTemplate: {spec: {resources: {requests: {storage: 100Gi}}}}}]}}\n",
        );
        for (number, class) in [(1, "None"), (2, "Ready"), (3, "Ready"), (4, "Playing"), (5, "Mirrored")] {
            text.push_str(&format!(
                "---\napiVersion: framekeeper.dev/v1alpha1\nkind: CameraStream\nmetadata: {{name: c{number}}}\n\
                 spec: {{source: {{url: \"rtsp://c/{number}\"}}, poolRef: {{name: main}}, redundancy: {class}}}\n"
            ));
        }
        let reading = manifest::read(&[(PathBuf::from("f"), text)]);
        assert!(reading.mistakes.is_empty(), "{:?}", reading.mistakes);
        let wanted = reading.manifests.wanted();
        let decided = assign::assign(&wanted, State { term: 1, ..State::default() }, &mut Nothing(0));
        (wanted, decided)
    }

    #[test]
    fn a_stream_that_is_made_again_under_the_same_name_is_told_anew() {
        let (wanted, mut decided) = decided();
        let (running, unmade, rolling) = (BTreeMap::<Key, Seen>::new(), BTreeMap::new(), BTreeMap::new());
        let (now, wall) = (Instant::now(), Timestamp::from_second(1_800_000_000).unwrap());
        let mut reporter = Reporter::new(Outbox::default());
        let all: BTreeSet<Key> = wanted.streams.keys().cloned().collect();
        let mut told = |state: &State, revision| {
            let (wanted, plans, running, unmade, rolling) = (&wanted, &decided.plans, &running, &unmade, &rolling);
            let view =
                View { wanted, state, plans, running, unmade, rolling, stopped: false, revision: Some(revision) };
            reporter.report(&view, now, wall);
            std::mem::take(&mut reporter.sink.streams)
        };
        assert_eq!(told(&decided.state, 1), all);
        assert!(told(&decided.state, 2).is_empty());
        let one = all.first().unwrap();
        decided.state.streams.get_mut(&one.to_string()).unwrap().uid = "another".to_owned();
        assert_eq!(told(&decided.state, 3), [one.clone()].into());
        assert!(told(&decided.state, 4).is_empty());
    }

    #[test]
    fn whoever_skips_what_is_settled_says_the_same_as_whoever_looks_at_everything() {
        let (wanted, decided) = decided();
        let begin = Instant::now();
        let (mut skips, mut looks) = (Reporter::new(Outbox::default()), Reporter::new(Outbox::default()));
        let (mut dice, mut now, mut skipped) = (Dice(7), begin, 0);
        let running = decided.recorders.iter().map(|(key, recorder)| {
            let mut seen = Seen::new(Arc::clone(recorder), String::new());
            seen.is_running = true;
            (key.clone(), seen)
        });
        let mut running: BTreeMap<Key, Seen> = running.collect();
        let (unmade, rolling) = (BTreeMap::new(), BTreeMap::new());
        for round in 0..4_000 {
            now += Duration::from_millis(dice.of(&[300, 1_000, 1_000, 2_000]));
            for seen in running.values_mut() {
                // Most often all is as before; or one says something else, or nothing.
                let what = dice.below(12);
                if what == 0 {
                    seen.is_down = !seen.is_down;
                }
                if what < 3 {
                    let channels = &seen.recorder.spec.channels;
                    let reports = channels.iter().map(|channel| {
                        (Key::new(&channel.stream.namespace, &channel.stream.name), dice.report(channel.role))
                    });
                    let reports = reports.collect();
                    seen.heard(Some(Arc::new(Reports::new(reports))), now);
                } else if what < 11 {
                    seen.heard_again(now);
                }
            }
            let wall = Timestamp::from_second(1_800_000_000 + round).unwrap();
            for (reporter, revision) in [(&mut skips, Some(1)), (&mut looks, None)] {
                let (wanted, state, plans, running) = (&wanted, &decided.state, &decided.plans, &running);
                let (unmade, rolling) = (&unmade, &rolling);
                let view = View { wanted, state, plans, running, unmade, rolling, stopped: false, revision };
                reporter.report(&view, now, wall);
            }
            assert_eq!(skips.cautions(), looks.cautions(), "round {round}");
            for key in wanted.streams.keys() {
                assert_eq!(skips.said(key), looks.said(key), "{key} in round {round}");
            }
            skipped += skips.settled();
            assert_eq!(skips.sink.streams, looks.sink.streams, "round {round}");
        }
        assert!(skipped > 2_000, "only {skipped} were settled: the test does not say much");
        let notes = |reporter: &Reporter<Outbox>| {
            reporter.sink.events.iter().map(|event| event.note.clone()).collect::<Vec<_>>()
        };
        assert_eq!(notes(&skips), notes(&looks));
        assert!(skips.sink.events.len() > 100);
    }
}
