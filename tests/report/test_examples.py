"""Which slices are shown: of every decision, no picture twice under a title, and none that may hold a name."""

import numpy as np
import pyarrow as pa

from mri_ray.records import Flag
from mri_ray.report import examples
from mri_ray.report.facts import Answers

LOW, HIGH = 0.4, 0.6


def made(probability, label=None, *, digests=None, flags=None, objects=None) -> tuple[Answers, pa.Table]:
    p = np.asarray(probability, np.float32)
    n = len(p)
    decision = np.where(p >= HIGH, "positive", np.where(p < LOW, "negative", "refer"))
    answers = Answers(
        row_id=np.array([f"row{i}" for i in range(n)]),
        label=np.full(n, -1, np.int8) if label is None else np.asarray(label, np.int8),
        logit=p,
        probability=p,
        side=np.array(["unseen"] * n),
        group=np.arange(n),
        source=np.full(n, ""),
        lesion_px=np.full(n, np.nan),
    )
    columns = {
        "object_id": objects or [f"object{i}" for i in range(n)],
        "uri": [f"file:///archive/folder/{i}.png" for i in range(n)],
        "frame": pa.array([None] * n, pa.int32()),
        "pixel_digest": digests or [f"digest{i}" for i in range(n)],
        "decision": decision.tolist(),
        "flags": pa.array(flags or [[]] * n, pa.list_(pa.string())),
    }
    return answers, pa.table(columns)


def chosen(probability, label=None, **columns) -> dict[str, list[int]]:
    answers, results = made(probability, label, **columns)
    usable = np.ones(results.num_rows, bool)
    return {k: v.tolist() for k, v in examples.choose(answers, results, 0.5, usable=usable).items()}


def test_every_decision_has_its_examples_and_what_is_referred_is_no_error():
    assert chosen([0.125, 0.9, 0.45, 0.58, 0.3, 0.7], [1, 0, 1, 0, 0, 1]) == {
        "missed tumor": [0],
        "false alarm": [1],
        "most certain positive": [1, 5],
        "most certain negative": [0, 4],
        "to refer, nearest the threshold": [2, 3],
        "decided, nearest the threshold": [4, 5, 0, 1],
    }


def test_a_picture_is_shown_once_under_a_title():
    found = chosen([0.99, 0.98, 0.97, 0.96], digests=["a", "a", "b", "a"])
    assert found["most certain positive"] == [0, 2]


def test_six_of_a_kind_at_most():
    found = chosen(np.linspace(0.7, 0.9, 1000))
    assert found["most certain positive"] == [999, 998, 997, 996, 995, 994]


def test_what_may_not_be_shown_is_not():
    answers, results = made([0.9, 0.95])
    found = examples.choose(answers, results, 0.5, usable=np.array([True, False]))
    assert {position for positions in found.values() for position in positions.tolist()} == {0}


def test_flags_are_counted_all_and_shown_where_they_may_be():
    flags = [[Flag.UPSCALED], [Flag.UPSCALED, Flag.LOSSY], [Flag.BURNED_IN], [Flag.NAMED_PATH], [], [Flag.UPSCALED]]
    answers, results = made([0.1, 0.2, 0.3, 0.4, 0.5, 0.9], flags=flags, objects=[*"aabcde"])
    counts, found = examples.by_flag(answers, results, np.array([True, True, False, True, True, True]))
    assert counts == {"upscaled": 3, "lossy.compressed": 1, "burned.in": 1, "path.names.patient": 1}
    assert {flag: positions.tolist() for flag, positions in found.items()} == {
        "lossy.compressed": [1],
        "upscaled": [5, 1],  # of object a the one that is suspected more
    }


def test_a_slice_without_its_picture_is_left_out():
    answers, results = made([0.9, 0.1], [1, 0])
    picture = np.full((1, 4, 4), 7, np.uint8)
    found = examples.choose(answers, results, 0.5, usable=np.ones(2, bool))
    assert sorted(set(examples.rows(found))) == [0, 1]
    shown = examples.shown(found, answers, results, {0: picture})
    assert {(example.name, example.label, example.decision) for example in shown} == {("0.png", "tumor", "positive")}
    assert all(np.array_equal(example.picture, picture[0]) for example in shown)
