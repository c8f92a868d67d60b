//! `decode-still`: decodes one picture and writes it as JPEG, in a process of its own.
//!
//! What cameras send is not to be trusted, and decoders are large. So the recorder never decodes: it starts itself with this hidden
//! command, gives the coded frames on standard input and takes the JPEG from standard output. The child limits its own memory and
//! time, its memory to what the recorder says is left: if it dies, a picture is missing and nothing else.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Exit code: the input is no request.
pub const EXIT_REQUEST: i32 = 2;
/// Exit code: a GStreamer plugin is not installed; standard error names the Debian package.
pub const EXIT_MISSING: i32 = 3;
/// Exit code: the picture cannot be decoded; standard error says why.
pub const EXIT_DECODE: i32 = 4;
/// Exit code: there was too little memory; standard error says for what.
pub const EXIT_MEMORY: i32 = 5;

/// Address space, which counts what libraries map: decoding 8K takes about half of it.
const MAX_ADDRESS_SPACE_BYTES: u64 = 3 << 30;
const MAX_CPU_S: u64 = 10;
/// A buffer of a large picture, 4K: where one cannot be had, memory is why decoding failed.
const LARGE_BUFFER_BYTES: usize = 16 << 20;
/// A bit less than what the parent waits, so that it gets to hear the reason.
const TIME_LIMIT: Duration = Duration::from_millis(4500);

const MAX_HEADER_BYTES: u32 = 4 << 20;
const MAX_CODED_BYTES: u64 = 64 << 20;

/// What is to be decoded. On the wire: its length as 4 bytes big-endian, itself as JSON, then the coded frames behind each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StillRequest {
    /// Width of the picture in pixels; its own when absent. The height keeps the shape.
    pub width: Option<u32>,
    /// The frame that is wanted, by its presentation time.
    pub wanted_pts_us: i64,
    /// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1).
    pub configuration: Vec<u8>,
    /// The frames in decoding order, from a random access point on.
    pub samples: Vec<StillSample>,
}

/// One coded frame: NAL units, each behind its length.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct StillSample {
    /// How many bytes it has.
    pub len: u32,
    /// Its presentation time in microseconds.
    pub pts_us: i64,
}

impl StillRequest {
    /// What comes before the coded frames.
    ///
    /// # Errors
    /// When it is longer than a decoder accepts.
    pub fn encode(&self) -> Result<Vec<u8>, StillError> {
        let json = serde_json::to_vec(self).map_err(|error| StillError::Request(error.to_string()))?;
        let len = u32::try_from(json.len()).ok().filter(|len| *len <= MAX_HEADER_BYTES);
        let len = len.ok_or_else(|| StillError::Request("too many frames for one picture".to_owned()))?;
        Ok([&len.to_be_bytes()[..], &json].concat())
    }

    /// Reads a request and its coded frames.
    fn read(input: &mut impl Read) -> Result<(Self, Vec<Vec<u8>>), StillError> {
        let invalid = |error: std::io::Error| StillError::Request(error.to_string());
        let mut len = [0; 4];
        input.read_exact(&mut len).map_err(invalid)?;
        let len = u32::from_be_bytes(len);
        if len > MAX_HEADER_BYTES {
            return Err(StillError::Request(format!(
                "a header of {len} bytes; at most {MAX_HEADER_BYTES} are accepted"
            )));
        }
        let json = take(input, len)?;
        let request: Self = serde_json::from_slice(&json).map_err(|error| StillError::Request(error.to_string()))?;
        let total: u64 = request.samples.iter().map(|sample| u64::from(sample.len)).sum();
        if total > MAX_CODED_BYTES {
            return Err(StillError::Request(format!("{total} coded bytes; at most {MAX_CODED_BYTES} are accepted")));
        }
        let mut coded = Vec::with_capacity(request.samples.len());
        for sample in &request.samples {
            coded.push(take(input, sample.len)?);
        }
        Ok((request, coded))
    }
}

/// So many bytes of the input.
fn take(input: &mut impl Read, len: u32) -> Result<Vec<u8>, StillError> {
    let mut bytes = Vec::new();
    let reserved = bytes.try_reserve_exact(len as usize);
    reserved.map_err(|error| StillError::Memory(format!("{len} bytes to be decoded: {error}")))?;
    bytes.resize(len as usize, 0);
    input.read_exact(&mut bytes).map_err(|error| StillError::Request(error.to_string()))?;
    Ok(bytes)
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum StillError {
    /// The request is not one.
    #[error("bad request: {0}")]
    Request(String),
    /// A plugin is not installed.
    #[error("GStreamer's {element} is not installed; install the Debian package {package}")]
    Missing {
        /// The element, or elements of which one would do.
        element: &'static str,
        /// Which package has it.
        package: &'static str,
    },
    /// Decoding failed.
    #[error("{0}")]
    Decode(String),
    /// This process may not have the memory that decoding takes.
    #[error("too little memory: {0}")]
    Memory(String),
}

impl StillError {
    fn exit_code(&self) -> i32 {
        match self {
            Self::Request(_) => EXIT_REQUEST,
            Self::Missing { .. } => EXIT_MISSING,
            Self::Decode(_) => EXIT_DECODE,
            Self::Memory(_) => EXIT_MEMORY,
        }
    }
}

/// The command: limits this process, to so many bytes of memory where that is said, decodes what standard input asks for, and answers on standard
/// output.
#[must_use]
pub fn main(memory: Option<u64>) -> ExitCode {
    match work(memory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is what the parent reads; if it is gone, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        }
    }
}

