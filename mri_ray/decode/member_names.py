"""Names of a pack's members: which are safe, how they are shown, and what they say of the content."""

import hashlib
import re

_MAX_CHARACTERS = 1024
_DRIVE = re.compile(r"[A-Za-z]:")
# What must not reach a log or a table: control characters, line separators, what turns the direction of writing,
# bytes that are no UTF-8 (decoded as surrogates); and "!/", which parts a pack from its member.
_ESCAPED = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]|(?<=!)/")
_SYSTEM_FOLDERS = frozenset({"__macosx", ".spotlight-v100", ".trashes", ".fseventsd"})
_SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
_LABELS = ("json", "jsonl", "ndjson", "cls", "cls2", "id", "caption", "transcript", "txt", "text", "csv", "tsv", "bval")
_SCANS = ("bvec", "bvals", "bvecs", "mat", "md5", "sha1", "sha256", "log", "bidsignore", "gitignore", "gitkeep")
_TEXTS = ("md", "rst", "xml", "xsl", "xsd", "dtd", "html", "htm", "css", "js", "url", "yaml", "yml", "toml", "ini")
_SIDECAR_SUFFIXES = frozenset((*_LABELS, *_SCANS, *_TEXTS, "cfg", "conf", "inf"))
_SIDECAR_FILES = frozenset({"readme", "license", "licence", "changes", "changelog", "copying", "authors", "version"})
_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_PROGRAMS = (b"MZ", b"\x7fELF", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class MemberNames:
    """Gives each member of a pack a name of its own: the second `a.png` is `a.png#2`."""

    def __init__(self) -> None:
        self._times: dict[bytes, int] = {}  # by a name's digest: a million long names would be a burden

    def give(self, name: str) -> str:
        """A member's path in its pack with single `/`, no `.` parts, nothing unprintable, at most 1100 characters.

        A name that points out of the pack is shown with what makes it do so.
        """
        name = shown(name if is_unsafe(name) else "/".join(_parts(name)))
        own = name
        while (key := _digest(own)) in self._times:
            self._times[_digest(name)] += 1
            own = f"{name}#{self._times[_digest(name)]}"
        self._times[key] = 1
        return own


def is_unsafe(name: str) -> bool:
    """Whether a stored name (`/` or a backslash parts it) points out of its pack, or is none."""
    parts = name.replace("\\", "/").split("/")
    outward = ".." in parts or (len(parts) > 1 and not parts[0]) or _DRIVE.match(parts[0])
    return bool(outward) or "\0" in name or not _parts(name)


def shown(name: str) -> str:
    """A name without anything that is no visible text: escaped, and cut where it is too long."""
    text = _ESCAPED.sub(_escape, name)
    if len(text) > _MAX_CHARACTERS:
        text = f"{text[:_MAX_CHARACTERS]}~{_digest(text).hex()}"
    return text or "(no name)"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def is_system_file(name: str) -> bool:
    """Whether an operating system keeps its own notes under such a name."""
    parts = [part.lower() for part in _parts(name)]
    return parts[-1] in _SYSTEM_FILES or not _SYSTEM_FOLDERS.isdisjoint(parts[:-1])


def may_be_sidecar(name: str) -> bool:
    """Whether such names are given to texts and labels beside images; the content decides (`is_sidecar`)."""
    last = _parts(name)[-1].lower()
    return last.startswith("._") or last in _SIDECAR_FILES or last.rpartition(".")[2] in _SIDECAR_SUFFIXES


def is_sidecar(head: bytes) -> bool:
    """Whether content (its first bytes) is text, or the extra data that macOS stores beside a file."""
    return head.startswith((*_UTF_16, _APPLE_DOUBLE)) or not _BINARY.search(head)


def is_program(head: bytes) -> bool:
    """Whether content is a program or library: of Windows, Linux, Java or macOS."""
    return head.startswith(_PROGRAMS)


def is_document(first: str) -> bool:
    """Whether a zip with such a first entry is a document of another kind, whose pictures are no slices."""
    return first in ("[Content_Types].xml", "mimetype") or first.startswith("META-INF/")


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
