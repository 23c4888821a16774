"""What an S3 client's failure means, in one sentence that names the cause and the URI."""

import errno
from typing import Any

from aiohttp import ClientError as BodyError
from botocore import exceptions as boto  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from mri_ray.archive.settings import StorageConfig
from mri_ray.errors import ArchiveDenied, ArchiveError, ArchiveFull, ArchiveNotFound, ArchiveUnreachable

_QUOTA = "the quota is used up; raise it or delete something, and the same line does the rest"
_FULL = "the server has no space left; make some there, and the same line does the rest"
# The server's code: the kind of error, its cause and what helps.
_CODES: dict[str, tuple[type[ArchiveError], str]] = {
    "NoSuchBucket": (ArchiveNotFound, "no such bucket"),
    "InvalidBucketName": (ArchiveNotFound, "this is no valid bucket name"),
    "NoSuchKey": (ArchiveNotFound, "no such object"),
    "InvalidAccessKeyId": (ArchiveDenied, "the server does not know the access key (AWS_ACCESS_KEY_ID or AWS profile)"),
    "SignatureDoesNotMatch": (ArchiveDenied, "the secret key does not belong to the access key"),
    "ExpiredToken": (ArchiveDenied, "the session token has expired; get new credentials"),
    "ExpiredTokenException": (ArchiveDenied, "the session token has expired; get new credentials"),
    "TokenRefreshRequired": (ArchiveDenied, "the session token has expired; get new credentials"),
    "RequestExpired": (ArchiveDenied, "the credentials have expired; get new ones"),
    "InvalidToken": (ArchiveDenied, "the session token is not valid (AWS_SESSION_TOKEN)"),
    "RequestTimeTooSkewed": (ArchiveDenied, "this machine's clock differs too much from the server's"),
    "AccessDenied": (ArchiveDenied, "permission denied to these credentials"),
    "AllAccessDisabled": (ArchiveDenied, "all access to it has been disabled"),
    "403": (ArchiveDenied, "permission denied to these credentials"),
    "QuotaExceeded": (ArchiveFull, _QUOTA),
    "XMinioAdminBucketQuotaExceeded": (ArchiveFull, _QUOTA),
    "XMinioStorageFull": (ArchiveFull, _FULL),
    "507": (ArchiveFull, _FULL),
    "PermanentRedirect": (ArchiveUnreachable, "the bucket lies in another region; set AWS_REGION to it"),
    "AuthorizationHeaderMalformed": (ArchiveUnreachable, "the bucket lies in another region; set AWS_REGION to it"),
    "301": (ArchiveUnreachable, "the bucket lies in another region; set AWS_REGION to it"),
    "404": (ArchiveUnreachable, "what answers there is no S3 server, or the object is missing"),
    "SlowDown": (ArchiveUnreachable, "the server asks for fewer requests; lower `threads`"),
    "500": (ArchiveUnreachable, "the server fails, or what answers there is no S3 server"),
    "InternalError": (ArchiveUnreachable, "the server fails"),
    "503": (ArchiveUnreachable, "the server is not available"),
    "ServiceUnavailable": (ArchiveUnreachable, "the server is not available"),
}

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.SSOError,
    boto.TokenRetrievalError,
)


def as_archive_error(exc: BaseException, uri: str, config: StorageConfig) -> ArchiveError:
    kind, cause = _meaning(exc, config)
    return kind(f"{cause}: {uri}{_at(config)}")


def as_os_error(exc: BaseException, uri: str, config: StorageConfig) -> OSError:
    """As a file system would put it: FileNotFoundError, PermissionError, ConnectionError, OSError."""
    kind, cause = _meaning(exc, config)
    cause += _at(config)
    if issubclass(kind, ArchiveNotFound):
        return FileNotFoundError(errno.ENOENT, cause, uri)
    if issubclass(kind, ArchiveDenied):
        return PermissionError(errno.EACCES, cause, uri)
    if issubclass(kind, ArchiveUnreachable):
        return ConnectionError(errno.EIO, cause, uri)
    return OSError(errno.EIO, cause, uri)


def code_of(exc: BaseException) -> str | None:
    """The server's error code; None when no server answered."""
    return _answer(exc).get("Code")


def _meaning(exc: BaseException, config: StorageConfig) -> tuple[type[ArchiveError], str]:
    code = code_of(exc)
    if code in ("AccessDenied", "403") and config.anonymous:
        return ArchiveDenied, "anonymous access is not allowed"
    if code in _CODES:
        return _CODES[code]
    if _status(exc) >= 500:
        return ArchiveUnreachable, f"the server fails ({code})"
    if code is not None:
        return ArchiveError, f"the server refused ({code}: {_answer(exc).get('Message')})"
    if isinstance(exc, _NO_CREDENTIALS):
        return ArchiveDenied, f"no usable credentials in the AWS chain ({exc})"
    if isinstance(exc, boto.ParamValidationError):
        return ArchiveNotFound, f"no valid name ({exc})"
    if isinstance(exc, ResponseParserError):
        return ArchiveUnreachable, "what answers there is no S3 server"
    if isinstance(exc, BodyError | boto.IncompleteReadError):
        return ArchiveUnreachable, f"the server's answer broke off ({exc})"
    if isinstance(exc, boto.HTTPClientError | boto.ConnectionError | OSError):
        return ArchiveUnreachable, f"no answer from the server ({exc})"
    return ArchiveError, str(exc)


def _answer(exc: BaseException) -> dict[str, Any]:
    return _response(exc).get("Error", {})


def _status(exc: BaseException) -> int:
    return _response(exc).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _response(exc: BaseException) -> dict[str, Any]:
    # s3fs makes an OSError of the server's answer and keeps the client's own error as its cause.
    for candidate in (exc, exc.__cause__):
        if isinstance(candidate, boto.ClientError):
            return candidate.response
    return {}


def _at(config: StorageConfig) -> str:
    return f" at {config.endpoint}" if config.endpoint else ""
