//! The data folder: what is where, and what recorders are given in it.
//!
//! ```text
//! DATA/run/operator.lock, state.json
//! DATA/run/<recorder>/assignment.yaml    its Recorder object
//!                    /secrets/<namespace>/<Secret>/{username,password}
//!                    /status.yaml        what it says of itself
//!                    /log                what it logs
//!                    /peer.key           what it makes itself known with to its peers; its own
//! DATA/volumes/<recorder>/<volume>/      footage
//! DATA/status/…                          statuses and events, see `objects`
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use framekeeper_crds::{Recorder, yaml};
use serde_json::Value as Json;
use uuid::Uuid;

use super::files::{self, Durable};
use super::manifest::{DEFAULT_NAMESPACE, Manifests};
use crate::decide::wanted::Key;

const SECRET_KEYS: [&str; 2] = ["username", "password"];

/// The data folder, held against other operators.
#[derive(Debug)]
pub struct DataFolder {
    root: PathBuf,
    _lock: File,
}

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It can't be written to.
    #[error("data folder {}: cannot be written to: {source}; choose another one with --data", path.display())]
    NotWritable {
        /// The folder, or what can't be written in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another operator has it.
    #[error(
        "data folder {}: another framekeeper-operator is using it; stop that one, or choose another folder with --data",
        path.display()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
}

impl DataFolder {
    /// Makes the folder where there is none, and takes it.
    ///
    /// # Errors
    /// When it can't be written to, or another operator has it.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        let root =
            std::path::absolute(root).map_err(|source| FolderError::NotWritable { path: root.to_owned(), source })?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::NotWritable { path, source }
        };
        fs::create_dir_all(&root).map_err(failed(&root))?;
        for part in ["run", "volumes", "status"] {
            let path = root.join(part);
            files::private_folder(&path).map_err(failed(&path))?;
        }
        let path = root.join("run/operator.lock");
        match files::lock(&path).map_err(failed(&path))? {
            Some(lock) => Ok(Self { root, _lock: lock }),
            None => Err(FolderError::Locked { path: root }),
        }
    }

    /// Where the state is.
    pub fn state(&self) -> PathBuf {
        self.root.join("run/state.json")
    }

    /// Where footage is.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Where statuses and events are.
    pub fn status(&self) -> PathBuf {
        self.root.join("status")
    }

    /// Takes back what recorders were given that are none any more: assignments and credentials. Logs and footage stay.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn keep_only<'k>(&self, recorders: impl Iterator<Item = &'k Key>) -> io::Result<()> {
        let kept: BTreeSet<PathBuf> = recorders.map(|key| self.recorder(key).run).collect();
        for entry in fs::read_dir(self.root.join("run"))? {
            let run = entry?.path();
            if run.is_dir() && !kept.contains(&run) {
                let gone = RecorderFolder { run, volumes: PathBuf::new() };
                files::remove(&gone.assignment())?;
                files::remove(&gone.status())?;
                if gone.secrets().exists() {
                    fs::remove_dir_all(gone.secrets())?;
                }
            }
        }
        Ok(())
    }

    /// What a recorder is given.
    pub fn recorder(&self, key: &Key) -> RecorderFolder {
        let name = if key.namespace == DEFAULT_NAMESPACE {
            key.name.clone()
        } else {
            // No namespace and no recorder's name has a dot in it, so this can be no other's.
            format!("{}.{}", key.namespace, key.name)
        };
        RecorderFolder { run: self.root.join("run").join(&name), volumes: self.root.join("volumes").join(&name) }
    }
}

/// What one recorder is given.
#[derive(Clone, Debug)]
pub struct RecorderFolder {
    run: PathBuf,
    volumes: PathBuf,
}

impl RecorderFolder {
    /// Its Recorder object.
    pub fn assignment(&self) -> PathBuf {
        self.run.join("assignment.yaml")
    }

    /// Credentials of its cameras.
    pub fn secrets(&self) -> PathBuf {
        self.run.join("secrets")
    }

    /// What it says of itself.
    pub fn status(&self) -> PathBuf {
        self.run.join("status.yaml")
    }

