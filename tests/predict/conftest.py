"""A small archive of real files, a bundle with fresh weights, and the way from one to results without Ray."""

import io

import numpy as np
import pytest
from PIL import Image

from mri_ray.archive import outputs
from mri_ray.archive.manifest import Manifest
from mri_ray.archive.pseudonym import Identifiers
from mri_ray.archive.storage import Location
from mri_ray.decode.settings import DecodeConfig
from mri_ray.learn.bundle import Bundle
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.predict import shard as scoring
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.objects import rows
from mri_ray.prepare.settings import PrepareConfig

SIZE = 32


def _picture(number: int, side: int = 48) -> bytes:
    """A PNG of a bright disc on noise, different for each number."""
    rng = np.random.default_rng(number)
    y, x = np.indices((side, side))
    disc = 150.0 * ((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 3) ** 2)
    pixels = np.clip(disc + rng.normal(40, 15, (side, side)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _blank(side: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


class Scoring:
    """An archive and its output; `run` lists, scores what has no table yet, and returns the tables' place."""

    def __init__(self, root: Location) -> None:
        self.archive = root / "archive"
        self.manifest = Manifest(root / "manifest")
        self.results = root / "results"
        self.snapshots = root / "snapshots"
        model = ModelConfig(input_size=SIZE, width=2, blocks=3, dense=4)
        weights = build(model, seed=1).state_dict()
        self.predictor = Predictor(Bundle(model=model, prepare=PrepareConfig(size=SIZE), weights=weights))

    def put(self, **objects: bytes) -> None:
        """Store objects under their names; all are called .png, since names mean nothing."""
        for name, data in objects.items():
            self.archive.write(f"{name}.png", data)

    picture = staticmethod(_picture)
    blank = staticmethod(_blank)

    def take_stock(self) -> None:
        update = self.manifest.update(self.archive.list(), shard_objects=3)
        self.manifest.add_retry(outputs.to_retry(self.manifest, self.results), after=update.listing)

    def score(self) -> list[str]:
        """The keys that were scored now."""
        done = []
        for shard in outputs.missing(self.manifest, self.results):
            objects = self.manifest.read_shard(shard)
            done += objects["key"].to_pylist()
            found = rows(objects, self.archive, DecodeConfig(), self.predictor.bundle.prepare, Identifiers())
            table = scoring.score(found, self.predictor, run_id="test")
            assert self.results.write_table(outputs.name(shard), table, if_absent=True)
        return done


@pytest.fixture
def scored(tmp_path) -> Scoring:
    return Scoring(Location.of(str(tmp_path)))
