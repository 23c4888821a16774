"""Trials and workers against a cluster."""

import pytest

from mri_ray.errors import ConfigError
from mri_ray.search.accounting import share


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_two_cores_run_one_trial_whatever_its_workers_ask_for(workers):
    fits = share([2.0], 0, workers=workers)
    assert fits.concurrent == 1
    assert workers * fits.cpus <= 2


def test_more_cores_run_more_trials_and_leave_half_for_reading():
    fits = share([8.0], 0, workers=2)
    assert (fits.concurrent, fits.cpus) == (2, 1.0)
    assert share([1.0], 0, workers=2).concurrent == 1
    assert share([16.0, 16.0], 0, workers=1).concurrent == 16


def test_small_nodes_hold_what_was_asked_for_at_once():
    fits = share([1.0, 1.0, 1.0], 0, workers=2, concurrent=2)
    assert fits.concurrent == 2
    slots = int((1.0 + 1e-9) // fits.cpus)
    assert 3 * slots >= 4


def test_what_cannot_run_is_refused_with_the_sum():
    with pytest.raises(ConfigError, match=r"1 trials x 4 workers x 1 CPU = 4 for 2 CPUs"):
        share([2.0], 0, workers=4, worker_cpus=1.0)
    with pytest.raises(ConfigError, match=r"2 trials x 2 workers x 1.5 CPU = 6 for 4 CPUs"):
        share([2.0, 2.0], 0, workers=2, concurrent=2, worker_cpus=1.5)
    with pytest.raises(ConfigError, match=r"2 trials x 4 workers = 8 GPUs for 4"):
        share([32.0], 4, workers=4, concurrent=2)
    with pytest.raises(ConfigError, match=r"1 trials x 8 workers = 8 GPUs for 4"):
        share([32.0], 4, workers=8)


def test_what_was_fixed_and_fits_is_kept():
    assert share([8.0], 0, workers=2, worker_cpus=0.5).concurrent == 8
    fits = share([4.0], 8, workers=2)
    assert (fits.concurrent, fits.gpus) == (4, True)
    assert share([], 0, workers=2).concurrent == 1  # a cluster whose machines are yet to come
