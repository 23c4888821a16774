"""Trials as they are written down, and what a table of them tells."""

import json
from dataclasses import replace

import pytest

from mri_ray.search.trials import Change, State, Trial, best_so_far, cost, front, table, winner


def trial(number: int, areas: list[float | None], state: State = State.DONE, **more) -> Trial:
    lines = ({"validation_auroc": area, "validation_loss": 1 - (area or 0.0), "seconds": 9.0} for area in areas)
    history = tuple({"epoch": k, **line} for k, line in enumerate(lines, start=1))
    values = {"settings": {"model.width": 8}, "planned": 4, "seconds": 9.0 * len(areas), "workers": 2}
    return Trial(number=number, state=state, history=history, **values | more)


def test_a_trial_survives_being_written():
    change = Change(epoch=2, source=4, before={"a": 1}, after={"a": 2})
    one = trial(3, [0.5, None], State.FAILED, reason="NaN", changes=(change,), checkpoint="/x", ms_per_image=1.5)
    assert Trial.of(one.text()) == one


def test_an_epoch_that_is_told_again_takes_the_old_ones_place():
    one = trial(0, [0.5, 0.6, 0.7]).heard({"epoch": 2, "validation_auroc": 0.9, "validation_loss": 0.1})
    assert [(line["epoch"], line["validation_auroc"]) for line in one.history] == [(1, 0.5), (2, 0.9), (3, 0.7)]
    assert one.auroc == 0.9


def test_the_figure_is_that_of_the_epoch_in_the_checkpoint():
    one = trial(0, [])
    for epoch, (area, loss) in enumerate([(0.9, 0.5), (0.953, 0.4), (0.95, 0.2)], start=1):
        one = one.heard({"epoch": epoch, "validation_auroc": area, "validation_loss": loss})
    assert (one.auroc, one.best["epoch"]) == (0.95, 3)


def test_the_figure_of_folds_is_the_mean_of_all_of_them():
    def folded(number: int, means: list[float]) -> Trial:
        one = trial(number, means, State.CUT, planned=3)
        return replace(one, history=tuple(line | {"epochs_run": 2} for line in one.history))

    whole, lucky = folded(0, [0.95, 0.91, 0.9]), folded(1, [0.99])
    assert whole.auroc == 0.9
    assert winner([whole, lucky]).number == 0
    assert winner([lucky]).number == 1


def test_the_winner_has_not_failed_and_the_cheapest_of_the_best_may_win():
    told = [
        trial(0, [0.8, 0.9], ms_per_image=4.0),
        trial(1, [0.96, 0.7], ms_per_image=9.0),
        trial(2, [0.99], State.FAILED, ms_per_image=1.0),
        trial(3, [0.957], State.STOPPED, ms_per_image=3.0),
        trial(4, [None]),
        trial(5, [0.96], ms_per_image=9.0),
    ]
    assert winner(told).number == 1
    assert winner(told, cost=True, tolerance=0.005).number == 3
    assert winner([told[2], told[4]]) is None
    assert [one.number for one in front(told)] == [3, 1]
    assert best_so_far(told)[:4] == [(0, 0.9, 0.9), (1, 0.96, 0.96), (2, None, 0.96), (3, 0.957, 0.96)]


def test_cost_and_what_stopping_early_saved():
    found = cost([trial(0, [0.5] * 4), trial(1, [0.5], State.STOPPED), trial(2, [], State.FAILED)])
    assert found.worker_hours == pytest.approx(2 * 9 * 5 / 3600)
    assert found.saved == pytest.approx(2 * 9 * 3 / 3600)
    assert found.by_state == {"done": 1, "stopped": 1, "failed": 1}


def test_the_table_names_what_others_rely_on():
    found = table([trial(1, [0.5, 0.7, 0.6]), trial(0, [], State.FAILED, reason="out of memory")])
    assert {"trial_id", "state", "validation_auroc", "epochs", "settings"} <= set(found.column_names)
    first, second = found.to_pylist()
    assert (first["trial_id"], first["state"], first["reason"], first["epochs"]) == (
        "0000",
        "failed",
        "out of memory",
        0,
    )
    assert (second["validation_auroc"], second["best_epoch"], second["epochs"]) == (0.7, 2, 3)
    assert json.loads(second["settings"]) == {"model.width": 8}
