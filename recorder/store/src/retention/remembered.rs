//! `retention.json` on a volume (`docs/format.md` §9): how long the footage of each stream is kept, as it was said last, and how far the time for
//! ages is. Footage of a stream that is gone is kept as long as was said while it was there, whoever knows of the stream by then.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use framekeeper_media::WallTime;
use framekeeper_media::checksum::crc32c;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::decide::Limits;
use crate::env::{Folder, read_exact, write_all};

pub(crate) const NAME: &str = "retention.json";
const NEW_NAME: &str = "retention.new";
const FORMAT: u32 = 1;
/// 10,000 streams take about 1 MB.
const BYTES_AT_MOST: u64 = 16 << 20;

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// The time for ages.
    pub(crate) age_time: Option<WallTime>,
    pub(crate) streams: BTreeMap<Uuid, Limits>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_time_us: Option<i64>,
    streams: BTreeMap<Uuid, StoredLimits>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
}

/// Reads the file; nothing where there is none, or where it is not what was written: then others may know.
///
/// # Errors
/// When the disk fails.
pub(crate) fn read(folder: &dyn Folder) -> io::Result<Remembered> {
    let file = match folder.open(Path::new(NAME), false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::default()),
        other => other?,
    };
    let size = file.size()?.min(BYTES_AT_MOST);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    read_exact(file.as_ref(), &mut bytes, 0)?;
    Ok(parse(&bytes).unwrap_or_else(|| {
        tracing::warn!(
            file = NAME,
            "is damaged; of streams that are gone, the pool's retention holds where no other volume tells more"
        );
        Remembered::default()
    }))
}

/// A line of JSON, and a line with its CRC32C as 8 hexadecimal digits.
fn parse(bytes: &[u8]) -> Option<Remembered> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (json, crc) = text.trim_end().rsplit_once('\n')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c(json.as_bytes()) {
        return None;
    }
    let stored: Stored = serde_json::from_str(json).ok()?;
    if stored.format != FORMAT {
        return None;
    }
    let limits = |stored: StoredLimits| Limits {
        max_age: stored.max_age_ms.map(Duration::from_millis),
        max_bytes: stored.max_bytes,
    };
    let streams = stored.streams.into_iter().map(|(uid, stored)| (uid, limits(stored)));
    Some(Remembered { age_time: stored.age_time_us.map(WallTime), streams: streams.collect() })
}

/// Replaces the file, durably.
///
/// # Errors
/// When the disk fails.
pub(crate) fn write(folder: &dyn Folder, remembered: &Remembered) -> io::Result<()> {
    let stored = |limits: &Limits| StoredLimits {
        max_age_ms: limits.max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        max_bytes: limits.max_bytes,
    };
    let stored = Stored {
        format: FORMAT,
        age_time_us: remembered.age_time.map(|time| time.0),
        streams: remembered.streams.iter().map(|(uid, limits)| (*uid, stored(limits))).collect(),
    };
    let json = serde_json::to_string(&stored)?;
    let text = format!("{json}\n{:08x}\n", crc32c(json.as_bytes()));
    let new = Path::new(NEW_NAME);
    let file = folder.open_or_create(new)?;
    file.set_size(0)?;
    write_all(file.as_ref(), text.as_bytes(), 0)?;
    file.sync()?;
    folder.rename(new, Path::new(NAME))?;
    folder.sync_folder(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Disk, MemDisk};

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let disk = MemDisk::new();
        disk.make_folder(Path::new("/v"));
        let folder = Disk::open(&disk, Path::new("/v")).unwrap();
        assert_eq!(read(folder.as_ref()).unwrap(), Remembered::default());
        let day = Limits { max_age: Some(Duration::from_secs(86_400)), max_bytes: None };
        let bytes = Limits { max_age: None, max_bytes: Some(u64::MAX) };
        let remembered = Remembered {
            age_time: Some(WallTime(-5)),
            streams: [(Uuid::from_u128(1), day), (Uuid::from_u128(2), bytes), (Uuid::from_u128(3), Limits::default())]
                .into(),
        };
        write(folder.as_ref(), &remembered).unwrap();
        assert_eq!(read(folder.as_ref()).unwrap(), remembered);
        let path = Path::new("/v/retention.json");
        let whole = disk.bytes(path).unwrap();
        for at in 0..whole.len() - 1 {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x04;
            disk.put(path, flipped);
            assert_eq!(read(folder.as_ref()).unwrap(), Remembered::default(), "byte {at}");
            disk.put(path, whole[..at].to_vec());
            assert_eq!(read(folder.as_ref()).unwrap(), Remembered::default(), "cut at {at}");
        }
    }
}
