//! The catalogue: what is sealed on a volume, found fast. A cache over the manifest and the files, kept in redb.

mod tables;
mod view;

use std::path::Path;
use std::sync::Arc;

use framekeeper_media::boxes::Ended;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend as _};

use crate::env::{File, Folder, read_exact, write_all};
use crate::manifest::Record;
use crate::manifest_log::Position;

use tables::*;
pub(crate) use tables::{RunRow, merge_run};
pub(crate) use view::View;

pub(crate) const NAME: &str = "catalogue.redb";
/// What is in the tables, and how. A catalogue of any other version is thrown away.
const VERSION: u64 = 2;
/// Pages kept in memory; a lookup touches a handful of 4 KiB.
const CACHE_BYTES: usize = 32 << 20;

/// The catalogue failed. It is only a cache: open it anew.
#[derive(Debug, thiserror::Error)]
#[error("catalogue: {0}")]
pub(crate) struct CatalogueError(String);

impl<E: Into<redb::Error>> From<E> for CatalogueError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

fn damaged(_: Ended) -> CatalogueError {
    CatalogueError("a row is cut".to_owned())
}

type Result<T> = std::result::Result<T, CatalogueError>;

/// The open catalogue.
pub(crate) struct Catalogue {
    db: Database,
    /// It is on the volume, and not only in memory.
    kept: bool,
}

/// How far it was, when opened.
pub(crate) struct Opened {
    pub(crate) catalogue: Catalogue,
    /// What of the manifest is in it.
    pub(crate) position: Position,
    /// Whether all files were looked at, and not only the manifest.
    pub(crate) scanned: bool,
}

impl Catalogue {
    /// Opens the catalogue of a volume, making it anew when it is missing, damaged or of another version, in memory where the disk does not
    /// let it. Reads all of it: pages that do not check would be found only when somebody gets wrong answers from them.
    pub(crate) fn open(folder: &dyn Folder) -> Result<Opened> {
        let path = Path::new(NAME);
        let attempt = || {
            let opened = || {
                let file = folder.open_or_create(path).map_err(|e| CatalogueError(e.to_string()))?;
                Self::from_file(file)?.known()
            };
            // Damaged pages may make redb panic. That is this file's trouble and nobody else's: it is a cache.
            let panicked = |_| Err(CatalogueError("its pages make no sense".to_owned()));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(opened)).unwrap_or_else(panicked)
        };
        let first = attempt();
        let opened = first.or_else(|reason| {
            tracing::warn!(%reason, "the catalogue cannot be used and is built anew");
            // A file that is not there is as good as one that was removed.
            drop(folder.remove(path));
            attempt()
        });
        opened.or_else(|reason| {
            tracing::warn!(%reason, "the catalogue cannot be on this volume and is kept in memory");
            Self::known(Self::in_memory()?)
        })
    }

    fn known(self) -> Result<Opened> {
        let read = self.db.begin_read()?;
        let meta = read.open_table(META)?;
        let get = |key| -> Result<u64> { Ok(meta.get(key)?.map_or(0, |v| v.value())) };
        let position = Position { generation: get("generation")?, offset: get("position")? };
        let scanned = get("scanned")? == 1;
        let version = get("version")?;
        if version != VERSION {
            return Err(CatalogueError(format!("it has version {version}, expected {VERSION}")));
        }
        drop(meta);
        drop(read);
        Ok(Opened { catalogue: self, position, scanned })
    }

    /// A catalogue that is gone with the process.
    pub(crate) fn in_memory() -> Result<Self> {
        let db = Builder::new().create_with_backend(redb::backends::InMemoryBackend::new())?;
        Self::with_tables(db, false)
    }

    /// One that answers nothing, as where the disk does not give it.
    #[cfg(test)]
    pub(crate) fn broken() -> Result<Self> {
        let db = Builder::new().create_with_backend(redb::backends::InMemoryBackend::new())?;
        Ok(Self { db, kept: false })
    }

    fn from_file(file: Arc<dyn File>) -> Result<Self> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        Self::with_tables(builder.create_with_backend(Backend(file))?, true)
    }

    fn with_tables(db: Database, kept: bool) -> Result<Self> {
        let is_new = db.begin_read()?.list_tables()?.next().is_none();
        let mut write = db.begin_write()?;
        write.set_durability(Durability::None)?;
        if is_new {
            write.open_table(META)?.insert("version", VERSION)?;
        }
        write.open_table(META)?;
        write.open_table(FILES)?;
        write.open_table(CHECKED)?;
        for table in TABLES {
            write.open_table(table)?;
        }
        write.commit()?;
        Ok(Self { db, kept })
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        write.delete_table(META)?;
        write.delete_table(FILES)?;
        write.delete_table(CHECKED)?;
        write.open_table(META)?.insert("version", VERSION)?;
        write.open_table(FILES)?;
        write.open_table(CHECKED)?;
        for table in TABLES {
            write.delete_table(table)?;
            write.open_table(table)?;
        }
        Ok(write.commit()?)
    }

    /// Puts records in, in order, and remembers `position` (where given) as what of the manifest is known.
    pub(crate) fn apply(&self, records: &[Record], position: Option<Position>) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut tables = Tables::open(&write)?;
            for record in records {
                tables.apply(record)?;
            }
            if let Some(position) = position {
                tables.meta.insert("generation", position.generation)?;
                tables.meta.insert("position", position.offset)?;
            }
        }
        Ok(write.commit()?)
    }

    /// The manifest was written anew.
    pub(crate) fn compacted(&self, position: Position) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert("dead", 0)?;
            meta.insert("generation", position.generation)?;
            meta.insert("position", position.offset)?;
        }
        Ok(write.commit()?)
    }

    /// Remembers whether all files were looked at.
    pub(crate) fn set_scanned(&self, scanned: bool) -> Result<()> {
        let mut write = self.db.begin_write()?;
        write.set_durability(Durability::None)?;
        write.open_table(META)?.insert("scanned", u64::from(scanned))?;
        Ok(write.commit()?)
    }

    /// Makes durable that files are still to be looked at. Whether the volume has it then: a catalogue in memory tells nobody.
    pub(crate) fn leave_unscanned(&self) -> Result<bool> {
        self.set_scanned(false)?;
        self.persist()?;
        Ok(self.kept)
    }

    /// Makes it durable; takes as long as a sync.
    pub(crate) fn persist(&self) -> Result<()> {
        Ok(self.db.begin_write()?.commit()?)
    }

    /// A view that does not change while it is held.
    pub(crate) fn view(&self) -> Result<View> {
        Ok(View::new(self.db.begin_read()?))
    }
}

/// Whether the bytes of a catalogue check: the pages by their checksums, the rows by what they must be.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check(bytes: Vec<u8>) -> Result<()> {
    let memory = redb::backends::InMemoryBackend::new();
    let length = bytes.len() as u64;
    memory.set_len(length).and_then(|()| memory.write(0, &bytes)).map_err(|e| CatalogueError(e.to_string()))?;
    drop(bytes);
    let mut db = Builder::new().create_with_backend(memory)?;
    if !db.check_integrity()? {
        return Err(CatalogueError("its pages do not check".to_owned()));
    }
    let read = db.begin_read()?;
    for row in read.open_table(SEGMENTS)?.iter()? {
        segment(row?.1.value())?;
    }
    Ok(())
}

/// redb on a file of ours.
#[derive(Clone)]
struct Backend(Arc<dyn File>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backend")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        read_exact(self.0.as_ref(), out, offset)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_size(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        write_all(self.0.as_ref(), data, offset)
    }
}
