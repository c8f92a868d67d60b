#!/usr/bin/python3
"""A camera that nobody here wrote: GStreamer's RTSP server, with a ledger of every frame that it emits.

    gst_camera.py --port 8560 --log-dir DIR [--name gst] [--user U --password P] [--audio] [--file FILE]

Serves rtsp://127.0.0.1:PORT/NAME (H.264 by x264enc, AAC by avenc_aac) and prints one line of JSON when ready. All
clients share one running pipeline. Stops on SIGTERM, SIGINT, and with --exit-with-parent when standard input ends.

The ledger, DIR/NAME.ledger, has the layout of the ledger cameras (src/ledger.rs) with `"identity": "crc32-size"`: a
video frame's hash is (bytes << 32) | CRC-32 (zlib's) of its concatenated VCL NAL units without start codes, trailing
zero bytes stripped; an audio frame's the same of the raw AAC frame. Records are written by a probe on the payloaders'
sink pads, that is before a frame is made into RTP packets. Media time is the buffer's PTS in 1/90000 s or in samples.
Session records (17, 18) tell when a client's PLAY was answered and when it was gone; their first frame is unknown.

Needs Debian's python3-gi, gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-{base,good,ugly}, gstreamer1.0-libav.
"""

import argparse
import json
import os
import signal
import struct
import sys
import threading
import time
import zlib

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

VIDEO, AUDIO, STARTED, SESSION_BEGAN, SESSION_ENDED, STOPPED = 1, 2, 16, 17, 18, 21
KEY = 1
CLOSED = 2
VIDEO_CLOCK, AUDIO_CLOCK = 90_000, 48_000


def vcl(stream):
    """The VCL NAL units of a byte-stream access unit, without start codes and trailing zeros; whether it is IDR."""
    starts, at = [], stream.find(b"\x00\x00\x01")
    while at >= 0:
        starts.append(at + 3)
        at = stream.find(b"\x00\x00\x01", at + 3)
    units, key = [], False
    for number, start in enumerate(starts):
        end = starts[number + 1] - 3 if number + 1 < len(starts) else len(stream)
        kind = stream[start] & 0x1F if start < end else 0
        if 1 <= kind <= 5:
            units.append(stream[start:end].rstrip(b"\x00"))
            key |= kind == 5
    return b"".join(units), key


def identity(frame):
    """The `crc32-size` identity of a frame's bytes."""
    return (len(frame) << 32) | zlib.crc32(frame)


class Ledger:
    """Appends records; a lock keeps those of the video and the audio thread whole."""

    def __init__(self, path, header):
        self.lock = threading.Lock()
        self.next = {VIDEO: 0, AUDIO: 0}
        self.stopped = False
        # A ledger of an earlier run is not gone on with: media time begins anew with the pipeline.
        if os.path.exists(path):
            os.rename(path, f"{path}.{int(time.time())}")
        line = (json.dumps(header) + "\n").encode()
        self.file = open(path, "xb", buffering=0)
        self.file.write(b"FKLEDG01" + struct.pack("<I", len(line)) + line)

    def write(self, kind, flags=0, size=0, number=0, media_time=0, digest=0):
        """False once the camera has stopped: its streaming threads run on until the process ends, and send nothing more."""
        with self.lock:
            if self.stopped:
                return False
            self.stopped = kind == STOPPED
            self.file.write(struct.pack("<BBHIQqqQ", kind, flags, 0, size, number, media_time, time.time_ns(), digest))
            return True

    def frame(self, kind, flags, size, media_time, digest):
        number = self.next[kind]
        self.next[kind] += 1
        sent = self.write(kind, flags, size, number, media_time, digest)
        return Gst.PadProbeReturn.OK if sent else Gst.PadProbeReturn.DROP


def running_time(pad, buffer, clock):
    """The PTS as the payloader sees it: x264enc's begin at 1000 hours."""
    segment = pad.get_sticky_event(Gst.EventType.SEGMENT, 0).parse_segment()
    time_ns = segment.to_running_time(Gst.Format.TIME, buffer.pts)
    return Gst.util_uint64_scale_round(time_ns, clock, Gst.SECOND)


def video_probe(pad, info, ledger):
    buffer = info.get_buffer()
    units, key = vcl(buffer.extract_dup(0, buffer.get_size()))
    # Parameter sets may come in a buffer of their own.
    if units:
        media_time = running_time(pad, buffer, VIDEO_CLOCK)
        return ledger.frame(VIDEO, KEY if key else 0, buffer.get_size(), media_time, identity(units))
    return Gst.PadProbeReturn.OK


def audio_probe(pad, info, ledger):
    buffer = info.get_buffer()
    frame = buffer.extract_dup(0, buffer.get_size())
    media_time = running_time(pad, buffer, AUDIO_CLOCK)
    return ledger.frame(AUDIO, 0, len(frame), media_time, identity(frame))


def not_seekable(_pad, info):
    """Without it the first client's PLAY seeks the test source back to its beginning: no camera can do that."""
    seeking = info.get_query().type == Gst.QueryType.SEEKING
    return Gst.PadProbeReturn.DROP if seeking else Gst.PadProbeReturn.OK


