"""What can go wrong, drawn once.

MriRayError                     exit code 1
├── UserError (ValueError)      exit code 2: something the caller can put right; nothing was computed
│   ├── ConfigError             a setting: the field's path, what was expected, the value got
│   ├── ArchiveError            a URI that cannot be used at all
│   │   ├── ArchiveNotFound     no such bucket, prefix or folder
│   │   ├── ArchiveDenied       credentials missing, wrong, expired or without the permission
│   │   └── ArchiveUnreachable  nothing answers at the endpoint
│   ├── LabelError              labels that cannot be used: missing, one class only, unknown values
│   ├── SplitError              a split that would put one group on two sides, or leaves a side empty
│   └── BundleError             a bundle that is incomplete, altered, or made for other settings
└── RunError                    a run that started and cannot be believed
    ├── TooManyQuarantined      exit code 3: more objects failed than `max_quarantined_fraction` allows
    └── TrainingFailed          exit code 4: training broke down (loss is NaN, worker lost for good)

What is wrong with a single object never raises: it becomes a `Failure` with a `Reason` (see `records`).
"""

from enum import StrEnum


class MriRayError(Exception):
    """Base of all errors raised on purpose; the message says what, the rule, the value got, and where."""

    exit_code = 1


class UserError(MriRayError, ValueError):
    exit_code = 2


class ConfigError(UserError):
    pass


class ArchiveError(UserError):
    pass


class ArchiveNotFound(ArchiveError):
    pass


class ArchiveDenied(ArchiveError):
    pass


class ArchiveUnreachable(ArchiveError):
    pass


class LabelError(UserError):
    pass


class SplitError(UserError):
    pass


class BundleError(UserError):
    pass


class RunError(MriRayError):
    pass


class TooManyQuarantined(RunError):
    exit_code = 3


class TrainingFailed(RunError):
    exit_code = 4


class Reason(StrEnum):
    """Why an object or a frame has no result: the closed list. `meaning` and `remedy` are for people."""

    meaning: str
    remedy: str

    def __new__(cls, code: str, meaning: str, remedy: str) -> "Reason":
        self = str.__new__(cls, code)
        self._value_ = code
        self.meaning = meaning
        self.remedy = remedy
        return self

    EMPTY_OBJECT = ("empty.object", "the object holds no bytes", "copy it again from its source")
    NOT_IMAGE = (
        "unknown.format",
        "the content is no image format known here",
        "keep it out with a narrower archive prefix, or convert it",
    )
    UNSUPPORTED_FORMAT = (
        "unsupported.format",
        "an image format that is recognised but not read",
        "convert it to PNG, JPEG, TIFF or BMP",
    )
    UNSUPPORTED_MODE = (
        "unsupported.mode",
        "the pixels are stored in a way that has no grey value",
        "convert it to grey or RGB",
    )
    DAMAGED = ("damaged.image", "the content is an image, but cannot be decoded", "copy it again from its source")
    TRUNCATED = ("truncated.image", "the image ends before its last pixel", "copy it again from its source")
    TOO_MANY_PIXELS = (
        "oversized.pixels",
        "the header announces more pixels than `decode.max_pixels`",
        "raise `decode.max_pixels` if the picture is genuine",
    )
    TOO_MANY_BYTES = (
        "oversized.bytes",
        "the object is larger than `decode.max_bytes`",
        "raise `decode.max_bytes` if the object is genuine",
    )
    TOO_MANY_FRAMES = (
        "oversized.frames",
        "the object holds more frames than `decode.max_frames`",
        "raise `decode.max_frames` if the object is genuine",
    )
    TOO_SMALL = (
        "undersized.image",
        "the picture is smaller than `decode.min_side` on a side",
        "icons and thumbnails are no slices; lower `decode.min_side` if this one is",
    )
    STORAGE_MISSING = ("storage.missing", "listed, but gone when it was read", "nothing: the next run lists anew")
    STORAGE_DENIED = ("storage.denied", "reading it is not permitted", "grant read access to it")
    STORAGE_CHANGED = (
        "storage.changed",
        "its size differs from the one listed",
        "nothing: the next run lists it anew",
    )
    STORAGE_FAULT = ("storage.fault", "reading failed in spite of retries", "nothing: the next run tries it again")

    @property
    def transient(self) -> bool:
        """Whether the next run should try the object again although it has not changed."""
        return self.value.startswith("storage.")
