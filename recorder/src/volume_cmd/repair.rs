//! `volume repair`.

use std::io::Write;

use framekeeper_store::env::Env;
use framekeeper_store::inspect::repair::{Owner, repair};
use serde_json::json;

use super::output::{Bar, finding_json, finding_line, print_json, size};
use super::{CLEAN, DAMAGED, Failure, Repair};

pub(super) fn run(arguments: &Repair) -> Result<u8, Failure> {
    let names = arguments.pool.clone().zip(arguments.recorder.clone());
    let owner = names.map(|(pool, recorder)| Owner { pool, recorder });
    let mut bar = Bar::new("repairing");
    let path = &arguments.common.path;
    let done = repair(&Env::real(), path, owner.as_ref(), &mut |done, total, path| bar.tell(done, total, path))?;
    drop(bar);
    let code = if done.left.is_empty() { CLEAN } else { DAMAGED };
    if arguments.common.json {
        let action =
            |action: &framekeeper_store::inspect::repair::Action| json!({"path": action.path, "what": action.what});
        print_json(&json!({
            "path": path, "files": done.files, "bytes": done.bytes, "clean": code == CLEAN,
            "actions": done.actions.iter().map(action).collect::<Vec<_>>(),
            "left": done.left.iter().map(finding_json).collect::<Vec<_>>(),
        }))?;
        return Ok(code);
    }
    let mut out = std::io::stdout().lock();
    for action in &done.actions {
        writeln!(out, "did    {}: {}", action.path.display(), action.what)?;
    }
    for finding in &done.left {
        writeln!(out, "{}", finding_line(finding))?;
    }
    let (files, bytes, did, left) = (done.files, size(done.bytes), done.actions.len(), done.left.len());
    writeln!(out, "{files} files, {bytes} looked at: {did} repairs, {left} damages that cannot be made good")?;
    Ok(code)
}
