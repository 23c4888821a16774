"""Who is answered: keys, tokens, roles, and nobody from afar without one."""

import inspect
import time

import jwt
import pytest

from mri_ray.endpoint.keys import ROLES, Keys, needs
from mri_ray.endpoint.settings import JobsConfig, KeysConfig
from mri_ray.errors import ConfigError
from tests.endpoint.small import Client, png

READER, RUNNER, SECRET = "reader-secret-0123456789", "runner-secret-0123456789", "s" * 32
KEYS = {"MRI_RAY_API_KEYS": f"# who\nward predict {READER}\nnight predict,jobs {RUNNER}\n"}


def token(secret: str = SECRET, **claims: object) -> str:
    told = {"sub": "DOE^JANE", "aud": "mri_ray", "exp": time.time() + 60, "scope": "predict"} | claims
    return jwt.encode({name: value for name, value in told.items() if value is not None}, secret, algorithm="HS256")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": READER}, 200),
        ({"Authorization": f"Bearer {READER}"}, 200),
        ({"X-API-Key": READER[:-1]}, 401),
        ({"X-API-Key": READER + "0"}, 401),
        ({"X-API-Key": "ward"}, 401),
        ({"Authorization": f"Basic {READER}"}, 401),
        ({"X-API-Key": b"\xff\xfe"}, 401),
    ],
)
def test_only_known_keys_are_answered(make, headers, status):
    found = Client(make(environment=KEYS), host="10.0.0.9")("POST", "/v1/predict", content=png(), headers=headers)
    assert found.status_code == status
    assert ("www-authenticate" in found.headers) == (status == 401)


def test_looking_at_a_key_takes_no_thread():
    assert all(inspect.iscoroutinefunction(needs(role)) for role in ROLES)


def test_health_needs_no_key_and_a_role_is_needed_for_jobs(make):
    ask = Client(make(environment=KEYS, jobs=JobsConfig(outputs=("/out",))))
    assert ask("GET", "/healthz").status_code == ask("GET", "/readyz").status_code == 200
    assert ask("GET", "/v1/model").status_code == 401


@pytest.mark.parametrize(
    ("given", "status"),
    [
        # Made when they are used: a minute is shorter than a run of all tests.
        (lambda: token(), 200),
        (lambda: token(exp=time.time() - 5), 401),
        (lambda: token(aud="another"), 401),
        (lambda: token(exp=None), 401),
        (lambda: token(scope="jobs"), 403),
        (lambda: token(scope=["predict"]), 403),
        (lambda: token(secret="t" * 32), 401),
        (lambda: jwt.encode({"sub": "x", "aud": "mri_ray", "exp": 2**40}, None, algorithm="none"), 401),
    ],
)
def test_tokens_are_held_to_their_signature_and_what_they_say(make, given, status):
    ask = Client(make(environment={"MRI_RAY_JWT_KEY": SECRET}))
    found = ask("POST", "/v1/predict", content=png(), headers={"Authorization": f"Bearer {given()}"})
    assert found.status_code == status
    assert "DOE" not in found.text


def test_a_public_key_is_never_a_shared_secret():
    pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"
    keys = Keys(KeysConfig(), {"MRI_RAY_JWT_KEY": pem})
    assert not any(name.startswith("HS") for name in keys._algorithms)


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("10.0.0.9", {}, 403),
        ("127.0.0.1", {"Host": "localhost:8000"}, 200),
        ("127.0.0.1", {"Host": "evil.example"}, 403),
        ("127.0.0.1", {"Host": "[::1"}, 403),
        ("127.0.0.1", {"Origin": "https://evil.example"}, 403),
        ("127.0.0.1", {"Origin": "http://127.0.0.1"}, 200),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.9"}, 403),
    ],
)
def test_without_keys_only_this_machine_is_answered(make, host, headers, status):
    assert Client(make(), host=host)("POST", "/v1/predict", content=png(), headers=headers).status_code == status


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ward predict",
        f"ward admin {READER}",
        "ward predict short",
        f"w/rd predict {READER}",
        KEYS["MRI_RAY_API_KEYS"] * 2,
    ],
)
def test_keys_that_cannot_be_used_are_errors_that_do_not_repeat_them(text):
    with pytest.raises(ConfigError) as error:
        Keys(KeysConfig(), {"MRI_RAY_API_KEYS": text})
    assert READER not in str(error.value)


def test_keys_are_read_from_a_file(tmp_path, make):
    (tmp_path / "keys").write_text(KEYS["MRI_RAY_API_KEYS"])
    ask = Client(make(environment={"MRI_RAY_API_KEYS_FILE": str(tmp_path / "keys")}))
    assert ask("GET", "/v1/model", headers={"X-API-Key": READER}).status_code == 200
    with pytest.raises(ConfigError, match="readable file"):
        Keys(KeysConfig(), {"MRI_RAY_API_KEYS_FILE": str(tmp_path / "none")})
