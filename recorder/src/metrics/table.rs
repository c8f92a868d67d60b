//! The table of all metrics.

use framekeeper_crds::{ChannelState, VolumeState};
use framekeeper_media::WallTime;
use framekeeper_store::{CatalogueStage, Outlook};

use super::{Sample, Scrape, Value};
use crate::view::{ChannelView, VolumeNumbers, VolumeView};

/// One metric.
pub(super) struct Metric {
    /// Without unit and without `_total`.
    pub(super) name: &'static str,
    /// Becomes a part of the name.
    pub(super) unit: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    /// A sentence.
    pub(super) help: &'static str,
    pub(super) samples: fn(&Scrape) -> Vec<Sample>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const STREAM: &[&str] = &["namespace", "stream"];
const STREAM_REASON: &[&str] = &["namespace", "stream", "reason"];
const VOLUME: &[&str] = &["volume"];
const VOLUME_STATE: &[&str] = &["volume", "state"];
const VOLUME_STAGE: &[&str] = &["volume", "stage"];
const VOLUME_STATES: [(VolumeState, &str); 7] = [
    (VolumeState::Opening, "Opening"),
    (VolumeState::Ready, "Ready"),
    (VolumeState::Failed, "Failed"),
    (VolumeState::Hanging, "Hanging"),
    (VolumeState::Draining, "Draining"),
    (VolumeState::Stopped, "Stopped"),
    (VolumeState::Refused, "Refused"),
];

/// Every metric but those of other recorders.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "framekeeper_build_info",
        unit: None,
        kind: Kind::Gauge,
        labels: &["version"],
        help: "Always 1; the label tells the version of the program.",
        samples: |_| vec![Sample { labels: vec![env!("CARGO_PKG_VERSION").to_owned()], value: Value::Count(1) }],
    },
    Metric {
        name: "framekeeper_channels",
        unit: None,
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Channels by what they do; refused entries of the assignment count as Failed.",
        samples: |scrape| {
            CHANNEL_STATES
                .iter()
                .map(|&(state, word)| {
                    let mut count =
                        scrape.channels.iter().filter(|channel| channel.snapshot.condition.state == state).count()
                            as u64;
                    if state == ChannelState::Failed {
                        count += scrape.refused_channels;
                    }
                    Sample { labels: vec![word.to_owned()], value: Value::Count(count) }
                })
                .collect()
        },
    },
    Metric {
        name: "framekeeper_stream_recording",
        unit: None,
        kind: Kind::Gauge,
        labels: STREAM,
        help: "1 while the stream's frames are recorded, else 0.",
        samples: |scrape| {
            streams(scrape, |channel| u64::from(channel.snapshot.condition.state == ChannelState::Recording))
        },
    },
    Metric {
        name: "framekeeper_stream_video_frames",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM,
        help: "Video frames received, and given to the store or kept in memory for another recorder.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.counts.video_frames),
    },
    Metric {
        name: "framekeeper_stream_key_frames",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM,
        help: "Video frames at which decoding can begin.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.counts.key_frames),
    },
    Metric {
        name: "framekeeper_stream_key_frame_requests",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM,
        help: "Key frames that the camera was asked for over ONVIF and agreed to send.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.key_frames_asked),
    },
    Metric {
        name: "framekeeper_stream_key_frame_requests_failed",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM,
        help: "Key frames that the camera could not be asked for over ONVIF, or refused; the log says why.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.key_frames_refused),
    },
    Metric {
        name: "framekeeper_stream_audio_frames",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM,
        help: "Audio frames received, and given to the store or kept in memory for another recorder.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.counts.audio_frames),
    },
    Metric {
        name: "framekeeper_stream_media",
        unit: Some("bytes"),
        kind: Kind::Counter,
        labels: STREAM,
        help: "Bytes of video and audio frames, without RTP and MP4 around them.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.counts.bytes),
    },
    Metric {
        name: "framekeeper_stream_lost_packets",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM,
        help: "RTP packets of the video track that never came, by sequence number.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.lost_packets),
    },
    Metric {
        name: "framekeeper_stream_sessions",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM,
        help: "RTSP sessions that came to play.",
        samples: |scrape| streams(scrape, |channel| channel.snapshot.counts.sessions),
    },
    Metric {
        name: "framekeeper_stream_session_ends",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM_REASON,
        help: "RTSP sessions that ended and attempts that failed, by why.",
        samples: |scrape| {
            by_reason(scrape, |channel| channel.snapshot.ends.iter().map(|&(word, count)| (word, count)).collect())
        },
    },
    Metric {
        name: "framekeeper_stream_gaps",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM_REASON,
        help: "Runs that began behind a gap, by why.",
        samples: |scrape| {
            by_reason(scrape, |channel| {
                channel.snapshot.gaps.iter().map(|&(reason, count)| (reason.as_str(), count)).collect()
            })
        },
    },
    Metric {
        name: "framekeeper_stream_dropped_frames",
        unit: None,
        kind: Kind::Counter,
        labels: STREAM_REASON,
        help: "Video and audio frames that could not be kept, by why; each gap that they leave is told with its reason.",
        samples: |scrape| {
            by_reason(scrape, |channel| {
                let counts = channel.dropped_frames.iter().filter(|(_, count)| *count > 0);
                counts.map(|&(reason, count)| (reason.as_str(), count)).collect()
            })
        },
    },
    Metric {
        name: "framekeeper_stream_last_frame_timestamp",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        labels: STREAM,
        help: "When the newest video frame was read, in seconds since 1970.",
        samples: |scrape| stream_times(scrape, |channel| channel.snapshot.last_frame),
    },
    Metric {
        name: "framekeeper_stream_durable_timestamp",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        labels: STREAM,
        help: "Wall-clock time of the newest video frame that survives a loss of power, in seconds since 1970.",
        samples: |scrape| stream_times(scrape, |channel| channel.durable),
    },
    Metric {
        name: "framekeeper_stream_kept",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: STREAM,
        help: "Bytes of the stream's segments over all volumes, as of the last segment; only of streams with retention.maxBytes.",
        samples: |scrape| {
            let sample = |channel: &ChannelView| {
                Some(Sample { labels: stream_labels(channel), value: Value::Count(channel.kept_bytes?) })
            };
            scrape.channels.iter().filter_map(sample).collect()
        },
    },
    Metric {
        name: "framekeeper_volume_ready",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "1 while the volume can be written to, else 0.",
        samples: |scrape| {
            let value = |volume: &VolumeView| Value::Count(u64::from(volume.state == VolumeState::Ready));
            scrape.volumes.iter().map(|volume| volume_sample(volume, value(volume))).collect()
        },
    },
    Metric {
        name: "framekeeper_volume_state",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME_STATE,
        help: "1 for the state that the volume is in, as in the status; 0 for the others.",
        samples: |scrape| {
            let all = scrape.volumes.iter().flat_map(|volume| {
                VOLUME_STATES.iter().map(|&(state, word)| Sample {
                    labels: vec![volume.name.clone(), word.to_owned()],
                    value: Value::Count(u64::from(volume.state == state)),
                })
            });
            all.collect()
        },
    },
    Metric {
        name: "framekeeper_volume_capacity",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Bytes that may be used on the volume.",
        samples: |scrape| volumes(scrape, |numbers| numbers.capacity_bytes),
    },
    Metric {
        name: "framekeeper_volume_used",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Bytes of segment files that hold footage.",
        samples: |scrape| volumes(scrape, |numbers| numbers.used_bytes),
    },
    Metric {
        name: "framekeeper_volume_oldest_footage_timestamp",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "When the oldest footage on the volume begins, in seconds since 1970; not there while there is none.",
        samples: |scrape| {
            let time = |volume: &VolumeView| volume.numbers.as_ref()?.oldest;
            let sample = |volume: &VolumeView| Some(volume_sample(volume, Value::Number(time(volume)?.0 as f64 / 1e6)));
            scrape.volumes.iter().filter_map(sample).collect()
        },
    },
    Metric {
        name: "framekeeper_volume_free_segments",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Empty segment files, ready to be written.",
        samples: |scrape| volumes(scrape, |numbers| numbers.free_files),
    },
    Metric {
        name: "framekeeper_volume_held",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Bytes of segment files whose footage is held: it is never given up.",
        samples: |scrape| volumes(scrape, |numbers| numbers.held_bytes),
    },
    Metric {
        name: "framekeeper_volume_holds",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Holds on the volume, whether or not there is footage that they cover.",
        samples: |scrape| volumes(scrape, |numbers| numbers.holds),
    },
    Metric {
        name: "framekeeper_volume_usable_segments",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Segment files that new footage can be put into, now or once older footage is given up.",
        samples: |scrape| volumes(scrape, |numbers| numbers.usable_files),
    },
    Metric {
        name: "framekeeper_volume_recording_lasts",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "How long there are files to record to, at the present rates, when holds that go on keep what they cover; missing while nothing ends it.",
        samples: |scrape| {
            let lasts = |volume: &VolumeView| match volume.numbers.as_ref()?.outlook {
                Outlook::Exhausted => Some(0.0),
                Outlook::Dwindling { lasts } | Outlook::Lasting { lasts } => lasts.map(|lasts| lasts.as_secs_f64()),
            };
            let sample = |volume: &VolumeView| Some(volume_sample(volume, Value::Number(lasts(volume)?)));
            scrape.volumes.iter().filter_map(sample).collect()
        },
    },
    Metric {
        name: "framekeeper_volume_awaited_segments",
        unit: None,
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Segment files that were not ready when a stream needed them, and were made while it waited.",
        samples: |scrape| volumes(scrape, |numbers| numbers.awaited_files),
    },
    Metric {
        name: "framekeeper_volume_foreign",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Bytes in use on the volume's file system that are not the volume's.",
        samples: |scrape| volumes(scrape, |numbers| numbers.foreign.bytes),
    },
    Metric {
        name: "framekeeper_volume_file_system_free",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Bytes that can still be allocated on the volume's file system.",
        samples: |scrape| volumes(scrape, |numbers| numbers.foreign.free_bytes),
    },
    Metric {
        name: "framekeeper_volume_needed",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Bytes that the volume still wants from its file system: files that were not made yet, and what it keeps books in.",
        samples: |scrape| volumes(scrape, |numbers| numbers.foreign.needed_bytes),
    },
    Metric {
        name: "framekeeper_volume_sealed_segments",
        unit: None,
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Segments that were filled and given their index.",
        samples: |scrape| volumes(scrape, |numbers| numbers.sealed_segments),
    },
    Metric {
        name: "framekeeper_volume_retired_segments",
        unit: None,
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Segments whose footage was given up, so that their files can be used again.",
        samples: |scrape| volumes(scrape, |numbers| numbers.retired_segments),
    },
    Metric {
        name: "framekeeper_volume_written",
        unit: Some("bytes"),
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Bytes written to segment files.",
        samples: |scrape| volumes(scrape, |numbers| numbers.written_bytes),
    },
    Metric {
        name: "framekeeper_volume_writes",
        unit: None,
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Writes handed to the system.",
        samples: |scrape| volumes(scrape, |numbers| numbers.writes),
    },
    Metric {
        name: "framekeeper_volume_write_batches",
        unit: None,
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Times that something was written: all streams' writes of a tick are one batch.",
        samples: |scrape| volumes(scrape, |numbers| numbers.write_batches),
    },
    Metric {
        name: "framekeeper_volume_write_time",
        unit: Some("seconds"),
        kind: Kind::Counter,
        labels: VOLUME,
        help: "How long these took together.",
        samples: |scrape| {
            let time = |numbers: &VolumeNumbers| Value::Number(numbers.write_seconds);
            let sample = |volume: &VolumeView| Some(volume_sample(volume, time(volume.numbers.as_ref()?)));
            scrape.volumes.iter().filter_map(sample).collect()
        },
    },
    Metric {
        name: "framekeeper_volume_writes_directly",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "1 where segments are written past the page cache, 0 where through it.",
        samples: |scrape| volumes(scrape, |numbers| numbers.writes_directly.into()),
    },
    Metric {
        name: "framekeeper_volume_waiting_records",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Records of sealed and retired segments that wait for the catalogue.",
        samples: |scrape| volumes(scrape, |numbers| numbers.waiting_records),
    },
    Metric {
        name: "framekeeper_volume_unsynced_age",
        unit: Some("seconds"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Age of the oldest bytes written that would not survive a loss of power; 0 when all would.",
        samples: |scrape| {
            let age = |numbers: &VolumeNumbers| Value::Number(numbers.unsynced_us as f64 / 1e6);
            let sample = |volume: &VolumeView| Some(volume_sample(volume, age(volume.numbers.as_ref()?)));
            scrape.volumes.iter().filter_map(sample).collect()
        },
    },
    Metric {
        name: "framekeeper_volume_catalogue_complete",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "1 when all footage on the volume can be found, 0 while its catalogue is gathered after a start.",
        samples: |scrape| volumes(scrape, |numbers| (numbers.catalogue.stage == CatalogueStage::Complete).into()),
    },
    Metric {
        name: "framekeeper_volume_catalogue_progress",
        unit: Some("ratio"),
        kind: Kind::Gauge,
        labels: VOLUME_STAGE,
        help: "How far the present stage of gathering the catalogue is: `opening`, `manifest`, `folders`, `files`, `complete`.",
        samples: |scrape| {
            let sample = |volume: &VolumeView| {
                let progress = volume.numbers.as_ref()?.catalogue;
                let labels = vec![volume.name.clone(), progress.stage.as_str().to_owned()];
                Some(Sample { labels, value: Value::Number(progress.ratio()) })
            };
            scrape.volumes.iter().filter_map(sample).collect()
        },
    },
    Metric {
        name: "framekeeper_volume_damaged",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Bytes of the footage held that are known to be damaged; what depends on them is not served.",
        samples: |scrape| volumes(scrape, |numbers| numbers.damage.bytes),
    },
    Metric {
        name: "framekeeper_volume_damaged_frames",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "Video frames that are not served because of damage.",
        samples: |scrape| volumes(scrape, |numbers| numbers.damage.video_frames),
    },
    Metric {
        name: "framekeeper_volume_found_damaged",
        unit: Some("bytes"),
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Bytes found damaged, by whoever read them.",
        samples: |scrape| volumes(scrape, |numbers| numbers.scrub.rotten_bytes),
    },
    Metric {
        name: "framekeeper_volume_scrubbed",
        unit: Some("bytes"),
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Bytes read again in the background, to find damage before somebody needs them.",
        samples: |scrape| volumes(scrape, |numbers| numbers.scrub.bytes),
    },
    Metric {
        name: "framekeeper_volume_whole_segments",
        unit: None,
        kind: Kind::Counter,
        labels: VOLUME,
        help: "Segments read again in the background and found whole.",
        samples: |scrape| volumes(scrape, |numbers| numbers.scrub.whole),
    },
    Metric {
        name: "framekeeper_volume_scrub_progress",
        unit: None,
        kind: Kind::Gauge,
        labels: VOLUME,
        help: "How much of the volume the pass that goes on has behind it, from 0 to 1.",
        samples: |scrape| {
            let share = |numbers: &VolumeNumbers| {
                let scrub = &numbers.scrub;
                Value::Number(if scrub.of == 0 { 0.0 } else { scrub.passed.min(scrub.of) as f64 / scrub.of as f64 })
            };
            let sample = |volume: &VolumeView| Some(volume_sample(volume, share(volume.numbers.as_ref()?)));
            scrape.volumes.iter().filter_map(sample).collect()
        },
    },
    Metric {
        name: "framekeeper_stream_queue",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: STREAM,
        help: "Bytes of the stream's frames that wait for the disk.",
        samples: |scrape| streams(scrape, |channel| channel.queue_bytes),
    },
    Metric {
        name: "framekeeper_stream_memory",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: STREAM,
        help: "Bytes of the stream's frames in memory: those that wait for the disk, those not durable yet, and the GOP that they belong to.",
        samples: |scrape| streams(scrape, |channel| channel.memory_bytes),
    },
    Metric {
        name: "framekeeper_stream_gop_too_long",
        unit: None,
        kind: Kind::Gauge,
        labels: STREAM,
        help: "1 while the stream's GOP does not fit into the memory that it may take: after a failure of its volume, pictures up to the next key \
               frame can be shown only as long as the failed volume can be read.",
        samples: |scrape| streams(scrape, |channel| u64::from(channel.gop_too_long)),
    },
    Metric {
        name: "framekeeper_volume_sync_duration",
        unit: Some("seconds"),
        kind: Kind::Histogram,
        labels: VOLUME,
        help: "How long syncs took.",
        samples: |scrape| {
            let numbers = |volume: &VolumeView| {
                volume.numbers.as_ref().map(|numbers| Value::Histogram {
                    sum: numbers.sync_seconds,
                    count: numbers.syncs,
                    buckets: numbers.sync_buckets.clone(),
                })
            };
            scrape.volumes.iter().filter_map(|volume| Some(volume_sample(volume, numbers(volume)?))).collect()
        },
    },
    Metric {
        name: "framekeeper_ticks",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Ticks: at each, all cameras' sockets are read and what is due is handed to the disks.",
        samples: |scrape| one(Value::Count(scrape.ticks.ticks)),
    },
    Metric {
        name: "framekeeper_late_ticks",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Ticks that began more than a tick late: the machine is too slow or too busy.",
        samples: |scrape| one(Value::Count(scrape.ticks.late)),
    },
    Metric {
        name: "framekeeper_tick_busy",
        unit: Some("seconds"),
        kind: Kind::Counter,
        labels: &[],
        help: "Time spent in ticks.",
        samples: |scrape| one(Value::Number(scrape.ticks.busy_us as f64 / 1e6)),
    },
    Metric {
        name: "framekeeper_restarts",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "How often the supervisor has restarted the recorder since the supervisor started.",
        samples: |scrape| one(Value::Count(scrape.restarts)),
    },
    Metric {
        name: "framekeeper_process_cpu",
        unit: Some("seconds"),
        kind: Kind::Counter,
        labels: &[],
        help: "CPU time of the recorder's process, user and system.",
        samples: |scrape| one(Value::Number(scrape.process.cpu_seconds)),
    },
    Metric {
        name: "framekeeper_process_resident_memory",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory of the recorder's process.",
        samples: |scrape| one(Value::Count(scrape.process.resident_bytes)),
    },
    Metric {
        name: "framekeeper_process_threads",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Threads of the recorder's process.",
        samples: |scrape| one(Value::Count(scrape.process.threads)),
    },
    Metric {
        name: "framekeeper_process_open_fds",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Open file descriptors of the recorder's process.",
        samples: |scrape| one(Value::Count(scrape.process.open_fds)),
    },
    Metric {
        name: "framekeeper_memory_limit",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory that the recorder's control group, or the machine, allows. From 70 % on playback is refused, so that recording goes on.",
        samples: |scrape| one(Value::Count(scrape.limits.memory_limit_bytes)),
    },
    Metric {
        name: "framekeeper_memory_needed",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: &[],
        help: "Memory that the channels ask for, by their bitrates and GOPs (`docs/limits.md`). More than the limit: the condition MemorySufficient is False.",
        samples: |scrape| one(Value::Count(scrape.limits.memory_needed_bytes)),
    },
    Metric {
        name: "framekeeper_frames_memory",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of all streams' frames in memory.",
        samples: |scrape| one(Value::Count(scrape.frames_bytes.0 as u64)),
    },
    Metric {
        name: "framekeeper_frames_memory_limit",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of frames that may be in memory: two fifths of the memory limit.",
        samples: |scrape| one(Value::Count(scrape.frames_bytes.1 as u64)),
    },
    Metric {
        name: "framekeeper_reader_cache",
        unit: Some("bytes"),
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of segments' indexes and parameters that are kept for playback.",
        samples: |scrape| one(Value::Count(scrape.reader_cache_bytes)),
    },
    Metric {
        name: "framekeeper_process_max_fds",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "File descriptors that the recorder's process may open; a tenth is kept for recording.",
        samples: |scrape| one(Value::Count(scrape.limits.descriptors)),
    },
    Metric {
        name: "framekeeper_http_connections",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Open HTTP connections.",
        samples: |scrape| one(Value::Count(scrape.limits.open_connections)),
    },
    Metric {
        name: "framekeeper_http_refused_connections",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "HTTP connections refused because as many as recording leaves descriptors for were open.",
        samples: |scrape| one(Value::Count(scrape.limits.refused_connections)),
    },
    Metric {
        name: "framekeeper_playback_refused_requests",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Requests for footage refused because memory ran short.",
        samples: |scrape| one(Value::Count(scrape.limits.refused_requests)),
    },
    Metric {
        name: "framekeeper_clips",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Clips being sent.",
        samples: |scrape| one(Value::Count(scrape.serve.clips)),
    },
    Metric {
        name: "framekeeper_refused_clips",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Clips refused because as many as memory allows were being sent.",
        samples: |scrape| one(Value::Count(scrape.serve.refused_clips)),
    },
    Metric {
        name: "framekeeper_stills",
        unit: None,
        kind: Kind::Gauge,
        labels: &[],
        help: "Pictures being made, or waiting for their turn.",
        samples: |scrape| one(Value::Count(scrape.serve.stills)),
    },
    Metric {
        name: "framekeeper_refused_stills",
        unit: None,
        kind: Kind::Counter,
        labels: &[],
        help: "Pictures refused because as many as may waited for their turn, or too little memory was left.",
        samples: |scrape| one(Value::Count(scrape.serve.refused_stills)),
    },
];

