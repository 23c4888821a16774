"""From rows to series: the order in space, and everything that is told about a series."""

import statistics
import warnings

import numpy as np
import pyarrow as pa
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.cohort.series import COLUMNS, FAR_MM, SERIES, SeriesFlag, buckets, series
from mri_ray.errors import Reason
from mri_ray.records import RESULTS, Flag

SCHEMA = pa.schema([RESULTS.field(name) for name in COLUMNS])
AXIAL, SAGITTAL, CORONAL = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
_count = iter(range(10**9))


def row(position=None, normal=AXIAL, **values):
    """One row of series s in study t; anything not said is ordinary and distinct."""
    number = next(_count)
    plain = {
        "row_id": f"r{number:09d}",
        "reason": None,
        "flags": [],
        "pixel_digest": f"picture {number}",
        "width": 256,
        "height": 192,
        "frame": 0,
        "patient_key": "p",
        "study_key": "t",
        "series_key": "s",
        "instance_key": f"i{number}",
        "instance_number": None,
        "position_mm": position,
        "normal": None if normal is None else list(normal),
        "spacing_mm": [0.9, 0.9],
    }
    assert values.keys() <= plain.keys()
    return {**plain, **values}


def table(rows):
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def join(rows):
    found = series(table(rows))
    assert found.schema.equals(SERIES, check_metadata=True)
    found.validate(full=True)
    return found.to_pylist()


def one(rows):
    (found,) = join(rows)
    return found


def ids(rows):
    return [item["row_id"] for item in rows]


def stack(count, gap=5.0, start=-70.0, **values):
    return [row(start + gap * i, **values) for i in range(count)]


# order


def test_slices_stand_by_position_and_not_by_name_or_number():
    rows = [row(position, instance_number=number) for number, position in enumerate([10.0, -5.0, 5.0, 0.0])]
    found = one(rows)
    assert found["row_ids"] == ids([rows[1], rows[3], rows[2], rows[0]])
    assert (found["slices"], found["gap_mm"], found["extent_mm"], found["missing"]) == (4, 5.0, 15.0, 0)
    assert found["flags"] == []
    assert (found["study_key"], found["series_key"], found["patient_key"]) == ("t", "s", "p")


def test_equal_positions_stand_by_instance_number_then_row_id_whatever_the_last_digits_say():
    rows = [row(3.0000001, instance_number=1), row(3.0, instance_number=2), row(3.0, instance_number=None)]
    rows += [row(2.9999999, instance_number=None), row(-1.0, instance_number=9)]
    expected = ids([rows[4], rows[0], rows[1], *rows[2:4]])
    assert one(rows)["row_ids"] == expected
    assert one(rows[::-1])["row_ids"] == expected


def test_the_order_runs_to_the_left_the_back_and_the_head():
    for normal in (AXIAL, SAGITTAL, CORONAL, (0.1, -0.3, 0.94868)):
        forward = [row(position, normal) for position in (1.0, 2.0, 3.0)]
        assert one(forward)["row_ids"] == ids(forward)
        opposite = tuple(-value for value in normal)
        back = [row(-position, opposite) for position in (1.0, 2.0, 3.0)]
        assert one(back)["row_ids"] == ids(back)


def test_opposite_normals_are_one_orientation():
    rows = [row(10.0), row(-15.0, (0.0, 0.0, -1.0)), row(20.0), row(-25.0, (-0.0, 1e-4, -1.0))]
    found = one(rows)
    assert (found["row_ids"], found["gap_mm"], found["flags"]) == (ids(rows), 5.0, [])


def test_slices_that_lie_nowhere_stand_last_by_instance_number():
    unknown = [
        row(None, instance_number=3),
        row(float("nan"), instance_number=2),
        row(1.0, None, instance_number=1),  # a position along no direction
        row(2.0, (0.0, 0.0, 0.0), instance_number=4),
        row(2.0, (0.0, float("nan"), 1.0), instance_number=5),
        row(2.0 * FAR_MM, instance_number=6),
        row(2.0, (0.0, 1.0), instance_number=7),
    ]
    known = [row(9.0, instance_number=9), row(4.0, instance_number=9)]
    found = one(unknown + known)
    assert found["row_ids"] == ids([*known[::-1], unknown[2], unknown[1], unknown[0], *unknown[3:]])
    assert (found["flags"], found["gap_mm"], found["extent_mm"]) == (["unknown.positions"], 5.0, 5.0)
    found = one(unknown)
    assert (found["flags"], found["gap_mm"], found["extent_mm"]) == (["unknown.positions"], None, None)


