"""Hostile bodies at the endpoint's app: none may give a 5xx, and memory stays bounded.

    python -m tests.benchmarks.hostile 10000 [address of a running endpoint]

Mutated files of all formats, forms, bombs and noise. Without an address the app answers in this process.
"""

import io
import json
import random
import resource
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator

import httpx
import nibabel
import numpy as np
from PIL import Image

from mri_ray.endpoint import app as apps
from mri_ray.endpoint import lane
from mri_ray.endpoint.keys import Keys
from mri_ray.endpoint.service import Service
from mri_ray.endpoint.settings import EndpointConfig, KeysConfig
from tests.endpoint.small import Client, bundle_of, lane_of, png

_FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n%s\r\n--b--\r\n'


def seeds() -> list[bytes]:
    """One good file of each format."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    found = [png()]
    for kind in ("JPEG", "TIFF", "BMP"):
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, kind)
        found.append(held.getvalue())
    volume = nibabel.Nifti1Image(np.stack([pixels] * 3, axis=2).astype(np.int16), np.eye(4))
    found.append(volume.to_bytes())
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as pack:
        for number, data in enumerate(found):
            pack.writestr(f"{number}", data)
    return [*found, held.getvalue(), plain_dicom(pixels)]


def plain_dicom(pixels: np.ndarray) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.Modality, data.PatientName, data.PatientID = "MR", "DOE^JANE", "4711-0815"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    held = io.BytesIO()
    data.save_as(held, enforce_file_format=True)
    return held.getvalue()


def bombs() -> list[bytes]:
    """Little bytes that say, or become, a lot."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("zeros", bytes(200 * 2**20))
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as pack:
        pack.writestr("inner.zip", held.getvalue())
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as pack:
        for number in range(6000):
            pack.writestr(str(number), b"")
    return [picture, held.getvalue(), nested.getvalue(), many.getvalue()]


def bodies(count: int, seed: int = 0) -> Iterator[tuple[bytes, dict[str, str]]]:
    """So many bodies with their headers; the same seed gives the same ones."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    good, worst = seeds(), bombs()
    for number in range(count):
        data = rng.choice(good) if number % 50 else worst[number // 50 % len(worst)]
        if number % 50:
            data = _mutated(data, rng)
        headers = {}
        if rng.random() < 0.2:
            data = _mutated(_FORM % data, rng) if rng.random() < 0.5 else _FORM % data
            headers = {"Content-Type": f"multipart/form-data; boundary={rng.choice(['b', 'b', 'b', 'c', '', 'ü'])}"}
            headers = {name: value.encode("latin-1") for name, value in headers.items()}
        yield data, headers


def _mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(max(1, len(changed)))
        how = rng.randrange(5)
        if how == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
        elif how == 2:
            del changed[at : at + rng.randint(1, 400)]
        elif how == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 200))
        else:
            del changed[at:]
    return bytes(changed)


def answers(count: int, seed: int = 0, address: str | None = None) -> Counter[int]:
    """How many bodies were answered with which status. Raises AssertionError for a name in an answer."""
    found: Counter[int] = Counter()
    if address is None:
        config = EndpointConfig(keys=KeysConfig(required=False))
        service = Service(config)
        service.use(lane.Lanes(lanes=[lane_of(bundle_of(1))]))
        ask = Client(apps.create(service, Keys(config.keys, {})))
    for data, headers in bodies(count, seed):
        if address is None:
            answer = ask("POST", "/v1/predict", content=data, headers=headers)
        else:
            answer = httpx.post(f"{address}/v1/predict", content=data, headers=headers, timeout=120)
        assert "DOE" not in answer.text
        assert "4711" not in answer.text or answer.status_code == 200  # digits of a probability
        found[answer.status_code] += 1
    if address is None:
        service.close()
    return found


def main() -> None:
    count, *address = sys.argv[1:]
    found = answers(int(count), address=address[0] if address else None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"statuses": dict(sorted(found.items())), "peak_mb_of_this_process": round(peak)}))
    raise SystemExit(any(status >= 500 for status in found))


if __name__ == "__main__":
    main()