const CHANNEL_STATES: [(ChannelState, &str); 6] = [
    (ChannelState::Connecting, "Connecting"),
    (ChannelState::Recording, "Recording"),
    (ChannelState::Backoff, "Backoff"),
    (ChannelState::Standby, "Standby"),
    (ChannelState::Suspended, "Suspended"),
    (ChannelState::Failed, "Failed"),
];

pub(super) fn one(value: Value) -> Vec<Sample> {
    vec![Sample { labels: Vec::new(), value }]
}

fn stream_labels(channel: &ChannelView) -> Vec<String> {
    vec![channel.stream.namespace.clone(), channel.stream.name.clone()]
}

fn streams(scrape: &Scrape, value: impl Fn(&ChannelView) -> u64) -> Vec<Sample> {
    let sample = |channel| Sample { labels: stream_labels(channel), value: Value::Count(value(channel)) };
    scrape.channels.iter().map(sample).collect()
}

fn stream_times(scrape: &Scrape, value: impl Fn(&ChannelView) -> Option<WallTime>) -> Vec<Sample> {
    let sample =
        |channel| Some(Sample { labels: stream_labels(channel), value: Value::Number(seconds(value(channel)?)) });
    scrape.channels.iter().filter_map(sample).collect()
}

fn by_reason(scrape: &Scrape, values: impl Fn(&ChannelView) -> Vec<(&'static str, u64)>) -> Vec<Sample> {
    let mut samples = Vec::new();
    for channel in &scrape.channels {
        for (reason, count) in values(channel) {
            let mut labels = stream_labels(channel);
            labels.push(reason.to_owned());
            samples.push(Sample { labels, value: Value::Count(count) });
        }
    }
    samples
}

fn volume_sample(volume: &VolumeView, value: Value) -> Sample {
    Sample { labels: vec![volume.name.clone()], value }
}

fn volumes(scrape: &Scrape, value: impl Fn(&VolumeNumbers) -> u64) -> Vec<Sample> {
    let sample = |volume: &VolumeView| Some(volume_sample(volume, Value::Count(value(volume.numbers.as_ref()?))));
    scrape.volumes.iter().filter_map(sample).collect()
}

fn seconds(time: WallTime) -> f64 {
    time.0 as f64 / 1e6
}
