//! Asking again while footage changes under a question.

use uuid::Uuid;

use super::footage::{Footage, FootageError};

/// An answer during which news came is asked for again, this often: each news is one more damaged place, and a disk may be full of them.
const LOOKS: usize = 64;
/// Footage that is retired, or cannot be read, without news is looked for again, this often.
const ATTEMPTS: usize = 4;

/// Asks until nothing new was learnt of the stream's damage meanwhile, so that all parts of the answer follow from the same knowledge: its
/// runs, its segments and their frames are asked for one after the other. `passes` says whether an error may be gone the next time.
///
/// # Errors
/// The last answer's.
pub(super) fn ask<T, E>(
    footage: &dyn Footage,
    stream: Uuid,
    passes: impl Fn(&E) -> bool,
    mut question: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut attempts = 0;
    let mut looks = 0;
    loop {
        looks += 1;
        let before = footage.damage_version(stream);
        let answer = question();
        if footage.damage_version(stream) != before && looks < LOOKS {
            continue;
        }
        match &answer {
            Err(error) if passes(error) && attempts + 1 < ATTEMPTS => attempts += 1,
            _ => return answer,
        }
    }
}

/// Whether it is worth looking again.
pub(super) fn passes(error: &FootageError) -> bool {
    matches!(error, FootageError::Gone | FootageError::Damaged(_))
}
