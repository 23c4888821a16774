"""What can go wrong, drawn once.

MriRayError                     exit code 1
├── UserError (ValueError)      exit code 2: something the caller can put right; the same line then goes on
│   ├── ConfigError             a setting: the field's path, what was expected, the value got
│   ├── ArchiveError            a URI that cannot be used at all
│   │   ├── ArchiveNotFound     no such bucket, prefix or folder
│   │   ├── ArchiveDenied       credentials missing, wrong, expired or without the permission
│   │   ├── ArchiveFull         no space or quota is left where something is to be written
│   │   └── ArchiveUnreachable  nothing answers at the endpoint
│   ├── IdentifierError         identifiers were met, and nothing says how they may leave
│   ├── LabelError              labels that cannot be used: missing, one class only, unknown values
│   ├── SplitError              a split that would put one group on two sides, or leaves a side empty
│   └── BundleError             a bundle that is incomplete, altered, or made for other settings
└── RunError                    a run that started and cannot be believed
    ├── TooManyQuarantined      exit code 3: more objects failed than `max_quarantined_fraction` allows
    ├── TrainingFailed          exit code 4: training broke down (loss is NaN, worker lost for good)
    └── OutOfTime               exit code 5: `max_runtime_s` is over; the same line goes on where this one stopped

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


class ArchiveFull(ArchiveError):
    pass


class ArchiveUnreachable(ArchiveError):
    pass


class IdentifierError(UserError):
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


class OutOfTime(RunError):
    exit_code = 5


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
        "the content is no format known here",
        "keep it out with a narrower archive prefix, or convert it",
    )
    UNSUPPORTED_FORMAT = (
        "unsupported.format",
        "a format that is recognised but not read",
        "convert it to DICOM, NIfTI, PNG, JPEG, TIFF or BMP",
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
    TRANSFER_SYNTAX = (
        "unsupported.transfer_syntax",
        "DICOM pixels in an encoding that no decoder installed here reads; the detail names it",
        "install the package that the detail names, or transcode it",
    )
    UNCERTAIN_SYNTAX = (
        "uncertain.transfer_syntax",
        "DICOM without a transfer syntax, and its content does not settle which one it is",
        "write it again with a complete meta header",
    )
    DAMAGED_HEADER = (
        "damaged.header",
        "it announces itself as DICOM or NIfTI, but what describes the pixels cannot be read",
        "copy it again from its source",
    )
    NO_PIXELS = ("absent.pixels", "a DICOM image without pixel data", "fetch it again from the PACS, with its pixels")
    MOSAIC = (
        "unsupported.mosaic",
        "many slices tiled in one frame, and its tags do not tell how",
        "export the series again as single slices",
    )
    ENCRYPTED = ("encrypted.member", "a member of a pack that only its password opens", "pack it again without one")
    UNSAFE_MEMBER = (
        "unsafe.member",
        "a member of a pack that points out of it (`..`, an absolute path, a link) or is no file",
        "pack it again from a clean folder",
    )
    UNSUPPORTED_COMPRESSION = (
        "unsupported.compression",
        "a member of a pack in a compression that is not read",
        "pack it again with deflate, or uncompressed",
    )
    DAMAGED_PACK = (
        "damaged.pack",
        "a zip or tar whose structure or checksum is wrong; from there on nothing in it is read",
        "copy it again from its source",
    )
    TRUNCATED_PACK = (
        "truncated.pack",
        "a zip, tar or gzip that ends too early; members before the end were read",
        "copy it again from its source",
    )
    EMPTY_PACK = ("empty.pack", "a zip or tar without any file in it", "nothing, or pack it again")
    PACK_TOO_DEEP = (
        "oversized.depth",
        "a pack within packs, deeper than `decode.pack.max_depth`",
        "unpack the outer one",
    )
    PACK_TOO_LARGE = (
        "oversized.pack",
        "the members of a pack are larger, or more, than `decode.pack` allows",
        "raise `decode.pack.max_bytes` or `decode.pack.max_members` if the pack is genuine",
    )
    PACK_BOMB = (
        "oversized.ratio",
        "a member of a pack inflates by more than `decode.pack.max_ratio`",
        "raise `decode.pack.max_ratio` if the member is genuine",
    )
    CRASHED = (
        "crashed.decoder",
        "decoding it ended the decoder's process",
        "the object is damaged or hostile; keep it for a report to the decoder's authors",
    )
    TIMEOUT = (
        "timeout.decoder",
        "decoding it took longer than `decode.timeout_s`",
        "raise `decode.timeout_s` if the object is genuine",
    )
    SKIPPED_MODALITY = (
        "skipped.modality",
        "a DICOM image of another modality than those of `decode.modalities`; the detail names it",
        "nothing, or name its modality in `decode.modalities`",
    )
    SKIPPED_NO_IMAGE = (
        "skipped.no_image",
        "a DICOM object that holds no image: a report, a plan, a presentation state; the detail names its class",
        "nothing",
    )
    SKIPPED_DIRECTORY = ("skipped.directory", "a DICOMDIR: an index of other files", "nothing")
    SKIPPED_SIDECAR = (
        "skipped.sidecar",
        "a text, label or system file beside the images of a pack",
        "nothing",
    )
    STORAGE_MISSING = ("storage.missing", "listed, but gone when it was read", "nothing: the next run lists anew")
    STORAGE_DENIED = ("storage.denied", "reading it is not permitted", "grant read access to it")
    STORAGE_CHANGED = (
        "storage.changed",
        "its size or version differs from the one listed, or it changed while it was read",
        "nothing: the next run lists it anew",
    )
    STORAGE_FAULT = ("storage.fault", "reading failed in spite of retries", "nothing: the next run tries it again")

    @property
    def skips(self) -> bool:
        """Whether it tells of a valid object that is no MR image, and not of a fault."""
        return self.value.startswith("skipped.")

    @property
    def transient(self) -> bool:
        """Whether the next run should try the object again although it has not changed."""
        return self.value.startswith("storage.")
