"""Which contrast a picture has: T1, T1+C, T2, T2*, PD, FLAIR or DWI, as far as the tags tell.

First the words of the series' description, then those of the protocol's name, then what enhanced images say in their
own tag, then the times of the sequence. Words and tags that contradict each other give None, and so do times between
those that are typical at 0.5 to 3 T: nothing here is measured in the pixels.
"""

import re

_WORDS = {
    "FLAIR": r"[a-z0-9]*flair|dark ?fluid",
    "DWI": r"dwi|dti|diff|diffusion|trace|tracew|resolve",
    "T2*": r"[sev]?t2 ?star|[sev]?t2 ?\*w?|[sev]?t2w? ?(?:ffe|gre|fl[23]d|merge)|gre t2|swi|swan|hemo|haemo|medic",
    "T1": r"[sev]?t1(?:w|wi)?(?:se|tse|fse|tfe|ffe|ir|3d|space|vibe|c|ce|gd|flair)?|mp ?rage|f?spgr|bravo",
    "T2": r"[sev]?t2(?:w|wi)?(?:se|tse|fse|3d|space|flair)?",
    "PD": r"[sev]?pd(?:w|wi)?(?:se|tse|fse)?|proton ?density",
}
_ALONE = r"(?<![a-z0-9])(?:{})(?![a-z0-9])"
_PATTERNS = {name: re.compile(_ALONE.format(words)) for name, words in _WORDS.items()}
_AGENTS = (
    r"gd|gad[a-z]*|dotarem|magnevist|prohance|multihance|omniscan|clariscan|post|postgd|postcontrast|contrast[eo]?"
    r"|inj|km|mdc|ce|c\+|t1c|t1ce|t1gd"
)
_WITH_AGENT = re.compile(_ALONE.format(_AGENTS) + r"|\+ ?(?:c|gd|km|contrast)(?![a-z0-9])")
_NO_AGENTS = (
    r"pre ?(?:contrast|gd|km)?|without(?: contrast)?|w/?o(?: contrast)?|non? ?contrast|no gd|nativ|native|ohne(?: km)?"
    r"|(?:sin|sem|sans|senza)(?: (?:contrast[eo]|gado[a-z]*|mdc|inj[a-z]*))?"
)
_WITHOUT_AGENT = re.compile(_ALONE.format(_NO_AGENTS))
_NO_AGENT = {"", "NO", "NONE", "N", "FALSE", "0", "NA", "N/A", "WITHOUT", "NO CONTRAST", "UNKNOWN"}
_CONTRASTS = {  # Acquisition Contrast (0008,9209), PS3.3, C.8.13.3.1.4
    "DIFFUSION": "DWI",
    "FLUID_ATTENUATED": "FLAIR",
    "PROTON_DENSITY": "PD",
    "T1": "T1",
    "T2": "T2",
    "T2_STAR": "T2*",
}


def sequence_of(
    *,
    description: str | None,
    protocol: str | None,
    agent: str | None,
    contrast: str | None,
    scanning: tuple[str, ...],
    echo_ms: float | None,
    repetition_ms: float | None,
    inversion_ms: float | None,
) -> str | None:
    """agent: the contrast medium's name. contrast: Acquisition Contrast. scanning: SE, GR, IR, EP, RM."""
    words = [_plain(text) for text in (description, protocol) if text]
    found = None
    for text in words:
        found, doubtful = _by_words(text)
        if doubtful:
            return None
        if found:
            break
    if found == "T2" and "GR" in scanning and "SE" not in scanning:
        return None  # of gradient echoes it may be T2*, or neither
    found = found or _CONTRASTS.get(contrast or "")
    found = found or _by_times(scanning, echo_ms, repetition_ms, inversion_ms)
    return _enhanced(found, words, agent) if found == "T1" else found


def _plain(text: str) -> str:
    return re.sub(r"[\s_\-.,;:()\[\]]+", " ", text.lower())


def _by_words(text: str) -> tuple[str | None, bool]:
    """The contrast named, and whether several are that exclude each other."""
    named = [name for name, pattern in _PATTERNS.items() if pattern.search(text)]
    if "T2*" in named and "T2" in named:
        named.remove("T2")  # "t2 star" names both
    if "FLAIR" in named and "T2" in named:
        named.remove("T2")
    if named == ["FLAIR", "T1"]:
        named = ["T1"]  # an inversion pulse in the service of T1, as GE calls it
    return (named[0], False) if len(named) == 1 else (None, len(named) > 1)


def _by_times(
    scanning: tuple[str, ...], echo_ms: float | None, repetition_ms: float | None, inversion_ms: float | None
) -> str | None:
    if not echo_ms or not repetition_ms or "EP" in scanning:
        return None
    if "IR" in scanning and inversion_ms:
        if "GR" in scanning and 600 <= inversion_ms <= 1300 and echo_ms <= 6:
            return "T1"
        return "FLAIR" if inversion_ms >= 1600 and echo_ms >= 60 and repetition_ms >= 4500 else None
    if "SE" not in scanning or "GR" in scanning or "IR" in scanning:
        return None
    if repetition_ms <= 900 and echo_ms <= 30:
        return "T1"
    if repetition_ms >= 2000:
        return "T2" if echo_ms >= 70 else "PD" if echo_ms <= 40 else None
    return None


def _enhanced(found: str, words: list[str], agent: str | None) -> str | None:
    given = (agent or "").strip().upper() not in _NO_AGENT
    denied = any(_WITHOUT_AGENT.search(text) for text in words)
    said = any(_WITH_AGENT.search(_WITHOUT_AGENT.sub(" ", text)) for text in words)
    if denied and (given or said):
        return None
    return "T1+C" if given or said else found