fn work(memory: Option<u64>) -> Result<(), StillError> {
    // Should memory run out all the same, the kernel takes this process and not the one that records; with cgroup v2 in a container it takes both.
    // Without /proc it decides by itself.
    let _no_promise = std::fs::write("/proc/self/oom_score_adj", "1000");
    for (resource, most) in [(Resource::As, MAX_ADDRESS_SPACE_BYTES), (Resource::Cpu, MAX_CPU_S), (Resource::Core, 0)] {
        limit(resource, most)?;
    }
    // Before memory is limited: a plugin that cannot be loaded would pass for one that is not installed, and could be written down as broken.
    let elements = Elements::load()?;
    if let Some(bytes) = memory {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        limit(Resource::Data, data_limit(bytes, &status))?;
    }
    serve(elements, &mut std::io::stdin().lock(), &mut std::io::stdout().lock())
}

fn limit(resource: Resource, most: u64) -> Result<(), StillError> {
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
        .map_err(|error| StillError::Decode(format!("limiting the decoder: {error}")))
}

/// `RLIMIT_DATA` for a process that may have so many bytes of memory, by its `/proc/self/status`. That limit counts what is mapped, also where
/// libraries never touch it; what the process really has is much less, and the difference costs nobody anything.
fn data_limit(bytes: u64, status: &str) -> u64 {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    field("VmData").saturating_add(bytes.saturating_sub(field("RssAnon")))
}

/// Whether a buffer of a large picture could not be had now.
fn memory_is_short() -> bool {
    let mut buffer: Vec<u8> = Vec::new();
    let is_short = buffer.try_reserve_exact(LARGE_BUFFER_BYTES).is_err();
    // What is never looked at need not be had, to the compiler.
    std::hint::black_box(&buffer);
    is_short
}

fn serve(elements: Elements, input: &mut impl Read, output: &mut impl Write) -> Result<(), StillError> {
    let (request, coded) = StillRequest::read(input)?;
    let jpeg = decode(elements, &request, coded)?;
    output.write_all(&jpeg).and_then(|()| output.flush()).map_err(|error| StillError::Decode(error.to_string()))
}

/// What makes a picture, not yet put together.
struct Elements {
    source: gst::Element,
    parse: gst::Element,
    decoder: gst::Element,
    convert: gst::Element,
    scale: gst::Element,
    shape: gst::Element,
    encode: gst::Element,
    sink: gst::Element,
}

impl Elements {
    /// Starts GStreamer and loads the plugins.
    fn load() -> Result<Self, StillError> {
        gst::init().map_err(|error| StillError::Decode(error.to_string()))?;
        let decoder = match gst::ElementFactory::make("avdec_h264").property("max-threads", 1i32).build() {
            Ok(decoder) => decoder,
            Err(_) => gst::ElementFactory::make("openh264dec").build().map_err(|_| StillError::Missing {
                element: "avdec_h264 (or openh264dec)",
                package: "gstreamer1.0-libav (or gstreamer1.0-plugins-bad)",
            })?,
        };
        Ok(Self {
            source: element("appsrc", "gstreamer1.0-plugins-base")?,
            parse: element("h264parse", "gstreamer1.0-plugins-bad")?,
            decoder,
            convert: element("videoconvert", "gstreamer1.0-plugins-base")?,
            scale: element("videoscale", "gstreamer1.0-plugins-base")?,
            shape: element("capsfilter", "gstreamer1.0")?,
            encode: element("jpegenc", "gstreamer1.0-plugins-good")?,
            sink: element("appsink", "gstreamer1.0-plugins-base")?,
        })
    }
}

