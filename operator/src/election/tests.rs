use framekeeper_crds::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use framekeeper_crds::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::record::{TERM, WRITES};
use super::*;

const SECOND: u64 = 1_000_000;

fn candidate(me: &str) -> Candidate {
    Candidate::new(me.to_owned(), Rules::default())
}

/// As its holder wrote it just now.
fn record(holder: &str, transitions: u64, term: u64, version: &str) -> Record {
    let (holder, version) = (holder.to_owned(), version.to_owned());
    Record { holder, transitions, term, lease: 15 * SECOND, writes: u64::MAX, version }
}

/// Leads from 0 on in the first term.
fn leader(me: &str) -> Candidate {
    let mut candidate = candidate(me);
    let claim = candidate.looked(0, None).unwrap();
    candidate.granted(0, &claim);
    candidate
}

#[test]
fn the_first_one_leads_at_once_and_renews() {
    let mut one = candidate("one");
    assert_eq!((one.term(0), one.next_look(0)), (None, SECOND / 2));
    let claim = one.looked(5, None).unwrap();
    assert_eq!((claim.version.clone(), claim.holder.as_str(), claim.term), (None, "one", 1));
    assert_eq!(one.term(6), None, "asking is not having");
    one.granted(5, &claim);
    assert_eq!((one.term(6), one.until(), one.next_look(6)), (Some(1), Some(10 * SECOND + 5), 2 * SECOND + 6));
    let claim = one.looked(2 * SECOND, Some(&record("one", 1, 1, "a"))).unwrap();
    assert_eq!((claim.version.as_deref(), claim.transitions, claim.term), (Some("a"), 1, 1));
    assert_eq!(one.until(), Some(10 * SECOND + 5), "a renewal counts when it was granted");
    one.granted(2 * SECOND, &claim);
    assert_eq!(one.until(), Some(12 * SECOND));
    assert_eq!(one.term(12 * SECOND), None, "and ends by its own clock");
}

#[test]
fn another_one_waits_for_a_whole_lease_that_does_not_change() {
    let mut two = candidate("two");
    assert_eq!(two.looked(100, Some(&record("one", 1, 1, "a"))), None);
    assert_eq!(two.looked(14 * SECOND, Some(&record("one", 1, 1, "b"))), None, "it was renewed");
    assert_eq!(two.looked(28 * SECOND, Some(&record("one", 1, 1, "b"))), None);
    assert_eq!(two.next_look(28 * SECOND + SECOND / 2), 29 * SECOND, "as soon as may be");
    let claim = two.looked(29 * SECOND, Some(&record("one", 1, 1, "b"))).unwrap();
    assert_eq!((claim.version.as_deref(), claim.transitions, claim.term), (Some("b"), 2, 2));
    // Somebody was faster.
    two.refused();
    assert_eq!(two.looked(30 * SECOND, Some(&record("three", 2, 2, "c"))), None);
    assert_eq!(two.term(30 * SECOND), None);
    // A Lease that says that it lasts longer is waited for for longer.
    let long = Record { lease: 60 * SECOND, ..record("three", 2, 2, "d") };
    assert_eq!(two.looked(40 * SECOND, Some(&long)), None);
    assert_eq!(two.looked(99 * SECOND, Some(&long)), None);
    assert!(two.looked(100 * SECOND, Some(&long)).is_some());
}

#[test]
fn whoever_is_replaced_stops_at_once() {
    let mut one = leader("one");
    assert_eq!(one.looked(SECOND, Some(&record("two", 2, 2, "x"))), None);
    assert_eq!((one.term(SECOND), one.until()), (None, None));
    let mut one = leader("one");
    one.refused();
    assert_eq!(one.term(SECOND), None);
}

#[test]
fn a_lease_that_is_given_up_is_taken_at_once() {
    let mut one = leader("one");
    let given_up = one.release(&record("one", 1, 1, "a")).unwrap();
    assert_eq!((given_up.holder.as_str(), given_up.term), ("", 1));
    one.granted(SECOND, &given_up);
    assert_eq!(one.term(SECOND), None);
    assert_eq!(one.release(&record("two", 2, 2, "a")), None, "it is another one's");
    let mut two = candidate("two");
    let claim = two.looked(SECOND, Some(&record("", 1, 1, "b"))).unwrap();
    assert_eq!((claim.transitions, claim.term), (2, 2));
}

#[test]
fn a_lease_that_was_deleted_turns_nothing_back_and_lets_nobody_in_early() {
    let mut one = leader("one");
    let mut two = candidate("two");
    assert_eq!(two.looked(0, Some(&record("one", 6, 7, "a"))), None);
    // The leader writes it again, in its term; others wait as if it had not been renewed.
    let claim = one.looked(SECOND, None).unwrap();
    assert_eq!((claim.version, claim.term), (None, 1));
    let placeholder = two.looked(SECOND, None).unwrap();
    assert_eq!((placeholder.version.clone(), placeholder.holder.as_str(), placeholder.term), (None, NOBODY, 7));
    two.granted(SECOND, &placeholder);
    assert_eq!(two.term(SECOND), None);
    assert_eq!(two.looked(2 * SECOND, Some(&record(NOBODY, 7, 7, "b"))), None);
    assert_eq!(two.looked(16 * SECOND, Some(&record(NOBODY, 7, 7, "b"))), None);
    let claim = two.looked(17 * SECOND, Some(&record(NOBODY, 7, 7, "b"))).unwrap();
    assert_eq!((claim.version.as_deref(), claim.term), (Some("b"), 8));
    // The leader was slower than the one who put it there.
    assert_eq!(one.looked(2 * SECOND, Some(&record(NOBODY, 7, 7, "b"))), None);
    assert_eq!(one.term(2 * SECOND), None);
    // One that never saw it, and knows from what leaders wrote that there was one.
    let mut three = candidate("three");
    three.saw_term(41);
    assert_eq!(three.looked(0, None).unwrap().holder, NOBODY);
}