# flags

REPEAT = [item for _ in range(3) for item in stack(4)]
EXAMPLES = {
    SeriesFlag.MISSING: [row(p) for p in (0.0, 5.0, 10.0, 25.0, 30.0)],
    SeriesFlag.UNEVEN: [row(p) for p in (0.0, 5.0, 10.0, 16.0, 21.0)],
    SeriesFlag.DOUBLE: [*stack(4), row(-65.0)],
    SeriesFlag.REPEATED: REPEAT,
    SeriesFlag.ONE_POSITION: [row(3.0), row(3.001), row(3.0)],
    SeriesFlag.UNKNOWN_POSITIONS: [*stack(4), row(None)],
    SeriesFlag.MIXED_ORIENTATIONS: [row(p, n) for n in (AXIAL, SAGITTAL, CORONAL) for p in (0.0, 10.0, 17.0)],
    SeriesFlag.MIXED_SIZES: [*stack(3), row(-55.0, height=256)],
    SeriesFlag.MIXED_PATIENTS: [*stack(3), row(-55.0, patient_key="q")],
}


@pytest.mark.parametrize("flag", list(SeriesFlag))
def test_every_flag_has_a_case_of_its_own(flag):
    assert flag.meaning
    assert one(EXAMPLES[flag])["flags"] == [flag.value]


def test_wide_gaps_count_their_slices():
    assert one(EXAMPLES[SeriesFlag.MISSING])["missing"] == 2
    found = one([row(p) for p in (0.0, 3.0, 6.0, 12.0, 15.0, 30.0, 33.0)])
    assert (found["gap_mm"], found["missing"], found["flags"]) == (3.0, 1 + 4, ["missing.slices"])
    assert one(stack(2, gap=20.0))["missing"] == 0  # a single gap is its own median


def test_a_gap_may_be_wide_and_off_at_once():
    found = one([row(p) for p in (0.0, 5.0, 10.0, 18.5, 23.5)])
    assert (found["missing"], found["flags"]) == (1, ["missing.slices", "uneven.gaps"])


def test_a_series_over_time_may_miss_the_end_of_its_last_volume():
    assert one(REPEAT[:-2])["flags"] == ["double.positions", "repeated.positions"]
    assert one(REPEAT)["slices"] == 12


def test_one_slice_alone_is_no_error():
    found = one([row(3.0)])
    assert (found["flags"], found["gap_mm"], found["extent_mm"]) == ([], None, None)


def test_mixed_orientations_stand_one_after_the_other_and_no_gap_is_judged():
    found = one(EXAMPLES[SeriesFlag.MIXED_ORIENTATIONS])
    sides = {item["row_id"]: item["normal"].index(1.0) for item in EXAMPLES[SeriesFlag.MIXED_ORIENTATIONS]}
    order = [sides[row_id] for row_id in found["row_ids"]]
    assert order in ([0] * 3 + [1] * 3 + [2] * 3, [2] * 3 + [1] * 3 + [0] * 3)
    assert (found["gap_mm"], found["extent_mm"], found["missing"]) == (None, None, 0)


def test_every_slice_may_have_a_direction_of_its_own():
    turned = [row(0.0, (float(np.cos(a)), float(np.sin(a)), 0.0)) for a in np.linspace(0, 3, 40)]
    found = one(turned)
    assert found["flags"] == ["mixed.orientations"]
    assert sorted(found["row_ids"]) == ids(turned)


def test_a_slight_turn_is_one_orientation_and_a_real_one_is_not():
    def flags(degrees):
        turned = (0.0, float(np.sin(np.radians(degrees))), float(np.cos(np.radians(degrees))))
        return one([*stack(4), row(-50.0, turned)])["flags"]

    assert flags(0.5) == []
    assert flags(2.0) == ["mixed.orientations"]


