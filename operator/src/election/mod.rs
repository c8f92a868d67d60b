//! Who leads: [`Candidate`], what one operator makes of the Lease that all of them go by. No clock, no I/O: times are values.
//!
//! ```text
//!  follower ── not renewed for a whole lease, or released ──► claim ── granted ──► leader, in a new term
//!      ▲                                                                             │
//!      └──────────── not renewed in time, refused, or somebody else has it ──────────┘
//! ```
//! Only what each operator measures itself counts: times in the Lease are by clocks of others and for people. A leader's right ends
//! [`Rules::renew_within`] after it *asked* for the renewal that was granted last; another one claims the Lease when it has not seen it change for
//! [`Rules::lease`], which began after the write. So the first has stopped before the second begins, as long as no clock runs half as fast again as
//! another.
//!
//! A Lease that is not there says nothing of what became of it: one may have come and gone between two looks. So whoever finds none, and does not lead, puts one there that
//! nobody holds ([`NOBODY`]), and waits for that one as for anybody's. Only where there never was a leader is there nobody to wait for.
//!
//! A Lease that names this one and says less than it has written is from an older state of the whole cluster, and so is everything else: it leads on, in a new term, and begins
//! by looking at what there is.
//!
//! A term is one more than all that was ever heard of: in the Lease, its count of transitions, and in what leaders before left in the cluster. So neither a Lease that was
//! deleted nor a cluster that was restored from an older state begins them anew. A request of a former leader that arrives late carries its term.

mod record;
mod rules;

pub use record::{Record, TERM, WRITES};
pub use rules::Rules;

/// `holderIdentity` of a Lease that was put where somebody's was deleted. Not an empty one: that was given up by its holder, who has stopped.
pub const NOBODY: &str = "nobody";

/// What is to be written into the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The Lease as this goes by: it must still have this `resourceVersion`. `None`: there must be none.
    pub version: Option<String>,
    /// `holderIdentity`; empty when it is given up.
    pub holder: String,
    /// `leaseTransitions`.
    pub transitions: u64,
    /// The annotation [`TERM`].
    pub term: u64,
    /// `leaseDurationSeconds`, in microseconds.
    pub lease: u64,
    /// The annotation [`WRITES`].
    pub writes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lead {
    term: u64,
    until: u64,
    /// The last of its claims that was granted.
    writes: u64,
    /// Somebody led in this term or a later one: a higher one is written before anything else is.
    outdated: bool,
}

/// A Lease that somebody else has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: String,
    /// When it was first seen like that.
    since: u64,
    /// For how long it is to be like that.
    lease: u64,
}

/// A claim to lead that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    at: u64,
    term: u64,
    transitions: u64,
}

/// One operator. Times are monotonic microseconds of its own.
#[derive(Clone, Debug)]
pub struct Candidate {
    me: String,
    rules: Rules,
    lead: Option<Lead>,
    seen: Option<Seen>,
    /// The highest term that was heard of.
    highest: u64,
    /// Nothing is known of any leader, now or before.
    is_new: bool,
    /// A claim to lead of which it is not known what became.
    claimed: Option<Asked>,
    /// How often it asked for the Lease.
    writes: u64,
}

impl Candidate {
    /// An operator by the name of `me`, which nobody else may ever have: the UID of its pod and a number drawn at its start.
    #[must_use]
    pub const fn new(me: String, rules: Rules) -> Self {
        Self { me, rules, lead: None, seen: None, highest: 0, is_new: true, claimed: None, writes: 0 }
    }

    /// The term in which it may write at `now`, if it leads. To be asked before each write; a write must have ended at [`Self::until`].
    #[must_use]
    pub fn term(&self, now: u64) -> Option<u64> {
        let lead = self.lead.as_ref().filter(|lead| now < lead.until && !lead.outdated)?;
        Some(lead.term)
    }

    /// Up to when it leads, unless it renews the Lease.
    #[must_use]
    pub fn until(&self) -> Option<u64> {
        self.lead.as_ref().map(|lead| lead.until)
    }

    /// When the Lease is to be looked at again, after it was at `now`.
    #[must_use]
    pub fn next_look(&self, now: u64) -> u64 {
        let often = if self.lead.is_some() { self.rules.renew_every } else { self.rules.look_every };
        let expires = self.seen.as_ref().map_or(u64::MAX, |seen| seen.since.saturating_add(seen.lease));
        let next = now.saturating_add(often);
        if expires > now { next.min(expires) } else { next }
    }

    /// A term was seen where leaders write theirs: in a `Recorder`.
    pub fn saw_term(&mut self, term: u64) {
        self.highest = self.highest.max(term);
        self.is_new &= term == 0;
        if let Some(lead) = self.lead.as_mut().filter(|lead| term > lead.term) {
            lead.outdated = true;
        }
    }