    /// What it logs.
    pub fn log(&self) -> PathBuf {
        self.run.join("log")
    }

    /// The key that it makes itself known with to its peers. It makes one where there is none.
    pub fn peer_key(&self) -> PathBuf {
        self.run.join("peer.key")
    }

    /// Its volumes, a folder each.
    pub fn volumes(&self) -> &Path {
        &self.volumes
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn prepare(&self, recorder: &Recorder) -> io::Result<()> {
        files::private_folder(&self.run)?;
        files::private_folder(&self.secrets())?;
        recorder.spec.volumes.iter().try_for_each(|volume| files::private_folder(&self.volumes.join(&volume.name)))
    }

    /// Gives the recorder its assignment.
    ///
    /// # Errors
    /// When the file can't be replaced.
    pub fn write_assignment(&self, recorder: &Recorder) -> io::Result<()> {
        let text = yaml::write(recorder).map_err(io::Error::other)?;
        files::replace(&self.assignment(), text.as_bytes(), Durable::Yes)
    }

    /// Gives the recorder the credentials of its cameras, and no others. A file is replaced only when its text changed.
    ///
    /// # Errors
    /// When a file can't be written or removed.
    pub fn write_secrets(&self, recorder: &Recorder, manifests: &Manifests) -> io::Result<()> {
        let root = self.secrets();
        let held = recorder.spec.channels.iter().map(|channel| (&channel.stream, Some(&channel.source)));
        // It records these until somebody else does.
        let handed_over = recorder.spec.retired.iter().filter(|retired| !retired.holders.is_empty()).map(|retired| {
            let stream = manifests.streams.get(&Key::new(&retired.stream.namespace, &retired.stream.name));
            (&retired.stream, stream.map(|stream| &stream.object.source))
        });
        let secrets = held.chain(handed_over).filter_map(|(stream, source)| {
            let secret = source?.credentials_secret_ref.as_ref()?;
            Some(Key::new(&stream.namespace, &secret.name))
        });
        let wanted: BTreeSet<Key> = secrets.collect();
        for key in &wanted {
            let Some(secret) = manifests.secrets.get(key) else { continue };
            let folder = root.join(&key.namespace).join(&key.name);
            files::private_folder(&folder)?;
            for name in SECRET_KEYS {
                let path = folder.join(name);
                let Some(value) = secret.object.get(name) else { continue };
                if fs::read(&path).ok().as_deref() != Some(value) {
                    files::replace(&path, value, Durable::Yes)?;
                }
            }
        }
        for namespace in fs::read_dir(&root)? {
            let namespace = namespace?;
            for secret in fs::read_dir(namespace.path())? {
                let secret = secret?;
                let name = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
                if !wanted.contains(&Key::new(name(namespace.file_name()), name(secret.file_name()))) {
                    fs::remove_dir_all(secret.path())?;
                }
            }
        }
        Ok(())
    }

    /// The identity of a volume that is there already, if it says that it belongs to this recorder of this pool.
    pub fn volume_uuid(&self, recorder: &Key, pool: &Key, volume: &str) -> Option<Uuid> {
        let text = fs::read(self.volumes.join(volume).join("framekeeper.json")).ok()?;
        let identity: Json = serde_json::from_slice(&text).ok()?;
        let says = |key: &str| identity.get(key).and_then(Json::as_str);
        if says("pool")? != pool.to_string() || says("recorder")? != recorder.name {
            return None;
        }
        says("volume")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::assign::{self, World};
    use crate::decide::state::State;
    use crate::local::manifest;
    use framekeeper_crds::{PlanVersion, Retired};
    use std::os::unix::fs::PermissionsExt as _;

    struct Nothing;

    impl World for Nothing {
        fn new_uuid(&mut self) -> Uuid {
            Uuid::from_u128(1)
        }
        fn volume_uuid(&mut self, _: &Key, _: &Key, _: &str) -> Option<Uuid> {
            None
        }
        fn status(&self, _: &Key) -> Option<&framekeeper_crds::RecorderStatus> {
            None
        }

        fn peer_address(&self, _: &Key) -> Option<String> {
            None
        }

        fn http_address(&self, _: &Key) -> Option<String> {
            None
        }
    }

    fn manifests(password: &str) -> Manifests {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/cameras.yaml");
        let text = fs::read_to_string(&example).unwrap().replace("change-me", password);
        manifest::read(&[(example, text)]).manifests
    }

    #[test]
    fn a_folder_is_used_by_one_operator() {
        let folder = tempfile::tempdir().unwrap();
        let held = DataFolder::open(folder.path()).unwrap();
        assert!(matches!(DataFolder::open(folder.path()), Err(FolderError::Locked { .. })));
        drop(held);
        DataFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataFolder::open(&file.join("data")).unwrap_err().to_string();
        assert!(error.contains("cannot be written to") && error.contains("--data"), "{error}");
    }

    #[test]
    fn recorders_of_two_namespaces_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let names: BTreeSet<PathBuf> = [("default", "a"), ("b", "a"), ("default", "b")]
            .iter()
            .map(|(namespace, name)| data.recorder(&Key::new(*namespace, *name)).assignment())
            .collect();
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_recorder_gets_its_own_credentials_for_its_eyes_only() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let manifests = manifests("first");
        let assignment = assign::assign(&manifests.wanted(), State::default(), &mut Nothing);
        let plan_version = PlanVersion::default();
        let mut seen = 0;
        for (key, recorder) in &assignment.recorders {
            let files = data.recorder(key);
            files.prepare(recorder).unwrap();
            files.write_assignment(recorder).unwrap();
            files.write_secrets(recorder, &manifests).unwrap();
            let text = fs::read_to_string(files.assignment()).unwrap();
            assert!(!text.contains("first"));
            let back: Recorder = yaml::read_recorder(&text).unwrap();
            assert_eq!(back, **recorder);
            let path = files.secrets().join("default/vault-camera/password");
            let has_vault = recorder.spec.channels.iter().any(|channel| channel.stream.name == "vault");
            assert_eq!(path.exists(), has_vault);
            if has_vault {
                seen += 1;
                assert_eq!(fs::read(&path).unwrap(), b"first");
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
                assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
                files.write_secrets(recorder, &self::manifests("second")).unwrap();
                assert_eq!(fs::read(&path).unwrap(), b"second");
                let mut without = Recorder::clone(recorder);
                without.spec.channels.clear();
                files.write_secrets(&without, &manifests).unwrap();
                assert!(!path.exists());
                // What it hands over it records until then, and its camera may ask for them at any time.
                let stream = recorder.spec.channels.iter().find(|c| c.stream.name == "vault").unwrap().stream.clone();
                let retired = |holders: Vec<String>| Retired { stream: stream.clone(), plan_version, holders };
                without.spec.retired = vec![retired(vec!["other".into()])];
                files.write_secrets(&without, &manifests).unwrap();
                assert!(path.exists());
                without.spec.retired = vec![retired(vec![])];
                files.write_secrets(&without, &manifests).unwrap();
                assert!(!path.exists());
            }
        }
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_volume_of_another_pool_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let (recorder, pool) = (Key::new("default", "main-recorder-0"), Key::new("default", "main"));
        let files = data.recorder(&recorder);
        let volume = files.volumes().join("a");
        fs::create_dir_all(&volume).unwrap();
        let uuid = Uuid::from_u128(5);
        let identity = |pool: &str| {
            format!("{{\"format\":1,\"pool\":\"{pool}\",\"recorder\":\"main-recorder-0\",\"volume\":\"{uuid}\"}}")
        };
        assert_eq!(files.volume_uuid(&recorder, &pool, "a"), None);
        fs::write(volume.join("framekeeper.json"), identity("default/main")).unwrap();
        assert_eq!(files.volume_uuid(&recorder, &pool, "a"), Some(uuid));
        fs::write(volume.join("framekeeper.json"), identity("default/other")).unwrap();
        assert_eq!(files.volume_uuid(&recorder, &pool, "a"), None);
    }
}
