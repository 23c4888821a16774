"""Which rows an epoch holds: a function of the seed and the epoch, whoever asks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.learn.plan import CHUNK_ROWS, Rows, class_weights, copies, effective_batch, epoch_order, share


def make(count: int) -> Rows:
    place = np.arange(count, dtype=np.int32)
    return Rows(
        part=place // 256,
        place=place % 256,
        label=(place % 2).astype(np.int8),
        row_id=place.astype(str),
    )


plans = st.fixed_dictionaries(
    {"seed": st.integers(0, 2**40), "epoch": st.integers(0, 500), "window": st.integers(1, 700)}
)


@given(count=st.integers(1, 900), batch=st.integers(1, 64), plan=plans)
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_every_row_at_most_once_and_misses_less_than_a_batch(count, batch, plan):
    order = epoch_order(make(count), batch=batch, **plan)
    assert len(order) == count - count % batch
    assert len(np.unique(order)) == len(order)
    assert np.array_equal(order, epoch_order(make(count), batch=batch, **plan))


@given(count=st.integers(1, 900), workers=st.integers(1, 7), plan=plans)
@settings(max_examples=60, deadline=None)
def test_the_workers_shares_are_the_epoch_whatever_their_number(count, workers, plan):
    batch = effective_batch(32, count, workers)
    if count < workers:
        return
    order = epoch_order(make(count), batch=batch, **plan)
    shares = [share(order, rank, workers) for rank in range(workers)]
    assert np.array_equal(np.concatenate(shares), order)
    assert len({len(part) for part in shares}) == 1
    assert all(len(part) % (batch // workers) == 0 for part in shares)


def test_epochs_and_seeds_differ_and_what_is_left_out_changes():
    rows = make(500)
    orders = [
        epoch_order(rows, seed=seed, epoch=epoch, window=256, batch=64) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    left = [frozenset(range(500)) - set(order.tolist()) for order in orders]
    assert len({order.tobytes() for order in orders}) == 3
    assert len(set(left)) == 3


def test_a_window_reads_few_chunks():
    rows = make(2000)
    order = epoch_order(rows, seed=3, epoch=1, window=256, batch=1)
    chunks = rows.part.astype(np.int64) * 1000 + rows.place // CHUNK_ROWS
    for start in range(0, len(order), 256):
        assert len(np.unique(chunks[order[start : start + 256]])) <= 256 // CHUNK_ROWS + 2
    assert not np.array_equal(np.sort(order[:256]), order[:256])


def test_effective_batch_fits_small_sides():
    assert effective_batch(32, 1000, 2) == 32
    assert effective_batch(32, 21, 2) == 20
    assert effective_batch(32, 1, 2) == 2


@given(count=st.integers(4, 900), plan=plans)
@settings(max_examples=40, deadline=None)
def test_a_balanced_epoch_holds_as_many_of_each_class_of_each_source(count, plan):
    place = np.arange(count, dtype=np.int32)
    source, label = (place % 7 == 0).astype(np.int32), (place % 3 == 0).astype(np.int8)
    rows = Rows(part=place // 256, place=place % 256, label=label, row_id=place.astype(str), source=source)
    order = epoch_order(rows, batch=1, balanced=True, **plan)
    strata, counts = np.unique(label[order] + 2 * source[order], return_counts=True)
    assert len(strata) == len(np.unique(label + 2 * source))
    assert set(counts.tolist()) == {count // len(strata)}
    # None comes a second time before all of its kind have come once.
    times = np.bincount(order, minlength=count)
    for stratum in strata:
        mine = times[label + 2 * source == stratum]
        assert mine.max() - mine.min() <= 1


@given(order=st.lists(st.integers(0, 9), max_size=60))
def test_copies_count_what_came_before(order):
    assert copies(np.array(order, np.int64)).tolist() == [order[:i].count(value) for i, value in enumerate(order)]


def test_class_weights_make_both_classes_count_alike():
    label = np.array([0] * 30 + [1] * 10, np.int8)
    weights = np.array(class_weights(label))
    assert np.allclose(weights * np.bincount(label), 20)
    assert np.mean(weights[label]) == 1
