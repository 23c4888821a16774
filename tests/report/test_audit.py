"""The page of an audit holds every figure, and nothing that names in an archive could smuggle in."""

import numpy as np
import pytest

from mri_ray.report import audit, pages
from mri_ray.report.facts import AuditFacts

HOSTILE = """<script>alert("x")</script>' onerror=alert(1) {{ 7 * 7 }}"""
PICTURE = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
SHORTCUTS = {
    "size": {"auroc": 0.9712, "auroc_interval": [0.9511, 0.9845], "known": 1.0, "removed": "yes", "suspect": True},
    "manufacturer": {"auroc": 0.51, "auroc_interval": [0.44, 0.58], "known": 0.5, "removed": "no", "suspect": False},
    "sequence": {"auroc": None, "auroc_interval": None, "known": 0.1, "removed": "no", "suspect": False},
}


def facts(**changes) -> AuditFacts:
    given = {
        "run_id": "audit-1",
        "archive": "file:///archive",
        "told": {"slices with a label": 4321, "slices without a label, left out": 17},
        "pictures": {
            "normal": {"slices": 2001, "pixels": 1503, "pictures": 431, "groups": 430},
            "tumor": {"slices": 2320, "pixels": 2222, "pictures": 2111, "groups": 230},
        },
        "leaks": {
            "labels": {"test_slices": 8, "same_pixels": 0, "copy": 0, "owner": 0, "any": 0},
            "folder": {"test_slices": 400, "same_pixels": 79, "copy": 304, "owner": 12, "any": 311},
        },
        "groups": [{"slices": 81, "tumor": 0, "pictures": 1, "owners": 0}],
        "contradictions": {"pictures": 1, "first": [["file:///archive/a.png", f"file:///archive/{HOSTILE}"]]},
        "shortcuts": SHORTCUTS,
        "copies": [(81, [(f"{HOSTILE} (normal)", PICTURE)] * 3)],
        "joined": [(36, [("c.png (normal)", PICTURE), ("d.png (tumor)", PICTURE)])],
        "both": [[("a.png (normal)", PICTURE), ("b.png (tumor)", PICTURE)]],
        "warnings": [HOSTILE],
        "timings_s": {"copies": 3.0},
        "versions": {"python": "3.11"},
        "settings": {"archive": HOSTILE},
    }
    return AuditFacts(**given | changes)


def test_every_figure_is_there_and_names_stay_text():
    page = pages.audit_page(facts())
    for told in (
        "2,001",
        "431",
        "19.8",
        "76.0",
        "0.9712",
        "0.9511 to 0.9845",
        "tells the class",
        "not estimable",
        "81",
    ):
        assert told in page, told
    assert page.count("<img") == 7
    assert "<script>" not in page
    assert "{{ 7 * 7 }}" in page
    assert "http://" not in page
    assert "https://" not in page


def test_an_archive_without_copies_or_a_split_says_so():
    nothing = {"pictures": 0, "first": []}
    page = pages.audit_page(
        facts(leaks={}, groups=[], copies=[], joined=[], both=[], contradictions=nothing, warnings=[])
    )
    assert "There is no split to judge" in page
    assert "No picture has a copy" in page
    assert "Every group is a single slice" in page
    assert "<img" not in page


@pytest.mark.parametrize("suspect", [True, False])
def test_what_is_printed_marks_what_tells_the_class(suspect):
    shortcuts = {name: held | {"suspect": suspect} for name, held in SHORTCUTS.items() if name == "size"}
    found = {
        "pictures": facts().pictures,
        "leaks": facts().leaks,
        "groups": facts().groups,
        "contradictions": facts().contradictions,
        "shortcuts": shortcuts,
    }
    told = audit.text(found)
    assert ("TELLS THE CLASS" in told) == suspect
    assert "of 400 test slices 79 (19.8%) have the very same pixels" in told
    assert "pictures called normal and tumor: 1" in told
