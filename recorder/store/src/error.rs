//! Errors, by what the caller can do next.

use std::io;
use std::path::PathBuf;

/// Why a volume could not be opened. Each says what was found and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value of the configuration cannot be.
    #[error("{field} is {value}, {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// The folder holds what is not ours; nothing was written.
    #[error(
        "{dir} holds files that are not of a volume (for example {example:?}) and no framekeeper.json; give an empty folder"
    )]
    Foreign {
        /// The folder.
        dir: PathBuf,
        /// One of the names found.
        example: String,
    },
    /// The volume is another one than expected; nothing was written.
    #[error(
        "{dir}: framekeeper.json says {field} {found:?}, expected {expected:?}; this volume is not opened, so that nobody's footage is touched"
    )]
    Identity {
        /// The folder.
        dir: PathBuf,
        /// Which field differs.
        field: &'static str,
        /// What the volume says.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// It was opened more often than it says: it is an older state of the volume. Nothing was written.
    #[error(
        "{dir}: volume {volume} says that it was opened {found} times, {known} times are remembered: an older copy of it, such as a restored backup, or an empty folder is in its place; put the newer one back (is it mounted?), or remove the volume from opened.json beside the volumes' folders to go on with this one"
    )]
    Older {
        /// The folder.
        dir: PathBuf,
        /// The volume.
        volume: uuid::Uuid,
        /// What the volume says.
        found: u64,
        /// What is remembered.
        known: u64,
    },
    /// `framekeeper.json` cannot be understood.
    #[error("{dir}: framekeeper.json is damaged: {reason}; restore it, or empty the folder to format it again")]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process has the volume.
    #[error("{dir} is in use by another recorder process (its lock file is held)")]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder cannot be written.
    #[error("{dir} is not writable: {source}; the recorder needs to write there")]
    ReadOnly {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no room for the files that must be there before recording may start.
    #[error(
        "{dir}: no room for segment files: {have} of {want} files of {segment_bytes} bytes exist, {free_bytes} bytes are free, {needed_bytes} more are needed for the budget"
    )]
    NoSpace {
        /// The folder.
        dir: PathBuf,
        /// Files that exist.
        have: u64,
        /// Files that the budget asks for.
        want: u64,
        /// Size of each.
        segment_bytes: u64,
        /// Bytes free in the file system.
        free_bytes: u64,
        /// Bytes missing.
        needed_bytes: u64,
    },
    /// Anything else that the disk said.
    #[error("{dir}: {what}: {source}")]
    Io {
        /// The folder.
        dir: PathBuf,
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The segment was retired since; ask for the segments again.
    #[error("the segment is gone: its file was reused or retired")]
    Gone,
    /// There is no such volume (any more).
    #[error("volume {0} is not open here")]
    NoVolume(uuid::Uuid),
    /// The file does not hold what it should.
    #[error("segment {path} is damaged: {reason}")]
    Damaged {
        /// The file, below its volume.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk failed to read.
    #[error("reading {path}: {source}")]
    Io {
        /// The file, below its volume.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The catalogue failed; it is being rebuilt.
    #[error("catalogue: {0}")]
    Catalogue(String),
}

/// Why a stream cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The names cannot be folders or do not fit.
    #[error("stream {field} is {value:?}, {expected}")]
    Name {
        /// Which name.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Somebody already writes this stream.
    #[error("stream {0} already has a writer")]
    Taken(uuid::Uuid),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
    /// No volume can be written.
    #[error("no volume can be written: {0}")]
    NoVolume(String),
}

/// Why a hold could not be set or released.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The volume is not open, or has failed.
    #[error("volume {volume} is not open, or has failed")]
    NotWritable {
        /// The volume.
        volume: uuid::Uuid,
    },
    /// The manifest of a volume could not be written.
    #[error("volume {volume}: {source}")]
    Io {
        /// The volume.
        volume: uuid::Uuid,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a volume could not be drained, stopped or taken into use again.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It is not open.
    #[error("no volume {volume} is open here")]
    Unknown {
        /// Its UUID.
        volume: uuid::Uuid,
    },
    /// It has failed: it must be stopped and started.
    #[error("the volume {volume} has failed ({why}); stop it and start it again")]
    Failed {
        /// Its UUID.
        volume: uuid::Uuid,
        /// Why.
        why: String,
    },
    /// Its disk does not answer.
    #[error(
        "the disk of volume {volume} hangs; no stream uses it any more, but it can be taken away or started again only when it answers"
    )]
    Hangs {
        /// Its UUID.
        volume: uuid::Uuid,
    },
    /// It cannot be opened again.
    #[error(transparent)]
    Open(OpenError),
}
