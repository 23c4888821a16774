"""Which folders tell where a slice comes from."""

import numpy as np
import pyarrow as pa

from mri_ray.cohort.labels import DEFAULT_CLASSES
from mri_ray.cohort.sources import folders, no_sources, sources
from mri_ray.cohort.split import SplitConfig

WITHOUT = no_sources(DEFAULT_CLASSES, SplitConfig().folders)


def test_folders_are_sources_unless_each_holds_a_single_patient() -> None:
    paths = pa.array([f"site{i % 2}/patient{i}/{j}.png" for i in range(8) for j in range(3)])
    groups = np.repeat(np.arange(8), 3)
    code, names = sources(paths, groups)
    assert names == ["site0", "site1"]
    assert code.tolist() == [i % 2 for i in range(8) for _ in range(3)]
    patients = pa.array([f"patient{i}/{j}.png" for i in range(8) for j in range(3)])
    assert sources(patients, groups)[1] == [""]
    many = pa.array([f"site{i}/{j}.png" for i in range(13) for j in range(2)])
    assert sources(many, np.arange(26))[1] == [""]
    mixed = pa.array(["a.png", "b.png", "site/c.png", "site/d.png"])
    assert sources(mixed, np.arange(4))[1] == ["", "site"]


def test_what_folders_say_beside_class_and_side() -> None:
    paths = pa.chunked_array(
        [["Training/glioma/1.jpg", "siemens/No Tumor/a/2.jpg", "x.png"], ["web/yes.zip!/test/3.png"]]
    )
    assert folders(paths, WITHOUT) == ["", "siemens/a", "", "web/yes.zip!"]


def test_classes_and_sides_are_no_sources() -> None:
    kaggle = pa.array(
        [
            f"{side}/{name}/{i}.jpg"
            for side in ("Training", "Testing")
            for name in ("glioma", "notumor")
            for i in range(3)
        ]
    )
    assert sources(kaggle, np.arange(12), WITHOUT)[1] == [""]
    below = pa.array([f"{name}/site{i % 2}/{i}.jpg" for name in ("yes", "no") for i in range(4)])
    code, names = sources(below, np.arange(8), WITHOUT)
    assert names == ["site0", "site1"]
    assert code.tolist() == [0, 1] * 4
