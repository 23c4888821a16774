"""Which objects a run is about: patterns, a drawn fraction, the first few."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_ray.archive import listing
from mri_ray.archive.select import SelectConfig, leaves_out, selected
from mri_ray.errors import ConfigError

KEYS = sorted(f"{site}/{kind}/{number:03d}.{kind}" for site in "ab" for kind in ("dcm", "png") for number in range(100))


def chosen(keys: list[str] = KEYS, page: int = 70, **settings: object) -> list[str]:
    pages = (listing.batch((key, 1, "") for key in keys[start : start + page]) for start in range(0, len(keys), page))
    return [key for batch in selected(pages, SelectConfig(**settings)) for key in batch.column("key").to_pylist()]


def test_everything_unless_told():
    assert chosen() == KEYS
    assert SelectConfig().is_all
    assert not SelectConfig(limit=3).is_all


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"include": ("a/*",)}, lambda key: key.startswith("a/")),
        ({"include": ("*.dcm", "b/*")}, lambda key: key.endswith(".dcm") or key.startswith("b/")),
        ({"exclude": ("*/00?.*",)}, lambda key: "/00" not in key),
        ({"include": ("a/*",), "exclude": ("*.png",)}, lambda key: key.startswith("a/") and key.endswith(".dcm")),
        ({"include": ("nothing",)}, lambda key: False),
        ({"include": ("a",)}, lambda key: False),  # a whole path, not a part of it
    ],
)
def test_patterns(settings, rule):
    assert chosen(**settings) == [key for key in KEYS if rule(key)]


@given(st.text(st.characters(codec="utf-8", exclude_characters="*?[]\0"), min_size=1, max_size=20))
def test_a_pattern_without_wildcards_is_that_path(key):
    assert chosen([key], include=(key,)) == [key]
    assert chosen([f"{key}x", f"x{key}"], include=(key,)) == []


def test_a_larger_fraction_holds_a_smaller_one():
    some, more = chosen(fraction=0.1), chosen(fraction=0.5)
    assert set(some) <= set(more)
    assert 15 <= len(some) <= 70
    assert 150 <= len(more) <= 250
    assert some == chosen(fraction=0.1, page=33)


def test_the_first_few_of_what_is_left():
    assert chosen(limit=7) == KEYS[:7]
    assert chosen(limit=7, exclude=("a/*",)) == [key for key in KEYS if key.startswith("b/")][:7]
    assert chosen(limit=10_000) == KEYS


def test_a_listing_is_not_read_further_than_needed():
    def pages():
        yield listing.batch([("a", 1, "")])
        pytest.fail("the listing went on")

    assert pa.Table.from_batches(selected(pages(), SelectConfig(limit=1))).num_rows == 1


@pytest.mark.parametrize("settings", [{"fraction": 0.0}, {"fraction": 1.5}, {"limit": 0}, {"include": ("",)}])
def test_settings_check_themselves(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SelectConfig(**settings)


def test_a_folder_that_is_left_out_as_a_whole():
    config = SelectConfig(exclude=("lost+found/*", "*/private/*", "*.txt"))
    assert all(leaves_out(config, folder) for folder in ("lost+found", "lost+found/deep", "a/private", "a/private/b"))
    assert not any(leaves_out(config, folder) for folder in ("a", "private", "a/private2", "notes.txt"))
    assert not leaves_out(SelectConfig(include=("a/*",)), "b")  # what an include leaves of a folder is not known