def pipeline(arguments):
    """The launch line of what is served: one payloader a track."""
    rate = f"{arguments.fps}/1"
    raw = f"video/x-raw,width={arguments.width},height={arguments.height},framerate={rate}"
    if arguments.file:
        decode = f"filesrc location={arguments.file} ! decodebin ! videoconvert ! videoscale ! videorate"
        source = f"{decode} ! {raw} ! identity sync=true"
    else:
        source = f"videotestsrc is-live=true pattern={arguments.pattern} ! {raw}"
    encoder = (
        f"x264enc tune=zerolatency speed-preset=ultrafast bitrate={arguments.bitrate // 1000} "
        f"key-int-max={arguments.gop} bframes={arguments.bframes}"
    )
    if arguments.bframes:
        encoder = encoder.replace("tune=zerolatency ", "")
    stream = "video/x-h264,stream-format=byte-stream,alignment=au"
    tracks = f"{source} ! {encoder} ! {stream} ! rtph264pay name=pay0 pt=96 config-interval=-1"
    if arguments.audio:
        tracks += (
            f" audiotestsrc is-live=true wave=ticks volume=0.2 samplesperbuffer=1024 ! audio/x-raw,rate={AUDIO_CLOCK},channels=2 "
            "! avenc_aac bitrate=64000 ! aacparse ! audio/mpeg,stream-format=raw ! rtpmp4gpay name=pay1 pt=97"
        )
    return f"( {tracks} )"


def watch_client(client, ledger, sessions):
    """Records when a client began to play and when it was gone. Session 0 is our own."""
    number = sessions["next"]
    sessions["next"] += 1
    if number == 0:
        return

    def played(*_):
        sessions["playing"].add(number)
        ledger.write(SESSION_BEGAN, number=number)

    def closed(*_):
        if number in sessions["playing"]:
            ledger.write(SESSION_ENDED, size=CLOSED, number=number)

    client.connect("play-request", played)
    client.connect("closed", closed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--name", default="gst")
    parser.add_argument("--log-dir", default="ledgers")
    parser.add_argument("--user")
    parser.add_argument("--password", default=os.environ.get("GST_CAMERA_PASSWORD", ""))
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--bitrate", type=int, default=1_000_000)
    parser.add_argument("--gop", type=int, default=50)
    parser.add_argument("--bframes", type=int, default=0)
    parser.add_argument("--audio", action="store_true")
    parser.add_argument("--pattern", default="ball", help="of videotestsrc; snow costs the most bytes")
    parser.add_argument("--file", help="footage to encode instead of a test picture; played once")
    parser.add_argument("--exit-with-parent", action="store_true")
    arguments = parser.parse_args()

    Gst.init(None)
    os.makedirs(arguments.log_dir, exist_ok=True)
    header = {key: value for key, value in vars(arguments).items() if key != "password"}
    header.update(identity="crc32-size", video_clock=VIDEO_CLOCK, rate=AUDIO_CLOCK, kind="gstreamer")
    header["audio"] = "aac" if arguments.audio else "none"
    ledger = Ledger(os.path.join(arguments.log_dir, f"{arguments.name}.ledger"), header)
    ledger.write(STARTED)

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline(arguments))
    factory.set_shared(True)
    factory.set_suspend_mode(GstRtspServer.RTSPSuspendMode.NONE)

    def configured(_factory, media):
        element = media.get_element()
        probes = [("pay0", video_probe), ("pay1", audio_probe)]
        for name, probe in probes[: 2 if arguments.audio else 1]:
            pad = element.get_by_name(name).get_static_pad("sink")
            pad.add_probe(Gst.PadProbeType.BUFFER, probe, ledger)
            pad.add_probe(Gst.PadProbeType.QUERY_UPSTREAM, not_seekable)

    factory.connect("media-configure", configured)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(arguments.port))
    if arguments.user:
        auth = GstRtspServer.RTSPAuth()
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_digest(arguments.user, arguments.password, token)
        server.set_auth(auth)
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.get_mount_points().add_factory(f"/{arguments.name}", factory)
    sessions = {"next": 0, "playing": set()}
    server.connect("client-connected", lambda _server, client: watch_client(client, ledger, sessions))
    if server.attach(None) == 0:
        sys.exit(f"port {arguments.port}: in use")
    port = server.get_bound_port()

    # One prepared reference of our own keeps the shared pipeline running while no client is there …
    _, url = GstRtsp.rtsp_url_parse(f"rtsp://127.0.0.1:{port}/{arguments.name}")
    media = factory.construct(url)
    pool = GstRtspServer.RTSPThreadPool.new()
    if not media.prepare(pool.get_thread(GstRtspServer.RTSPThreadType.MEDIA, GstRtspServer.RTSPContext())):
        sys.exit("the pipeline does not start; are the GStreamer plugins installed?")
    # … and one client of our own sets it running: the server lets nothing pass before the first PLAY.
    starter = Gst.parse_launch("rtspsrc name=source protocols=tcp latency=0 ! fakesink")
    source = starter.get_by_name("source")
    source.set_property("location", f"rtsp://127.0.0.1:{port}/{arguments.name}")
    if arguments.user:
        source.set_property("user-id", arguments.user)
        source.set_property("user-pw", arguments.password)
    starter.set_state(Gst.State.PLAYING)

    def started():
        if ledger.next[VIDEO] < 5:
            return True
        # Closing waits for the server, which this thread runs.
        threading.Thread(target=starter.set_state, args=(Gst.State.NULL,)).start()
        url = f"rtsp://127.0.0.1:{port}/{arguments.name}"
        print(json.dumps({"rtsp": f"127.0.0.1:{port}", "cameras": [url]}), flush=True)
        return False

    GLib.timeout_add(50, started)

    # Sessions whose client vanished are forgotten after their timeout.
    GLib.timeout_add_seconds(5, lambda: server.get_session_pool().cleanup() >= 0)
    loop = GLib.MainLoop()
    for number in (signal.SIGTERM, signal.SIGINT):
        GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, loop.quit)
    if arguments.exit_with_parent:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), loop.quit()), daemon=True).start()
    loop.run()
    ledger.write(STOPPED)


if __name__ == "__main__":
    main()
