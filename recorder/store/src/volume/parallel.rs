//! Many small reads of a cold disk, some at the same time.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lock;

/// What waits is the disk and not the processor: disks answer several questions as fast as one.
const AT_ONCE: usize = 8;

/// What `look` finds for each of `items`, in their order.
pub(crate) fn each<T: Sync, R: Send>(items: &[T], look: impl Fn(&T) -> io::Result<R> + Sync) -> io::Result<Vec<R>> {
    if items.len() < 2 {
        return items.iter().map(look).collect();
    }
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::with_capacity(items.len()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let one = look(item);
                    lock(&found).push((at, one));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, one)| one).collect()
}
