"""What a config's `search` may say, and what is made of it."""

import json

import numpy as np
import pytest

from mri_ray import config
from mri_ray.errors import ConfigError
from mri_ray.on_ray.settings import TrainRun, TuneRun
from mri_ray.search.space import checked, space_of, with_values

BASE = config.build(TrainRun, {"archive": "/archive", "output": "/output"})
WIDE = {
    "optimiser.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.width": {"choice": [16, 24, 32], "when": {"model.name": "cnn"}},
    "model": {"dropout": {"uniform": [0, 0.6]}, "name": {"choice": ["cnn", "mobilenet_v3_small"]}},
    "augment.rotation_deg": {"steps": [0, 20, 5]},
    "train.patience": {"integer": [2, 9]},
    "train.window_rows": {"log_integer": [64, 4096]},
    "model.convolutions": {"choice": [1, [1, 2, 2, 2, 2]], "when": {"model.name": ["cnn"]}},
}


def test_points_lie_in_the_space_and_make_trainings():
    space = space_of(WIDE, BASE)
    rng = np.random.default_rng(0)
    seen = [space.draw(rng) for _ in range(300)]
    known = space.by_path()
    for values in seen:
        assert all(known[path].holds(value) for path, value in values.items())
        assert ("model.width" in values) == ("model.convolutions" in values) == (values["model.name"] == "cnn")
        made = with_values(BASE, values)
        assert made.optimiser.learning_rate == values["optimiser.learning_rate"]
        assert made.model.name == values["model.name"]
        assert made.augment.zoom == BASE.augment.zoom
    rates = np.log10([values["optimiser.learning_rate"] for values in seen])
    assert abs(np.mean(rates < -3) - 0.5) < 0.1  # as often below 1e-3 as above
    assert {values["augment.rotation_deg"] for values in seen} == {0, 5, 10, 15, 20}
    assert {values["train.patience"] for values in seen} == set(range(2, 10))
    checked(space, lambda values: with_values(BASE, values))


def test_a_grid_holds_every_combination_once_and_none_that_does_not_apply():
    told = {name: WIDE[name] for name in ("model.width", "augment.rotation_deg")}
    told["model.name"] = WIDE["model"]["name"]
    points = list(space_of(told, BASE).grid())
    assert len(points) == 5 * (3 + 1)
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    assert all(("model.width" in point) == (point["model.name"] == "cnn") for point in points)


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({}, "at least one field"),
        ({"optimiser.speed": {"uniform": [0, 1]}}, r"search\.optimiser\.speed: no such field; known here: average"),
        ({"optimizer.learning_rate": {"uniform": [0, 1]}}, r"search\.optimizer\.learning_rate: no such field"),
        ({"split.test": {"uniform": [0.1, 0.2]}}, r"search\.split\.test: changes what trials are measured by"),
        ({"archive": {"choice": ["/a", "/b"]}}, r"search\.archive: changes"),
        ({"model.width": 16}, r"search\.model\.width: must be a range"),
        ({"model.width": {"normal": [0, 1]}}, r"search\.model\.width: must have one of choice, uniform"),
        ({"model.width": {"choice": [16], "uniform": [1, 2]}}, "must have one of"),
        ({"model.width": {"choice": []}}, r"search\.model\.width\.choice: must be values that differ"),
        ({"model.width": {"choice": [8, 8]}}, "must be values that differ"),
        ({"model.width": {"choice": [8, "wide"]}}, r"search\.model\.width\.choice: .*integer.*got 'wide'"),
        ({"model.width": {"uniform": [8, 16]}}, r"search\.model\.width\.uniform: .*integer"),
        ({"model.masks": {"choice": [0, 1]}}, r"search\.model\.masks\.choice: .*bool"),
        ({"model.dropout": {"uniform": [0.5, 0.5]}}, "must be a range that is not empty"),
        ({"model.dropout": {"uniform": [0.5, 0.1]}}, "must be a range that is not empty"),
        ({"model.dropout": {"uniform": [0.5]}}, "must be low and high"),
        ({"model.dropout": {"uniform": [0, float("nan")]}}, "finite numbers"),
        ({"augment.rotation_deg": {"steps": [0, 10, 20]}}, "must be a range that is not empty"),
        ({"optimiser.learning_rate": {"loguniform": [0, 1e-2]}}, "must begin above 0"),
        ({"train.epochs": {"integer": [1, 2.5]}}, "must be whole numbers"),
        ({"prepare.margin": {"uniform": [0, 0.1]}}, "must be a choice"),
        ({"model.dropout": {"uniform": [0.5, 1.5]}}, r"model\.dropout: must be at least 0 and below 1, got 1.5"),
        ({"train.batch_size": {"choice": [31]}, "train.workers": {"choice": [2]}}, "multiple of workers"),
        ({"model.blocks": {"integer": [5, 8]}}, "blocks: each halves the picture"),
        ({"model.width": {"choice": [8], "when": {"model.name": "resnet18"}}}, "is never met: it is 'cnn'"),
        (
            {"model.width": {"choice": [8], "when": {"model.name": "vit"}}, "model.name": {"choice": ["cnn"]}},
            "is never met: none of",
        ),
        (
            {
                "model.width": {"choice": [8], "when": {"model.dense": 8}},
                "model.dense": {"choice": [8], "when": {"model.width": 8}},
            },
            "must not depend on itself",
        ),
        ({"model.width": {"choice": [8]}, "model": {"width": {"choice": [9]}}}, "each field once"),
    ],
)
def test_mistakes_are_named_before_anything_starts(search, told):
    with pytest.raises(ConfigError, match=told):
        config.build(TuneRun, {"archive": "/archive", "output": "/output", "search": search})


def test_a_search_knows_what_its_way_needs():
    given = {"archive": "/archive", "output": "/output", "search": {"model.dropout": {"uniform": [0, 0.5]}}}
    with pytest.raises(ConfigError, match="must be a choice, integer or steps with algorithm grid"):
        config.build(TuneRun, given | {"tune": {"algorithm": "grid"}})
    with pytest.raises(ConfigError, match="field of optimiser or augment with scheduler pbt"):
        config.build(TuneRun, given | {"tune": {"scheduler": "pbt"}})
    with pytest.raises(ConfigError, match=r"tune\.folds: must be 0 with scheduler pbt"):
        config.build(TuneRun, given | {"tune": {"scheduler": "pbt", "folds": 3}})
    with pytest.raises(ConfigError, match=r"tune\.trials: must be at least 1, got 0"):
        config.build(TuneRun, given | {"tune": {"trials": 0}})


def test_a_size_of_the_preparation_is_also_the_networks():
    run = config.build(TuneRun, {"archive": "/a", "output": "/o", "search": {"prepare.size": {"choice": [64, 224]}}})
    assert run.with_values({"prepare.size": 64}).model.input_size == 64


def test_a_perturbation_moves_what_may_move_and_stays_in_its_range():
    told = {**WIDE, "augment.flip": {"choice": [0.0, 0.25, 0.5]}}
    space = space_of(told, BASE)
    rng = np.random.default_rng(1)
    values = space.draw(rng)
    moved = [space.perturbed(values, rng) for _ in range(100)]
    known = space.by_path()
    for one in moved:
        assert {path for path in one if one[path] != values[path]} <= {
            "optimiser.learning_rate",
            "augment.rotation_deg",
            "augment.flip",
        }
        assert all(known[path].holds(value) for path, value in one.items())
    assert len({one["optimiser.learning_rate"] for one in moved}) > 3