@pytest.mark.parametrize(
    ("values", "mixed"),
    [
        ({"width": 128}, True),
        ({"spacing_mm": [0.9, 1.0]}, True),
        ({"spacing_mm": [0.899, 0.9]}, False),  # rounding
        ({"spacing_mm": None}, False),
        ({"width": None, "height": None}, False),
    ],
)
def test_sizes_are_compared_where_they_are_told(values, mixed):
    assert one([*stack(3), row(-55.0, **values)])["flags"] == (["mixed.sizes"] if mixed else [])


# copies


def test_a_copy_belongs_to_its_series_and_makes_no_double_position():
    rows = stack(5)
    copies = [row(item["position_mm"], pixel_digest=item["pixel_digest"]) for item in rows]
    found = one(rows + copies)
    assert (found["slices"], found["copies"], found["flags"]) == (10, 5, [])
    assert found["gap_mm"] == 5.0
    assert found["row_ids"] == ids([item for pair in zip(rows, copies, strict=True) for item in pair])
    again = one([*rows, *copies, *stack(5)])
    assert (again["copies"], again["flags"]) == (5, ["repeated.positions"])


def test_a_copy_in_another_series_is_whole_there():
    rows = stack(5)
    exported = [{**row(item["position_mm"], pixel_digest=item["pixel_digest"]), "series_key": "u"} for item in rows]
    assert [(found["slices"], found["copies"]) for found in join(rows + exported)] == [(5, 0), (5, 0)]


def test_the_same_picture_elsewhere_is_no_copy():
    found = one(stack(5, pixel_digest="same"))
    assert (found["copies"], found["flags"]) == (0, [])


def test_blank_slices_are_alike_without_being_copies():
    blank = {"flags": [Flag.BLANK.value], "pixel_digest": "black"}
    volumes = [[*stack(4), row(-50.0, **blank)] for _ in range(2)]
    found = one(volumes[0] + volumes[1])
    assert (found["copies"], found["flags"]) == (0, ["repeated.positions"])
    twice = [{**item, "row_id": f"{item['row_id']} again"} for item in volumes[0]]  # the very same files
    found = one(volumes[0] + twice)
    assert (found["copies"], found["flags"]) == (5, [])
    frames = [row(-50.0, frame=number, instance_key="one", **blank) for number in (0, 1)]
    assert one([*stack(4), *frames])["flags"] == ["double.positions"]


def test_without_a_digest_nothing_is_a_copy():
    found = one([*stack(3, pixel_digest=None), *stack(3, pixel_digest=None, instance_key=None)])
    assert (found["copies"], found["flags"]) == (0, ["repeated.positions"])


# what is counted, and for whom


def test_failures_and_skipped_objects_are_counted_beside_the_slices():
    lost = [row(-50.0, reason=Reason.TRUNCATED.value, pixel_digest=None), row(reason=Reason.DAMAGED.value)]
    other = [row(series_key="report", reason=Reason.SKIPPED_NO_IMAGE.value, normal=None)]
    report, found = join([*stack(4), *lost, *other])
    assert (found["slices"], found["failed"], found["skipped"], found["flags"]) == (4, 2, 0, [])
    assert len(found["row_ids"]) == 4
    assert (report["series_key"], report["slices"], report["skipped"]) == ("report", 0, 1)
    assert (report["row_ids"], report["flags"], report["gap_mm"]) == ([], [], None)


def test_a_series_lies_in_one_study():
    rows = [*stack(2, study_key="b"), *stack(3, study_key="a"), *stack(4, study_key=None), *stack(1, series_key="r")]
    rows += stack(7, series_key=None)
    found = [(item["study_key"], item["series_key"], item["slices"]) for item in join(rows)]
    assert found == [("a", "s", 3), ("b", "s", 2), ("t", "r", 1), (None, "s", 4)]


