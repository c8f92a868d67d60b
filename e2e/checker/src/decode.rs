//! ffmpeg as a judge of whether what was recorded can be decoded.

use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};

/// What ffmpeg said about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Pictures that came out.
    pub pictures: u64,
    /// Its messages at level `error`; empty if all is well.
    pub messages: String,
    /// Whether it ended with 0.
    pub success: bool,
}

/// Decodes every stream of a file: `ffmpeg -v error -xerror -i … -f null -`.
///
/// Errors: ffmpeg cannot be started.
pub fn decode(path: &Path) -> std::io::Result<Decoded> {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-xerror", "-progress", "pipe:1", "-threads", "1", "-i"])
        .arg(path)
        .args(["-map", "0", "-fps_mode", "passthrough", "-f", "null", "-"])
        .stdin(Stdio::null())
        .output()?;
    let progress = String::from_utf8_lossy(&output.stdout);
    let last = progress.lines().rev().find_map(|line| line.strip_prefix("frame="));
    Ok(Decoded {
        pictures: last.and_then(|count| count.trim().parse().ok()).unwrap_or(0),
        messages: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        success: output.status.success(),
    })
}

/// What is wrong with a file in which `pictures` are, by ffmpeg; `None` if nothing. Not all of them are certain where packets were lost: what refers to a lost
/// picture is shown by one decoder and left out by another. One that grows may have more of them by now.
///
/// Errors: ffmpeg cannot be started.
pub fn undecodable(path: &Path, pictures: RangeInclusive<u64>, grows: bool) -> std::io::Result<Option<String>> {
    let decoded = decode(path)?;
    if !decoded.messages.is_empty() || !decoded.success {
        let first: String = decoded.messages.lines().take(3).collect::<Vec<_>>().join(" | ");
        return Ok(Some(format!("ffmpeg: {first}")));
    }
    let is_good = pictures.contains(&decoded.pictures) || (grows && decoded.pictures > *pictures.end());
    Ok((!is_good).then(|| {
        format!(
            "ffmpeg decodes {} of {} pictures, {} of them certain",
            decoded.pictures,
            pictures.end(),
            pictures.start()
        )
    }))
}

/// The same of a file's beginning: what is behind its first `end` bytes is not looked at.
///
/// Errors: the file cannot be copied, or ffmpeg not started.
pub fn undecodable_up_to(path: &Path, end: usize, pictures: RangeInclusive<u64>) -> std::io::Result<Option<String>> {
    let mut beginning = tempfile::NamedTempFile::new()?;
    std::io::copy(&mut std::fs::File::open(path)?.take(end as u64), &mut beginning)?;
    undecodable(beginning.path(), pictures, false)
}

/// The frame number that a ledger camera drew into a JPEG picture; `None` if there is none.
///
/// Errors: ffmpeg cannot be started, or does not decode it.
pub fn number_in_jpeg(jpeg: &[u8]) -> std::io::Result<Option<u64>> {
    let (luma, width) = luma_of_jpeg(jpeg)?;
    Ok(framekeeper_e2e_camera::read_stamp(&luma, width))
}

/// The luma samples of a JPEG picture, and how many there are a row.
///
/// Errors: ffmpeg cannot be started, or does not decode it.
pub fn luma_of_jpeg(jpeg: &[u8]) -> std::io::Result<(Vec<u8>, usize)> {
    use std::io::Write as _;
    let width = jpeg_width(jpeg).ok_or_else(|| std::io::Error::other("no JPEG: no start-of-frame marker"))?;
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "mjpeg", "-i", "pipe:0", "-f", "rawvideo", "-pix_fmt", "gray", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // ffmpeg reads all of its input before it writes a picture.
    if let Some(mut input) = child.stdin.take() {
        input.write_all(jpeg)?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() || output.stdout.is_empty() || !output.stderr.is_empty() {
        return Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok((output.stdout, width))
}

/// Samples a row: ITU-T T.81 §B.2.2, markers SOF0 to SOF2.
fn jpeg_width(jpeg: &[u8]) -> Option<usize> {
    let mut rest = jpeg.strip_prefix(&[0xff, 0xd8])?;
    loop {
        let (&[mark, kind, high, low], _) = rest.split_first_chunk()?;
        if mark != 0xff {
            return None;
        }
        if (0xc0..=0xc2).contains(&kind) {
            let &[.., width_high, width_low] = rest.first_chunk::<9>()?;
            return Some(usize::from(width_high) << 8 | usize::from(width_low));
        }
        rest = rest.get(2 + (usize::from(high) << 8 | usize::from(low))..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_out_of_a_jpeg_picture() {
        // The stamp of frame 0: cells of 16 samples, the checksum's row holds 0xA5 rotated by 8 bits, itself.
        let cells = |x: u32, y: u32| y / 16 == 8 && x < 128 && 0xA5u8 >> (7 - x / 16) & 1 == 1;
        let folder = tempfile::tempdir().unwrap();
        let (raw, out) = (folder.path().join("raw.gray"), folder.path().join("out.jpg"));
        let luma: Vec<u8> = (0..192 * 160u32).map(|at| if cells(at % 192, at / 192) { 235 } else { 16 }).collect();
        std::fs::write(&raw, luma).unwrap();
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "192x160", "-i"])
            .arg(&raw)
            .args(["-pix_fmt", "yuvj420p", "-q:v", "5"])
            .arg(&out)
            .status()
            .unwrap();
        assert!(status.success());
        let jpeg = std::fs::read(&out).unwrap();
        assert_eq!(number_in_jpeg(&jpeg).unwrap(), Some(0));
        assert_eq!(luma_of_jpeg(&jpeg).unwrap().1, 192);
        assert!(number_in_jpeg(&jpeg[..200]).is_err() && number_in_jpeg(b"GIF89a").is_err());
    }
}
