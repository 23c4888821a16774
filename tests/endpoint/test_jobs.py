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


@pytest.fixture
def linked(tmp_path):
    """`allowed`, which is a link itself, with links that lead within and out of it; its config."""
    (tmp_path / "disk" / "2026").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "allowed").symlink_to("disk")
    (tmp_path / "disk" / "latest").symlink_to("2026")
    (tmp_path / "disk" / "out").symlink_to(tmp_path / "secret")
    places = JobsConfig(archives=(f"{tmp_path}/allowed",), bundles=("s3://lab/b",), outputs=("/out",))
    return tmp_path, EndpointConfig(jobs=places)


def test_links_that_stay_within_are_followed(linked):
    folder, config = linked
    for given, expected in {
        "allowed": "allowed",
        "allowed/2026": "allowed/2026",
        "allowed/latest/new": "allowed/2026/new",
        "disk/2026": "allowed/2026",
    }.items():
        found = jobs.checked(jobs.JobRequest(**GOOD | {"archive": f"{folder}/{given}"}), config)
        assert found.archive == f"file://{folder}/{expected}"


@pytest.mark.parametrize("name", ["allowed/out", "allowed/out/deeper", "secret"])
def test_links_that_lead_out_are_refused(linked, name):
    folder, config = linked
    with pytest.raises(Problem) as problem:
        jobs.checked(jobs.JobRequest(**GOOD | {"archive": f"{folder}/{name}"}), config)
    assert problem.value.status_code == 403


def test_a_whole_disk_or_bucket_may_be_allowed():
    config = EndpointConfig(jobs=JobsConfig(archives=("/",), bundles=("s3://lab",), outputs=("/out",)))
    found = jobs.checked(jobs.JobRequest(**GOOD | {"archive": "/data/b"}), config)
    assert (found.archive, found.bundle) == ("file:///data/b", "s3://lab/b")


def test_without_prefixes_nothing_is_allowed():
    with pytest.raises(Problem):
        jobs.checked(jobs.JobRequest(**GOOD), EndpointConfig())


@pytest.mark.parametrize("record", [None, [], "x", {"counts": "many"}, {"progress": 3, "error": []}])
def test_what_is_no_record_of_a_run_tells_nothing(record):
    assert jobs.told("mri-1", "running", record) == jobs.JobAnswer(id="mri-1", state="running")


def test_a_record_tells_how_far_a_job_is():
    found = jobs.told("mri-1", "running", {"progress": {"done": 3}, "counts": {"scored": 3}, "settings": {}})
    assert (found.progress, found.counts, found.error) == ({"done": 3}, {"scored": 3}, None)
