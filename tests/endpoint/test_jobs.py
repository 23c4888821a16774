"""Which batch jobs may be asked for over HTTP; that they run: tests/e2e/test_serve.py."""

import pytest

from mri_ray.endpoint import jobs
from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.settings import EndpointConfig, JobsConfig

CONFIG = EndpointConfig(
    jobs=JobsConfig(archives=("s3://hospital/mri", "/data"), bundles=("s3://lab/b",), outputs=("/out",))
)
GOOD = {"archive": "s3://hospital/mri/2026", "bundle": "s3://lab/b", "output": "/out/x"}


def test_places_below_what_is_allowed_are_taken_in_normal_form():
    found = jobs.checked(jobs.JobRequest(**GOOD | {"archive": "/data//a/../b"}), CONFIG)
    assert (found.archive, found.bundle, found.output) == ("file:///data/b", "s3://lab/b", "file:///out/x")


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("archive", "s3://hospital/mri2"),
        ("archive", "s3://hospital/mri/../secret"),
        ("archive", "s3://hospital/mri/%2e%2e/secret"),
        ("archive", "/data/../etc"),
        ("archive", "/database"),
        ("archive", "http://hospital/mri"),
        ("archive", "s3://hospital/mri/\nx"),
        ("bundle", "s3://hospital/mri/b"),
        ("output", "s3://hospital/mri/out"),
        ("output", "relative"),
    ],
)
def test_all_else_is_refused_without_a_word_of_where(name, uri):
    with pytest.raises(Problem) as problem:
        jobs.checked(jobs.JobRequest(**GOOD | {name: uri}), CONFIG)
    assert problem.value.status_code == 403
    assert uri not in problem.value.detail


def test_without_prefixes_nothing_is_allowed():
    with pytest.raises(Problem):
        jobs.checked(jobs.JobRequest(**GOOD), EndpointConfig())


@pytest.mark.parametrize("record", [None, [], "x", {"counts": "many"}, {"progress": 3, "error": []}])
def test_what_is_no_record_of_a_run_tells_nothing(record):
    assert jobs.told("mri-1", "running", record) == jobs.JobAnswer(id="mri-1", state="running")


def test_a_record_tells_how_far_a_job_is():
    found = jobs.told("mri-1", "running", {"progress": {"done": 3}, "counts": {"scored": 3}, "settings": {}})
    assert (found.progress, found.counts, found.error) == ({"done": 3}, {"scored": 3}, None)
