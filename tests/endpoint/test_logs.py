import io
import json
import logging
import sys

import pytest

from mri_ray.endpoint import logs


@pytest.fixture
def logger():
    """The package's, as it was afterwards."""
    found = logging.getLogger("mri_ray")
    before = found.handlers, found.level, found.propagate
    yield found
    found.handlers, found.propagate = before[0], before[2]
    found.setLevel(before[1])


def test_a_line_is_in_the_processes_own_stderr_at_once_whoever_has_put_another_in_its_place(logger, monkeypatch, capfd):
    held = io.StringIO()
    monkeypatch.setattr(sys, "stderr", held)
    logs.to_stderr()
    logs.audit("predict", "key-1", {"decisions": {"positive": 1}})
    line = json.loads(capfd.readouterr().err)
    assert (line["logger"], line["message"], line["key_id"]) == ("mri_ray.audit", "predict", "key-1")
    assert held.getvalue() == ""
