#!/usr/bin/env python3
"""Reads a Framekeeper volume: what docs/format.md says, and nothing else.

    read_volume.py VOLUME [--json] [--frames] [--identities]

Lists streams with their runs, gaps and segments, and proves what can be proven: checksums, use nonces, own offsets,
the index against the walked fragments, the manifest against the files. Needs nothing but Python's standard library.
Ends with 0 when all is right, 1 when something is wrong, 2 when there is no volume to read.

It is meant to be read beside docs/format.md ("§" below), as a start for readers in other languages.
"""

import argparse
import json
import mmap
import os
import struct
import sys
import uuid
from datetime import datetime, timezone

from checksums import crc32c, xxh3_64

SEGMENT = uuid.UUID("cc20bc60-609f-4dd3-a9ea-79e3b78d3280")
RUN = uuid.UUID("67fae9ce-c9c3-4b30-9a9e-845f33769685")
FRAMES = uuid.UUID("faf6f56e-93b6-4237-8d8c-c2fbbd99ebb2")
INDEX = uuid.UUID("9988df71-ce20-4ffb-8e5d-9a80c1eb7fd2")

NO_UUID = uuid.UUID(int=0)
VIDEO_TIMESCALE = 90_000

GAP_REASONS = {
    0: "no gap",
    1: "first run of the stream on this recorder",
    2: "camera ended the session",
    3: "silence",
    4: "camera unreachable",
    5: "camera refused the credentials",
    6: "jump of RTP time",
    7: "clock of the machine stepped",
    8: "recorder stopped in order",
    9: "recorder was killed or crashed",
    10: "stream suspended",
    11: "not assigned to this recorder",
    12: "volume failed",
    13: "overload",
    14: "malformed or unsupported media",
    15: "takeover",
    16: "handback",
    17: "codec parameters changed",
    18: "source changed by its owner",
    19: "footage is damaged",
    20: "no space",
    21: "retired",
    255: "unknown",
}


class Bad(Exception):
    """A file, or the rest of it, that cannot be read; the message says why and where."""


def u16(data, at):
    return struct.unpack_from(">H", data, at)[0]


def u32(data, at):
    return struct.unpack_from(">I", data, at)[0]


def i32(data, at):
    return struct.unpack_from(">i", data, at)[0]


def u64(data, at):
    return struct.unpack_from(">Q", data, at)[0]


def i64(data, at):
    return struct.unpack_from(">q", data, at)[0]


def uid(data, at):
    return uuid.UUID(bytes=bytes(data[at:at + 16]))


def utc(wall_us):
    """Microseconds since 1970 as text."""
    seconds, microseconds = divmod(wall_us, 1_000_000)
    try:
        text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{wall_us} us"
    return f"{text}.{microseconds:06d}Z"


# ---------------------------------------------------------------------------------------------------- boxes (12 §4.2)


def boxes(data, start, end):
    """(type, offset, length) of the boxes from `start` to `end`, which they must fill exactly."""
    at = start
    while at < end:
        if end - at < 8:
            raise Bad(f"{end - at} stray bytes at {at}")
        length, kind = u32(data, at), bytes(data[at + 4:at + 8])
        if length < 8 or at + length > end:
            raise Bad(f"box {kind!r} at {at} has the impossible length {length}")
        yield kind.decode("latin-1"), at, length
        at += length


def common(data, at, length, which, nonce, offset=None):
    """The 48 bytes that our boxes share (§3). Gives back the flags."""
    if uid(data, at + 8) != which:
        raise Bad(f"another box than expected at {at}")
    if u16(data, at + 24) != 1:
        raise Bad(f"version {u16(data, at + 24)} of a box at {at}; this reader knows version 1")
    if nonce is not None and u64(data, at + 32) != nonce:
        raise Bad(f"box at {at} is from an earlier use of the file")
    if u64(data, at + 40) != (at if offset is None else offset):
        raise Bad(f"box at {at} says that it is at {u64(data, at + 40)}")
    if length < 48:
        raise Bad(f"box at {at} is too short")
    return u16(data, at + 26)


def checked(data, start, end, crc_at, expected):
    """Whether CRC32C over start..end, with the 4 bytes at `crc_at` as zero, is `expected`."""
    state = crc32c(data[start:crc_at])
    state = crc32c(b"\0\0\0\0", state)
    return crc32c(data[crc_at + 4:end], state) == expected


