//! `volume check`.

use std::io::Write;

use framekeeper_store::env::Env;
use framekeeper_store::inspect::{Depth, Filter, Finding, Place, Severity};
use serde_json::json;

use super::output::{Bar, finding_json, finding_line, print_json, size, volume_json, volume_line, warn_if_in_use};
use super::{CLEAN, Check, DAMAGED, Failure};

pub(super) fn run(arguments: &Check) -> Result<u8, Failure> {
    let place = Place::open(&Env::real(), &arguments.common.path)?;
    warn_if_in_use(&place);
    let mut bar = Bar::new("checking");
    let seen =
        place.look(Depth::Everything, &Filter::default(), &mut |done, total, path| bar.tell(done, total, path))?;
    drop(bar);
    let findings = &seen.findings;
    let code = if findings.iter().any(|finding| finding.severity > Severity::Note) { DAMAGED } else { CLEAN };
    let [notes, damage, loss] = count(findings);
    if arguments.common.json {
        print_json(&json!({
            "path": place.path(), "volume": place.volume().as_ref().map(volume_json), "inUse": place.in_use(),
            "files": seen.files, "bytes": seen.bytes, "segments": seen.segments.len(),
            "clean": code == CLEAN, "notes": notes, "damage": damage, "loss": loss,
            "findings": findings.iter().map(finding_json).collect::<Vec<_>>(),
        }))?;
        return Ok(code);
    }
    let mut out = std::io::stdout().lock();
    if let Some(facts) = place.volume() {
        writeln!(out, "{}", volume_line(&facts))?;
    }
    for finding in findings {
        writeln!(out, "{}", finding_line(finding))?;
    }
    let found =
        if code == CLEAN { "nothing is damaged".to_owned() } else { format!("{loss} losses, {damage} other damages") };
    writeln!(out, "{} files, {} checked: {found}, {notes} notes", seen.files, size(seen.bytes))?;
    Ok(code)
}

/// Findings by severity, the least first.
pub(super) fn count(findings: &[Finding]) -> [usize; 3] {
    [Severity::Note, Severity::Damage, Severity::Loss]
        .map(|severity| findings.iter().filter(|finding| finding.severity == severity).count())
}
