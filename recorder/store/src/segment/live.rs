//! A segment that is being written, or waits for its seal: what readers see of it while no index box tells.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use framekeeper_media::WallTime;
use framekeeper_media::boxes::segment::Sealed;
use framekeeper_media::init::InitSegment;
use uuid::Uuid;

use super::index::IndexBuilder;
use crate::env::File;
use crate::lock;
use crate::manifest::{RunPart, SealedSegment};
use crate::names;
use crate::types::{SegmentInfo, StreamIdent};

/// A segment in use.
pub(crate) struct LiveSegment {
    pub(crate) fixed: Fixed,
    written: Mutex<Written>,
}

/// What was written so far: never more than what is in the file.
struct Written {
    index: IndexBuilder,
    end: u64,
    sealed: Option<Sealed>,
}

/// What of a segment does not change.
pub(crate) struct Fixed {
    pub(crate) volume: Uuid,
    pub(crate) stream: StreamIdent,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) file_number: u64,
    pub(crate) file_bytes: u64,
    pub(crate) nonce: u64,
    pub(crate) number: u64,
    pub(crate) init: Arc<InitSegment>,
    pub(crate) audio_timescale: u32,
    /// Offset of the segment box.
    pub(crate) box_offset: u64,
}

impl LiveSegment {
    pub(crate) fn new(fixed: Fixed, index: IndexBuilder, end: u64) -> Self {
        Self { fixed, written: Mutex::new(Written { index, end, sealed: None }) }
    }

    /// More was written: changes the index, and where it ends.
    pub(crate) fn wrote(&self, end: u64, change: impl FnOnce(&mut IndexBuilder)) {
        let mut written = lock(&self.written);
        change(&mut written.index);
        written.end = end;
    }

    /// The index box was written.
    pub(crate) fn indexed(&self, sealed: Sealed) {
        lock(&self.written).sealed = Some(sealed);
    }

    /// A look at the index as far as it was written.
    pub(crate) fn with_index<T>(&self, look: impl FnOnce(&IndexBuilder) -> T) -> T {
        look(&lock(&self.written).index)
    }

    /// Wall time of the first frame, and that at which the last one ends; `None` while there is no frame.
    pub(crate) fn span(&self) -> Option<(WallTime, WallTime)> {
        self.with_index(|index| Some((index.first()?, index.end())))
    }

    pub(crate) fn run_parts(&self) -> Vec<RunPart> {
        self.with_index(IndexBuilder::run_parts)
    }

    pub(crate) fn info(&self) -> Option<SegmentInfo> {
        let written = lock(&self.written);
        Some(SegmentInfo {
            volume: self.fixed.volume,
            path: self.fixed.path.clone(),
            file_number: self.fixed.file_number,
            nonce: self.fixed.nonce,
            stream: self.fixed.stream.uid,
            number: self.fixed.number,
            init_hash: self.fixed.init.hash,
            first: written.index.first()?,
            end: written.index.end(),
            sealed: false,
            used_bytes: written.end,
            counts: written.index.counts(),
        })
    }

    /// What the manifest says of it; `None` before the index box was written.
    pub(crate) fn record(&self) -> Option<SealedSegment> {
        let written = lock(&self.written);
        let sealed = written.sealed?;
        Some(SealedSegment {
            file_number: self.fixed.file_number,
            nonce: self.fixed.nonce,
            stream: self.fixed.stream.uid,
            number: self.fixed.number,
            init_hash: self.fixed.init.hash,
            first: written.index.first()?,
            end: written.index.end(),
            index_offset: sealed.index_offset,
            index_length: sealed.index_length,
            counts: written.index.counts(),
            stream_name: names::full_name(&self.fixed.stream),
            path: self.fixed.path.to_string_lossy().into_owned(),
            runs: written.index.run_parts(),
        })
    }
}