# --------------------------------------------------------------------------------------------------- segments (§3–§7)


class Segment:
    """One file of streams/: its box, runs, and frames, from the fragments; `problems` holds what is wrong."""

    def __init__(self, path, with_identities):
        self.path = path
        self.problems = []
        self.runs, self.fragments, self.video, self.audio = [], [], [], []
        self.index = None
        self.end_of_walk = "end of the fragments"
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < 4096:
                raise Bad("shorter than 4096 bytes")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                with memoryview(mapped) as data:
                    self.read(data, with_identities)

    def wrong(self, text):
        self.problems.append(text)

    def read(self, data, with_identities):
        if len(data) % 4096:
            self.wrong(f"size {len(data)} is no multiple of 4096")
        at = self.read_header(data)
        tail = self.walk(data, at)
        self.read_tail(data, tail)
        if with_identities:
            self.check_identities(data)

    def read_header(self, data):
        """`ftyp`, `moov`, `free`, and the segment box (§4); gives back where the next box begins."""
        seen, init_end = [], 0
        for kind, at, length in boxes(data, 0, len(data)):
            seen.append(kind)
            if kind == "uuid":
                break
            if kind == "moov":
                init_end = at + length
                self.nal_length_bytes = 4
        if seen not in (["ftyp", "moov", "uuid"], ["ftyp", "moov", "free", "uuid"]):
            raise Bad(f"begins with {seen}")
        if at % 8:
            self.wrong(f"segment box at {at}, which is no multiple of 8")
        if length != 512:
            raise Bad(f"segment box of {length} bytes")
        self.flags = common(data, at, length, SEGMENT, None)
        if not checked(data, at, at + 448, at + 28, u32(data, at + 28)):
            raise Bad("segment box: wrong CRC")
        self.box_at = at
        self.nonce = u64(data, at + 32)
        self.volume, self.stream = uid(data, at + 48), uid(data, at + 64)
        self.number, self.file_number = u64(data, at + 80), u64(data, at + 88)
        self.first_wall = i64(data, at + 104)
        self.init_hash = u64(data, at + 112)
        self.timescales = u32(data, at + 120), u32(data, at + 124)
        name_length = u16(data, at + 128)
        if name_length > 318:
            raise Bad(f"name of {name_length} bytes")
        self.name = bytes(data[at + 130:at + 130 + name_length]).decode("utf-8")
        if self.nonce == 0:
            self.wrong("use nonce 0")
        if u64(data, at + 96) != len(data):
            self.wrong(f"says that it has {u64(data, at + 96)} bytes, has {len(data)}")
        if xxh3_64(data[0:init_end]) != self.init_hash:
            self.wrong("init hash differs from ftyp and moov")
        if self.timescales[0] != VIDEO_TIMESCALE:
            self.wrong(f"video timescale {self.timescales[0]}")
        # The sealed part counts only when whole (§4).
        self.sealed = (
            u32(data, at + 448) == 1
            and u64(data, at + 456) == self.nonce
            and checked(data, at + 448, at + 512, at + 452, u32(data, at + 452))
        )
        self.index_at, self.index_length = u64(data, at + 464), u64(data, at + 472)
        self.last_wall = i64(data, at + 480)
        return at + 512

    def walk(self, data, at):
        """Runs and fragments up to the first box that is neither, or that is not there (§6)."""
        while at + 8 <= len(data):
            length, kind = u32(data, at), bytes(data[at + 4:at + 8])
            # A fragment's length counts with its mdat (§3).
            if length < 8 or length % 8 and kind != b"moof" or at + length > len(data):
                self.wrong(f"box {kind!r} at {at} has the impossible length {length}")
                return at
            try:
                if kind == b"uuid" and uid(data, at + 8) == RUN:
                    self.read_run(data, at, length)
                elif kind == b"moof":
                    length = self.read_fragment(data, at, length)
                else:
                    return at
            except (Bad, struct.error) as why:
                self.end_of_walk = str(why)
                self.wrong(f"fragments end at {at}: {why}")
                return at
            at += length
        return at

    def read_run(self, data, at, length):
        """§5."""
        if length != 256:
            raise Bad(f"run box of {length} bytes")
        flags = common(data, at, length, RUN, self.nonce)
        if not checked(data, at, at + 256, at + 28, u32(data, at + 28)):
            raise Bad("run box: wrong CRC")
        previous = self.runs[-1]["offset"] if self.runs else 0
        if u64(data, at + 112) != previous:
            self.wrong(f"run box at {at} says that the run before it is at {u64(data, at + 112)}, it is at {previous}")
        self.runs.append({
            "offset": at,
            "run": uid(data, at + 48),
            "continued": bool(flags & 1),
            "epoch": u64(data, at + 64),
            "rank": u32(data, at + 72),
            "reason": u32(data, at + 76),
            "plan": (u64(data, at + 80), u64(data, at + 88)),
            "recorder": uid(data, at + 96),
            "wall_anchor": i64(data, at + 120),
            "media_anchor": i64(data, at + 128),
            "video_offset": i64(data, at + 136),
            "audio_offset": i64(data, at + 144),
            "report_ntp": u64(data, at + 152),
            "report_media": i64(data, at + 160),
            "previous_end": i64(data, at + 168),
            "previous_run": uid(data, at + 176),
            "entries": 0,
            "first_wall": None,
            "last_wall": None,
            "frames": 0,
        })

    def read_fragment(self, data, at, moof_length):
        """A `moof` with its `mdat` (§6); gives back their length."""
        mdat = at + moof_length
        if mdat + 8 > len(data) or bytes(data[mdat + 4:mdat + 8]) != b"mdat":
            raise Bad("no mdat behind the moof")
        mdat_length = u32(data, mdat)
        end = mdat + mdat_length
        if mdat_length < 8 or end > len(data):
            raise Bad("mdat does not lie inside the file")
        inside = list(boxes(data, at + 8, mdat))
        kinds = [kind for kind, _, _ in inside]
        if kinds not in (["mfhd", "traf", "uuid"], ["mfhd", "traf", "traf", "uuid"]):
            raise Bad(f"moof with {kinds}")
        frames, frames_length = inside[-1][1:]
        flags = common(data, frames, frames_length, FRAMES, self.nonce, offset=at)
        videos, audios = u32(data, frames + 48), u32(data, frames + 52)
        if u32(data, frames + 56) != mdat_length:
            raise Bad("frames box and mdat differ in length")
        if frames_length != 72 + 24 * videos:
            raise Bad("frames box has a wrong length")
        if not checked(data, at, end, frames + 28, u32(data, frames + 28)):
            raise Bad("fragment: wrong CRC")
        if (end - at) % 8:
            self.wrong(f"fragment at {at} has {end - at} bytes, no multiple of 8")
        sequence = u32(data, inside[0][1] + 12)
        if sequence != len(self.fragments) + 1:
            self.wrong(f"fragment at {at} has sequence number {sequence}")
        tracks = {}
        for kind, traf, length in inside[1:-1]:
            track, samples = self.read_track(data, at, traf, length)
            tracks[track] = samples
        if len(tracks.get(1, [])) != videos or len(tracks.get(2, [])) != audios:
            raise Bad("frames box and truns differ in their number of frames")
        if not videos and not audios:
            self.wrong(f"fragment at {at} is empty")
        self.check_data(data, mdat, end, tracks)
        self.append_frames(data, at, flags, frames, tracks)
        return end - at

    def read_track(self, data, moof, traf, traf_length):
        """`tfhd`, `tfdt`, `trun`: (track, its samples)."""
        inside = list(boxes(data, traf + 8, traf + traf_length))
        if [kind for kind, _, _ in inside] != ["tfhd", "tfdt", "trun"]:
            raise Bad(f"traf with {[kind for kind, _, _ in inside]}")
        tfhd, tfdt, trun = (at for _, at, _ in inside)
        flags, track = u32(data, tfhd + 8) & 0xFFFFFF, u32(data, tfhd + 12)
        if (track, flags) not in ((1, 0x020020), (2, 0x020028)):
            raise Bad(f"tfhd of track {track} with flags {flags:#08x}")
        default_duration = u32(data, tfhd + 16) if flags & 0x8 else None
        if u32(data, tfdt + 8) != 0x01000000:
            raise Bad("tfdt of another version than 1")
        time = u64(data, tfdt + 12)
        flags, count = u32(data, trun + 8), u32(data, trun + 12)
        if flags not in ((0x01000305, 0x01000B05) if track == 1 else (0x01000201, 0x01000301)):
            raise Bad(f"trun of track {track} with {flags:#010x}")
        position, field = moof + i32(data, trun + 16), trun + 20
        first_flags = None
        if flags & 0x4:
            first_flags, field = u32(data, field), field + 4
        samples = []
        for _ in range(count):
            duration, composition = default_duration, 0
            if flags & 0x100:
                duration, field = u32(data, field), field + 4
            size, field = u32(data, field), field + 4
            if flags & 0x800:
                composition, field = i32(data, field), field + 4
            samples.append({
                "offset": position, "size": size, "time": time, "duration": duration, "composition": composition,
            })
            position, time = position + size, time + duration
        if field != trun + inside[2][2]:
            raise Bad("trun has a wrong length")
        if track == 1 and samples:
            samples[0]["trun_sync"] = first_flags == 0x02000000
        return track, samples

    def check_data(self, data, mdat, end, tracks):
        """Samples lie one behind the other, video first, then at most 7 zero bytes."""
        at = mdat + 8
        for sample in tracks.get(1, []) + tracks.get(2, []):
            if sample["offset"] != at:
                raise Bad(f"sample at {sample['offset']} where {at} was expected")
            at += sample["size"]
        if not 0 <= end - at <= 7 or any(data[at:end]):
            raise Bad("mdat does not end with 0 to 7 zero bytes behind its samples")

    def append_frames(self, data, moof, flags, frames, tracks):
        if not self.runs:
            self.wrong(f"fragment at {moof} before any run box")
            raise Bad("no run box before the first fragment")
        run = self.runs[-1]
        video, audio = tracks.get(1, []), tracks.get(2, [])
        for n, sample in enumerate(video):
            entry = frames + 72 + 24 * n
            sample.update(
                wall=i64(data, entry), identity=u64(data, entry + 8), flags=u32(data, entry + 16), run=len(self.runs) - 1,
            )
            if n and sample["flags"] & 3:
                self.wrong(f"fragment at {moof}: frame {n} is a random access point or sync sample, but not the first")
        if video:
            if bool(video[0]["flags"] & 2) != video[0]["trun_sync"]:
                self.wrong(f"fragment at {moof}: first_sample_flags and the frame's flags differ")
            if bool(flags & 1) != bool(video[0]["flags"] & 1):
                self.wrong(f"fragment at {moof}: bit 0 of the frames box and of its first frame differ")
        wall = i64(data, frames + 64)
        for sample in audio:
            later = (sample["time"] - audio[0]["time"]) * 1_000_000 // max(self.timescales[1], 1)
            sample.update(wall=wall + later, run=len(self.runs) - 1)
        for known, new in ((self.video, video), (self.audio, audio)):
            if known and new and new[0]["time"] <= known[-1]["time"]:
                self.wrong(f"fragment at {moof}: decode time goes back")
        self.fragments.append({
            "offset": moof, "key": bool(flags & 1), "video": video, "audio": audio, "run": len(self.runs) - 1,
        })
        self.video += video
        self.audio += audio
        run["frames"] += len(video)
        for sample in video:
            end = sample["wall"] + sample["duration"] * 1_000_000 // VIDEO_TIMESCALE
            run["first_wall"] = sample["wall"] if run["first_wall"] is None else run["first_wall"]
            run["last_wall"] = end if run["last_wall"] is None else max(end, run["last_wall"])

    def read_tail(self, data, at):
        """What lies behind the fragments (§7): nothing but `free`, or index, mfra, free."""
        kinds = []
        for kind, where, length in boxes(data, at, len(data)):
            kinds.append(kind)
            if where % 8 or length % 8:
                self.wrong(f"{kind} at {where}, {length} bytes: no multiple of 8")
            if kind == "uuid":
                self.read_index(data, where, length)
            elif kind == "mfra":
                self.read_mfra(data, where, length)
        if kinds not in (["free"], [], ["uuid", "mfra", "free"], ["uuid", "mfra"]):
            self.wrong(f"boxes behind the fragments: {kinds}")
        if self.sealed and self.index is None:
            self.wrong("sealed, but without a good index")

    def read_index(self, data, at, length):
        try:
            common(data, at, length, INDEX, self.nonce)
            if not checked(data, at, at + length, at + 28, u32(data, at + 28)):
                raise Bad("wrong CRC")
            if self.sealed and (at, length) != (self.index_at, self.index_length):
                raise Bad(f"the segment box says {self.index_at}, {self.index_length} bytes")
            runs, entries, audios = u32(data, at + 48), u32(data, at + 52), u32(data, at + 60)
            used = 96 + 32 * runs + 40 * entries + 2 * audios
            if length != (used + 7) // 8 * 8 or any(data[at + used:at + length]):
                raise Bad(f"length {length} for {runs} runs, {entries} entries, {audios} audio frames")
        except Bad as why:
            self.wrong(f"index box at {at}: {why}")
            return
        self.index = {
            "offset": at, "length": length, "last_wall": i64(data, at + 88), "video": u32(data, at + 56), "audio": audios,
            "keys": u32(data, at + 64), "video_bytes": u64(data, at + 72), "audio_bytes": u64(data, at + 80),
        }
        counts = (
            ("runs", runs, len(self.runs)),
            ("video frames", self.index["video"], len(self.video)),
            ("audio frames", audios, len(self.audio)),
            ("random access points", self.index["keys"], sum(f["flags"] & 1 for f in self.video)),
            ("fragments", u32(data, at + 68), len(self.fragments)),
            ("bytes of video", self.index["video_bytes"], sum(f["size"] for f in self.video)),
            ("bytes of audio", self.index["audio_bytes"], sum(f["size"] for f in self.audio)),
        )
        for what, says, has in counts:
            if says != has:
                self.wrong(f"index: {says} {what}, the fragments have {has}")
        table = at + 96 + 32 * runs
        sizes = [u16(data, table + 40 * entries + 2 * n) for n in range(audios)]
        if sizes != [f["size"] for f in self.audio]:
            self.wrong("index: sizes of audio frames differ from the fragments'")
        self.compare_entries(data, table, entries)
        self.compare_runs(data, at + 96, runs, entries)

    def compare_entries(self, data, table, count):
        """Each entry against the frames that were walked, in file order."""
        number, audio_position = 0, 0
        for fragment in self.fragments:
            first = True
            runs_entries = number
            for frame in fragment["video"]:
                if number >= count:
                    break
                flags, offset, size, composition, time, wall, identity = struct.unpack_from(
                    ">IIIiQqQ", data, table + 40 * number)
                expected = frame["flags"] & 0xF | (0x200 if first else 0)
                if (flags, offset, size, composition, time, wall, identity) != (
                        expected, frame["offset"], frame["size"], frame["composition"], frame["time"], frame["wall"],
                        frame["identity"]):
                    self.wrong(f"index: entry {number} differs from the frame at {frame['offset']}")
                number, first = number + 1, False
            audio = fragment["audio"]
            while audio and number < count:
                flags, offset, size, duration, time, wall, position = struct.unpack_from(
                    ">IIIiQqQ", data, table + 40 * number)
                frames = flags >> 16
                stretch, audio = audio[:frames], audio[frames:]
                if not stretch or (
                        flags & 0xFFFF != (0x300 if first else 0x100)
                        or len(stretch) != frames
                        or offset != stretch[0]["offset"]
                        or size != sum(f["size"] for f in stretch)
                        or position != audio_position
                        or abs(wall - stretch[0]["wall"]) > 1
                        or any(f["time"] != time + n * duration for n, f in enumerate(stretch))):
                    self.wrong(f"index: entry {number} differs from the audio of the fragment at {fragment['offset']}")
                    if not stretch:
                        break
                audio_position += frames
                number, first = number + 1, False
            self.runs[fragment["run"]]["entries"] += number - runs_entries
        if number != count:
            self.wrong(f"index: {count} entries, the fragments have {number}")

    def compare_runs(self, data, table, count, entries):
        first = 0
        for n, run in enumerate(self.runs[:count]):
            offset, says_first, says_count, first_wall, last_wall = struct.unpack_from(">QIIqq", data, table + 32 * n)
            if (offset, says_first, says_count) != (run["offset"], first, run["entries"]):
                self.wrong(f"index: run {n} differs from the run box at {run['offset']}")
            if run["first_wall"] is not None and first_wall != run["first_wall"]:
                self.wrong(f"index: run {n} begins at {utc(first_wall)}, its frames at {utc(run['first_wall'])}")
            if run["last_wall"] is not None and abs(last_wall - run["last_wall"]) > 1_000:
                self.wrong(f"index: run {n} ends at {utc(last_wall)}, its frames at {utc(run['last_wall'])}")
            first += run["entries"]

    def read_mfra(self, data, at, length):
        """12 §8.8.9–8.8.11."""
        inside = list(boxes(data, at + 8, at + length))
        kinds = [kind for kind, _, _ in inside]
        if kinds not in (["tfra", "mfro"], ["tfra", "free", "mfro"]):
            return self.wrong(f"mfra with {kinds}")
        tfra, mfro = inside[0][1], inside[-1][1]
        count = u32(data, tfra + 20)
        keys = [f for f in self.fragments if f["key"]]
        if u32(data, tfra + 8) != 0x01000000 or u32(data, tfra + 12) != 1 or u32(data, tfra + 16) != 0x3F:
            return self.wrong("tfra: version, track or field lengths")
        if inside[0][2] != 24 + 28 * count or count != len(keys):
            return self.wrong(f"tfra: {count} entries for {len(keys)} random access points")
        for n, fragment in enumerate(keys):
            time, moof, traf, trun, sample = struct.unpack_from(">QQIII", data, tfra + 24 + 28 * n)
            frame = fragment["video"][0]
            if (time, moof, traf, trun, sample) != (
                    frame["time"] + frame["composition"], fragment["offset"], 1, 1, 1):
                self.wrong(f"tfra: entry {n} differs from the fragment at {fragment['offset']}")
        if u32(data, mfro + 12) != length:
            self.wrong("mfro: wrong size")

    def check_identities(self, data):
        for frame in self.video:
            if frame["flags"] & 8:
                continue  # incomplete
            coded = bytearray()
            at, end = frame["offset"], frame["offset"] + frame["size"]
            while at + 4 <= end:
                length = u32(data, at)
                nal = bytes(data[at + 4:at + 4 + length])
                if at + 4 + length > end:
                    break
                if nal and 1 <= nal[0] & 0x1F <= 5:
                    coded += nal.rstrip(b"\0")
                at += 4 + length
            if at != end:
                self.wrong(f"frame at {frame['offset']}: NAL units do not fill it")
            elif (xxh3_64(bytes(coded)) if coded else 0) != frame["identity"]:
                self.wrong(f"frame at {frame['offset']}: its identity differs from its bytes")