def test_the_patient_is_who_is_named():
    assert (
        one([row(0.0, patient_key=None), row(1.0, patient_key="q"), row(2.0, patient_key=None)])["patient_key"] == "q"
    )
    assert one([row(0.0, patient_key=None)])["patient_key"] is None
    found = one([row(0.0, patient_key="q"), row(1.0, patient_key="p"), row(2.0, patient_key="q")])
    assert (found["patient_key"], found["flags"]) == ("p", ["mixed.patients"])


def test_nothing_gives_nothing():
    assert join([]) == join([row(series_key=None)]) == []


# laws

positions = st.one_of(st.none(), st.sampled_from([0.0, 0.001, 5.0, 5.005, 10.0, 17.0]), st.floats(-200, 200))
normals = st.sampled_from([AXIAL, AXIAL, AXIAL, (0.0, 0.01, 0.99995), SAGITTAL, (0.6, 0.0, 0.8), None])
some_rows = st.lists(
    st.fixed_dictionaries(
        {
            "position_mm": positions,
            "normal": normals.map(lambda normal: None if normal is None else list(normal)),
            "instance_number": st.one_of(st.none(), st.integers(0, 3)),
            "instance_key": st.sampled_from([None, "i", "j"]),
            "pixel_digest": st.sampled_from([None, "a", "b", "c"]),
            "flags": st.sampled_from([[], [Flag.BLANK.value], [Flag.LOSSY.value, Flag.BLANK.value]]),
            "series_key": st.sampled_from(["s", "s", "u", None]),
            "study_key": st.sampled_from(["t", "t", "v", None]),
            "patient_key": st.sampled_from(["p", "p", "q", None]),
            "reason": st.sampled_from([None, None, None, Reason.DAMAGED.value, Reason.SKIPPED_MODALITY.value]),
            "width": st.sampled_from([64, 64, 65]),
        }
    ),
    max_size=12,
).map(lambda items: [{**row(), **item} for item in items])


@settings(max_examples=80, deadline=None)
@given(some_rows, st.randoms(use_true_random=False), st.integers(1, 5))
def test_neither_order_nor_shards_matter(rows, rng, pieces):
    expected = join(rows)
    shuffled = rng.sample(rows, len(rows))
    cuts = sorted(rng.randint(0, len(rows)) for _ in range(pieces))
    shards = [table(shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    assert series(pa.concat_tables(shards)).to_pylist() == expected
    padded = table([row(), *shuffled, row()]).slice(1, len(rows))  # a slice of a larger table
    assert series(padded).to_pylist() == expected


@settings(max_examples=80, deadline=None)
@given(some_rows, st.randoms(use_true_random=False))
def test_turning_slices_over_changes_nothing(rows, rng):
    """Negated normals and the positions along them tell the same."""
    turned = [
        {**item, "normal": [-v for v in item["normal"]], "position_mm": -item["position_mm"]}
        if item["normal"] and item["position_mm"] is not None and rng.random() < 0.5
        else item
        for item in rows
    ]
    straight, other = join(rows), join(turned)
    for a, b in zip(straight, other, strict=True):
        if SeriesFlag.MIXED_ORIENTATIONS.value not in a["flags"]:
            assert a == {**b, **{name: pytest.approx(b[name]) for name in ("gap_mm", "extent_mm")}}
        else:
            assert (a["flags"], sorted(a["row_ids"])) == (b["flags"], sorted(b["row_ids"]))


@settings(max_examples=80, deadline=None)
@given(some_rows)
def test_every_row_is_counted_once(rows):
    found = join(rows)
    mine = [item for item in rows if item["series_key"] is not None]
    assert sum(item["slices"] + item["failed"] + item["skipped"] for item in found) == len(mine)
    slices = ids(item for item in mine if item["reason"] is None)
    assert sorted(row_id for item in found for row_id in item["row_ids"]) == sorted(slices)
    for item in found:
        assert len(item["row_ids"]) == item["slices"] >= item["copies"]
        assert set(item["flags"]) <= {flag.value for flag in SeriesFlag}


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-300, 300), min_size=2, max_size=20, unique=True), st.floats(-50, 50), st.floats(0.1, 9))
def test_gaps_are_what_the_positions_say(steps, start, unit):
    rows = [row(start + unit * step) for step in steps]
    found = one(rows)
    ordered = sorted(item["position_mm"] for item in rows)
    by_id = {item["row_id"]: item["position_mm"] for item in rows}
    assert [by_id[row_id] for row_id in found["row_ids"]] == ordered
    gaps = np.diff(ordered)
    assert found["gap_mm"] == pytest.approx(statistics.median(gaps))
    assert found["extent_mm"] == pytest.approx(ordered[-1] - ordered[0])
    ratio = gaps / statistics.median(gaps)
    if not np.any(np.abs(ratio % 1.0 - 0.5) < 1e-6):  # rounding may go either way there
        assert found["missing"] == sum(int(value + 0.5) - 1 for value in ratio if value >= 1.5)
        assert (SeriesFlag.MISSING.value in found["flags"]) == bool(found["missing"])


