"""One local Ray for all tests of this folder, a small phantom archive, and a training on it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mri_ray import config, phantom
from mri_ray.archive.storage import Location
from mri_ray.on_ray.settings import TrainRun

SMALL = {
    "seed": 3,
    "prepare": {"size": 64},
    "model": {"input_size": 64, "width": 4, "blocks": 4, "dense": 16},
    "train": {"epochs": 2, "workers": 2, "batch_size": 16, "window_rows": 64},
    "shards": {"objects": 40, "workers": 2},
}


@pytest.fixture(scope="session")
def ray_cluster(s3_server) -> Iterator[None]:
    """Started after the S3 server, so that its workers know the AWS variables."""
    import ray

    from mri_ray.on_ray import cluster
    from mri_ray.on_ray.settings import ClusterSettings

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        with cluster.connected(ClusterSettings(cpus=8, object_store_mb=256, temp_dir=folder)):
            assert ray.is_initialized()
            yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """120 phantom slices of 20 patients; labels.csv lies beside their folder."""
    folder = tmp_path_factory.mktemp("phantoms")
    phantom.write(Location.of(str(folder)), phantom.PhantomConfig(patients=20, slices=6, second_study=0, seed=5))
    return folder / "images"


@pytest.fixture(scope="session")
def masks(archive) -> Path:
    """The phantoms' masks, some of them missing, one too large and one of no slice."""
    folder = archive.parent / "masks"
    config = phantom.PhantomConfig(patients=20, slices=6, second_study=0, seed=5)
    there = [item for item in phantom.generate(config) if item.mask.any()]
    for number, item in enumerate(there[2:]):
        path = folder / Path(item.key).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(np.pad(item.mask, 3) if number == 0 else item.mask)
        mask.save(path)
    shutil.copy(path, folder / "of_no_slice.png")
    return folder


@pytest.fixture(scope="session")
def small() -> dict:
    """Settings of a training that takes seconds."""
    return SMALL


@pytest.fixture(scope="session")
def trained(ray_cluster, archive, tmp_path_factory) -> dict:
    """run.json of a training on the archive."""
    from mri_ray.on_ray import train

    output = tmp_path_factory.mktemp("trained")
    settings = config.build(
        TrainRun, SMALL | {"archive": str(archive), "labels": f"{archive.parent}/labels.csv", "output": str(output)}
    )
    return train.run(settings).values
