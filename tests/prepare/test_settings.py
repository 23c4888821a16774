"""Settings check themselves, and their digest names the pixels they give."""

from dataclasses import FrozenInstanceError, replace

import pytest

from mri_ray.errors import ConfigError
from mri_ray.prepare.settings import PrepareConfig

CHANGES = {
    "size": 128,
    "window_percentiles": (1.0, 99.0),
    "window_floor": 10.0,
    "margin": 0.1,
    "min_crop": 1.0,
    "median": 0.4,
    "asymmetry": 0.04,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("size", value) for value in (7, 4097, 224.0, True, "224")],
        *[
            ("window_percentiles", value)
            for value in ((99.0, 1.0), (1.0, 1.0), (-1.0, 99.0), (1.0, 101.0), (1.0,), 1.0)
        ],
        *[("window_percentiles", value) for value in (("1", "99"), (float("nan"), 99.0), None)],
        *[("window_floor", value) for value in (-1.0, float("inf"), float("nan"), True, "24")],
        *[("margin", value) for value in (-0.1, 1.1)],
        *[("min_crop", value) for value in (-0.1, 1.1)],
        *[("median", value) for value in (0.0, 1.0, True, "0.4")],
        *[("asymmetry", value) for value in (0.0, 0.11, True, "0.04")],
    ],
)
def test_a_mistake_names_the_field_the_rule_and_the_value(field, value):
    with pytest.raises(ConfigError, match=f"^{field}: must be .*, got ") as caught:
        PrepareConfig(**{field: value})
    assert str(caught.value).endswith(f"got {value!r}")


def test_every_setting_is_part_of_the_digest():
    assert set(CHANGES) == set(PrepareConfig.__slots__)
    digests = {replace(PrepareConfig(), **{field: value}).digest() for field, value in CHANGES.items()}
    assert len(digests | {PrepareConfig().digest()}) == len(CHANGES) + 1


def test_bundles_from_before_there_was_a_median_keep_their_digest():
    assert PrepareConfig().digest() == "506cacc26518445aeb671c3a5707819f"


def test_how_a_number_is_written_does_not_change_the_digest():
    written = PrepareConfig(window_percentiles=[1, 99], window_floor=16, margin=0, min_crop=1)
    assert written == PrepareConfig(window_percentiles=(1.0, 99.0), window_floor=16.0, margin=0.0, min_crop=1.0)
    assert written.digest() == PrepareConfig(window_percentiles=(1.0, 99.0), margin=0.0, min_crop=1.0).digest()


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        PrepareConfig().size = 8