# buckets


def test_buckets_never_change():
    assert buckets(pa.array(["a", None, "b", "a", "1.2.840"]), 16).tolist() == [5, -1, 4, 5, 14]
    assert buckets(pa.chunked_array([["a"], [None, "b"], []], pa.string()), 1).tolist() == [0, -1, 0]
    assert buckets(pa.array([], pa.string()), 3).dtype == np.int32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=4)), max_size=20), st.integers(1, 9))
def test_the_bucket_of_a_study_depends_on_its_key_alone(keys, count):
    together = buckets(pa.array(keys, pa.string()), count).tolist()
    assert together == [buckets(pa.array([key], pa.string()), count)[0] for key in keys]
    assert all(-(key is None) <= bucket < count for key, bucket in zip(keys, together, strict=True))


def test_buckets_are_of_about_one_size():
    sizes = np.bincount(buckets(pa.array([str(number) for number in range(8000)]), 8))
    assert (abs(sizes - 1000) < 150).all()
    with pytest.raises(ValueError, match="count: must be at least 1, got 0"):
        buckets(pa.array(["a"]), 0)


# scale and real data


def test_many_rows_take_no_loop_of_their_own():
    rows = table([row(5.0 * i, series_key=f"s{n}", study_key=f"t{n // 4}") for n in range(100) for i in range(30)])
    many = pa.concat_tables([rows] * 10)  # every row ten times: as many copies
    found = series(many.take(pa.array(np.random.default_rng(0).permutation(many.num_rows))))
    assert found.num_rows == 100
    assert set(found["slices"].to_pylist()) == {300}
    assert set(found["copies"].to_pylist()) == {270}
    assert found["flags"].to_pylist() == [[]] * 100


def header_rows(folder):
    """Rows of real DICOM headers, out of order."""
    found = []
    for path in sorted(folder.glob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = pydicom.dcmread(path)
            along, down = np.array(head.ImageOrientationPatient, float).reshape(2, 3)
            normal = np.cross(along, down)
            position = float(normal @ np.array(head.ImagePositionPatient, float))
            spacing = [float(value) for value in head.PixelSpacing]
            number = int(head.InstanceNumber)
            sizes = {"width": head.Columns, "height": head.Rows, "spacing_mm": spacing}
        found.append(row(position, normal.tolist(), instance_number=number, row_id=path.stem, **sizes))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def test_a_real_t1_series_has_its_order_and_its_holes(mri_data):
    found = one(header_rows(mri_data / "dicom" / "t1_series"))
    assert found["row_ids"] == sorted(found["row_ids"])
    assert found["gap_mm"] == pytest.approx(2 / 3, abs=1e-3)
    assert found["flags"] == ["missing.slices"]
    numbers = sorted(int(name.rpartition("_")[2]) for name in found["row_ids"])
    assert found["missing"] == numbers[-1] - numbers[0] + 1 - len(numbers)


def test_a_real_series_over_time_is_told(mri_data):
    found = one(header_rows(mri_data / "dicom" / "epi_series"))
    assert found["flags"] == ["double.positions", "repeated.positions"]  # its last volume is not whole
    assert (found["gap_mm"], found["extent_mm"], found["missing"]) == (5.0, 70.0, 0)
    volumes = [int(name.rpartition("-")[2]) for name in found["row_ids"]]
    assert volumes[:4] == [1, 16, 31, 2]
