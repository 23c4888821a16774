"""What may leave this process of names, ids, dates and paths: kept, replaced by pseudonyms, or dropped.

A pseudonym is HMAC-SHA256 of kind and value under the site key, so that the same patient has the same key in every run
of a site and nobody without the key can test a guess. The key comes from the environment of each process (SITE_KEY or
SITE_KEY_FILE), never from a config, and is in no object that is sent or written.
"""

import hashlib
import hmac
import os
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from mri_ray.errors import ConfigError, IdentifierError
from mri_ray.records import Header

SITE_KEY, SITE_KEY_FILE = "MRI_RAY_SITE_KEY", "MRI_RAY_SITE_KEY_FILE"
HEADERS = ("pseudonym", "drop", "keep")
URIS = ("keep", "pseudonym")
_HEX = 32  # digits of a pseudonym: 128 bits
_LEAST_KEY = 16  # bytes; a short key can be found by trying
_LEAST_NAME, _LEAST_ID = 3, 4  # letters and digits; shorter ones occur in any path
_YEAR = 365
_SET_IT = f"set {SITE_KEY} (or {SITE_KEY_FILE}) on every node"
_HEADERS_NEED = (
    "identifiers: headers of this archive name patients or studies, and pseudonyms for them need a site key: "
    f"{_SET_IT}, or give identifiers=drop to leave them out; no identifier was written"
)
_PATHS_NEED = f"uris: pseudonyms for paths need a site key: {_SET_IT}, or give uris=keep"
ISSUER = "^^^"  # between a patient's id and who issued it


@lru_cache(maxsize=1)  # asked for with every identifier
def _fingerprint(key: bytes | None) -> str:
    return "" if key is None else _mac(key, "fingerprint", "").hex()[:16]


@dataclass(frozen=True, kw_only=True)
class Identifiers:
    """How identifiers are treated; a plain value without the key.

    headers: pseudonym, drop or keep what headers say of patient, study, series and instance. uris: keep paths, or put
    ids in their place. fingerprint: of the key that whoever made this value had; every process must have the same.
    """

    headers: str = "pseudonym"
    uris: str = "keep"
    fingerprint: str = field(default_factory=lambda: _fingerprint(site_key()))

    def __post_init__(self) -> None:
        for name, options in (("headers", HEADERS), ("uris", URIS)):
            if getattr(self, name) not in options:
                raise ConfigError(f"{name}: must be one of {', '.join(options)}, got {getattr(self, name)!r}")

    @property
    def names(self) -> tuple[str, str, str]:
        """What decides how identifiers look in a table: another key or mode is another table."""
        used = "pseudonym" in (self.headers, self.uris)
        return self.headers, self.uris, self.fingerprint if used else ""

    def require_key(self, why: str = _HEADERS_NEED) -> bytes:
        """The site key. Raises IdentifierError when there is none (saying why), or another than on the driver."""
        key = site_key()
        if key is None:
            raise IdentifierError(why)
        if _fingerprint(key) != self.fingerprint:
            raise IdentifierError(f"identifiers: {SITE_KEY} must be the same on every node, got another on this one")
        return key

    def id_key(self) -> bytes:
        """What object ids are keyed with: nothing while paths are kept, since they could be looked up there."""
        return b"" if self.uris == "keep" else hashlib.sha256(b"ids" + self.require_key(_PATHS_NEED)).digest()

    def key_of(self, kind: str, value: str | None) -> str | None:
        """What stands for an identifier. kind: patient, study, series or instance."""
        if value is None or self.headers == "drop":
            return None
        return value if self.headers == "keep" else pseudonym(self.require_key(), kind, value)

    def columns(self, header: Header) -> dict[str, Any]:
        """The header's columns of prepared rows and results."""
        told = {name: getattr(header, name) for name in ("modality", "manufacturer", "sequence", "body_part")}
        if self.headers != "keep":  # these are free text, and people write anything anywhere
            told = {name: None if names_patient(text or "", header) else text for name, text in told.items()}
        return told | {
            "patient_key": self.key_of("patient", header.patient),
            "study_key": self.key_of("study", header.study_uid),
            "series_key": self.key_of("series", header.series_uid),
            "instance_key": self.key_of("instance", header.sop_uid),
            "instance_number": header.instance_number,
            "position_mm": _along(header),
            "normal": header.normal,
            "spacing_mm": header.spacing_mm,
            "acquired": self._date(header),
            "field_strength_t": header.field_strength_t,
        }

    def _date(self, header: Header) -> date | None:
        """Kept, or moved back by days that are the patient's own, so that intervals stay; never guessed."""
        if header.acquired is None or self.headers == "keep":
            return header.acquired
        if self.headers == "drop" or header.patient is None:
            return None
        mixed = _mac(self.require_key(), "date", header.patient)
        try:
            return header.acquired - timedelta(days=1 + int.from_bytes(mixed[:8], "big") % _YEAR)
        except OverflowError:
            return None


def site_key() -> bytes | None:
    """The key of this process's environment. Raises ConfigError when it is too short or cannot be read."""
    text, path = os.environ.get(SITE_KEY), os.environ.get(SITE_KEY_FILE)
    if not text and path:
        text = _read_key(path)
    if not text:
        return None
    key = text.strip().encode()
    if len(key) < _LEAST_KEY:
        raise ConfigError(f"{SITE_KEY}: must have at least {_LEAST_KEY} characters, got {len(key)}")
    return key


@lru_cache(maxsize=4)
def _read_key(path: str) -> str:
    """Once a process: a key that changed meanwhile would give one patient two pseudonyms."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{SITE_KEY_FILE}: must name a readable file, got {type(exc).__name__}") from exc


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """32 hex digits; blanks around the value do not count, as DICOM pads with them."""
    return _mac(key, kind, value.strip()).hex()[:_HEX]


def identifying(header: Header) -> bool:
    """Whether a header holds what must not leave as it is."""
    known = (header.patient, header.patient_name, header.study_uid, header.series_uid, header.sop_uid)
    return any(value is not None for value in known)


def names_patient(path: str, header: Header) -> bool:
    """Whether a path repeats the header's patient name, in any of its spellings, or the id."""
    folded = _folded(path)
    words = set(re.findall(r"\w+", folded.replace("_", " ")))
    plain = re.sub(r"[\W_]", "", folded)
    whole = [re.sub(r"[\W_]", "", _folded((header.patient or "").partition(ISSUER)[0]))]
    for spelling in (header.patient_name or "").split("="):  # alphabetic, ideographic, phonetic
        names = re.findall(r"\w+", _folded(spelling).replace("_", " "))
        if any(len(name) >= _LEAST_NAME and name in words for name in names):
            return True
        whole += ["".join(names), "".join(reversed(names))]  # as scripts without blanks write it
    return any(len(text) >= _LEAST_ID and text in plain for text in whole)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _along(header: Header) -> float | None:
    if header.position_mm is None or header.normal is None:
        return None
    return sum(place * part for place, part in zip(header.position_mm, header.normal, strict=True))


def _mac(key: bytes, kind: str, value: str) -> bytes:
    return hmac.digest(key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), "sha256")
