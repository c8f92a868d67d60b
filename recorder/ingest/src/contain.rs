//! Containment of panics: a session's panic is that session's error and nothing more.
//!
//! Engines stand on parsers that were not written here, and some of them panic on what a camera may send. Each session is run inside
//! [`contain`]. The process's panic hook is wrapped once, so that a contained panic prints nothing (a camera that breaks a parser
//! at every attempt would flood the log) while every other panic is reported as before.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    static REPORT: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Characters of a panic's message that are kept.
const MAX_REPORT_CHARS: usize = 200;

/// Runs `f`; a panic in it comes back as its message and place. What `f` worked on must not be used afterwards except to drop it
/// (again inside `contain`): it may be half changed.
pub(crate) fn contain<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CONTAINED.get() {
                let message = info.payload_as_str().unwrap_or("no message");
                let mut report: String = message.chars().take(MAX_REPORT_CHARS).collect();
                if let Some(place) = info.location() {
                    let file = place.file().rsplit('/').next().unwrap_or_default();
                    report.push_str(&format!(" ({file}:{})", place.line()));
                }
                REPORT.set(Some(report));
            } else {
                usual(info);
            }
        }));
    });
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CONTAINED.set(outer);
    result.map_err(|payload| {
        // Dropping a payload can panic in theory; that is nobody's error message.
        std::mem::forget(payload);
        REPORT.take().unwrap_or_else(|| "panicked".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_comes_back_as_text() {
        assert_eq!(contain(|| 5), Ok(5));
        let e = contain(|| -> u32 { panic!("line {} has no value", 7) }).unwrap_err();
        assert!(e.starts_with("line 7 has no value (contain.rs:"), "{e}");
        assert_eq!(contain(|| contain(|| panic!("inner")).is_err()), Ok(true));
        let long = contain(|| panic!("{}", "x".repeat(10_000))).unwrap_err();
        assert!(long.len() < 300);
    }
}
