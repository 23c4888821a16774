"""From slices to studies and patients: the rule, what counts, and what the answers are worth."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray import metrics
from mri_ray.cohort.series import SERIES, SeriesFlag, series
from mri_ray.errors import ConfigError, Reason
from mri_ray.learn.settings import CalibrationConfig, EvaluationConfig
from mri_ray.predict.levels import level_figures, level_labels, study_point
from mri_ray.predict.predictor import decide
from mri_ray.predict.studies import PATIENTS, STUDIES, StudyFlag, StudyRule, patients, studies
from mri_ray.records import RESULTS, Decision, Flag, State

THRESHOLD, BAND = 0.5, (0.4, 0.6)
_count = iter(range(10**9))


def row(probability=0.1, **values):
    """A row of series s of study t of patient p, with an answer unless there is a reason."""
    number = next(_count)
    if probability is not None:
        probability = float(np.float32(probability))
        values.setdefault("decision", decide([probability], threshold=THRESHOLD, refer=BAND)[0].value)
    plain = dict.fromkeys(RESULTS.names) | {
        "row_id": f"r{number:09d}",
        "object_id": f"o{number}",
        "uri": "x",
        "size": 1,
        "etag": "e",
        "version_id": "v",
        "flags": [],
        "pixel_digest": f"picture {number}",
        "width": 64,
        "height": 64,
        "patient_key": "p",
        "study_key": "t",
        "series_key": "s",
        "position_mm": float(number % 1000),
        "normal": [0.0, 0.0, 1.0],
        "state": State.SCORED.value,
        "probability": probability,
        **dict.fromkeys(("bundle_digest", "prepare_digest", "run_id"), "d"),
    }
    assert values.keys() <= plain.keys()
    return {**plain, **values}


def failure(reason=Reason.DAMAGED, **values):
    return row(None, reason=reason.value, pixel_digest=None, **values)


def table(rows):
    return pa.Table.from_pylist(rows, schema=RESULTS)


def join(rows, refer=BAND, **rule):
    rows = table(rows)
    found = studies(rows, series(rows), rule=StudyRule(**rule), threshold=THRESHOLD, refer=refer)
    assert found.schema.equals(STUDIES, check_metadata=True)
    found.validate(full=True)
    return found


def one(rows, **options):
    (found,) = join(rows, **options).to_pylist()
    return found


def counts(found, *names):
    return tuple(found[name] for name in names)


# the rule


def test_one_noisy_slice_does_not_decide_but_a_lesion_on_three_does():
    noisy = one([row(0.99), *(row(0.1) for _ in range(20))])
    assert noisy["probability"] == pytest.approx((0.99 + 0.1 + 0.1) / 3)
    assert noisy["decision"] == "negative"
    assert one([row(0.99), *(row(0.3) for _ in range(20))])["decision"] == "refer"
    lesion = one([row(0.9), row(0.8), row(0.7), *(row(0.01) for _ in range(200))])
    assert (lesion["probability"], lesion["decision"]) == (pytest.approx(0.8), "positive")


@pytest.mark.parametrize(("top", "expected"), [(1, 0.9), (2, 0.7), (3, 0.5), (4, 0.5), (100, 0.5)])
def test_a_study_with_fewer_slices_takes_all(top, expected):
    found = one([row(0.1), row(0.9), row(0.5)], top=top)
    assert found["probability"] == pytest.approx(expected)


def test_decisions_are_those_of_the_stored_probability():
    rows = [row(p, study_key=f"{p:.2f}") for p in np.linspace(0, 1, 41)]
    found = join(rows)
    assert found["decision"].to_pylist() == decide(found["probability"].to_numpy(), threshold=THRESHOLD, refer=BAND)
    assert set(found["decision"].to_pylist()) == {decision.value for decision in Decision}
    assert "refer" not in join(rows, refer=None)["decision"].to_pylist()


def test_the_worst_slice_is_the_first_of_the_highest():
    rows = [row(0.3), row(0.8), row(0.8), row(0.5)]
    for order in (rows, rows[::-1]):
        found = one(order)
        assert found["worst_row_id"] == rows[1]["row_id"]
        assert found["worst_probability"] == rows[1]["probability"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"top": 0}, "top: must be a whole number of at least 1, got 0"),
        ({"top": True}, "top: must be"),
        ({"top": 2.0}, "top: must be"),
        ({"leave_out": ("scout",)}, "leave_out: must list flags among .*localizer.*, got"),
        ({"leave_out": "localizer"}, "leave_out: must list flags"),
    ],
)
def test_a_rule_checks_itself(rule, message):
    with pytest.raises(ConfigError, match=message):
        StudyRule(**rule)


# what counts

ASIDE = [Flag.LOCALIZER, Flag.DERIVED, Flag.SECONDARY]


@pytest.mark.parametrize("flag", ASIDE)
def test_localizers_maps_and_screen_shots_are_left_out(flag):
    rows = [row(0.2), row(0.2), row(0.9, flags=[Flag.LOSSY.value, flag.value])]
    found = one(rows)
    assert found["probability"] == pytest.approx(0.2)
    assert counts(found, "slices", "left_out", "counted", "positive", "negative") == (3, 1, 2, 0, 2)
    assert found["worst_row_id"] == rows[0]["row_id"]
    found = one(rows, leave_out=())
    assert counts(found, "left_out", "counted", "positive") == (0, 3, 1)
    assert found["worst_row_id"] == rows[2]["row_id"]


@pytest.mark.parametrize("flag", ASIDE)
def test_where_a_study_has_nothing_else_they_count_and_it_says_so(flag):
    found = one([row(0.9, flags=[flag.value]), row(0.7, flags=[flag.value])])
    assert found["probability"] == pytest.approx(0.8)
    assert counts(found, "left_out", "counted") == (0, 2)
    assert found["flags"] == [StudyFlag.ONLY.value]


def test_blank_slices_never_count():
    blank = [row(0.9, flags=[Flag.BLANK.value], pixel_digest="black") for _ in range(4)]
    found = one([row(0.2), *blank])
    assert found["probability"] == pytest.approx(0.2)
    assert counts(found, "slices", "blank", "copies", "counted") == (5, 4, 0, 1)
    empty = one(blank)
    assert counts(empty, "probability", "decision", "worst_row_id", "worst_probability") == (None,) * 4
    assert counts(empty, "slices", "blank", "counted", "flags") == (4, 4, 0, [])


def test_a_picture_counts_once_in_a_study():
    copy = {"pixel_digest": "same", "state": State.DUPLICATE.value, "duplicate_of": "o"}
    rows = [row(0.9, **copy), row(0.9, **copy, series_key="again"), row(0.9, pixel_digest="same"), row(0.1), row(0.1)]
    for order in (rows, rows[::-1]):
        found = one(order)
        assert found["probability"] == pytest.approx((0.9 + 0.1 + 0.1) / 3)
        assert counts(found, "slices", "duplicates", "copies", "counted", "positive") == (5, 2, 2, 3, 1)
        assert found["worst_row_id"] == rows[2]["row_id"]  # the one that the others are duplicates of


def test_a_study_of_duplicates_has_its_answer():
    copies = [
        row(p, study_key="u", pixel_digest=f"digest {p}", state=State.DUPLICATE.value) for p in (0.9, 0.8, 0.7, 0.1)
    ]
    rows = [row(p, pixel_digest=f"digest {p}") for p in (0.9, 0.8, 0.7, 0.1)]
    first, second = join(rows + copies).to_pylist()
    assert first["probability"] == second["probability"] == pytest.approx(0.8)
    assert counts(second, "duplicates", "copies", "counted") == (4, 0, 4)


def test_of_equal_pictures_the_one_that_counts_is_kept():
    rows = [row(0.9, pixel_digest="same", flags=[Flag.SECONDARY.value]), row(0.9, pixel_digest="same"), row(0.1)]
    found = one(rows)
    assert counts(found, "copies", "left_out", "counted") == (1, 0, 2)
    assert found["worst_row_id"] == rows[1]["row_id"]


def test_what_failed_and_what_is_no_image_is_counted_beside():
    rows = [row(0.3), row(0.6), failure(), failure(Reason.TRUNCATED), failure(Reason.SKIPPED_NO_IMAGE, series_key="r")]
    found = one(rows)
    assert counts(found, "series", "slices", "failed", "skipped", "counted") == (2, 2, 2, 1, 2)
    assert counts(found, "positive", "refer", "negative") == (1, 0, 1)
    nothing = one([failure(), failure(Reason.SKIPPED_MODALITY)])
    assert counts(nothing, "slices", "failed", "skipped", "probability", "decision") == (0, 1, 1, None, None)


def test_facts_of_the_study_come_from_its_rows():
    rows = [
        row(acquired=date(2020, 1, 3), series_key="a"),
        row(acquired=date(2020, 1, 2), patient_key=None, series_key="b"),
        row(series_key=None),
    ]
    found = one(rows)
    assert counts(found, "study_key", "patient_key", "acquired", "series") == ("t", "p", date(2020, 1, 2), 2)
    assert one([row(series_key=None, patient_key=None)])["patient_key"] is None
    assert join([]).num_rows == join([row(study_key=None)]).num_rows == 0


def test_flags_come_from_the_series_that_count():
    stack = [row(position_mm=5.0 * i) for i in range(4)]
    holes = [row(position_mm=position, series_key="holes") for position in (0.0, 5.0, 10.0, 30.0)]
    scout = [
        row(normal=normal, series_key="scout", flags=[Flag.LOCALIZER.value])
        for normal in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    ]
    elsewhere = [row(study_key="u", position_mm=5.0 * i, width=64 + i, series_key="s") for i in range(3)]
    first, second = join(stack + holes + scout + elsewhere).to_pylist()
    assert first["flags"] == ["missing.slices"]  # not the scout's mixed orientations
    assert second["flags"] == ["mixed.sizes"]  # the same series key, another study
    found = one([*stack, row(patient_key="q", series_key=None)])
    assert counts(found, "patient_key", "flags") == ("p", [SeriesFlag.MIXED_PATIENTS.value])


# patients


def test_a_patient_has_the_answer_of_the_worst_study():
    rows = [row(0.9, study_key="b"), row(0.2, study_key="a"), failure(study_key="c"), row(0.5, patient_key="q")]
    rows += [row(0.9, study_key="d", patient_key=None)]
    known = join(rows)
    found = patients(known)
    assert found.schema.equals(PATIENTS, check_metadata=True)
    p, q = found.to_pylist()
    assert counts(p, "patient_key", "studies", "unanswered", "slices", "failed", "counted") == ("p", 3, 1, 2, 1, 2)
    assert counts(p, "decision", "worst_study_key", "worst_row_id") == ("positive", "b", rows[0]["row_id"])
    assert p["probability"] == p["worst_probability"] == rows[0]["probability"]
    assert counts(q, "patient_key", "studies", "decision") == ("q", 1, "refer")
    assert patients(known.take([4, 3, 2, 1, 0])).to_pylist() == [p, q]


def test_a_patient_without_any_answer_is_there_without_one():
    (found,) = patients(join([failure(), failure(study_key="u")])).to_pylist()
    assert counts(found, "studies", "unanswered", "probability", "decision", "worst_study_key") == (2, 2, *[None] * 3)
    assert patients(join([])).num_rows == 0


def test_of_studies_alike_the_first_by_key_answers():
    rows = [row(0.7, study_key=key) for key in "cab"]
    (found,) = patients(join(rows)).to_pylist()
    assert found["worst_study_key"] == "a"


def test_a_patient_has_the_flags_of_all_studies():
    rows = [row(0.7, study_key="a", flags=[Flag.DERIVED.value])]
    rows += [row(study_key="b", position_mm=position) for position in (0.0, 1.0, 2.0, 9.0)]
    (found,) = patients(join(rows)).to_pylist()
    assert found["flags"] == ["missing.slices", "only.left_out"]


# laws

some_rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.floats(0, 1, width=32)),
        st.fixed_dictionaries(
            {
                "study_key": st.sampled_from(["t", "t", "u", None]),
                "series_key": st.sampled_from(["s", "s", "r", None]),
                "patient_key": st.sampled_from(["p", "q", None]),
                "pixel_digest": st.sampled_from(["a", "b", "c", "d", None]),
                "flags": st.sampled_from([[], [], [Flag.BLANK.value], [Flag.LOCALIZER.value], [Flag.LOSSY.value]]),
                "state": st.sampled_from([State.SCORED.value, State.DUPLICATE.value]),
                "acquired": st.sampled_from([None, date(2020, 1, 1), date(2021, 1, 1)]),
            }
        ),
        st.sampled_from([Reason.DAMAGED, Reason.SKIPPED_DIRECTORY]),
    ),
    max_size=14,
).map(
    lambda items: [
        row(None, reason=reason.value, **values) if p is None else row(p, **values) for p, values, reason in items
    ]
)


def by_hand(rows, top):
    """Probability and worst row of each study, written down slowly."""
    found = {}
    for key in {item["study_key"] for item in rows} - {None}:
        mine = [item for item in rows if item["study_key"] == key and item["probability"] is not None]
        mine = [item for item in mine if Flag.BLANK.value not in item["flags"]]
        mine.sort(key=lambda r: (Flag.LOCALIZER.value in r["flags"], r["state"] == State.DUPLICATE.value, r["row_id"]))
        pictures = {item["pixel_digest"] or item["row_id"]: item for item in reversed(mine)}
        plain = [item for item in pictures.values() if Flag.LOCALIZER.value not in item["flags"]]
        ordered = sorted(plain or pictures.values(), key=lambda item: (-item["probability"], item["row_id"]))
        high = [item["probability"] for item in ordered[:top]]
        found[key] = (sum(high) / len(high), ordered[0]["row_id"]) if high else (None, None)
    return found


@settings(max_examples=80, deadline=None)
@given(some_rows, st.integers(1, 4), st.randoms(use_true_random=False))
def test_studies_are_what_the_rule_says_in_any_order(rows, top, rng):
    found = join(rows, top=top)
    expected = by_hand(rows, top)
    assert found["study_key"].to_pylist() == sorted(expected)
    for item in found.to_pylist():
        probability, worst = expected[item["study_key"]]
        assert item["probability"] == (None if probability is None else pytest.approx(probability, abs=1e-6))
        assert item["worst_row_id"] == worst
    assert join(rng.sample(rows, len(rows)), top=top).equals(found)


@settings(max_examples=80, deadline=None)
@given(some_rows)
def test_counts_add_up(rows):
    found = join(rows)
    mine = [item for item in rows if item["study_key"] is not None]
    total = {name: sum(found[name].to_pylist()) for name in ("slices", "failed", "skipped")}
    assert sum(total.values()) == len(mine)
    for item in found.to_pylist():
        assert item["slices"] == item["blank"] + item["copies"] + item["left_out"] + item["counted"]
        assert item["counted"] == item["positive"] + item["refer"] + item["negative"]
        assert (item["probability"] is None) == (item["counted"] == 0) == (item["decision"] is None)
        assert item["duplicates"] <= item["slices"]
        if item["probability"] is not None:
            assert 0 <= item["probability"] <= item["worst_probability"]
    above = patients(found)
    named = [item for item in found.to_pylist() if item["patient_key"] is not None]
    assert sum(above["studies"].to_pylist()) == len(named)
    assert sum(above["slices"].to_pylist()) == sum(item["slices"] for item in named)


def test_series_and_studies_come_from_shards_in_any_order():
    rows = [row(p, study_key=f"t{n % 7}", series_key=f"s{n % 3}") for n, p in enumerate(np.linspace(0, 1, 200))]
    whole = join(rows)
    shards = pa.concat_tables([table(rows[100:]), table(rows[:100])])
    options = {"rule": StudyRule(), "threshold": THRESHOLD, "refer": BAND}
    assert studies(shards, series(shards), **options).equals(whole)
    assert studies(shards, SERIES.empty_table(), **options).drop_columns("flags").equals(whole.drop_columns("flags"))


# labels and figures


def test_a_study_with_a_tumor_slice_is_tumor():
    keys = pa.chunked_array([["a", "b", "a", None], ["c", "b", "d"]])
    found = level_labels(keys, np.array([0, -1, 1, 1, 0, -1, -1], np.int8))
    assert found.to_pylist() == [{"key": k, "label": v} for k, v in zip("abcd", [1, -1, 0, -1], strict=True)]
    assert level_labels(pa.array([], pa.string()), np.array([], np.int8)).num_rows == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([-1, 0, 1])), max_size=12))
def test_level_labels_are_the_highest_of_their_slices(items):
    keys, labels = [key for key, _ in items], np.array([label for _, label in items], np.int8)
    found = level_labels(pa.array(keys, pa.string()), labels)
    expected = {key: max(v for k, v in items if k == key) for key in set(keys) - {None}}
    assert dict(zip(found["key"].to_pylist(), found["label"].to_pylist(), strict=True)) == expected


def answered(probabilities, labels):
    known = join([row(p, study_key=f"{n:03d}") for n, p in enumerate(probabilities)])
    return known, level_labels(known["study_key"], np.array(labels, np.int8))


def test_both_classes_give_all_figures():
    rng = np.random.default_rng(0)
    probabilities = np.concatenate([rng.random(40), [0.0, 1.0, 0.5, 0.25]])
    labels = rng.integers(0, 2, 44)
    known, truth = answered(probabilities, labels)
    found = level_figures(known, "study_key", truth, threshold=0.5)
    stored = known["probability"].to_numpy().astype(float)
    assert found["estimable"] is True
    assert (found["n"], found["unanswered"]) == (44, 0)
    assert found["auroc"] == pytest.approx(metrics.auroc(labels, stored))
    assert found["brier"] == pytest.approx(metrics.brier(labels, stored), abs=1e-6)
    assert np.isfinite(found["loss"])


@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.3, 0.5, 0.75, 0.9375])
def test_figures_agree_with_decisions_at_the_very_threshold(threshold):
    near = np.float32(threshold)
    values = [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1))]
    known, truth = answered(values, [1, 0, 1])
    found = level_figures(known, "study_key", truth, threshold=threshold)
    said = known["probability"].to_numpy().astype(float) >= threshold
    counts = metrics.Counts.of([1, 0, 1], said)
    assert found["confusion"] == {"tp": counts.tp, "fp": counts.fp, "tn": counts.tn, "fn": counts.fn}


@pytest.mark.parametrize(
    ("label", "rate", "other"), [(1, "sensitivity", "specificity"), (0, "specificity", "sensitivity")]
)
def test_one_class_gives_its_own_rate_only(label, rate, other):
    known, truth = answered([0.1, 0.7, 0.8, 0.9], [label] * 4)
    found = level_figures(known, "study_key", truth, threshold=0.5)
    assert found["estimable"] is False
    assert found[rate] == (0.75 if label else 0.25)
    assert found[f"{rate}_interval"][0] < found[rate] < found[f"{rate}_interval"][1]
    assert found["n"] == sum(found["confusion"].values()) == 4
    for name in (other, f"{other}_interval", "auroc", "accuracy", "accuracy_interval", "loss", "brier", "ece"):
        assert found[name] is None, name


def test_labels_without_an_answer_are_counted_and_in_no_figure():
    known = join([row(0.9, study_key="a"), row(0.1, study_key="b"), failure(study_key="c"), row(0.5, study_key="d")])
    truth = level_labels(pa.array(["a", "b", "c", "d", "e"]), np.array([1, 0, 1, -1, 1], np.int8))
    found = level_figures(known, "study_key", truth, threshold=0.5)
    assert (found["n"], found["unanswered"], found["auroc"]) == (2, 1, 1.0)
    assert level_figures(known, "study_key", truth.slice(3, 2), threshold=0.5) is None
    assert level_figures(known, "study_key", truth.slice(0, 0), threshold=0.5) is None
    whole = level_figures(patients(known), "patient_key", level_labels(pa.array(["p"]), np.array([1])), threshold=0.5)
    assert (whole["n"], whole["sensitivity"], whole["estimable"]) == (1, 1.0, False)


def test_studies_of_one_patient_are_one_group():
    rows = [row(p, study_key=f"{n:02d}", patient_key=f"p{n // 2}") for n, p in enumerate(np.linspace(0.05, 0.95, 24))]
    known = join(rows)
    truth = level_labels(known["study_key"], np.tile([0, 1], 12).astype(np.int8))
    found = level_figures(known, "study_key", truth, threshold=0.5)
    assert (found["n"], found["groups"]) == (24, 12)
    assert found["auroc_bootstrap"] is not None
    nobody = join([{**each, "patient_key": None} for each in rows])
    assert level_figures(nobody, "study_key", truth, threshold=0.5)["groups"] == 24


def slices_of_studies(count: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Half of the studies have a tumor on two of three slices; higher ones are more probable, with overlaps."""
    rng = np.random.default_rng(1)
    rows, label, probability = [], [], []
    for number in range(count):
        for place in range(3):
            rows.append(row(None, study_key=f"{number:03d}", patient_key=f"p{number:03d}", series_key=f"s{number}"))
            label.append(int(number % 2 == 1 and place < 2))
            probability.append(np.clip(0.35 + 0.25 * label[-1] + rng.normal(0, 0.1), 0.01, 0.99))
    return table(rows), np.array(label, np.int8), np.array(probability, np.float32)


def test_a_threshold_of_studies_is_chosen_by_their_own_probabilities():
    rows, label, probability = slices_of_studies(200)
    calibration, evaluation = CalibrationConfig(refer=0.1), EvaluationConfig(rounds=100)
    point = study_point(rows, label, probability, calibration, evaluation)
    figures = point.facts["validation"]
    assert (point.facts["of"], figures["n"], figures["positives"], figures["groups"]) == ("studies", 200, 100, 200)
    assert figures["sensitivity_interval"][0] >= 0.95
    mean = probability.reshape(200, 3).mean(axis=1)  # of the three highest: of all
    assert figures["confusion"]["tp"] == (mean[1::2] >= point.threshold).sum()
    assert point.refer[0] < point.threshold < point.refer[1]


def test_too_few_studies_of_a_class_choose_nothing():
    rows, label, probability = slices_of_studies(19)  # nine of them with a tumor
    assert study_point(rows, label, probability, CalibrationConfig(), EvaluationConfig()) is None
    nobody = rows.set_column(
        rows.schema.get_field_index("study_key"), "study_key", pa.nulls(rows.num_rows, pa.string())
    )
    assert study_point(nobody, label, probability, CalibrationConfig(), EvaluationConfig()) is None
