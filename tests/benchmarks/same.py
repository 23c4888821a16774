"""The endpoint's answers against batch's, over real files of all formats: the same bytes, the same probability.

MRI_DATA=... python -m tests.benchmarks.same 500 [BUNDLE]
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from mri_ray.archive.manifest import Manifest
from mri_ray.archive.pseudonym import Identifiers
from mri_ray.archive.storage import Location
from mri_ray.endpoint import app as apps
from mri_ray.endpoint import lane
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import EndpointConfig, KeysConfig
from mri_ray.learn import bundle as bundles
from mri_ray.learn.bundle import Bundle
from mri_ray.predict import shard as scoring
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.objects import rows
from tests.endpoint.small import Client, bundle_of, lane_of


def chosen(data: Path, count: int) -> list[Path]:
    """Of each folder as many as of the others, as far as there are: DICOM, JPEG and PNG of all kinds, TIFF."""
    folders = [
        sorted(path for path in (data / name).rglob("*") if path.is_file() and "_mask" not in path.name)
        for name in ("dicom", "kaggle", "lgg", "lgg_tiff")
    ]
    folders.sort(key=len)  # what a small one lacks is left for the others
    found: list[Path] = []
    for left, files in zip(range(len(folders), 0, -1), folders, strict=True):
        part = min(len(files), (count - len(found)) // left)
        found += [files[at] for at in np.linspace(0, len(files) - 1, part).astype(int)]
    return found


def by_batch(files: list[Path], work: Path, predictor: Predictor, config: EndpointConfig) -> dict[Path, list]:
    """(frame, probability) of each file's slices, by the code of a scoring's worker; also those in packs."""
    for number, path in enumerate(files):
        (work / "archive").mkdir(exist_ok=True)
        (work / "archive" / f"{number:06d}").symlink_to(path)
    archive = Location.of(str(work / "archive"))
    manifest = Manifest(Location.of(str(work / "manifest")))
    manifest.update(archive.list(), shard_objects=100)
    found: dict[Path, list] = {path: [] for path in files}
    for shard in manifest.shards():
        items = rows(
            manifest.read_shard(shard), archive, config.decode, predictor.bundle.prepare, Identifiers(headers="drop")
        )
        for row in scoring.score(items, predictor, run_id="same").to_pylist():
            if row["probability"] is not None:
                number = int(row["uri"].partition("!/")[0].rpartition("/")[2])
                found[files[number]].append((row["frame"], row["probability"]))
    return found


def compared(files: list[Path], work: Path, bundle: Bundle) -> dict[str, float]:
    """How far the two are from each other. Raises AssertionError where one has a slice that the other has not."""
    config = EndpointConfig(keys=KeysConfig(required=False))
    lane_ = lane_of(bundle)
    batch = by_batch(files, work, lane_.predictor, config)
    service = Service(config)
    service.use(lane.Lanes(lanes=[lane_]))
    ask = Client(apps.create(service, Keys(config.keys, {})))
    away, slices, answered = 0.0, 0, 0
    for path in files:
        found = ask("POST", "/v1/predict", content=path.read_bytes())
        assert found.status_code < 500, found.text
        told = [(one["frame"], one["probability"]) for one in found.json().get("slices", [])]
        assert [frame for frame, _ in told] == [frame for frame, _ in batch[path]]
        away = max([away, *(abs(p - q) for (_, p), (_, q) in zip(told, batch[path], strict=True))])
        slices, answered = slices + len(told), answered + bool(told)
    service.close()
    return {"files": len(files), "answered": answered, "slices": slices, "max_dp": away}


def main() -> None:
    import tempfile

    count, *uri = sys.argv[1:]
    bundle = bundles.load(Location.of(uri[0])) if uri else bundle_of(1)
    with tempfile.TemporaryDirectory() as work:
        found = compared(chosen(Path(os.environ["MRI_DATA"]), int(count)), Path(work), bundle)
    print(json.dumps(found))
    raise SystemExit(found["max_dp"] > 1e-6)


if __name__ == "__main__":
    main()
