"""PNG, JPEG and TIFF with identifiers in their text."""

import io

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from hospital.planted import INSTITUTION, Person


def png(pixels: np.ndarray, who: Person | None = None) -> bytes:
    """Grey PNG; with text of all three kinds when it is about somebody."""
    if who is None:
        return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", who.comment.encode("latin-1", "replace"))
    text.add_text("Author", INSTITUTION, zip=True)
    text.add_itxt("Description", f"{who.folder} {who.comment}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=text, compress_level=3)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray, who: Person, quality: int = 95) -> bytes:
    """Grey JPEG with EXIF and a comment."""
    exif = Image.Exif()
    exif[0x013B] = who.patient_id  # Artist
    exif[0x010E] = who.comment.encode("ascii", "replace").decode()  # ImageDescription
    exif[0x9C9B] = who.folder.encode("utf-16-le")  # XPTitle
    buffer = io.BytesIO()
    comment = who.comment.encode()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, exif=exif, comment=comment)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, who: Person) -> bytes:
    buffer = io.BytesIO()
    tags = {270: who.comment.encode("ascii", "replace").decode(), 315: who.patient_id, 305: INSTITUTION}
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw", tiffinfo=tags)
    return buffer.getvalue()
