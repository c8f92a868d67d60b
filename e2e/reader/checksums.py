"""CRC32C (Castagnoli, as iSCSI) and XXH3-64 with seed 0, in plain Python."""

import struct
import sys

MASK = (1 << 64) - 1

# ----------------------------------------------------------------------------------------------------------- CRC32C


def _tables():
    """Two tables of 65,536 entries: four bytes are taken at once, which makes plain Python fast enough for footage."""
    one = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        one.append(crc)
    two = [one[(word >> 8) ^ (one[word & 0xFF] & 0xFF)] ^ one[word & 0xFF] >> 8 for word in range(1 << 16)]
    four = [two[crc & 0xFFFF] ^ crc >> 16 for crc in two]
    return one, four, two


_ONE, _LOW, _HIGH = _tables()


def crc32c(data, crc=0):
    """The CRC of `data`; with `crc`, goes on from that of the bytes before."""
    view = memoryview(data)
    whole = len(view) // 4 * 4
    crc ^= 0xFFFFFFFF
    if sys.byteorder == "little":
        words = view[:whole].cast("B").cast("I") if whole else ()
    else:
        words = (word for (word,) in struct.iter_unpack("<I", view[:whole]))
    low, high = _LOW, _HIGH
    for word in words:
        crc ^= word
        crc = low[crc & 0xFFFF] ^ high[crc >> 16]
    for byte in view[whole:]:
        crc = _ONE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# ---------------------------------------------------------------------------------------------------------- XXH3-64

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P64_1, _P64_2, _P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P64_4, _P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_PMX1, _PMX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25
_STRIPE, _STRIPES_A_BLOCK = 64, (192 - 64) // 8


def _le32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def _le64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def _fold(a, b):
    product = a * b
    return (product ^ product >> 64) & MASK


def _avalanche(h):
    h = (h ^ h >> 37) * _PMX1 & MASK
    return h ^ h >> 32


def _avalanche_xxh64(h):
    h = (h ^ h >> 33) * _P64_2 & MASK
    h = (h ^ h >> 29) * _P64_3 & MASK
    return h ^ h >> 32


def _mix16(data, at, secret_at):
    return _fold(_le64(data, at) ^ _le64(_SECRET, secret_at), _le64(data, at + 8) ^ _le64(_SECRET, secret_at + 8))


def xxh3_64(data):
    """XXH3, 64 bits, seed 0, default secret."""
    data = memoryview(data)
    n = len(data)
    if n == 0:
        return _avalanche_xxh64(_le64(_SECRET, 56) ^ _le64(_SECRET, 64))
    if n <= 3:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return _avalanche_xxh64(combined ^ _le32(_SECRET, 0) ^ _le32(_SECRET, 4))
    if n <= 8:
        keyed = _le32(data, n - 4) + (_le32(data, 0) << 32) ^ _le64(_SECRET, 8) ^ _le64(_SECRET, 16)
        rotated = (keyed << 49 | keyed >> 15) ^ (keyed << 24 | keyed >> 40)
        h = (keyed ^ rotated) & MASK
        h = h * _PMX2 & MASK
        h ^= (h >> 35) + n
        h = h * _PMX2 & MASK
        return h ^ h >> 28
    if n <= 16:
        low = _le64(data, 0) ^ _le64(_SECRET, 24) ^ _le64(_SECRET, 32)
        high = _le64(data, n - 8) ^ _le64(_SECRET, 40) ^ _le64(_SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return _avalanche(n + swapped + high + _fold(low, high) & MASK)
    if n <= 128:
        h = n * _P64_1 & MASK
        for pair in reversed(range((n - 1) // 32 + 1)):
            h += _mix16(data, 16 * pair, 32 * pair) + _mix16(data, n - 16 * (pair + 1), 32 * pair + 16)
        return _avalanche(h & MASK)
    if n <= 240:
        h = n * _P64_1
        for part in range(8):
            h += _mix16(data, 16 * part, 16 * part)
        h = _avalanche(h & MASK)
        for part in range(8, n // 16):
            h += _mix16(data, 16 * part, 16 * (part - 8) + 3)
        h += _mix16(data, n - 16, 136 - 17)
        return _avalanche(h & MASK)
    return _long(data, n)


def _accumulate(acc, data, at, secret_at):
    words = struct.unpack_from("<8Q", data, at)
    keys = struct.unpack_from("<8Q", _SECRET, secret_at)
    for lane in range(8):
        word = words[lane]
        keyed = word ^ keys[lane]
        acc[lane ^ 1] += word
        acc[lane] = acc[lane] + (keyed & 0xFFFFFFFF) * (keyed >> 32)
    for lane in range(8):
        acc[lane] &= MASK


def _long(data, n):
    acc = [_P32_3, _P64_1, _P64_2, _P64_3, _P64_4, _P32_2, _P64_5, _P32_1]
    block = _STRIPE * _STRIPES_A_BLOCK
    blocks = (n - 1) // block
    for number in range(blocks):
        for stripe in range(_STRIPES_A_BLOCK):
            _accumulate(acc, data, number * block + stripe * _STRIPE, 8 * stripe)
        for lane in range(8):
            word = acc[lane]
            acc[lane] = (word ^ word >> 47 ^ _le64(_SECRET, 128 + 8 * lane)) * _P32_1 & MASK
    for stripe in range((n - 1 - blocks * block) // _STRIPE):
        _accumulate(acc, data, blocks * block + stripe * _STRIPE, 8 * stripe)
    _accumulate(acc, data, n - _STRIPE, 192 - 64 - 7)
    h = n * _P64_1
    for lane in range(0, 8, 2):
        h += _fold(acc[lane] ^ _le64(_SECRET, 11 + 8 * lane), acc[lane + 1] ^ _le64(_SECRET, 19 + 8 * lane))
    return _avalanche(h & MASK)
