import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.archive import listing
from mri_ray.errors import ArchiveError

names = st.text(alphabet="ab -./0é\U0001d518\uff5e", min_size=1, max_size=6).filter(lambda key: all(key.split("/")))


def by_bytes(key: str) -> bytes:
    return key.encode()


def by_folder(key: str) -> list[bytes]:
    return key.encode().split(b"/")


def paged(keys: list[str], size: int) -> list[pa.RecordBatch]:
    return [listing.batch((key, 1, "e") for key in keys[at : at + size]) for at in range(0, len(keys), size)]


@settings(max_examples=150, deadline=None)
@given(st.sets(names, max_size=25), st.integers(1, 5), st.sampled_from([by_bytes, by_folder]))
def test_either_order_of_servers_becomes_the_order_of_bytes(keys: set[str], size: int, order) -> None:
    pages = paged(sorted(keys, key=order), size)
    got = [key for batch in listing.in_key_order(pages, "s3://b") for key in batch.column("key").to_pylist()]
    assert got == sorted(keys, key=by_bytes)


def test_pages_of_a_flat_listing_are_passed_on_as_they_come() -> None:
    def pages():
        yield from paged(["a", "b", "c", "d"], 2)
        raise RuntimeError("the end was asked for")

    ordered = listing.in_key_order(pages(), "s3://b")
    assert next(ordered).column("key").to_pylist() == ["a", "b"]
    assert next(ordered).column("key").to_pylist() == ["c", "d"]


def test_a_server_without_order_is_refused() -> None:
    with pytest.raises(ArchiveError, match=r"'a' after 'd': s3://b"):
        list(listing.in_key_order(paged(["c", "d", "a", "b"], 2), "s3://b"))
