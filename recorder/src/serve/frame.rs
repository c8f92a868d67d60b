//! `frame.jpg`: one picture of a stream.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use framekeeper_media::WallTime;
use jiff::Timestamp;
use uuid::Uuid;

use super::again::{ask, passes};
use super::clip::descriptions::Descriptions;
use super::footage::{Footage, FootageError, Run, Segment, SegmentFrames, VideoEntry};
use super::problem::Problem;
use super::query::{Query, format_time};
use super::{ServeState, blocking, coverage, find, internal};
use crate::still::{StillRequest, StillSample};

/// A GOP that began more segments ago than this is not followed back.
const MAX_LOOKBACK_SEGMENTS: usize = 16;

/// Coded bytes for one picture: a whole GOP of 20 s at 20 Mbit/s fits.
const MAX_CODED_BYTES: u64 = 64 << 20;

const WIDTHS: std::ops::RangeInclusive<u32> = 16..=4096;

pub(super) async fn frame(
    State(state): State<ServeState>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response<Body>, Problem> {
    let query = Query::parse(query.as_deref(), &["at", "exact", "width"])?;
    let at = query.required_time("at")?;
    let exact = query.flag("exact")?;
    let width = match query.get("width") {
        None => None,
        Some(text) => match text.parse() {
            Ok(width) if WIDTHS.contains(&width) => Some(width),
            _ => {
                let expected = format!("a number of pixels from {} to {}", WIDTHS.start(), WIDTHS.end());
                return Err(Problem::parameter("width", text, expected));
            }
        },
    };
    let footage = Arc::clone(&state.footage);
    let refused = |problem: &Problem| {
        if problem.status() == StatusCode::SERVICE_UNAVAILABLE {
            state.counters.refused_stills.fetch_add(1, Ordering::Relaxed);
        }
    };
    // The place in the queue comes first: what waits holds no picture.
    let turn = state.decoder.turn().await.inspect_err(refused)?;
    let (request, coded, wall) = blocking(move || {
        let stream = find(footage.as_ref(), &namespace, &name)?;
        let found = ask(footage.as_ref(), stream, passes, || {
            let found = picture(footage.as_ref(), stream, at, exact)?;
            let read = |picture: Picture| Ok((picture.read(footage.as_ref(), width)?, picture.wall));
            found.map(read).transpose()
        });
        if let Some(((request, coded), wall)) = found.map_err(internal)? {
            return Ok((request, coded, wall));
        }
        let nearest = coverage::nearest(footage.as_ref(), stream, at, at.saturating_add_us(1)).map_err(internal)?;
        let detail = format!("no picture at or before {} is held here", format_time(at));
        Err(Problem::no_footage(detail, nearest))
    })
    .await?;
    let jpeg = state.decoder.decode(turn, &request, &coded).await.inspect_err(refused)?;

    let mut response = Response::new(Body::from(jpeg));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    for (name, text) in [("framekeeper-frame-time", format_time(wall)), ("last-modified", http_date(wall))] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// The form of RFC 9110 §5.6.7.
fn http_date(time: WallTime) -> String {
    let seconds = time.0.div_euclid(1_000_000);
    Timestamp::from_second(seconds)
        .map_or_else(|_| String::new(), |t| t.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

/// A picture, and what must be decoded for it.
struct Picture {
    wall: WallTime,
    /// Segments with the frames in them that are needed, in decoding order; the last frame is the picture.
    needed: Vec<(Segment, Arc<SegmentFrames>, std::ops::Range<usize>)>,
}

/// The key frame at or before `at`, or with `exact` the frame that is shown then.
fn picture(footage: &dyn Footage, stream: Uuid, at: WallTime, exact: bool) -> Result<Option<Picture>, FootageError> {
    let until = at.saturating_add_us(1);
    let durable = footage.durable_until(stream).unwrap_or(until);
    let end_of = |run: &Run| if run.active { until.min(durable).min(run.to) } else { until.min(run.to) };
    let runs = footage.coverage(stream, WallTime(i64::MIN), until)?;
    let latest = runs.iter().filter(|run| run.from < end_of(run)).max_by_key(|run| end_of(run));
    let Some(run) = latest else { return Ok(None) };
    let mut end = end_of(run);
    let until = end;
    let mut needed: Vec<(Segment, Arc<SegmentFrames>, std::ops::Range<usize>)> = Vec::new();
    let mut wall = None;
    for _ in 0..MAX_LOOKBACK_SEGMENTS {
        // Two seconds, as frames of slow cameras end long before the next one.
        let mut near = footage.segments(stream, end.saturating_add_us(-2_000_000), end)?;
        near.retain(|segment| segment.first < end);
        let Some(segment) = near.into_iter().max_by_key(|segment| segment.first) else { break };
        end = segment.first;
        let frames = footage.frames(&segment)?;
        let Some(part) = frames.runs.iter().find(|part| part.run == run.run) else { continue };
        let mut range = part.video.start as usize..part.video.end as usize;
        let entries = frames.video.get(range.clone()).unwrap_or_default();
        if wall.is_none() {
            let wanted = |entry: &&(usize, &VideoEntry)| entry.1.wall < until && (exact || entry.1.random_access());
            let numbered: Vec<(usize, &VideoEntry)> = entries.iter().enumerate().collect();
            let Some((position, entry)) = numbered.iter().filter(wanted).max_by_key(|(_, entry)| entry.wall) else {
                continue;
            };
            wall = Some(entry.wall);
            range.end = range.start + position + 1;
        }
        let needs = frames.video.get(range.clone()).unwrap_or_default();
        let key = needs.iter().rposition(|entry| {
            // A picture that leads a key frame needs the one before.
            entry.random_access() && wall.is_some_and(|wall| entry.wall <= wall)
        });
        range.start += key.unwrap_or(0);
        needed.insert(0, (segment, frames, range));
        if key.is_some() {
            return Ok(wall.map(|wall| Picture { wall, needed }));
        }
    }
    Ok(None)
}

impl Picture {
    /// Reads the coded frames.
    fn read(&self, footage: &dyn Footage, width: Option<u32>) -> Result<(StillRequest, Vec<u8>), FootageError> {
        let mut descriptions = Descriptions::default();
        let mut samples = Vec::new();
        let mut coded = Vec::new();
        for (segment, frames, range) in &self.needed {
            descriptions.add(footage, segment)?;
            let entries = frames.video.get(range.clone()).unwrap_or_default();
            for entry in entries {
                let begin = coded.len();
                if begin as u64 + u64::from(entry.len) > MAX_CODED_BYTES {
                    return Err(FootageError::Broken(
                        "more than 64 MiB would have to be decoded for this picture".into(),
                    ));
                }
                coded.resize(begin + entry.len as usize, 0);
                let buffer = coded.get_mut(begin..).unwrap_or_default();
                footage.read_at(segment, u64::from(entry.offset), buffer)?;
                samples.push(StillSample { len: entry.len, pts_us: entry.wall.0 });
            }
        }
        let configuration = descriptions
            .avc_configuration()
            .ok_or_else(|| FootageError::Broken("the segment names no H.264 parameters".into()))?;
        let request =
            StillRequest { width, wanted_pts_us: self.wall.0, configuration: configuration.to_vec(), samples };
        Ok((request, coded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates() {
        assert_eq!(http_date(WallTime(1_795_269_780_999_000)), "Sat, 21 Nov 2026 14:03:00 GMT");
    }
}
