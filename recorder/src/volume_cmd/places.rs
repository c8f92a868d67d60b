//! Several places as one: segments of a stream lie on all volumes of its recorder, and on those of other recorders.

use std::collections::HashSet;
use std::path::PathBuf;

use framekeeper_store::Hold;
use framekeeper_store::env::Env;
use framekeeper_store::inspect::{Depth, Filter, Finding, Place, SeenSegment};

use super::Failure;
use super::output::{Bar, warn_if_in_use};

/// The places that were given, in order.
pub(super) struct Places(Vec<Place>);

/// What is in them.
#[derive(Default)]
pub(super) struct Gathered {
    /// Segments, each with the number of its place. One that is in two places, because one of them is a copy, counts as the first has it.
    pub(super) segments: Vec<(usize, SeenSegment)>,
    /// What is not as it should be.
    pub(super) findings: Vec<Finding>,
}

impl Places {
    /// Opens all of them, and says which are in use.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, Failure> {
        let env = Env::real();
        let mut known = HashSet::new();
        // The same folder given twice is one.
        let new =
            paths.iter().filter(|path| known.insert(path.canonicalize().unwrap_or_else(|_| PathBuf::clone(path))));
        let places = new.map(|path| Ok(Place::open(&env, path)?)).collect::<Result<Vec<_>, Failure>>()?;
        places.iter().for_each(warn_if_in_use);
        Ok(Self(places))
    }

    pub(super) fn all(&self) -> &[Place] {
        &self.0
    }

    /// Looks at what `filter` lets through, in all of them.
    pub(super) fn look(&self, depth: Depth, filter: &Filter) -> Result<Gathered, Failure> {
        let (mut all, mut known) = (Gathered::default(), HashSet::new());
        let mut bar = Bar::new("reading");
        for (number, place) in self.0.iter().enumerate() {
            let seen = place.look(depth, filter, &mut |done, total, path| bar.tell(done, total, path))?;
            all.findings.extend(seen.findings.into_iter().map(|finding| self.named(number, finding)));
            let use_of = |segment: &SeenSegment| (segment.info.volume, segment.info.file_number, segment.info.nonce);
            let new = seen.segments.into_iter().filter(|segment| known.insert(use_of(segment)));
            all.segments.extend(new.map(|segment| (number, segment)));
        }
        Ok(all)
    }

    /// Looks at every byte of a segment again; what is found goes to `findings`.
    pub(super) fn survey(
        &self,
        number: usize,
        segment: &mut SeenSegment,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Failure> {
        let Some(place) = self.0.get(number) else { return Ok(()) };
        let (looked, found) = place.survey(segment)?;
        *segment = looked;
        findings.extend(found.into_iter().map(|finding| self.named(number, finding)));
        Ok(())
    }

    /// What is held on any of them. A hold stands on each volume of a recorder.
    pub(super) fn holds(&self) -> Result<Vec<Hold>, Failure> {
        let mut holds: Vec<Hold> = Vec::new();
        for place in &self.0 {
            let found = place.holds().map_err(|source| Failure::File { path: place.path().to_owned(), source })?;
            holds.extend(
                found.into_iter().filter(|hold| holds.iter().all(|known| known.hold != hold.hold)).collect::<Vec<_>>(),
            );
        }
        Ok(holds)
    }

    /// How a file of a place is called: below it where there is only one.
    pub(super) fn name(&self, number: usize, path: PathBuf) -> PathBuf {
        let several = self.0.len() > 1;
        match self.0.get(number).filter(|_| several) {
            Some(place) if place.path().is_dir() => place.path().join(path),
            Some(place) => place.path().to_owned(),
            None => path,
        }
    }

    fn named(&self, number: usize, finding: Finding) -> Finding {
        Finding { path: self.name(number, finding.path), ..finding }
    }
}
