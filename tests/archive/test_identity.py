import math
from dataclasses import dataclass
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.archive.identity import digest, digest_json, member_id, object_id, row_id, version_id

few = settings(max_examples=60, deadline=None)
parts = st.lists(st.text(max_size=4) | st.binary(max_size=4), max_size=4)


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    colour: Colour = Colour.RED
    rate: float = 0.1


def test_ids_never_change() -> None:
    """Manifests and results of earlier versions hold these."""
    assert digest("ab", "c") == "4826ed043ab3cdec576d8541fa5d5a80"
    assert object_id("Training/glioma/1.png") == "56afd005dcbbbff2fc2c60b1ae0cda34"
    assert version_id("Training/glioma/1.png", 12, "ab-1") == "524957470f399fe6a13caa5980bcfe9d"
    assert row_id("00", 0) == "6cbb736de7c64506f894b8ae0473e019"
    assert member_id("a.zip", "1.png") == "fce86e6ab95431eb42da4f35ddc63b86"
    assert digest_json({"b": [1, 2.5, None], "a": True}) == "3c9836665d2ab44b7e967292f2b31431"


@few
@given(parts, parts)
def test_digests_tell_where_parts_end(one: list, other: list) -> None:
    encoded = [[part.encode() if isinstance(part, str) else part for part in side] for side in (one, other)]
    assert (digest(*one) == digest(*other)) == (encoded[0] == encoded[1])
    assert len(digest(*one)) == 32


@few
@given(st.text(min_size=1), st.sampled_from([None, 0, 1]))
def test_row_ids_tell_none_from_zero(key: str, frame: int | None) -> None:
    assert [other for other in (None, 0, 1) if row_id(key, other) == row_id(key, frame)] == [frame]


def test_a_member_is_no_file_in_a_folder_of_that_name() -> None:
    assert len({member_id("a.zip", "1.png"), object_id("a.zip!/1.png"), member_id("a.zip!", "1.png")}) == 3
    assert member_id("a.zip", "1.png", b"key") != member_id("a.zip", "1.png")


def test_version_follows_key_size_and_etag() -> None:
    ids = {version_id(k, s, e) for k in ("a", "b") for s in (1, 11) for e in ("1", "x")}
    assert len(ids) == 8


def test_digest_json_of_settings_is_that_of_their_plain_form() -> None:
    plain = {"rate": 0.1, "colour": "red", "inner": {"sizes": [1, 2]}}
    assert digest_json(Outer()) == digest_json(plain)
    assert digest_json(Outer(rate=0.2)) != digest_json(plain)
    assert digest_json({3, 1, 2}) == digest_json({2, 3, 1})


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1: 2}, b"bytes", Inner])
def test_digest_json_refuses_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(TypeError, match="digest_json"):
        digest_json({"field": value})
