//! What is known of the API server, as files: where the worker looks for it, and where it stays while the API server is away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use framekeeper_crds::k8s_openapi::ByteString;
use framekeeper_crds::{Recorder, yaml};

use crate::assignment::{FileWatch, Version};

/// The files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The assignment.
    pub(crate) assignment: PathBuf,
    /// Credentials: `<namespace>/<Secret>/<key>`.
    pub(crate) secrets: PathBuf,
    /// What the recorder says of itself.
    pub(crate) status: PathBuf,
}

impl Files {
    /// Writes the assignment, unless what is there is newer: an API server that was restored from an older state, or a watch that lags behind, turns nothing back.
    pub(crate) fn assign(&self, recorder: &Recorder) -> io::Result<()> {
        let mut bare = recorder.clone();
        bare.status = None;
        bare.metadata.managed_fields = None;
        if let Ok(there) = FileWatch::new(&self.assignment).read()
            && there.metadata.uid == bare.metadata.uid
            && Version::of(&there) >= Version::of(&bare)
        {
            return Ok(());
        }
        let text = yaml::write(&bare).map_err(io::Error::other)?;
        replace(&self.assignment, text.as_bytes())
    }

    /// What the recorder says of itself, if it was written since `seen`.
    pub(crate) fn status(&self, seen: &mut Option<(u64, std::time::SystemTime)>) -> Option<Recorder> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(&self.status).ok()?;
        let stamp = (metadata.ino(), metadata.modified().ok()?);
        if *seen == Some(stamp) {
            return None;
        }
        let recorder = yaml::read_recorder(&fs::read_to_string(&self.status).ok()?).ok()?;
        *seen = Some(stamp);
        Some(recorder)
    }

    /// Unpacks the Secret: one entry for each Secret of cameras. What is not in it any more goes, a key of an entry too.
    pub(crate) fn unpack(&self, namespace: &str, data: &BTreeMap<String, ByteString>) -> io::Result<()> {
        let folder = self.secrets.join(namespace);
        private_folder(&folder)?;
        for (name, values) in data {
            let Some(values) = entry(name, &values.0) else { continue };
            let secret = folder.join(name);
            private_folder(&secret)?;
            for (key, value) in &values {
                let path = secret.join(key);
                if fs::read(&path).ok().as_ref() != Some(value) {
                    replace(&path, value)?;
                }
            }
            for old in fs::read_dir(&secret)?.filter_map(Result::ok) {
                if old.file_name().to_str().is_none_or(|key| !values.contains_key(key)) {
                    fs::remove_file(old.path())?;
                }
            }
        }
        for old in fs::read_dir(&folder)?.filter_map(Result::ok) {
            if old.file_name().to_str().is_none_or(|name| !data.contains_key(name)) {
                fs::remove_dir_all(old.path())?;
            }
        }
        Ok(())
    }

    /// Takes over the Secret as the kubelet mounted it, where nothing newer is there already.
    pub(crate) fn take_mounted(&self, namespace: &str, mounted: &Path) -> io::Result<()> {
        if self.secrets.join(namespace).is_dir() {
            return Ok(());
        }
        let mut data = BTreeMap::new();
        for file in fs::read_dir(mounted)?.filter_map(Result::ok) {
            // `..data` and the like are how a kubelet replaces all of it at once.
            let name = file.file_name().to_str().filter(|name| !name.starts_with("..")).map(str::to_owned);
            if let (Some(name), Ok(bytes)) = (name, fs::read(file.path())) {
                data.insert(name, ByteString(bytes));
            }
        }
        self.unpack(namespace, &data)
    }
}

/// The values of one Secret: only names that can be no path.
fn entry(name: &str, json: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let is_plain = |text: &str| !text.is_empty() && !text.starts_with('.') && !text.contains('/');
    let values: BTreeMap<String, ByteString> = serde_json::from_slice(json).ok()?;
    let values = values.into_iter().filter(|(key, _)| is_plain(key)).map(|(key, value)| (key, value.0));
    is_plain(name).then(|| values.collect())
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file as a whole, readable for its owner only.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::tests::object;
    use std::os::unix::fs::PermissionsExt as _;

    fn files(folder: &Path) -> Files {
        Files {
            assignment: folder.join("assignment.yaml"),
            secrets: folder.join("secrets"),
            status: folder.join("status.yaml"),
        }
    }

    fn secret(password: &str) -> BTreeMap<String, ByteString> {
        let values: BTreeMap<&str, ByteString> = [
            ("username", ByteString(b"bob".to_vec())),
            ("password", ByteString(password.as_bytes().to_vec())),
            ("../climbs", ByteString(b"x".to_vec())),
        ]
        .into();
        [("door".to_owned(), ByteString(serde_json::to_vec(&values).unwrap()))].into()
    }

    #[test]
    fn an_older_assignment_turns_nothing_back() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let generation = |number: i64| {
            let mut object = object();
            object.metadata.generation = Some(number);
            object
        };
        let there = || FileWatch::new(&files.assignment).read().unwrap().metadata.generation;
        files.assign(&generation(7)).unwrap();
        files.assign(&generation(6)).unwrap();
        assert_eq!(there(), Some(7));
        files.assign(&generation(8)).unwrap();
        assert_eq!(there(), Some(8));
        // Another Recorder of the same name begins anew.
        let mut other = generation(1);
        other.metadata.uid = Some(crate::assignment::tests::uid(901));
        files.assign(&other).unwrap();
        assert_eq!(there(), Some(1));
    }

    #[test]
    fn credentials_are_for_the_recorder_alone_and_go_when_they_are_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        files.unpack("default", &secret("first")).unwrap();
        let password = folder.path().join("secrets/default/door/password");
        assert_eq!(fs::read_to_string(&password).unwrap(), "first");
        assert_eq!(fs::metadata(&password).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!folder.path().join("secrets/default/climbs").exists());
        files.unpack("default", &secret("second")).unwrap();
        assert_eq!(fs::read_to_string(&password).unwrap(), "second");
        // What is too long for a password takes the place of the former one.
        let values: BTreeMap<&str, ByteString> =
            [("username", ByteString(b"bob".to_vec())), ("password.bytes", ByteString(b"614400".to_vec()))].into();
        let long = [("door".to_owned(), ByteString(serde_json::to_vec(&values).unwrap()))].into();
        files.unpack("default", &long).unwrap();
        let bytes = folder.path().join("secrets/default/door/password.bytes");
        assert!(!password.exists() && bytes.exists());
        files.unpack("default", &secret("third")).unwrap();
        assert!(password.exists() && !bytes.exists());
        files.unpack("default", &BTreeMap::new()).unwrap();
        assert!(!password.exists());
    }

    #[test]
    fn what_a_kubelet_mounted_counts_only_while_nothing_else_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let (files, mounted) = (files(folder.path()), folder.path().join("mounted"));
        fs::create_dir_all(mounted.join("..data")).unwrap();
        fs::write(mounted.join("door"), &secret("mounted")["door"].0).unwrap();
        files.take_mounted("default", &mounted).unwrap();
        let password = || fs::read_to_string(folder.path().join("secrets/default/door/password")).unwrap();
        assert_eq!(password(), "mounted");
        files.unpack("default", &secret("newer")).unwrap();
        files.take_mounted("default", &mounted).unwrap();
        assert_eq!(password(), "newer");
    }
}
