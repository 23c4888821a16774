"""The connections of a process to a bucket: s3fs, and for the same server and credentials obstore and pyarrow.fs."""

import asyncio
import os
import random
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import obstore.store
import pyarrow.fs
import s3fs
from aiohttp import ClientError as BodyError
from botocore import exceptions as boto  # type: ignore[import-untyped]
from botocore import session as boto_session
from fsspec.asyn import sync_wrapper

from mri_ray.archive.identity import digest
from mri_ray.archive.settings import StorageConfig
from mri_ray.errors import ConfigError

_CREDENTIALS_HOLD = timedelta(minutes=5)
_UNUSED = re.compile(rb"<(LastModified|StorageClass|Owner)>.*?</\1>", re.DOTALL)
_LOCK = threading.Lock()


def client_of(bucket: str, config: StorageConfig) -> "Client":
    """The one of this process: one that was forked, or is given other credentials, makes new connections."""
    environment = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("AWS_"))
    with _LOCK:
        return _cached_client(bucket, config, os.getpid(), digest(*environment))


@lru_cache(maxsize=8)
def _cached_client(bucket: str, config: StorageConfig, pid: int, environment: str) -> "Client":
    try:
        return Client(bucket, config)
    except ValueError as exc:
        raise ConfigError(f"endpoint: must be http[s]://host[:port], got {config.endpoint!r}: {exc}") from exc


class _FileSystem(s3fs.S3FileSystem):
    """s3fs whose requests are made again too when the answer's text (a page of a listing, an error) breaks off.

    botocore, which makes all others again, counts such an answer as given; s3fs counts it among the failures whose
    repetition would multiply botocore's.
    """

    tries = 1

    async def _call_s3(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        for attempt in range(1, self.tries):
            try:
                return await super()._call_s3(method, *arguments, **keywords)
            except BodyError:
                await asyncio.sleep(pause(attempt - 1))
        return await super()._call_s3(method, *arguments, **keywords)

    call_s3 = sync_wrapper(_call_s3)


def pause(attempt: int) -> float:
    """Seconds before the next attempt, the first is 0."""
    return random.uniform(0.0, min(5.0, 0.2 * 2**attempt))  # noqa: S311 - spreads retries, guards nothing


class Client:
    """The connections of one process to one bucket."""

    def __init__(self, bucket: str, config: StorageConfig) -> None:
        client_kwargs = {"region_name": config.region} if config.region else {}
        self.fs = _FileSystem(
            anon=config.anonymous,
            endpoint_url=config.endpoint,
            client_kwargs=client_kwargs,
            config_kwargs={
                "connect_timeout": config.connect_timeout_s,
                "read_timeout": config.read_timeout_s,
                "retries": {"max_attempts": config.retries, "mode": "standard"},
                "max_pool_connections": max(config.threads, 10),
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self.fs.retries = 1  # botocore tries again; s3fs would multiply its tries
        self.fs.tries = config.retries + 1
        self._config = config
        self._bucket = bucket
        self._meta = self.fs.connect().meta
        self._meta.events.register("before-parse.s3.ListObjectsV2", _without_unused)
        self._lock = threading.Lock()

    @property
    def arrow(self) -> pyarrow.fs.S3FileSystem:
        with self._lock:
            return self._arrow

    @property
    def quick(self) -> obstore.store.S3Store:
        with self._lock:
            return self._quick

    @cached_property
    def _arrow(self) -> pyarrow.fs.S3FileSystem:
        return _arrow(self._config, self._meta, self._region)

    @cached_property
    def _quick(self) -> obstore.store.S3Store:
        return _quick(self._bucket, self._config, self._meta, self._region)

    @cached_property
    def _region(self) -> str:
        return self._bucket_region()

    def _bucket_region(self) -> str:
        """Where the bucket lies. botocore follows it by itself, the others would fail in any other region."""
        try:
            answer = self.fs.call_s3("head_bucket", Bucket=self._bucket)
        except (OSError, boto.BotoCoreError):
            answer = {}  # no permission to ask, or a failure that the reading to come will tell
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region") or self._meta.region_name
        return "us-east-1" if region in (None, "aws-global") else region


def _arrow(config: StorageConfig, meta: Any, region: str) -> pyarrow.fs.S3FileSystem:
    """The same server by pyarrow. No credentials are passed: it finds them itself, so its pickle holds none."""
    arguments: dict[str, Any] = {
        "anonymous": config.anonymous,
        "region": region,
        "connect_timeout": config.connect_timeout_s,
        "request_timeout": config.read_timeout_s,
        "retry_strategy": pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=config.retries + 1),
    }
    endpoint = urlsplit(meta.endpoint_url)
    host = endpoint.hostname or ""
    if not _is_aws(host):
        arguments |= {"scheme": endpoint.scheme, "endpoint_override": endpoint.netloc + endpoint.path}
    proxy = getproxies().get(endpoint.scheme)
    if proxy and not proxy_bypass(host):
        arguments["proxy_options"] = proxy
    if authorities := os.environ.get("AWS_CA_BUNDLE"):
        arguments["tls_ca_file_path"] = authorities
    return pyarrow.fs.S3FileSystem(**arguments)


def _quick(bucket: str, config: StorageConfig, meta: Any, region: str) -> obstore.store.S3Store:
    """The same server by obstore, which asks once. Proxies it takes from the environment by itself."""
    client: dict[str, Any] = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=config.connect_timeout_s),
        "read_timeout": timedelta(seconds=config.read_timeout_s),
    }
    if authorities := os.environ.get("AWS_CA_BUNDLE"):
        client["root_certificate"] = Path(authorities).read_bytes()
    arguments: dict[str, Any] = {"region": region, "client_options": client, "retry_config": {"max_retries": 0}}
    if not _is_aws(urlsplit(meta.endpoint_url).hostname or ""):
        arguments["endpoint"] = meta.endpoint_url
    if config.anonymous:
        arguments["skip_signature"] = True
    else:
        arguments["credential_provider"] = _credentials()
    return obstore.store.S3Store(bucket, **arguments)


def _credentials() -> Callable[[], dict[str, Any]]:
    """The usual AWS chain, by botocore, which renews what expires; asked again every few minutes."""
    found = boto_session.Session().get_credentials()

    def now() -> dict[str, Any]:
        if found is None:
            raise PermissionError("no usable credentials in the AWS chain")
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_HOLD,
        }

    return now


def _is_aws(host: str) -> bool:
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _without_unused(response_dict: dict[str, Any], **_: Any) -> None:
    """Takes out of a listing what nobody asks for: parsing the dates takes two thirds of a listing's time."""
    response_dict["body"] = _UNUSED.sub(b"", response_dict["body"])
