"""Settings from YAML and key=value: what is taken, and how mistakes are named."""

import subprocess
import sys
from pathlib import Path

import pytest

from mri_ray import config
from mri_ray.errors import ConfigError
from mri_ray.on_ray.settings import ScoreRun, TrainRun, TuneRun

CONFIGS = Path(__file__).parents[1] / "configs"
GIVEN = ["archive=in", "output=out"]


def test_defaults_and_overrides():
    run = config.load(TrainRun, None, [*GIVEN, "train.epochs=5", "split.by=image", "labels=", "model.dropout=0.1"])
    assert (run.train.epochs, run.split.by, run.labels, run.model.dropout) == (5, "image", None, 0.1)
    assert run.train.batch_size == TrainRun(archive="in", output="out").train.batch_size


def test_an_override_wins_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("archive: a\noutput: b\ntrain: {epochs: 3, workers: 2}\n")
    run = config.load(TrainRun, file, ["train.epochs=9"])
    assert (run.train.epochs, run.train.workers) == (9, 2)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["output=out"], ["archive", "is required"]),
        ([*GIVEN, "train.epoch=5"], ["train.epoch", "no such field", "epochs"]),
        ([*GIVEN, "colour=red"], ["colour", "no such field"]),
        ([*GIVEN, "train.epochs=many"], ["train.epochs", "integer", "'many'"]),
        ([*GIVEN, "train.epochs=0"], ["train.epochs", "at least 1", "0"]),
        ([*GIVEN, "train.batch_size=33", "train.workers=2"], ["train.batch_size", "multiple", "33"]),
        ([*GIVEN, "split.by=luck"], ["split.by", "'luck'", "group"]),
        ([*GIVEN, "split.validation=0.9"], ["split.validation", "less than 1"]),
        ([*GIVEN, "prepare.size=128"], ["model.input_size", "128", "224"]),
        ([*GIVEN, "max_quarantined_fraction=2"], ["max_quarantined_fraction", "between 0 and 1", "2"]),
        ([*GIVEN, "model.name=vgg"], ["model.name", "cnn", "'vgg'"]),
        ([*GIVEN, "seed=-1"], ["seed", "-1"]),
        ([*GIVEN, "storage.endpoint=ftp://x"], ["storage.endpoint", "ftp://x"]),
        ([*GIVEN, "train=5"], ["train", "5"]),
        ([*GIVEN, "train.epochs"], ["train.epochs", "key=value"]),
        (["archive=[a, b]", "output=out", "labels=x.csv"], ["labels", "one for each archive", "1 for 2"]),
        (["archive=[a, b]", "output=out", "masks=[m]"], ["masks", "one for each archive", "1 for 2"]),
        (["archive=[a, a/b]", "output=out"], ["archive", "lie in another"]),
        (["archive=[a, a]", "output=out"], ["archive", "lie in another"]),
        (["archive=[]", "output=out"], ["archive", "at least one"]),
        (["archive=[a, b]", "output=b/out"], ["output", "must not lie in the archive"]),
        ([*GIVEN, "model.masks=true"], ["model.masks", "needs masks"]),
        ([*GIVEN, "model.convolutions=[1, 2]"], ["model.convolutions", "5 blocks"]),
        ([*GIVEN, "train.least_workers=2"], ["train.least_workers", "at most workers (1)", "2"]),
        ([*GIVEN, "train.workers=4", "train.least_workers=2"], ["train.batch_size", "multiple", "(3)", "32"]),
        ([*GIVEN, "train.balance=luck"], ["train.balance", "'luck'"]),
        ([*GIVEN, "optimiser.average=1"], ["optimiser.average", "below 1"]),
        ([*GIVEN, "archive.uri=5"], ["archive.uri", "archive is a single value"]),
    ],
)
def test_a_mistake_names_the_field_the_rule_and_the_value(overrides, told):
    with pytest.raises(ConfigError) as caught:
        config.load(TrainRun, None, overrides)
    for words in told:
        assert words in str(caught.value)


def test_all_wrong_types_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        config.load(ScoreRun, None, ["archive=a", "output=b", "bundle=c", "micro_batch=x", "shards.objects=y"])
    assert "micro_batch" in str(caught.value)
    assert "shards.objects" in str(caught.value)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(TrainRun, tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="fields and values"):
        config.load(TrainRun, tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(TrainRun, tmp_path / "broken.yaml")


def test_results_are_of_one_archive():
    with pytest.raises(ConfigError, match="archive: must be one"):
        config.load(ScoreRun, None, ["archive=[a, b]", "output=out", "bundle=c"])


def test_the_shipped_configs_are_complete():
    config.load(TrainRun, CONFIGS / "demo.yaml")
    config.load(TrainRun, CONFIGS / "train.yaml", GIVEN)
    config.load(TrainRun, CONFIGS / "kaggle.yaml", GIVEN)
    assert config.load(TrainRun, CONFIGS / "elsewhere.yaml", GIVEN).prepare.asymmetry == 0.05
    assert config.load(TrainRun, CONFIGS / "lgg.yaml", [*GIVEN, "masks=m"]).model.masks
    both = ["archive=[a, s3://b/c]", "labels=[a.csv, null]", "masks=[null, m]", "output=out"]
    found = config.load(TrainRun, CONFIGS / "both.yaml", both)
    assert (found.archive, found.labels, found.masks) == (("a", "s3://b/c"), ("a.csv", None), (None, "m"))
    assert found.model.convolutions == (1, 1, 2, 2, 2)
    config.load(ScoreRun, CONFIGS / "score.yaml", [*GIVEN, "bundle=x"])
    found = config.load(TuneRun, CONFIGS / "tune.yaml", [*GIVEN, "masks=m"])
    assert (found.tune.algorithm, found.tune.scheduler) == ("optuna", "asha")
    assert {one.path for one in found.space.ranges} >= {"optimiser.learning_rate", "model.width"}


def test_the_command_line_is_config_and_pairs_only(capsys):
    with pytest.raises(SystemExit):
        config.from_argv(TrainRun, ["--help"])
    shown = capsys.readouterr().out
    options = [word for word in shown.replace(",", " ").split() if word.startswith("--")]
    assert set(options) == {"--help", "--config"}
    assert "train.epochs" in shown


@pytest.mark.parametrize("job", ["train", "tune", "score"])
def test_a_job_stops_at_a_mistake_before_ray_with_exit_code_2(job):
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", "archive=nowhere", "outptu=x"],
        cwd=CONFIGS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("ConfigError: outptu: no such field")
