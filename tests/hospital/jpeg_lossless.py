"""JPEG lossless, which no library here writes for every size. Source: ITU-T T.81, annex H."""

import struct

import numpy as np

_CODE_BITS = 5  # all categories 0..16 under codes of one length: a valid table, and nothing to be gained in a test


def encode(frame: np.ndarray, bits: int, predictor: int = 1) -> bytes:
    """The codestream of an unsigned (H, W) frame, bits 2 to 15. predictor: 1 (left), 2 (above) or 7 (their mean)."""
    values = frame.astype(np.int32)
    height, width = values.shape
    predicted = np.empty_like(values)
    predicted[0, 0] = 1 << (bits - 1)
    predicted[0, 1:] = values[0, :-1]
    predicted[1:, 0] = values[:-1, 0]
    left, above = values[1:, :-1], values[:-1, 1:]
    predicted[1:, 1:] = {1: left, 2: above, 7: (left + above) >> 1}[predictor]
    difference = (values - predicted).ravel()
    category = np.ceil(np.log2(np.abs(difference) + 1)).astype(np.int64)
    extra = np.where(difference < 0, difference + (1 << category) - 1, difference)
    scan = _packed((category << category) | extra, category + _CODE_BITS)
    table = b"\0" + bytes([0] * (_CODE_BITS - 1) + [17] + [0] * (16 - _CODE_BITS)) + bytes(range(17))
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHH4B", bits, height, width, 1, 1, 0x11, 0)),
            _segment(0xC4, table),
            _segment(0xDA, bytes([1, 1, 0, predictor, 0, 0])),
            scan.replace(b"\xff", b"\xff\0"),
            b"\xff\xd9",
        )
    )


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _packed(codes: np.ndarray, lengths: np.ndarray) -> bytes:
    """Codes of various lengths, one after another, the last byte filled up with ones."""
    ends = np.cumsum(lengths)
    bits = np.ones(-(-int(ends[-1]) // 8) * 8, np.uint8)
    for place in range(int(lengths.max())):  # from each code's last bit on
        within = lengths > place
        bits[ends[within] - 1 - place] = (codes[within] >> place) & 1
    return np.packbits(bits).tobytes()
