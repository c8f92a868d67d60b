//! `docs/metrics.md` says what `/metrics` answers.

use std::path::Path;

#[test]
fn the_page_is_current() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let wanted = framekeeper_recorder::metrics::document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/metrics.md is stale; UPDATE_DOCS=1 cargo test -p framekeeper-recorder --test recorder metrics_page writes it"
    );
}
