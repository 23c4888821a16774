"""The archive by folder: every object in one row, whatever the folders and however the rows are cut."""

from collections import Counter
from itertools import groupby

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.records import State
from mri_ray.report.folders import by_folder

ROOT = "s3://bucket/archive"
SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("state", pa.string()),
        pa.field("decision", pa.string()),
        pa.field("probability", pa.float32()),
    ]
)
SUMS = ("objects", *State, "slices")


def rows(objects: dict[str, tuple[str, list[float | None]]]) -> pa.Table:
    """objects: by path, the state, and the probability of each row or None."""
    found = [
        (f"{ROOT}/{path}", str(state), None if p is None else ("positive" if p >= 0.5 else "negative"), p)
        for path, (state, probabilities) in objects.items()
        for p in probabilities
    ]
    return pa.table([list(column) for column in zip(*found, strict=True)] if found else [[]] * 4, schema=SCHEMA)


def cut(table: pa.Table, size: int) -> list[pa.RecordBatch]:
    return [table.slice(start, size).combine_chunks().to_batches()[0] for start in range(0, table.num_rows, size)]


def scored(*paths: str) -> dict[str, tuple[str, list[float | None]]]:
    return {path: ("scored", [0.25]) for path in paths}


def names(objects, **limits) -> tuple[str, list[str]]:
    found = by_folder(cut(rows(objects), 2), ROOT, **limits)
    return found.common, [row["folder"] for row in found.folders]


PARTS = st.sampled_from(["a", "b", "ä", "a.zip!", "x y"])
PATHS = st.lists(PARTS, max_size=3).map("/".join)
STATES = st.sampled_from([*State])
PROBABILITY = st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0])
OBJECTS = st.dictionaries(
    st.tuples(PATHS, st.integers(0, 9)).map(lambda pair: f"{pair[0]}/{pair[1]}.png".lstrip("/")),
    st.tuples(STATES, st.lists(PROBABILITY, min_size=1, max_size=4)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.integers(1, 30), st.integers(1, 4), st.integers(1, 5), st.randoms())
def test_every_object_is_in_one_row(monkeypatch_module, objects, size, shown, held, random):
    monkeypatch_module.setattr("mri_ray.report.folders.BATCH_ROWS", size)
    order = list(objects)
    random.shuffle(order)  # a retried object stands in a later part
    table = rows({path: objects[path] for path in order})
    exact = by_folder(cut(table, size), ROOT, shown=shown)

    parts = [path.split("/")[:-1] for path in objects]
    depth = next(i for i in range(5) if len({tuple(p[: i + 1]) for p in parts}) > 1 or min(map(len, parts)) <= i)
    assert exact.common == "".join(f"{part}/" for part in parts[0][:depth])
    folder = {path: (path.split("/")[:-1][depth:] or [""])[0] for path in objects}
    wanted = Counter(folder.values())
    assert [row["objects"] for row in exact.folders] == sorted(wanted.values(), reverse=True)[:shown]
    assert exact.further == max(len(wanted) - shown, 0)
    for row in exact.folders:
        mine = [objects[path] for path in objects if folder[path] == row["folder"]]
        answers = [p for _, probabilities in mine for p in probabilities if p is not None]
        assert row["objects"] == len(mine)
        assert {state: row[state] for state in State} == {s: sum(m[0] == s for m in mine) for s in State}
        assert row["slices"] == len(answers)
        if answers:
            assert row["mean_probability"] == pytest.approx(sum(answers) / len(answers))
            assert row["positive_share"] == pytest.approx(sum(p >= 0.5 for p in answers) / len(answers))
        else:
            assert row["mean_probability"] is row["positive_share"] is None

    few = by_folder(cut(table, size), ROOT, shown=shown, held=held)
    assert few.common == exact.common
    assert all(row["objects"] == wanted[row["folder"]] for row in few.folders)  # those told are told in full
    for found in (exact, few):
        every = [*found.folders, *([found.others] if found.others else [])]
        for name in SUMS:
            assert sum(row[name] for row in every) == found.whole[name]
        assert found.whole["objects"] == len(objects)
        assert (found.others is None) == (found.further == 0)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_while_there_is_one_folder_alone_those_in_it_are_told():
    assert names(scored("a/b/c/1", "a/b/c/2", "a/b/d/1")) == ("a/b/", ["c", "d"])
    assert names(scored("a/b/1", "a/b/2")) == ("a/b/", [""])
    assert names(scored("a/b/1", "a/2")) == ("a/", ["", "b"])
    assert names(scored("ab/1", "ac/1")) == ("", ["ab", "ac"])


def test_packs_are_folders():
    assert names(scored("p/a.zip!/x/1", "p/a.zip!/2", "p/b.tar!/1", "p/c.tar")) == ("p/", ["a.zip!", "", "b.tar!"])
    assert names(scored("p/a.zip!/x/1", "p/a.zip!/y/2")) == ("p/a.zip!/", ["x", "y"])


def test_a_folder_that_is_met_late_moves_the_level_up():
    assert names(scored("a/b/1", "a/c/1", "a/d/1", "z/1")) == ("", ["a", "z"])


def test_an_object_whose_rows_are_cut_apart_is_counted_once():
    (row,) = by_folder(cut(rows({"a/1": ("scored", [0.5] * 9)}), 2), ROOT).folders
    assert (row["objects"], row["slices"], row["positive_share"]) == (1, 9, 1.0)


def test_more_folders_than_are_shown_or_held_are_summed():
    objects = scored(*(f"p{i:03d}/{j}" for i in range(100) for j in range(1 + i % 7)))
    found = by_folder(cut(rows(objects), 50), ROOT)
    assert (len(found.folders), found.further, found.exact) == (30, 70, True)
    assert sum(row["objects"] for row in found.folders) + found.others["objects"] == len(objects)
    assert [len(list(group)) for _, group in groupby(row["objects"] for row in found.folders)] == [14, 14, 2]

    few = by_folder(cut(rows(objects), 50), ROOT, shown=5, held=20)
    assert not few.exact
    assert all(row["objects"] == 7 for row in few.folders[:2])
    assert sum(row["objects"] for row in few.folders) + few.others["objects"] == len(objects)


def test_nothing():
    found = by_folder([], ROOT)
    assert (found.folders, found.others, found.whole["objects"]) == ([], None, 0)
