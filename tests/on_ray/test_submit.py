"""What becomes of requests for jobs where Ray's job API is not well; with one that is: tests/e2e/test_serve.py."""

import asyncio
import shlex
import socket
import time
from collections.abc import Iterator

import pytest

from mri_ray.archive.settings import StorageConfig
from mri_ray.endpoint.jobs import JobRequest
from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.settings import JobsConfig
from mri_ray.on_ray.submit import RayJobs

JOB = JobRequest(archive="/a", bundle="/b", output="/o")


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def refused(address: str, ask) -> Problem:
    with pytest.raises(Problem) as problem:
        asyncio.run(ask(RayJobs(JobsConfig(address=address, timeout_s=0.5), StorageConfig())))
    assert problem.value.headers["Retry-After"] == "10"
    return problem.value


@pytest.mark.parametrize("ask", [lambda jobs: jobs.state("mri-1"), lambda jobs: jobs.stop("mri-1")])
def test_a_dashboard_that_is_silent_is_not_waited_for(silent, ask):
    began = time.monotonic()
    assert refused(silent, ask).status_code == 504
    assert time.monotonic() - began < 10  # also the thread that asked has ended, or the loop would wait for it


def test_a_job_that_may_have_begun_is_named(silent):
    problem = refused(silent, lambda jobs: jobs.start(JOB))
    assert (problem.status_code, problem.more["id"][:4], len(problem.more["id"])) == (504, "mri-", 36)


def test_where_there_is_none_it_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    problem = refused(address, lambda jobs: jobs.start(JOB))
    assert (problem.status_code, problem.more) == (503, {})


def test_a_job_reaches_storage_as_the_endpoint_does(monkeypatch):
    given = {}

    async def call(self, method, **named):
        given.update(named)
        return "id"

    monkeypatch.setattr(RayJobs, "_call", call)
    storage = StorageConfig(endpoint="http://minio.hospital:9000", anonymous=True)
    asyncio.run(RayJobs(JobsConfig(), storage).start(JOB))
    told = shlex.split(given["entrypoint"])
    assert 'storage.endpoint="http://minio.hospital:9000"' in told
    assert "storage.anonymous=true" in told
    assert not [one for one in told if one.startswith("storage.threads")]
