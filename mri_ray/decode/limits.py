"""What makes a decoder give up on an object, and the limits every picture is held to before it is decoded."""

from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason


class Refused(Exception):
    """An object or a page that gives no slice; it never leaves the decoders, but becomes a Failure."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def check_size(width: int, height: int, config: DecodeConfig) -> None:
    """Holds the size that a header announces, in pixels, against the limits; raises Refused."""
    if width < 1 or height < 1:
        raise Refused(Reason.DAMAGED, f"the header announces {width} x {height} pixels")
    if width * height > config.max_pixels:
        raise Refused(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels, at most {config.max_pixels} are allowed")
    if min(width, height) < config.min_side:
        raise Refused(Reason.TOO_SMALL, f"{width} x {height} pixels, each side must have {config.min_side}")


class SourceLost(Exception):
    """The storage behind a source failed while it was read: no fault of the object's, and no decoder may say so.

    It passes through the decoders, which catch other exceptions before they judge the content.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error
