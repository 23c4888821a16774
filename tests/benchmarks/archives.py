"""What the contestants read: archives of pictures that differ in their pixels, as JPEG or DICOM, and a bundle."""

import os
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from mri_ray import phantom
from mri_ray.archive.storage import Location
from mri_ray.decode.read import read
from mri_ray.learn.bundle import Bundle, save
from mri_ray.learn.model import build
from mri_ray.learn.settings import ModelConfig
from mri_ray.predict.prove import prove
from mri_ray.prepare.settings import PrepareConfig
from mri_ray.prepare.slices import prepare
from mri_ray.records import Slice

KINDS = {"jpeg": "jpg", "dicom": "dcm"}
_CELL = 8  # pixels: a whole block of a JPEG survives compression
_GREYS = 8
_DEEP = 16  # 8 bits stored as 12, so that scoring windows them as it does real MR
_SLICES = 20  # a series
_LEARNT = 256  # pictures that the bundle knows
_EPOCHS = 4


def make(folder: Path, data: str | None, kind: str, sizes: tuple[int, ...]) -> dict[int, Path]:
    """An archive of each size; the smaller ones are links to the first files of the largest.

    data: a folder of pictures to vary, None: phantoms.
    """
    sources = sorted(path for path in Path(data or _phantoms(folder)).rglob("*") if path.suffix in (".jpg", ".png"))
    if not sources:
        raise SystemExit(f"data: must hold .jpg or .png files, got none below {data}")
    places = {size: folder / f"{kind}-{size}" for size in sizes}
    for place in places.values():
        place.mkdir(parents=True)
    write = {"jpeg": _jpeg, "dicom": _dicom}[kind]
    for number, picture in enumerate(islice(_pictures(sources), max(sizes))):
        name = f"{number:06d}.{KINDS[kind]}"
        first = places[max(sizes)] / name
        first.write_bytes(write(picture, number))
        for size, place in places.items():
            if number < size and place != first.parent:
                os.link(first, place / name)
    return places


def bundle(folder: Path, archive: Path) -> Path:
    """The default CNN, trained to tell bright pictures from dark ones: most answers are clear, as of a real network.

    With fresh weights it would answer nearly the same to everything, and a comparison of answers would show nothing.
    """
    config = PrepareConfig()
    bodies = [(path.name, BytesIO(path.read_bytes())) for path in sorted(archive.iterdir())[:_LEARNT]]
    slices = [item for name, body in bodies for item in read(body, name) if isinstance(item, Slice)]
    pictures = np.stack([prepare(item, config).pixels for item in slices])
    images = torch.from_numpy(pictures).float().contiguous(memory_format=torch.channels_last) / 255
    means = images.mean(dim=(1, 2, 3))
    bright = (means > means.median()).long()
    net = build(ModelConfig(), seed=1).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(1)
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(images), generator=order).split(16):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(images[rows]), bright[rows]).backward()
            optimiser.step()
    made = Bundle(model=ModelConfig(), prepare=config, weights=net.state_dict())
    save(replace(made, proofs=prove(made, pictures)), Location.of(str(folder)))
    return folder


def _phantoms(folder: Path) -> Path:
    place = folder / "phantoms"
    phantom.write(Location.of(str(place)), phantom.PhantomConfig(patients=20, slices=10, second_study=0, seed=11))
    return place / "images"


def _pictures(sources: list[Path]) -> Iterator[Image.Image]:
    """The sources again and again in their own size, each time with another number in the upper left corner."""
    for number, source in zip(count(), cycle(sources)):
        with Image.open(source) as image:
            picture = image.convert("L" if image.mode == "L" else "RGB")
        for place in range(8):
            grey = number // _GREYS**place % _GREYS * (64 // _GREYS)
            picture.paste((grey,) * len(picture.getbands()), (place * _CELL, 0, (place + 1) * _CELL, _CELL))
        yield picture


def _jpeg(picture: Image.Image, number: int) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _dicom(picture: Image.Image, number: int) -> bytes:
    pixels = np.asarray(picture.convert("L")).astype("<u2") * _DEEP
    series = number // _SLICES
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID, item.SOPInstanceUID = MRImageStorage, generate_uid(entropy_srcs=["object", str(number)])
    item.StudyInstanceUID = generate_uid(entropy_srcs=["study", str(series)])
    item.SeriesInstanceUID = generate_uid(entropy_srcs=["series", str(series)])
    item.PatientID, item.PatientName, item.Modality = f"P{series:06d}", f"Benchmark^{series}", "MR"
    item.ImageType, item.StudyDate = ["ORIGINAL", "PRIMARY"], "20240131"
    item.InstanceNumber = number % _SLICES + 1
    item.ImagePositionPatient = [0.0, 0.0, 5.0 * (number % _SLICES)]
    item.ImageOrientationPatient, item.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5, 0.5]
    item.Rows, item.Columns = pixels.shape
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 12, 11, 0
    item.PixelData = pixels.tobytes()
    buffer = BytesIO()
    item.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
