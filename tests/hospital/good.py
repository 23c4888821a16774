"""Makers of what must be scored and is no series of single slices: volumes, pictures, packs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hospital import packs, rasters
from hospital.context import Context, Item, Pack, Series
from hospital.dicom import EIGHT, encode
from hospital.frames import damage, enhanced, mosaic
from hospital.slices import PLAIN, Made, Maker, bare, copies, deep, every_syntax, items_of, odd_ones, within
from hospital.truth import Frame
from hospital.volumes import volume
from mri_ray.errors import Reason
from mri_ray.records import Flag


def multi_frame(context: Context, room: int, *, syntax: str, bits: int, damaged: bool = False) -> Made:
    """An enhanced MR; damaged: one of its frames cannot be decoded, the others can."""
    pictures = context.supply.run(max(context.length, 3))
    series = context.series(pictures[0], tilted=True)
    depths = [EIGHT if bits == 8 else deep(context) for _ in pictures]
    ds, frames = enhanced(context, series, pictures, depths, syntax)
    failed: dict[int | None, Reason] = {}
    if damaged:
        bad = int(context.rng.integers(len(frames)))
        damage(ds, pictures, frames, bad)
        failed = {bad: Reason.DAMAGED}
        frames = [frame for index, frame in enumerate(frames) if index != bad]
    item = Item(
        key=context.name(),
        data=encode(ds, syntax),
        kind=f"dicom/enhanced/{syntax}/{bits}{'/damaged' if damaged else ''}",
        frames=tuple(frames),
        failed=failed,
        bits=bits,
    )
    return within(context.folder(series), [item])


def tiled(context: Context, room: int, *, syntax: str, bits: int) -> Made:
    pictures = context.supply.run(max(context.length - 1, 2))
    series = replace(context.series(pictures[0], tilted=True), manufacturer="SIEMENS")
    ds, frames = mosaic(context, series, pictures, EIGHT if bits == 8 else deep(context), syntax)
    item = Item(
        key=context.name(),
        data=encode(ds, syntax),
        kind=f"dicom/mosaic/{syntax}/{bits}",
        frames=tuple(frames),
        bits=bits,
        flags=frozenset({Flag.MOSAIC}),
    )
    return within(context.folder(series), [item])


_VOLUMES: tuple[tuple[str, dict], ...] = (
    ("uint8", {"gzipped": False}),
    ("int16", {"gzipped": True, "scaled": True}),
    ("4d", {"gzipped": True, "repeats": 2}),
    ("lpi", {"gzipped": False, "scaled": True, "flips": (True, True, True)}),
    ("sagittal", {"gzipped": True, "flips": (False, True, False), "order": (1, 2, 0)}),
    ("coronal", {"gzipped": False, "flips": (True, False, True), "order": (0, 2, 1)}),
)


def volumes(context: Context, room: int) -> Made:
    """NIfTI of every kind: a slice of the truth for each axial slice, whatever the storage order; half are tilted."""
    made: list[Item] = []
    for index, (name, options) in enumerate(_VOLUMES[:room]):
        pictures = context.supply.run(max(context.length, 2))
        series = context.series(pictures[0], tilted=bool(index % 2))
        del context.series_made[series.uid]  # NIfTI names no series
        data, frames = volume(series, pictures, **options)
        suffix = "nii.gz" if options["gzipped"] else "nii"
        who = series.who
        key = context.choose(f"nifti/{context.name()}.{suffix}", f"nifti/{who.folder}/{context.name()}.{suffix}")
        bits = 16 if options.get("scaled") else 8
        made.append(Item(key=key, data=data, kind=f"nifti/{name}", frames=tuple(frames), bits=bits))
    if len(made) < room:
        made.append(_cut_volume(context))
    return made


def _cut_volume(context: Context) -> Item:
    """A volume that ends within its last slice: those before it are whole."""
    pictures = context.supply.run(max(context.length, 2))
    series = context.series(pictures[0])
    del context.series_made[series.uid]
    data, frames = volume(series, pictures, gzipped=False)
    return Item(
        key=f"nifti/{context.name()}",
        data=data[: -pictures[0].pixels.size // 2],
        kind="nifti/cut",
        frames=tuple(frames[:-1]),
        failed={None: Reason.TRUNCATED},
    )


def pictures_of(context: Context, room: int) -> Made:
    """PNG, TIFF and JPEG with identifiers in their text and names."""
    made: list[Item] = []
    for kind in ("png", "tiff", "jpeg", "png", "png")[:room]:
        picture = context.supply.single()
        who = context.who(picture)
        data = getattr(rasters, kind)(picture.pixels, who)
        name = context.choose(context.name(), f"{who.folder}-{context.name()}.{kind}")
        frames = (Frame(origin=picture.origin),)
        made.append(Item(key=f"raster/{name}", data=data, kind=kind, frames=frames, exact=kind != "jpeg"))
    return made


def packed(context: Context, room: int, *, kind: str) -> Made:
    """A series in a zip, a tar or a tar.gz, with folders."""
    pictures = context.run(room)
    series = context.series(pictures[0])
    syntax = context.choose("implicit", "explicit", "jpeg-ls")
    items = within(context.folder(series), items_of(context, series, pictures, syntax=syntax))
    beside = (("README.txt", series.who.comment.encode()), (".DS_Store", b"\0\0\0\1Bud1" + bytes(500)))
    notes = [Item(key=name, data=data, kind="sidecar", reason=Reason.SKIPPED_SIDECAR) for name, data in beside]
    return [_pack(context, kind, series, items + notes[: room - len(items)])]


def nested(context: Context, room: int) -> Made:
    """A zip and a tar within a zip, beside a picture."""
    if room < 3:
        return []
    pictures = context.supply.run(min(room, max(context.length, 3)))
    series = context.series(pictures[0])
    items = items_of(context, series, pictures, syntax="explicit", depth=deep(context))
    one, other, rest = items[::3], items[1::3], items[2::3]
    inner = f"{series.who.folder}/{context.name()}.zip"
    innermost = f"{context.name()}.tar"
    files = [(inner, packs.zipped(_files(one))), (innermost, packs.tarred(_files(other))), *_files(rest)]
    members = _moved(inner, one) + _moved(innermost, other) + rest
    key = f"packs/{context.name()}.zip"
    data = packs.zipped(files, comment=series.who.comment)
    return [Pack(key=key, data=data, kind="zip/nested", members=tuple(members), inner=2)]


def webdataset(context: Context, room: int) -> Made:
    """A tar of samples: picture, class, JSON under one number each; only the pictures are slices."""
    if room < 3:
        return []
    pictures = context.run(room // 3)
    who = context.who(pictures[0])
    members: list[Item] = []
    for number, picture in enumerate(pictures, 1):
        note = {"name": who.folder, "id": who.patient_id, "born": f"{who.born:%Y-%m-%d}"}
        name, frames = f"{number:06d}", (Frame(origin=picture.origin),)
        side = partial(Item, kind="sidecar", reason=Reason.SKIPPED_SIDECAR)
        label = str(int(picture.origin.label == "tumor")).encode()
        members += [
            Item(key=f"{name}.png", data=rasters.png(picture.pixels), kind="png", frames=frames),
            side(key=f"{name}.cls", data=label),
            side(key=f"{name}.json", data=json.dumps(note).encode()),
        ]
    data = packs.tarred(_files(members))
    return [Pack(key=f"packs/shard-{context.name()}.tar", data=data, kind="tar/webdataset", members=tuple(members))]


def _pack(context: Context, kind: str, series: Series, items: Sequence[Item]) -> Pack:
    who, files = series.who, _files(items)
    if kind == "zip":
        data = packs.zipped(files, comment=who.comment)
    else:
        data = packs.tarred(files, gzipped=kind == "tar.gz", name=f"{who.patient_id}.tar")
    name = context.choose(context.name(), f"{who.folder} {context.name()}")
    return Pack(key=f"packs/{name}.{kind}", data=data, kind=kind, members=tuple(items))


def _files(items: Sequence[Item]) -> list[tuple[str, bytes]]:
    return [(item.key, item.data) for item in items]


def _moved(pack: str, items: Sequence[Item]) -> list[Item]:
    return [replace(item, key=f"{pack}!/{item.key}") for item in items]


GOOD: tuple[Maker, ...] = (
    every_syntax,
    volumes,
    partial(packed, kind="zip"),
    partial(multi_frame, syntax="explicit", bits=12),
    partial(tiled, syntax="implicit", bits=12),
    copies,
    bare,
    webdataset,
    nested,
    odd_ones,
    partial(packed, kind="tar"),
    pictures_of,
    partial(packed, kind="tar.gz"),
    partial(multi_frame, syntax="jpeg-2000", bits=8, damaged=True),
    partial(multi_frame, syntax="rle", bits=8),
    partial(tiled, syntax="jpeg-ls", bits=8),
    *PLAIN,
)
