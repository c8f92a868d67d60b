//! What a loss of power leaves of a disk: everything that was flushed, and any part of the rest.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::disk::Blocks;
use crate::log::{Action, Log};

/// A block, the unit of the image.
const BLOCK_BYTES: usize = 4096;
/// The least that a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

type Block = Box<[u8; BLOCK_BYTES]>;

/// A loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Records of the log that the disk had taken up.
    pub records: usize,
    /// Decides what survives of the writes behind the last flush.
    pub seed: u64,
}

/// What became of the writes behind the last flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survival {
    /// Writes that were not flushed.
    pub unflushed: usize,
    /// Of them, those that are wholly there.
    pub whole: usize,
    /// Those that are there in part.
    pub torn: usize,
}

/// Which bytes of one write survive, in pieces that do not touch.
type Pieces = Vec<std::ops::Range<usize>>;

/// Decides what survives: which writes, in which order they reached the medium, and which of their bytes.
fn surviving(writes: &[(usize, usize)], random: &mut StdRng) -> (Vec<(usize, Pieces)>, Survival) {
    let mut survival = Survival { unflushed: writes.len(), ..Survival::default() };
    // Nearly nothing, nearly everything and all between: each is another kind of trouble.
    let (kept, torn) = (share(random), share(random) / 4.0);
    let mut order: Vec<_> = writes.to_vec();
    order.shuffle(random);
    let mut out = Vec::new();
    for (number, bytes) in order {
        if !random.random_bool(kept) {
            continue;
        }
        if bytes > SECTOR_BYTES && random.random_bool(torn) {
            let unit = if random.random_bool(0.5) { SECTOR_BYTES } else { BLOCK_BYTES };
            let units = (0..bytes).step_by(unit).map(|from| from..(from + unit).min(bytes));
            let pieces: Pieces = units.filter(|_| random.random_bool(0.5)).collect();
            let there: usize = pieces.iter().map(ExactSizeIterator::len).sum();
            survival.whole += usize::from(there == bytes);
            survival.torn += usize::from(there != 0 && there != bytes);
            out.push((number, pieces));
        } else {
            survival.whole += 1;
            out.push((number, std::iter::once(0..bytes).collect()));
        }
    }
    (out, survival)
}

fn share(random: &mut StdRng) -> f64 {
    match random.random_range(0..6) {
        0 => 0.0,
        1 => 1.0,
        2 => 0.05,
        3 => 0.95,
        _ => random.random(),
    }
}

/// Makes images of one log.
#[derive(Debug)]
struct Maker {
    log: Arc<Log>,
    /// What is there after the first `flushed` records.
    base: HashMap<u64, Block>,
    flushed: usize,
}

impl Maker {
    /// What differs from what was flushed, when the cut comes. Cheapest when cuts come in order.
    fn image(&mut self, cut: Cut) -> (HashMap<u64, Block>, Survival) {
        let log = self.log.clone();
        let flushed = log.flushed_before(cut.records);
        if flushed < self.flushed {
            (self.base, self.flushed) = (HashMap::new(), 0);
        }
        for record in log.records.get(self.flushed..flushed).unwrap_or_default() {
            if let Action::Write { offset, bytes } = &record.action {
                put(&mut self.base, None, *offset, log.of(bytes));
            }
        }
        self.flushed = flushed;
        let rest = log.records.get(flushed..cut.records).unwrap_or_default();
        let writes: Vec<_> = rest
            .iter()
            .enumerate()
            .filter_map(|(number, record)| match &record.action {
                Action::Write { bytes, .. } => Some((number, bytes.len())),
                Action::Flush => None,
            })
            .collect();
        let (pieces, survival) = surviving(&writes, &mut StdRng::seed_from_u64(cut.seed));
        let mut changed = HashMap::new();
        for (number, pieces) in pieces {
            let Some(Action::Write { offset, bytes }) = rest.get(number).map(|record| &record.action) else { continue };
            for piece in pieces {
                let data = log.of(bytes).get(piece.clone()).unwrap_or_default();
                put(&mut changed, Some(&self.base), offset + piece.start as u64, data);
            }
        }
        (changed, survival)
    }
}

