//! What an inspection has to say.

use std::path::PathBuf;

use framekeeper_media::WallTime;

/// Where something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub kind: Kind,
    /// The file, below the place that was looked at.
    pub path: PathBuf,
    /// Where in the file, in bytes; `None`: the file as a whole.
    pub offset: Option<u64>,
    /// How many bytes from there; 0 where that says nothing.
    pub bytes: u64,
    /// What was found, and what should be.
    pub what: String,
    /// `namespace/name` of the stream whose footage is lost.
    pub stream: Option<String>,
    /// From when to when it is lost.
    pub span: Option<(WallTime, WallTime)>,
    /// Video frames that are known to be lost.
    pub video_frames: u32,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; a recorder deals with it, and no footage is lost.
    Note,
    /// Not as it should be; all footage can be read.
    Damage,
    /// Footage is lost.
    Loss,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `framekeeper.json`.
    Identity,
    /// `manifest.log`.
    Manifest,
    /// `catalogue.redb`.
    Catalogue,
    /// A file in `pool/` or `retired/`.
    Pool,
    /// `ftyp`, `moov` or the segment box.
    Head,
    /// A run box or a fragment.
    Fragment,
    /// Index box, `mfra`, or what is behind them.
    Index,
    /// A file that is not where the manifest says.
    Missing,
    /// A segment that the manifest does not know.
    Unlisted,
    /// A file that is no segment.
    Foreign,
}

impl Severity {
    /// As a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Damage => "damage",
            Self::Loss => "loss",
        }
    }
}

impl Kind {
    /// As a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "Identity",
            Self::Manifest => "Manifest",
            Self::Catalogue => "Catalogue",
            Self::Pool => "Pool",
            Self::Head => "Head",
            Self::Fragment => "Fragment",
            Self::Index => "Index",
            Self::Missing => "Missing",
            Self::Unlisted => "Unlisted",
            Self::Foreign => "Foreign",
        }
    }
}

impl Finding {
    /// About a whole file.
    pub(super) fn new(severity: Severity, kind: Kind, path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self {
            severity,
            kind,
            path: path.into(),
            offset: None,
            bytes: 0,
            what: what.into(),
            stream: None,
            span: None,
            video_frames: 0,
        }
    }

    /// About a range of it.
    pub(super) fn at(self, range: &std::ops::Range<u64>) -> Self {
        Self { offset: Some(range.start), bytes: range.end.saturating_sub(range.start), ..self }
    }
}
