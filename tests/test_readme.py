"""What the README says in tables is what the code does."""

import re
from pathlib import Path

from mri_ray.errors import Reason

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_reason_is_told_as_it_is():
    table = README.split("| reason | what it means | what to do |\n")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert rows == [(reason.value, reason.meaning, reason.remedy) for reason in Reason]


def test_the_quick_start_is_two_commands():
    section = README.split("## Quick start")[1].split("\n## ")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["sh", "sh"]
    assert all(len(text.strip().splitlines()) == 1 for _, text in blocks)
