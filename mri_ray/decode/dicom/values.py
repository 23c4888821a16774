"""Values of a data set as Python's own; None wherever there is none, or none that can be read. Nothing here raises.

By hand, since pydicom warns of every value that breaks a rule, through filters that belong to the whole process.
Source: DICOM PS3.5, chapter 6.
"""

import re
import struct
from datetime import date

from pydicom.charset import CODES_TO_ENCODINGS, handled_encodings, python_encoding

from mri_ray.decode.dicom.elements import DataSet

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MAX_TEXT = 1024  # bytes of a value that are looked at
_MAX_NUMBERS = 65_536
_ESCAPED = re.compile(rb"(^[^\x1b]+|\x1b[^\x1b]*)")


def numbers(
    dataset: DataSet, name: str | int, *, signed: bool = False, kind: str | None = None
) -> tuple[float, ...] | None:
    """All numbers of a value; None if it is absent, empty, or not all of them are numbers.

    signed: what "US or SS" is. kind: for private tags, where the file does not tell it.
    """
    raw = dataset.raw(name, _MAX_NUMBERS)
    if not raw:
        return None
    found = dataset.kind(name)
    if found in ("UN", "OB", "OW") and kind is not None:
        found = kind
    if found == "US or SS":
        found = "SS" if signed else "US"
    if found in _BINARY:
        return _binary(raw, found, dataset.syntax.order)
    if found in ("UN", "OB", "OW", "OF", "OD", "SQ"):
        return None
    parts = [part.strip(" \0") for part in raw.decode("latin-1").split("\\")]
    if not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    return tuple(float(part) for part in parts)


def number(dataset: DataSet, name: str | int, *, signed: bool = False) -> float | None:
    """The first of the numbers."""
    found = numbers(dataset, name, signed=signed)
    return found[0] if found else None


def whole(dataset: DataSet, name: str | int, *, kind: str | None = None) -> int | None:
    """A single whole number of at most 32 bits."""
    found = numbers(dataset, name, kind=kind)
    if found is None or len(found) != 1 or not abs(found[0]) < 2**32 or found[0] != int(found[0]):
        return None
    return int(found[0])


def codes(dataset: DataSet, name: str | int) -> tuple[str, ...]:
    """All values of a code string, in capitals; empty ones stay, to keep the others' places."""
    raw = dataset.raw(name, _MAX_TEXT)
    if not raw:
        return ()
    return tuple(part.strip(" \0").upper() for part in raw.decode("latin-1").split("\\"))


def code(dataset: DataSet, name: str | int) -> str | None:
    """The first value of a code string."""
    found = codes(dataset, name)
    return found[0] or None if found else None


def uid(dataset: DataSet, name: str | int) -> str | None:
    """A unique identifier, as it stands."""
    raw = dataset.raw(name, _MAX_TEXT)
    return raw.decode("latin-1").strip(" \0") or None if raw else None


def text(dataset: DataSet, name: str | int, encodings: tuple[str, ...]) -> str | None:
    """A text; what cannot be decoded becomes a replacement character."""
    raw = dataset.raw(name, _MAX_TEXT)
    if not raw:
        return None
    if b"\x1b" not in raw:
        decoded = raw.decode(encodings[0], errors="replace")
    else:
        decoded = "".join(_fragment(part, encodings[0]) for part in _ESCAPED.findall(raw))
    return decoded.strip(" \0\r\n") or None


def encodings_of(dataset: DataSet) -> tuple[str, ...]:
    """Python's names of the character sets; those unknown count as the default."""
    names = codes(dataset, "SpecificCharacterSet") or ("",)
    return tuple(python_encoding.get(name.replace("-", "_").replace("ISO IR", "ISO_IR"), "latin_1") for name in names)


def day(dataset: DataSet, name: str | int) -> date | None:
    """The date of a date, or of a date and time; as ACR-NEMA wrote it, too (1993.08.22)."""
    raw = dataset.raw(name, 16)
    digits = raw.decode("latin-1").strip(" \0").replace(".", "", 2)[:8] if raw else ""
    if not re.fullmatch(r"(19|20)\d{6}", digits):
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def _binary(raw: bytes, kind: str, order: str) -> tuple[float, ...] | None:
    letter = _BINARY[kind]
    count, rest = divmod(len(raw), struct.calcsize(order + letter))
    return struct.unpack(f"{order}{count}{letter}", raw) if count and not rest else None


def _fragment(part: bytes, default: str) -> str:
    """What follows one escape sequence, which says how it is encoded (PS3.5, 6.1.2.5)."""
    for mark, encoding in CODES_TO_ENCODINGS.items():
        if part.startswith(mark):
            if encoding in handled_encodings:  # Python's own decoders want the mark
                return part.decode(encoding, errors="replace")
            return part[len(mark) :].decode(encoding, errors="replace")
    return part.replace(b"\x1b", b"").decode(default, errors="replace")
