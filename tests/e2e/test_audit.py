"""The audit as its users start it, on an archive whose paths hold names."""

import json

import cv2
import numpy as np
import pytest

from mri_ray import phantom
from mri_ray.archive.pseudonym import SITE_KEY

pytestmark = pytest.mark.slow


def test_paths_that_hold_names_are_in_nothing_that_is_written(jobs, tmp_path, monkeypatch):
    monkeypatch.setenv(SITE_KEY, "the key of a site that does not exist")
    archive, output = tmp_path / "archive", tmp_path / "out"
    for n, item in enumerate(phantom.generate(phantom.PhantomConfig(patients=8, slices=2, second_study=0, seed=8))):
        for name, picture in ((f"{n}", item.pixels), (f"copy-{n}", item.pixels[:, ::-1])):
            # The copies are called by the other class.
            folder = archive / ("yes" if item.mask.any() == (name == f"{n}") else "no") / "Doe^John"
            folder.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(picture))
    given = [f"archive={archive}", f"output={output}", "prepare.size=64", "uris=pseudonym"]
    code, printed = jobs.run("audit", "--config", "configs/audit.yaml", *given, f"linkage={tmp_path}/linkage")
    assert code == 0, printed
    written = json.loads((output / "run.json").read_text())
    assert written["audit"]["contradictions"]["pictures"] >= 15
    assert all(uri.startswith("object:") for pair in written["audit"]["contradictions"]["first"] for uri in pair)
    assert "Doe" not in printed
    for path in output.rglob("*"):
        assert not path.is_file() or (b"Doe" not in (held := path.read_bytes()) and b"copy-" not in held), path