/// Decodes the wanted frame and encodes it as JPEG.
///
/// # Errors
/// When the frame does not come out within a few seconds, or memory does not suffice.
fn decode(elements: Elements, request: &StillRequest, coded: Vec<Vec<u8>>) -> Result<Vec<u8>, StillError> {
    let refused = |error: gst::glib::BoolError| StillError::Decode(error.to_string());
    let Elements { source, parse, decoder, convert, scale, shape, encode, sink } = elements;
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "avc")
        .field("alignment", "au")
        .field("codec_data", gst::Buffer::from_slice(request.configuration.clone()))
        .build();
    if let Some(width) = request.width {
        let width = i32::try_from(width).map_err(|error| StillError::Request(error.to_string()))?;
        let square = gst::Fraction::new(1, 1);
        let caps = gst::Caps::builder("video/x-raw").field("width", width).field("pixel-aspect-ratio", square).build();
        shape.set_property("caps", caps);
    }
    sink.set_property("sync", false);

    let pipeline = gst::Pipeline::new();
    let chain = [&source, &parse, &decoder, &convert, &scale, &shape, &encode, &sink];
    pipeline.add_many(chain).map_err(refused)?;
    gst::Element::link_many(chain).map_err(refused)?;

    // Presentation times for GStreamer count from the earliest frame: it has no negative ones.
    let earliest = request.samples.iter().map(|sample| sample.pts_us).min().unwrap_or(0);
    let time = |pts_us: i64| gst::ClockTime::from_useconds(pts_us.saturating_sub(earliest).max(0).unsigned_abs());
    let wanted = time(request.wanted_pts_us);
    let decoded =
        decoder.static_pad("src").ok_or_else(|| StillError::Decode("the decoder has no output".to_owned()))?;
    decoded.add_probe(gst::PadProbeType::BUFFER, move |_, info| match info.buffer().and_then(|buffer| buffer.pts()) {
        Some(pts) if pts == wanted => gst::PadProbeReturn::Ok,
        _ => gst::PadProbeReturn::Drop,
    });

    let no_app = |_| StillError::Decode("GStreamer's app library does not fit".to_owned());
    let source = source.downcast::<gst_app::AppSrc>().map_err(no_app)?;
    let sink = sink.downcast::<gst_app::AppSink>().map_err(no_app)?;
    source.set_caps(Some(&caps));
    source.set_format(gst::Format::Time);
    let _stopped = Playing::start(&pipeline)?;
    for (sample, bytes) in request.samples.iter().zip(coded) {
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(time(sample.pts_us));
        }
        source.push_buffer(buffer).map_err(|error| StillError::Decode(error.to_string()))?;
    }
    source.end_of_stream().map_err(|error| StillError::Decode(error.to_string()))?;
    take_jpeg(&pipeline, &sink).map_err(|error| match error {
        // Asked while the pipeline still has what it took. It tells of a buffer that it did not get in many words, none of them about memory.
        StillError::Decode(reason) if memory_is_short() => StillError::Memory(reason),
        error => error,
    })
}

/// Waits for the picture, the end, or an error.
fn take_jpeg(pipeline: &gst::Pipeline, sink: &gst_app::AppSink) -> Result<Vec<u8>, StillError> {
    let deadline = Instant::now() + TIME_LIMIT;
    while Instant::now() < deadline {
        if let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(50)) {
            let map = sample.buffer().and_then(|buffer| buffer.map_readable().ok());
            return map.map(|map| map.to_vec()).ok_or_else(|| StillError::Decode("the JPEG cannot be read".to_owned()));
        }
        if let Some(message) = pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]))
            && let gst::MessageView::Error(error) = message.view()
        {
            return Err(StillError::Decode(error.error().to_string()));
        }
        if sink.is_eos() {
            return Err(StillError::Decode("the decoder gave no picture for this frame".to_owned()));
        }
    }
    Err(StillError::Decode("decoding took too long".to_owned()))
}

/// A pipeline that plays, until this is dropped.
struct Playing<'a>(&'a gst::Pipeline);

impl<'a> Playing<'a> {
    fn start(pipeline: &'a gst::Pipeline) -> Result<Self, StillError> {
        pipeline.set_state(gst::State::Playing).map_err(|error| StillError::Decode(error.to_string()))?;
        Ok(Self(pipeline))
    }
}

impl Drop for Playing<'_> {
    fn drop(&mut self) {
        // The process ends next; nothing can be done about a pipeline that will not stop.
        let _ = self.0.set_state(gst::State::Null);
    }
}

fn element(name: &'static str, package: &'static str) -> Result<gst::Element, StillError> {
    gst::ElementFactory::make(name).build().map_err(|_| StillError::Missing { element: name, package })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_mapped_and_not_used_is_no_memory() {
        let status = "Name:\tx\nVmData:\t   51200 kB\nRssAnon:\t   10240 kB\nRssFile:\t   30720 kB\n";
        assert_eq!(data_limit(60 * MIB, status), 100 * MIB);
        assert_eq!(data_limit(MIB, status), 50 * MIB, "it has more already: no more");
        assert_eq!(data_limit(60 * MIB, ""), 60 * MIB);
    }

    #[test]
    fn memory_is_not_short_without_a_limit() {
        assert!(!memory_is_short());
    }
}
