"""Who may ask for what: API keys with roles, and tokens (JWT), from the environment or a file, never from a config.

MRI_RAY_API_KEYS, or the file that MRI_RAY_API_KEYS_FILE names, holds one key a line: `id role[,role] secret`.
MRI_RAY_JWT_KEY, or the file that MRI_RAY_JWT_KEY_FILE names, holds what tokens are verified with: a public key in PEM,
or a secret. A token's `scope` lists its roles.
"""

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import jwt
from starlette.requests import Request

from mri_ray.endpoint.problems import Problem
from mri_ray.endpoint.settings import KeysConfig
from mri_ray.errors import ConfigError

API_KEYS, JWT_KEY = "MRI_RAY_API_KEYS", "MRI_RAY_JWT_KEY"
ROLES = ("predict", "jobs")
LOCAL = "local"  # the id of whoever asks over loopback where no keys are required
_LEAST_SECRET = 20  # characters
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks: `key_id` stands in the audit log, and is no secret."""

    key_id: str
    roles: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Key:
    caller: Caller
    digest: bytes  # of the secret, which is kept nowhere


class Keys:
    """The keys of this process. Raises ConfigError where keys are required and none is set, or one is malformed."""

    def __init__(self, config: KeysConfig, environment: Mapping[str, str] = os.environ) -> None:
        self._config = config
        self._keys = _parsed(_secret(API_KEYS, environment))
        self._jwt_key = _secret(JWT_KEY, environment).strip()
        algorithms = config.jwt_algorithms
        if self._jwt_key:  # a public key must never be taken for a shared secret
            pem = self._jwt_key.startswith("-----BEGIN")
            algorithms = tuple(name for name in algorithms if name.startswith("HS") != pem)
            if not pem and len(self._jwt_key) < 32:
                raise ConfigError(f"{JWT_KEY}: a secret must have at least 32 characters, got {len(self._jwt_key)}")
        self._algorithms = algorithms
        self._required = config.required is not False
        if self._required and not self._keys and not self._jwt_key:
            raise ConfigError(
                f"keys.required: needs keys, got none: set {API_KEYS} (or {API_KEYS}_FILE) to lines of `id role secret`"
            )

    def caller(self, request: Request) -> Caller:
        """Who asks. Raises Problem: 401 without a known key, 403 where none is needed but it comes from afar."""
        given = request.headers.get("x-api-key") or _bearer(request.headers.get("authorization", ""))
        if given:
            return self._known(given)
        if self._required:
            raise _unauthorised("a key is needed: X-API-Key, or Authorization: Bearer")
        _check_loopback(request)
        return Caller(key_id=LOCAL, roles=frozenset(ROLES))

    def _known(self, given: str) -> Caller:
        digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()
        found = None
        for key in self._keys:  # all of them, in constant time each: how long it takes tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key.caller
        if found is not None:
            return found
        if self._jwt_key and given.count(".") == 2:
            return self._token(given)
        raise _unauthorised("the key is not known")

    def _token(self, given: str) -> Caller:
        try:
            claims = jwt.decode(
                given,
                self._jwt_key,
                algorithms=list(self._algorithms),
                audience=self._config.jwt_audience,
                issuer=self._config.jwt_issuer,
                options={"require": ["exp", "sub", "aud"]},
            )
        except (jwt.PyJWTError, ValueError) as exc:
            raise _unauthorised("the token is not valid, or no longer") from exc
        scope = claims.get("scope", "")
        roles = frozenset(scope.split() if isinstance(scope, str) else ()) & frozenset(ROLES)
        # A subject may be a person's name, and the audit log holds none.
        name = hashlib.sha256(str(claims["sub"]).encode()).hexdigest()[:16]
        return Caller(key_id=f"jwt-{name}", roles=roles)


def needs(role: str) -> Callable[[Request], Awaitable[Caller]]:
    """A FastAPI dependency: the caller, if that role is theirs. Raises Problem 401, 403 or 429."""
    assert role in ROLES

    async def check(request: Request) -> Caller:
        # On the event loop: FastAPI would give a plain function a thread's turn, which takes longer than the look.
        caller = request.app.state.keys.caller(request)
        request.state.key_id = caller.key_id
        request.app.state.rates.take(caller.key_id)
        if role not in caller.roles:
            raise Problem(403, f"the key has not the role {role}")
        return caller

    return check


def _check_loopback(request: Request) -> None:
    """Without keys: from this machine, to this machine, by no web page of another place and through no proxy."""
    ends = (request.scope.get("client"), request.scope.get("server"))
    host = _host_of(request.headers.get("host", ""))
    origin = request.headers.get("origin")
    if (
        not all(end is not None and _is_loopback(str(end[0])) for end in ends)
        or not (host == "localhost" or _is_loopback(host))
        or any(name in request.headers for name in _FORWARDED)
        or (origin is not None and origin != f"{request.scope['scheme']}://{request.headers.get('host')}")
    ):
        raise Problem(403, "without keys only this machine itself is answered, over its loopback interface")


def _host_of(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:  # as of brackets that are not closed
        return ""


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _unauthorised(detail: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": "Bearer"})


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _secret(name: str, environment: Mapping[str, str]) -> str:
    text, path = environment.get(name, ""), environment.get(f"{name}_FILE")
    if text or not path:
        return text
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{name}_FILE: must name a readable file, got {type(exc).__name__}") from exc


def _parsed(text: str) -> list[_Key]:
    """Raises ConfigError naming the line, and nothing of what stands there."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 3 or not _ID.fullmatch(parts[0]):
            raise ConfigError(
                f"{API_KEYS}: line {number} must be `id role[,role] secret`, the id of letters and digits"
            )
        roles = frozenset(parts[1].split(","))
        if not roles <= frozenset(ROLES):
            raise ConfigError(f"{API_KEYS}: line {number} must name roles among {', '.join(ROLES)}")
        if len(parts[2]) < _LEAST_SECRET:
            raise ConfigError(f"{API_KEYS}: the secret of line {number} must have {_LEAST_SECRET} characters or more")
        digest = hashlib.sha256(parts[2].encode()).digest()
        found.append(_Key(caller=Caller(key_id=parts[0], roles=roles), digest=digest))
    if len({key.caller.key_id for key in found}) < len(found):
        raise ConfigError(f"{API_KEYS}: every id must stand once")
    return found
