//! Where the first assignment comes from: its file, or the newest copy on a volume when the file cannot be used or is older. A file that is about another
//! Recorder of the same name, whose pool was made again, is never older: the copy tells of one that there is no more.

use std::path::Path;

use framekeeper_crds::Recorder;
use tracing::{info, warn};

use crate::assignment::{Assignment, FileWatch, Version, read_copy};

/// The assignment to begin with.
pub(super) struct Origin {
    pub(super) assignment: Assignment,
    /// It is not what the file says.
    pub(super) stale: bool,
}

/// Finds it. `volumes` is the folder that volumes are in.
///
/// # Errors
/// Why there is none, for a person.
pub(super) fn find(watch: &mut FileWatch, volumes: &Path) -> Result<Origin, String> {
    let from_file = match watch.poll() {
        Some(result) => result,
        // Not there: read again for the message.
        None => watch.read(),
    };
    let file = from_file.map_err(|error| error.to_string()).and_then(|object| {
        Assignment::from_object(object).map_err(|error| format!("the assignment's file cannot be used: {error}"))
    });
    let copy = newest_copy(volumes);
    match (file, copy) {
        (Ok(file), Some(copy)) if copy.uid == file.uid && copy.version > file.version => {
            warn!(file = %file.version, copy = %copy.version, "the assignment's file is older than a volume's copy and is ignored");
            Ok(Origin { assignment: copy, stale: true })
        }
        (Ok(file), _) => Ok(Origin { assignment: file, stale: false }),
        (Err(message), Some(copy)) => {
            warn!("{message}");
            info!(version = %copy.version, "starting from the copy on a volume");
            Ok(Origin { assignment: copy, stale: true })
        }
        (Err(message), None) => Err(format!("{message}; and no volume has a copy of an earlier one")),
    }
}

fn newest_copy(volumes: &Path) -> Option<Assignment> {
    let folders = match std::fs::read_dir(volumes) {
        Ok(folders) => folders,
        Err(error) => {
            warn!(folder = %volumes.display(), %error, "the volumes' folder cannot be read");
            return None;
        }
    };
    let mut newest: Option<Recorder> = None;
    for folder in folders.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()) {
        match read_copy(&folder) {
            Ok(Some(copy)) => {
                if newest.as_ref().is_none_or(|newest| Version::of(&copy) > Version::of(newest)) {
                    newest = Some(copy);
                }
            }
            Ok(None) => {}
            Err(error) => warn!("{error}; it is ignored"),
        }
    }
    let assignment = Assignment::from_object(newest?);
    assignment.map_err(|error| warn!("the copy on a volume cannot be used: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::{
        tests::{object, yaml},
        write_copy,
    };

    fn volume_with(folder: &Path, name: &str, generation: i64) {
        let mut object = object();
        object.metadata.generation = Some(generation);
        std::fs::create_dir(folder.join(name)).unwrap();
        write_copy(&folder.join(name), &object).unwrap();
    }

    #[test]
    fn the_newest_wins_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("assignment.yaml");
        let volumes = folder.path().join("volumes");
        std::fs::create_dir(&volumes).unwrap();
        let start = || find(&mut FileWatch::new(&file), &volumes);
        let message = start().err().unwrap();
        assert!(message.contains("assignment.yaml") && message.contains("no volume has a copy"), "{message}");

        volume_with(&volumes, "a", 5);
        volume_with(&volumes, "b", 6);
        let origin = start().unwrap();
        assert_eq!((origin.assignment.version.generation, origin.stale), (6, true));

        std::fs::write(&file, yaml(&object())).unwrap(); // generation 7
        let origin = start().unwrap();
        assert_eq!((origin.assignment.version.generation, origin.stale), (7, false));

        volume_with(&volumes, "c", 8);
        let origin = start().unwrap();
        assert_eq!((origin.assignment.version.generation, origin.stale), (8, true));

        // Another Recorder of the same name begins with generations of its own.
        let mut other = object();
        other.metadata.uid = Some(crate::assignment::tests::uid(901));
        other.metadata.generation = Some(1);
        std::fs::write(&file, yaml(&other)).unwrap();
        let origin = start().unwrap();
        assert_eq!((origin.assignment.version.generation, origin.stale), (1, false));

        // A damaged copy counts for nothing; neither does a damaged file.
        std::fs::write(volumes.join("c/assignment.json"), "{").unwrap();
        std::fs::write(&file, "kind: Pod").unwrap();
        let origin = start().unwrap();
        assert_eq!((origin.assignment.version.generation, origin.stale), (6, true));
    }
}
