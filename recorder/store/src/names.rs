//! Names of folders and files on a volume (`docs/format.md` §1), and the calendar that they need.

use std::path::PathBuf;

use framekeeper_media::WallTime;
use framekeeper_media::boxes::segment::MAX_NAME_BYTES;

use crate::error::StreamError;
use crate::types::StreamIdent;

/// Folder of the files that hold nothing.
pub(crate) const POOL: &str = "pool";
/// Folder of the files whose footage is given up.
pub(crate) const RETIRED: &str = "retired";
/// Folder of the footage.
pub(crate) const STREAMS: &str = "streams";
/// A mark. It is there where a segment was begun whose name sorts before that of an older one.
pub(crate) const UNORDERED: &str = "unordered";

const US_A_SECOND: i64 = 1_000_000;
const US_A_DAY: i64 = 86_400 * US_A_SECOND;

struct Date {
    year: i64,
    month: i64,
    day: i64,
    us_of_day: i64,
}

impl Date {
    /// The Gregorian date of a wall time: days are counted in cycles of 400 years that begin on 1 March.
    fn of(wall: WallTime) -> Self {
        const DAYS_OF_400_YEARS: i64 = 146_097;
        const FROM_0000_03_01_TO_1970_01_01: i64 = 719_468;
        let days = wall.0.div_euclid(US_A_DAY) + FROM_0000_03_01_TO_1970_01_01;
        let cycle = days.div_euclid(DAYS_OF_400_YEARS);
        let day_of_cycle = days.rem_euclid(DAYS_OF_400_YEARS);
        let year_of_cycle =
            (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
        let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: cycle * 400 + year_of_cycle + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            us_of_day: wall.0.rem_euclid(US_A_DAY),
        }
    }

    fn clock(&self) -> (i64, i64, i64, i64) {
        let seconds = self.us_of_day / US_A_SECOND;
        (seconds / 3600, seconds / 60 % 60, seconds % 60, self.us_of_day % US_A_SECOND / 1000)
    }
}

/// `2026-11-21T14:03:00.000Z`
pub(crate) fn rfc3339(wall: WallTime) -> String {
    let date = Date::of(wall);
    let (h, m, s, ms) = date.clock();
    format!("{:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z", date.year, date.month, date.day)
}

/// `streams/<namespace>/<name>`
pub(crate) fn stream_folder(stream: &StreamIdent) -> PathBuf {
    [STREAMS, &stream.namespace, &stream.name].iter().collect()
}

/// Folder and path of a segment that begins at `first`; `copy` 1 is the plain name, then `-2`, ….
pub(crate) fn segment(stream: &StreamIdent, first: WallTime, copy: u32) -> (PathBuf, PathBuf) {
    let date = Date::of(first);
    let (h, m, s, ms) = date.clock();
    let folder = stream_folder(stream).join(format!("{:04}-{:02}-{:02}", date.year, date.month, date.day));
    let suffix = if copy > 1 { format!("-{copy}") } else { String::new() };
    let file = format!("{:04}{:02}{:02}T{h:02}{m:02}{s:02}.{ms:03}Z{suffix}.mp4", date.year, date.month, date.day);
    let path = folder.join(file);
    (folder, path)
}

/// `<folder>/<file number>.mp4`
pub(crate) fn numbered(folder: &str, file_number: u64) -> PathBuf {
    [folder, &format!("{file_number:08}.mp4")].iter().collect()
}

/// The number in such a name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".mp4")?;
    let plain = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// Whether the names of a stream can be folders.
pub(crate) fn check(stream: &StreamIdent) -> Result<(), StreamError> {
    let one = |field, value: &String, longest: usize, expected| {
        let bad = value.is_empty()
            || value.len() > longest
            || value == "."
            || value == ".."
            || value.contains(['/', '\0'])
            || value.chars().any(char::is_control);
        if bad { Err(StreamError::Name { field, value: value.clone(), expected }) } else { Ok(()) }
    };
    one("namespace", &stream.namespace, 63, "expected 1 to 63 bytes without slashes or control characters")?;
    one("name", &stream.name, 253, "expected 1 to 253 bytes without slashes or control characters")?;
    debug_assert!(full_name(stream).len() <= MAX_NAME_BYTES);
    Ok(())
}

/// `namespace/name`
pub(crate) fn full_name(stream: &StreamIdent) -> String {
    format!("{}/{}", stream.namespace, stream.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_795_269_780, "2026-11-21T14:03:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(WallTime(seconds * US_A_SECOND)), text);
        }
    }

    #[test]
    fn segments_are_named_by_their_start() {
        let stream = StreamIdent { uid: uuid::Uuid::nil(), namespace: "default".into(), name: "door".into() };
        let (folder, path) = segment(&stream, WallTime(1_795_269_780_123_456), 1);
        assert_eq!(folder.to_str(), Some("streams/default/door/2026-11-21"));
        assert_eq!(path.to_str(), Some("streams/default/door/2026-11-21/20261121T140300.123Z.mp4"));
        let (_, path) = segment(&stream, WallTime(1_795_269_780_123_456), 2);
        assert_eq!(path.to_str(), Some("streams/default/door/2026-11-21/20261121T140300.123Z-2.mp4"));
    }

    #[test]
    fn file_numbers_are_read_back() {
        assert_eq!(number_of("00000017.mp4"), Some(17));
        assert_eq!(number_of("123456789.mp4"), Some(123_456_789));
        for bad in ["17.mp4", "00000017.tmp", "0000001x.mp4", ""] {
            assert_eq!(number_of(bad), None);
        }
    }

    #[test]
    fn names_that_would_leave_the_volume_are_refused() {
        let stream = |namespace: &str, name: &str| StreamIdent {
            uid: uuid::Uuid::nil(),
            namespace: namespace.into(),
            name: name.into(),
        };
        assert!(check(&stream("default", "door")).is_ok());
        for (namespace, name) in [("", "a"), ("a", ""), ("..", "a"), ("a", "b/c"), ("a", "b\0"), ("a", "x\ny")] {
            assert!(check(&stream(namespace, name)).is_err());
        }
    }
}