/// Writes into blocks; one that is not there yet begins as it is in `below`, or with zeros.
fn put(into: &mut HashMap<u64, Block>, below: Option<&HashMap<u64, Block>>, offset: u64, data: &[u8]) {
    let mut rest = data;
    let mut at = offset;
    while !rest.is_empty() {
        let (number, within) = place(at);
        let length = rest.len().min(BLOCK_BYTES - within);
        let block = into.entry(number).or_insert_with(|| {
            below.and_then(|below| below.get(&number)).cloned().unwrap_or_else(|| Box::new([0; BLOCK_BYTES]))
        });
        if let (Some(to), Some(from)) = (block.get_mut(within..within + length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        rest = rest.get(length..).unwrap_or_default();
        at += length as u64;
    }
}

fn place(at: u64) -> (u64, usize) {
    let within = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
    (at / BLOCK_BYTES as u64, within)
}

/// A disk that shows one image after another. What is written to it is kept until the next one.
#[derive(Clone, Debug)]
pub struct ImageDisk {
    bytes: u64,
    now: Arc<Mutex<(Maker, HashMap<u64, Block>)>>,
}

impl ImageDisk {
    /// A disk of images of that log; at first it shows the disk as the log left it.
    #[must_use]
    pub fn new(log: Arc<Log>, bytes: u64) -> Self {
        let all = Cut { records: log.records.len(), seed: 0 };
        let mut maker = Maker { log, base: HashMap::new(), flushed: 0 };
        let (changed, _) = maker.image(all);
        Self { bytes, now: Arc::new(Mutex::new((maker, changed))) }
    }

    fn now(&self) -> MutexGuard<'_, (Maker, HashMap<u64, Block>)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the disk as `cut` leaves it. Nobody may use the disk meanwhile.
    #[must_use]
    pub fn show(&self, cut: Cut) -> Survival {
        let mut now = self.now();
        let (changed, survival) = now.0.image(cut);
        now.1 = changed;
        survival
    }
}

impl Blocks for ImageDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let now = self.now();
        let (maker, changed) = &*now;
        let mut out = Vec::with_capacity(length);
        while out.len() < length {
            let (number, within) = place(offset + out.len() as u64);
            let part = (length - out.len()).min(BLOCK_BYTES - within);
            let block = changed.get(&number).or_else(|| maker.base.get(&number));
            match block.and_then(|block| block.get(within..within + part)) {
                Some(bytes) => out.extend_from_slice(bytes),
                None => out.resize(out.len() + part, 0),
            }
        }
        Ok(out)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut now = self.now();
        let (maker, changed) = &mut *now;
        put(changed, Some(&maker.base), offset, bytes);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Record;

    /// A log of writes (offset, byte, length) and, where the length is 0, flushes.
    fn log(actions: &[(u64, u8, usize)]) -> Arc<Log> {
        let mut log = Log::default();
        for &(offset, byte, length) in actions {
            let begin = log.bytes.len();
            log.bytes.resize(begin + length, byte);
            let action =
                if length == 0 { Action::Flush } else { Action::Write { offset, bytes: begin..begin + length } };
            log.records.push(Record { action, monotonic_ns: 0, wall_ns: 0 });
        }
        Arc::new(log)
    }

    #[test]
    fn what_was_flushed_is_always_there_and_the_rest_in_any_part() {
        let log = log(&[(0, 1, 8192), (4096, 2, 4096), (0, 0, 0), (0, 3, 8192), (8192, 4, 1024), (0, 0, 0)]);
        let disk = ImageDisk::new(log, 1 << 20);
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..2_000 {
            let survival = disk.show(Cut { records: 5, seed });
            assert_eq!(survival.unflushed, 2);
            let bytes = disk.read(0, 16_384).unwrap();
            // Of each sector, either what was flushed or what came later; nothing else.
            for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                let allowed: &[u8] = match number {
                    0..8 => &[1, 3],
                    8..16 => &[2, 3],
                    16..18 => &[0, 4],
                    _ => &[0],
                };
                assert!(allowed.contains(&sector[0]) && sector.iter().all(|b| *b == sector[0]), "sector {number}");
            }
            seen.insert(bytes.iter().step_by(SECTOR_BYTES).copied().collect::<Vec<_>>());
        }
        let whole = |first, second, third: u8| [[first; 8].as_slice(), &[second; 8], &[third; 2], &[0; 14]].concat();
        for expected in [whole(1, 2, 0), whole(3, 3, 0), whole(1, 2, 4), whole(3, 3, 4), whole(1, 3, 0)] {
            assert!(seen.contains(&expected), "never: {expected:?}");
        }
        assert!(seen.len() > 50, "{} images", seen.len());
    }

    #[test]
    fn images_may_be_asked_for_in_any_order_and_forget_what_was_written_to_them() {
        let log = log(&[(0, 1, 4096), (0, 0, 0), (0, 2, 4096), (0, 0, 0)]);
        let disk = ImageDisk::new(log, 1 << 20);
        assert_eq!(disk.read(0, 1).unwrap(), [2]);
        assert_eq!(disk.show(Cut { records: 2, seed: 1 }), Survival::default());
        assert_eq!(disk.read(0, 1).unwrap(), [1]);
        disk.write(100, &[9; 10]).unwrap();
        assert_eq!(disk.read(98, 4).unwrap(), [1, 1, 9, 9]);
        let _survival = disk.show(Cut { records: 4, seed: 1 });
        assert_eq!(disk.read(98, 4).unwrap(), [2; 4]);
        let _survival = disk.show(Cut { records: 0, seed: 1 });
        assert_eq!(disk.read(98, 4).unwrap(), [0; 4]);
    }
}