    /// The Lease was read, and is this, or is not there. What is to be written into it, if anything.
    pub fn looked(&mut self, now: u64, record: Option<&Record>) -> Option<Claim> {
        self.writes += 1;
        if let Some(record) = record {
            self.highest = self.highest.max(record.term).max(record.transitions);
            self.is_new = false;
        }
        let claim = match record {
            // One that names this one though it does not lead, and did not ask either, is from an older state: somebody else may lead.
            Some(record) if record.holder == self.me && (self.has_claimed(now, record) || self.is_within(now)) => {
                Some(self.go_on(now, record))
            }
            Some(record) if record.holder.is_empty() => {
                self.lead = None;
                Some(self.claim(Some(record)))
            }
            // Somebody deleted it. As long as this one leads nobody else does, and the next look of others finds it again.
            None if self.term(now).is_some() => {
                let term = self.lead.as_ref().map_or(0, |lead| lead.term);
                Some(Claim { term, transitions: term, ..self.claim(None) })
            }
            // The very first one.
            None if self.is_new => Some(self.claim(None)),
            // Whose it was, and whether another one had it since, cannot be known.
            None => {
                (self.lead, self.seen) = (None, None);
                let highest = self.highest;
                Some(Claim { holder: NOBODY.to_owned(), term: highest, transitions: highest, ..self.claim(None) })
            }
            Some(other) => {
                self.lead = None;
                self.has_expired(now, other).then(|| self.claim(Some(other)))
            }
        };
        // A renewal needs no such memory: as long as it leads the Lease is its own, and afterwards it is nobody's.
        let leads = self.is_within(now);
        let claimed = claim.as_ref().filter(|claim| claim.holder == self.me && !leads);
        self.claimed = claimed.map(|claim| Asked { at: now, term: claim.term, transitions: claim.transitions });
        claim
    }

    /// Whether the Lease is as this one claimed it, so lately that it can't be from an older state that was restored.
    fn has_claimed(&self, now: u64, record: &Record) -> bool {
        self.claimed.is_some_and(|asked| {
            (asked.term, asked.transitions) == (record.term, record.transitions)
                && now < asked.at.saturating_add(self.rules.renew_within)
        })
    }

    /// Whether nobody else can lead.
    fn is_within(&self, now: u64) -> bool {
        self.lead.as_ref().is_some_and(|lead| now < lead.until)
    }

    /// The Lease names this one. It does so from now on as well.
    fn go_on(&mut self, now: u64, record: &Record) -> Claim {
        self.seen = None;
        let term = match &self.lead {
            Some(lead) if now < lead.until && !lead.outdated && record.writes >= lead.writes => lead.term,
            // It was not told that its claim was granted, its term is not the last one, or the Lease is from an older state. A new one costs nothing.
            _ => self.highest.saturating_add(1),
        };
        Claim {
            version: Some(record.version.clone()),
            holder: self.me.clone(),
            transitions: record.transitions,
            term,
            lease: self.rules.lease,
            writes: self.writes,
        }
    }

    /// Whether a Lease of somebody else has been the same for so long that whoever had it has stopped.
    fn has_expired(&mut self, now: u64, record: &Record) -> bool {
        let version = record.version.clone();
        let lease = record.lease.max(self.rules.lease);
        let same = self.seen.take().filter(|seen| seen.version == version);
        let seen = same.unwrap_or(Seen { version, since: now, lease });
        let expired = now.saturating_sub(seen.since) >= seen.lease;
        self.seen = Some(seen);
        expired
    }

    fn claim(&self, record: Option<&Record>) -> Claim {
        let term = self.highest.saturating_add(1);
        Claim {
            version: record.map(|record| record.version.clone()),
            holder: self.me.clone(),
            transitions: record.map_or(term, |record| record.transitions.saturating_add(1)),
            term,
            lease: self.rules.lease,
            writes: self.writes,
        }
    }

    /// What was to be written was written; it was asked for at `asked`.
    pub fn granted(&mut self, asked: u64, claim: &Claim) {
        (self.seen, self.claimed) = (None, None);
        if claim.holder != self.me {
            self.lead = None;
            return;
        }
        let outdated = self.highest > claim.term;
        self.highest = self.highest.max(claim.term);
        self.is_new = false;
        let until = asked.saturating_add(self.rules.renew_within);
        self.lead = Some(Lead { term: claim.term, until, writes: claim.writes, outdated });
    }

    /// The Lease is another one by now: somebody else wrote it. What that was, the next look tells.
    pub const fn refused(&mut self) {
        self.claimed = None;
        self.lead = None;
    }

    /// This one is to end, and has stopped writing: what is to be written so that another one need not wait.
    #[must_use]
    pub fn release(&self, record: &Record) -> Option<Claim> {
        (record.holder == self.me).then(|| Claim {
            version: Some(record.version.clone()),
            holder: String::new(),
            transitions: record.transitions,
            term: record.term,
            lease: self.rules.lease,
            writes: self.writes,
        })
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
