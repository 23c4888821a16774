"""The private header that Siemens scanners write (CSA): a table of named texts.

Siemens does not publish it; this follows what nibabel's documentation describes
(https://nipy.org/nibabel/dicom/siemens_csa.html). Two forms: the newer begins with `SV10`, the older with the number of
its tags.
"""

import struct

_NEWER = b"SV10"
_MAX_TAGS = 1000
_MAX_ITEMS = 1000


def csa(raw: bytes, names: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """The values of the tags of these names, as far as the header can be read; empty values are left out."""
    found: dict[str, tuple[str, ...]] = {}
    newer = raw.startswith(_NEWER)
    try:
        (count,) = struct.unpack_from("<I", raw, 8 if newer else 0)
        position = 16 if newer else 8
        first = None  # number of items of the first tag: what the older form adds to every length
        for _ in range(min(count, _MAX_TAGS)):
            name, _, _, _, items, _ = struct.unpack_from("<64si4siii", raw, position)
            position += 84
            first = items if first is None else first
            texts = []
            for _ in range(min(items, _MAX_ITEMS)):
                lengths = struct.unpack_from("<4i", raw, position)
                length = lengths[1] if newer else lengths[0] - first
                position += 16
                if not 0 <= length <= len(raw) - position:
                    return found
                texts.append(raw[position : position + length].split(b"\0", 1)[0].decode("latin-1").strip())
                position += -(-length // 4) * 4
            key = name.split(b"\0", 1)[0].decode("latin-1")
            if key in names:
                found[key] = tuple(text for text in texts if text)
    except struct.error:
        pass
    return found
