"""Numbers as people read them, and text with `code` in it as a page shows it."""

import math
import re

from markupsafe import Markup, escape

UNDEFINED = "not estimable"
PERCENT = "\N{NO-BREAK SPACE}%"


def number(value: float | None) -> str:
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.4f}"


def short(value: float) -> str:
    """A threshold, in as few digits as tell it."""
    return f"{value:.3g}"


def percent(value: float | None) -> str:
    return UNDEFINED if value is None or not math.isfinite(value) else f"{100 * value:.1f}{PERCENT}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the units that people read."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(octets: float) -> str:
    """Bytes in decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if octets < 999.5:
            return f"{octets:.0f} bytes" if unit == "bytes" else f"{octets:.3g} {unit}"
        octets /= 1000
    return f"{octets:,.3g} TB" if octets < 999.5 else f"{octets:,.0f} TB"


def marked(text: str) -> Markup:
    """Plain text, of which the parts between backticks are set as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before
