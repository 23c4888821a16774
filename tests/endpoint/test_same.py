"""The endpoint and batch give the same bytes the same probability."""

import pytest

from tests.benchmarks.same import chosen, compared
from tests.endpoint.small import bundle_of


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_real_files_of_all_formats_are_answered_as_by_batch(mri_data, tmp_path, count):
    found = compared(chosen(mri_data, count), tmp_path, bundle_of(1))
    assert found["max_dp"] <= 1e-6
    assert found["answered"] > count / 2
