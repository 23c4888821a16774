"""The OpenAPI document, and the app held against it by schemathesis."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn

from mri_ray.endpoint.settings import JobsConfig
from tests.endpoint.small import Client

SECRET = "secret-0123456789012345"


class NoJobs:
    """Stands where Ray's job API does, with no job in it."""

    async def start(self, job):
        return f"mri-{'0' * 32}"

    async def state(self, job_id):
        return None

    async def stop(self, job_id):
        return False


@pytest.fixture
def app(make):
    places = JobsConfig(archives=("/a",), bundles=("/b",), outputs=("/o",))
    environment = {"MRI_RAY_API_KEYS": f"all predict,jobs {SECRET}"}
    return make(jobs=places, jobs_api=NoJobs(), environment=environment)


def test_a_job_is_described_by_its_body_and_only_to_who_may_start_one(app, make):
    good = {"archive": "/a/1", "bundle": "/b/1", "output": "/o/1"}
    key = {"X-API-Key": SECRET}
    ask = Client(app)
    assert ask("POST", "/v1/jobs", json=good, headers=key).status_code == 202
    assert ask("POST", "/v1/jobs", content=b"{" * 100).status_code == 401  # before anything of it is read
    assert ask("POST", "/v1/jobs", content=b" " * 20_000, headers=key).status_code == 413
    unknown = ask("POST", "/v1/jobs", json=good | {"DOE^JANE": 1}, headers=key)
    assert (unknown.status_code, "JANE" in unknown.text) == (422, False)
    places = JobsConfig(archives=("/a",), bundles=("/b",), outputs=("/o",))
    reader = make(jobs=places, jobs_api=NoJobs(), environment={"MRI_RAY_API_KEYS": f"ward predict {SECRET}"})
    assert Client(reader)("POST", "/v1/jobs", json=good, headers=key).status_code == 403


def test_the_document_tells_of_every_answer(app):
    document = Client(app)("GET", "/openapi.json").json()
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert ("post", "/v1/predict") in operations
    assert ("delete", "/v1/jobs/{job_id}") in operations
    for operation in operations.values():
        assert operation.get("description") or operation.get("summary")
        for status, told in operation["responses"].items():
            assert int(status) < 400 or "application/problem+json" in told["content"], operation
    answer = operations["post", "/v1/predict"]["responses"]["200"]["content"]["application/json"]
    assert answer["example"]["slices"][0]["decision"] == "positive"


@pytest.mark.slow
def test_whatever_the_document_allows_is_answered_by_it(app, served):
    base = f"http://127.0.0.1:{served(app)}"
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    asked = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @drawn(case=operation.as_strategy())
        @settings(
            max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def check(case):
            asked.add(case.operation.label)
            answer = case.call(base_url=base, headers={"X-API-Key": SECRET})
            assert answer.status_code < 500, answer.text
            case.validate_response(
                answer, excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
            )

        check()
    assert "POST /v1/predict" in asked