# ------------------------------------------------------------------------------------------------------ manifest (§8)


def read_manifest(path, problems):
    """The records of manifest.log, as dictionaries."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        problems.append("manifest.log: missing")
        return []
    if data[:8] != b"FKMANIF1":
        problems.append("manifest.log: wrong header")
        return []
    records, at = [], 16
    while at + 8 <= len(data):
        length = u32(data, at)
        payload = data[at + 8:at + 8 + length]
        if not 0 < length <= 1 << 20 or len(payload) != length or crc32c(payload) != u32(data, at + 4):
            problems.append(f"manifest.log: ends at {at} of {len(data)}")
            break
        try:
            records.append(read_record(payload))
        except (struct.error, UnicodeDecodeError) as why:
            problems.append(f"manifest.log: record at {at}: {why}")
        at += 8 + (length + 7) // 8 * 8
    return records


def read_record(p):
    kind, version = p[0], p[1]
    if version != 1 or kind not in (1, 2, 3, 4, 5, 6):
        return {"kind": "unknown", "number": kind, "version": version}
    if kind == 2:
        return {"kind": "retired", "file": u64(p, 8), "nonce": u64(p, 16)}
    if kind == 3:
        return {"kind": "hold", "hold": uid(p, 8), "stream": uid(p, 24), "from": i64(p, 40), "to": i64(p, 48)}
    if kind == 4:
        return {"kind": "hold released", "hold": uid(p, 8)}
    if kind == 5:
        return {"kind": "damaged", "file": u64(p, 8), "nonce": u64(p, 16), "stream": uid(p, 24), "run": uid(p, 40),
                "begin": u64(p, 56), "end": u64(p, 64), "from": i64(p, 72), "to": i64(p, 80), "frames": u32(p, 88)}
    if kind == 6:
        return {"kind": "checked", "file": u64(p, 8), "nonce": u64(p, 16), "at": i64(p, 24), "blake3": p[32:64].hex()}
    record = {
        "kind": "sealed", "fragments": u32(p, 4), "file": u64(p, 8), "nonce": u64(p, 16), "stream": uid(p, 24), "segment": u64(p, 40),
        "init": u64(p, 48), "first_wall": i64(p, 56), "last_wall": i64(p, 64), "index": u64(p, 72),
        "index_length": u64(p, 80), "video": u32(p, 88), "audio": u32(p, 92), "keys": u32(p, 96), "runs": u32(p, 100),
        "video_bytes": u64(p, 104), "audio_bytes": u64(p, 112),
    }
    at = 120
    for field in ("name", "path"):
        length = u16(p, at)
        record[field] = p[at + 2:at + 2 + length].decode("utf-8")
        at += 2 + length
    record["run_list"] = []
    for _ in range(record["runs"]):
        record["run_list"].append({
            "run": uid(p, at), "epoch": u64(p, at + 16), "rank": u32(p, at + 24), "reason": u32(p, at + 28),
            "recorder": uid(p, at + 32), "previous_run": uid(p, at + 48), "first_wall": i64(p, at + 64),
            "last_wall": i64(p, at + 72), "frames": u32(p, at + 80), "continued": bool(u32(p, at + 84) & 1),
            "previous_end": i64(p, at + 88),
        })
        at += 96
    if at != len(p):
        raise struct.error(f"{len(p)} bytes, {at} used")
    return record


def compare_manifest(records, segments, volume, problems):
    """Every sealed record that is not retired names a file with its nonce, and says what the file says."""
    retired = {(r["file"], r["nonce"]) for r in records if r["kind"] == "retired"}
    by_use = {(s.file_number, s.nonce): s for s in segments}
    for record in records:
        use = record.get("file"), record.get("nonce")
        if record["kind"] != "sealed" or use in retired:
            continue
        segment = by_use.get(use)
        if segment is None:
            problems.append(f"manifest.log: no file for segment {record['segment']} of {record['name']}")
            continue
        index = segment.index or {}
        said = {
            "stream": segment.stream, "segment": segment.number, "init": segment.init_hash, "name": segment.name,
            "path": os.path.relpath(segment.path, volume), "first_wall": segment.first_wall,
            "last_wall": segment.last_wall, "index": segment.index_at, "index_length": segment.index_length,
            "fragments": len(segment.fragments), "runs": len(segment.runs), "video": index.get("video"), "audio": index.get("audio"),
            "keys": index.get("keys"), "video_bytes": index.get("video_bytes"), "audio_bytes": index.get("audio_bytes"),
        }
        for field, value in said.items():
            if record[field] != value:
                problems.append(f"manifest.log: {record['path']}: {field} is {record[field]}, in the file {value}")
        for says, run in zip(record["run_list"], segment.runs):
            for field in ("run", "epoch", "rank", "reason", "recorder", "previous_run", "frames", "continued",
                          "previous_end"):
                if says[field] != run[field]:
                    problems.append(
                        f"manifest.log: {record['path']}: {field} of a run is {says[field]}, in the file {run[field]}")


# --------------------------------------------------------------------------------------------------------- the volume


def read_volume(volume, with_identities=False):
    """(identity, segments, manifest records, problems)."""
    try:
        with open(os.path.join(volume, "framekeeper.json"), encoding="utf-8") as file:
            identity = json.load(file)
    except (OSError, ValueError) as why:
        raise Bad(f"framekeeper.json: {why}") from why
    if identity.get("format") != 1:
        raise Bad(f"format {identity.get('format')}; this reader knows format 1")
    problems, segments = [], []
    for folder, _, names in sorted(os.walk(os.path.join(volume, "streams"))):
        for name in sorted(names):
            path = os.path.join(folder, name)
            below = os.path.relpath(path, volume)
            try:
                segment = Segment(path, with_identities)
            except (Bad, UnicodeDecodeError, struct.error) as why:
                problems.append(f"{below}: {why}")
                continue
            segments.append(segment)
            if str(segment.volume) != identity["volume"]:
                segment.wrong(f"is of volume {segment.volume}")
            if os.path.getsize(path) != identity["segmentBytes"]:
                segment.wrong(f"has not the {identity['segmentBytes']} bytes that the identity says")
            if os.path.join("streams", *segment.name.split("/")) != os.path.dirname(os.path.dirname(below)):
                segment.wrong(f"is of stream {segment.name}, and lies elsewhere")
            problems += [f"{below}: {text}" for text in segment.problems]
    for name in sorted(os.listdir(os.path.join(volume, "pool"))):
        with open(os.path.join(volume, "pool", name), "rb") as file:
            while chunk := file.read(1 << 20):
                if chunk.count(0) != len(chunk):
                    problems.append(f"pool/{name}: holds bytes that are not zero")
                    break
    records = read_manifest(os.path.join(volume, "manifest.log"), problems)
    compare_manifest(records, segments, volume, problems)
    return identity, segments, records, problems


def streams_of(segments):
    """{stream UID: (name, segments in order, runs as they went through the segments)}"""
    streams = {}
    for segment in sorted(segments, key=lambda s: (str(s.stream), s.number)):
        name, its_segments, runs = streams.setdefault(segment.stream, (segment.name, [], []))
        its_segments.append(segment)
        for run in segment.runs:
            if run["first_wall"] is None:
                continue
            if runs and runs[-1]["run"] == run["run"]:
                runs[-1]["last_wall"] = run["last_wall"]
                runs[-1]["frames"] += run["frames"]
            else:
                runs.append(dict(run))
    return streams


def as_json(identity, segments, records, problems, with_frames):
    def frame(segment, sample, audio):
        out = {"wall": sample["wall"], "time": sample["time"], "duration": sample["duration"],
               "offset": sample["offset"], "size": sample["size"], "run": str(segment.runs[sample["run"]]["run"])}
        if not audio:
            out.update(composition=sample["composition"], flags=sample["flags"], identity=f"{sample['identity']:016x}")
        return out

    streams = []
    for stream, (name, its_segments, runs) in streams_of(segments).items():
        streams.append({
            "name": name,
            "uid": str(stream),
            "runs": [{
                "run": str(run["run"]), "recorder": str(run["recorder"]), "epoch": run["epoch"], "rank": run["rank"],
                "plan": run["plan"], "from": run["first_wall"], "to": run["last_wall"], "frames": run["frames"],
                "reason": run["reason"], "reasonText": GAP_REASONS.get(run["reason"], "unknown"),
                "gapFrom": run["previous_end"] or None,
            } for run in runs],
            "segments": [{
                "path": segment.path, "number": segment.number, "file": segment.file_number, "sealed": segment.sealed,
                "nonce": f"{segment.nonce:016x}", "from": segment.first_wall, "fragments": len(segment.fragments),
                "videoFrames": len(segment.video), "audioFrames": len(segment.audio),
                "runs": [str(run["run"]) for run in segment.runs],
                **({"video": [frame(segment, s, False) for s in segment.video],
                    "audio": [frame(segment, s, True) for s in segment.audio]} if with_frames else {}),
            } for segment in its_segments],
        })
    counts = {}
    for record in records:
        counts[record["kind"]] = counts.get(record["kind"], 0) + 1
    return {"identity": identity, "streams": streams, "manifest": counts, "problems": problems}


def print_text(volume, identity, segments, records, problems, with_frames):
    print(f"{volume}: volume {identity['volume']}, pool {identity['pool']}, recorder {identity['recorder']}")
    for stream, (name, its_segments, runs) in streams_of(segments).items():
        print(f"\n{name} ({stream})")
        for run in runs:
            gap = f"after {utc(run['previous_end'])}, " if run["previous_end"] else ""
            print(f"  run {run['run']}: {utc(run['first_wall'])} to {utc(run['last_wall'])}, {run['frames']} frames; "
                  f"epoch {run['epoch']}, rank {run['rank']}; {gap}{GAP_REASONS.get(run['reason'], 'unknown')}")
        for segment in its_segments:
            state = "sealed" if segment.sealed else "open"
            print(f"  segment {segment.number} ({state}): {os.path.relpath(segment.path, volume)}, "
                  f"{len(segment.fragments)} fragments, {len(segment.video)} video and {len(segment.audio)} audio frames")
            if with_frames:
                for f in segment.video:
                    print(f"    {utc(f['wall'])} {f['time']:>12} {f['size']:>8} {f['flags']:x} {f['identity']:016x}")
    print(f"\nmanifest.log: {len(records)} records")
    for problem in problems:
        print(f"WRONG {problem}")


def main():
    parser = argparse.ArgumentParser(description="Reads a Framekeeper volume and checks it (docs/format.md).")
    parser.add_argument("volume")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    parser.add_argument("--frames", action="store_true", help="list every frame")
    parser.add_argument("--identities", action="store_true", help="check every frame's identity; slow")
    arguments = parser.parse_args()
    try:
        identity, segments, records, problems = read_volume(arguments.volume, arguments.identities)
    except (Bad, OSError) as why:
        print(f"{arguments.volume}: {why}", file=sys.stderr)
        return 2
    if arguments.json:
        json.dump(as_json(identity, segments, records, problems, arguments.frames), sys.stdout, indent=1)
        print()
    else:
        print_text(arguments.volume, identity, segments, records, problems, arguments.frames)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