#[test]
fn a_later_term_that_turns_up_is_exceeded_before_anything_is_written() {
    let mut one = leader("one");
    one.saw_term(1);
    assert_eq!(one.term(SECOND), Some(1), "its own");
    // The cluster was restored; recorders remember.
    one.saw_term(9);
    assert_eq!(one.term(SECOND), None);
    let claim = one.looked(SECOND, Some(&record("one", 1, 1, "a"))).unwrap();
    assert_eq!((claim.version.as_deref(), claim.term), (Some("a"), 10));
    one.granted(SECOND, &claim);
    assert_eq!(one.term(SECOND), Some(10));
    // It turns up between a claim and its grant.
    let claim = one.looked(3 * SECOND, Some(&record("one", 1, 10, "b"))).unwrap();
    one.saw_term(20);
    one.granted(3 * SECOND, &claim);
    assert_eq!(one.term(3 * SECOND), None);
    assert_eq!(one.looked(3 * SECOND, Some(&record("one", 1, 10, "c"))).unwrap().term, 21);
}

#[test]
fn a_lease_from_an_older_state_that_names_its_leader_is_led_on_in_a_later_term() {
    let mut one = leader("one");
    let claim = one.looked(2 * SECOND, Some(&record("one", 1, 1, "a"))).unwrap();
    one.granted(2 * SECOND, &claim);
    let at = |writes, version| Record { writes, ..record("one", 1, 1, version) };
    let renewed = one.looked(4 * SECOND, Some(&at(claim.writes, "b"))).unwrap();
    assert_eq!(renewed.term, 1);
    // What became of that one it was not told: a Lease that it may have written is its own.
    assert_eq!(one.clone().looked(6 * SECOND, Some(&at(claim.writes, "b"))).unwrap().term, 1);
    assert_eq!(one.clone().looked(6 * SECOND, Some(&at(renewed.writes, "c"))).unwrap().term, 1);
    // A backup that was taken in this very term, before the last renewal that was granted, and has been restored before the Lease ran out.
    let anew = one.looked(6 * SECOND, Some(&at(claim.writes - 1, "d"))).unwrap();
    assert_eq!((anew.version.as_deref(), anew.term), (Some("d"), 2));
    assert_eq!(one.term(6 * SECOND), Some(1), "nobody else can lead meanwhile");
    one.granted(6 * SECOND, &anew);
    assert_eq!(one.term(6 * SECOND), Some(2));
    // Somebody took the number away: a new term costs nothing.
    assert_eq!(one.looked(8 * SECOND, Some(&at(0, "e"))).unwrap().term, 3);
}

#[test]
fn one_that_did_not_renew_in_time_waits_like_everybody_else() {
    let mut one = leader("one");
    // It stood still for a minute. Whether nobody led meanwhile, or the Lease is an older one that was restored, it cannot know.
    assert_eq!(one.term(60 * SECOND), None);
    assert_eq!(one.looked(60 * SECOND, Some(&record("one", 1, 1, "a"))), None);
    let claim = one.looked(75 * SECOND, Some(&record("one", 1, 1, "a"))).unwrap();
    assert_eq!((claim.transitions, claim.term), (2, 2));
    // That it was granted, it learns from the Lease alone.
    let claim = one.looked(76 * SECOND, Some(&record("one", 2, 2, "b"))).unwrap();
    assert_eq!((claim.version.as_deref(), claim.term), (Some("b"), 3));
    one.granted(76 * SECOND, &claim);
    assert_eq!(one.term(76 * SECOND), Some(3));
}

#[test]
fn whatever_a_lease_says_is_understood() {
    let lease = |spec| Lease { spec, metadata: ObjectMeta::default() };
    assert_eq!(Record::from(&lease(None)), Record::default());
    let spec = LeaseSpec {
        holder_identity: Some("one".to_owned()),
        lease_transitions: Some(-3),
        lease_duration_seconds: Some(15),
        ..LeaseSpec::default()
    };
    let mut whole = lease(Some(spec));
    whole.metadata.resource_version = Some("77".to_owned());
    whole.metadata.annotations = Some([(TERM.to_owned(), "12".to_owned())].into());
    assert_eq!(Record::from(&whole), Record { writes: 0, ..record("one", 0, 12, "77") });
    whole.metadata.annotations =
        Some([(TERM.to_owned(), "twelve".to_owned()), (WRITES.to_owned(), "5".to_owned())].into());
    assert_eq!((Record::from(&whole).term, Record::from(&whole).writes), (0, 5));
}
