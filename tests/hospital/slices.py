"""Makers of DICOM series of single slices: every encoding, every order, copies, and series with planned defects.

A maker takes a context and the number of objects that may still be made, and makes at most so many, or none.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from pydicom.dataset import Dataset

from hospital import rasters
from hospital.context import Context, Item, Pack, Series
from hospital.dicom import (
    EIGHT,
    LOSSLESS,
    SYNTAXES,
    Depth,
    base,
    encode,
    encode_bare,
    frame_of,
    place,
    set_pixels,
)
from hospital.planted import uid
from hospital.source import Picture
from hospital.truth import Frame
from mri_ray.records import Flag

Made = Sequence[Item | Pack]
Maker = Callable[[Context, int], Made]
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def deep(context: Context, *, signed: bool = False) -> Depth:
    """One of the ways to store 8-bit values in 12 bits."""
    offset = -300 if signed else int(context.rng.integers(0, 200))
    return Depth(bits=12, factor=context.choose(2, 4, 8), offset=offset, signed=signed)


def dataset(
    context: Context, series: Series, picture: Picture, *, number: int, depth: Depth = EIGHT, at: float | None = None
) -> tuple[Dataset, Frame]:
    """A slice without its pixels, and its truth. at: its place in the series where that is not the slice's number."""
    instance = uid(series.uid, picture.origin.number, number, context.name())
    position = series.position(picture.origin.number if at is None else at)
    ds = base(series, instance, number)
    place(ds, series, position)
    if depth.bits > 8:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = depth.slope, depth.intercept, "US"
    return ds, frame_of(picture, series, instance=instance, number=number, position=position)


def item_of(
    context: Context,
    series: Series,
    picture: Picture,
    *,
    syntax: str = "explicit",
    depth: Depth = EIGHT,
    number: int = 1,
    at: float | None = None,
    inverted: bool = False,
) -> Item:
    """One slice as a file; its key has no folder yet."""
    ds, frame = dataset(context, series, picture, number=number, depth=depth, at=at)
    set_pixels(ds, depth.stored(picture.pixels), depth, syntax, inverted=inverted)
    name = context.name()
    return Item(
        key=context.choose(name, f"{name}.dcm", f"IM{name}", f"{series.who.patient_id}_{name}.ima"),
        data=encode(ds, syntax, preamble=_preamble(series) if number % 3 == 0 else None),
        kind=f"dicom/{syntax}/{depth.bits}{'/monochrome1' if inverted else ''}",
        frames=(frame,),
        bits=depth.bits,
    )


def items_of(
    context: Context, series: Series, pictures: Sequence[Picture], *, syntax: str = "explicit", depth: Depth = EIGHT
) -> list[Item]:
    """A series, its instance numbers in no order; the defects of the series are in it."""
    numbers = context.rng.permutation(len(pictures)) + 1
    made = []
    for index, (picture, number) in enumerate(zip(pictures, numbers, strict=True)):
        last = index == len(pictures) - 1
        at = None
        if "one position" in series.defects or ("double" in series.defects and last):
            at = pictures[0].origin.number
        turned = last and "mixed orientation" in series.defects
        where = replace(series, orientation=SAGITTAL) if turned else series
        made.append(item_of(context, where, picture, syntax=syntax, depth=depth, number=int(number), at=at))
    return made


def within(folder: str, items: Sequence[Item]) -> list[Item]:
    return [replace(item, key=f"{folder}/{item.key}") for item in items]


def plain(context: Context, room: int, *, syntax: str, depth: str = "8", defect: str = "", folders: int = 1) -> Made:
    """A series. depth: 8, 12 or signed. folders: over which it is spread, so that shards do not hold it whole."""
    pictures = context.run(room)
    if "gap" in defect and len(pictures) > 3:
        del pictures[len(pictures) // 2]
    if defect and len(pictures) < 3:
        defect = ""
    series = context.series(pictures[0], tilted=context.choose(False, True), defects=(defect,) if defect else ())
    stored = EIGHT if depth == "8" else deep(context, signed=depth == "signed")
    items = items_of(context, series, pictures, syntax=syntax, depth=stored)
    return [item for part in range(folders) for item in within(context.folder(series), items[part::folders])]


def every_syntax(context: Context, room: int) -> Made:
    """One series with each slice in another encoding, 8 and 12 bits in turn."""
    pictures = context.supply.run(min(len(SYNTAXES), room))
    series = context.series(pictures[0])
    items = []
    start = int(context.rng.integers(2))
    for index, (picture, syntax) in enumerate(zip(pictures, SYNTAXES, strict=False)):
        depth = EIGHT if (index + start) % 2 else deep(context)
        items.append(item_of(context, series, picture, syntax=syntax, depth=depth, number=len(pictures) - index))
    return within(context.folder(series), items)


def copies(context: Context, room: int) -> Made:
    """The same pixels twice: as MONOCHROME1, as PNG, compressed, byte for byte."""
    ways = ("monochrome1", "png", "compressed", "bytes")
    if room < 2:
        return []
    pictures = context.supply.run(min(len(ways), room // 2))
    series = context.series(pictures[0])
    again = context.series(pictures[0])
    made: list[Item] = []
    for picture, way in zip(pictures, ways, strict=False):
        depth = deep(context) if way == "compressed" else EIGHT
        one = item_of(context, series, picture, depth=depth, number=len(made) + 1)
        made += within(context.folder(series), [one])
        other = replace(one, key=context.name(), kind="dicom/copy")
        if way == "monochrome1":
            syntax = context.choose("implicit", "rle", "jpeg-ls")
            other = item_of(context, again, picture, syntax=syntax, inverted=True, number=len(made))
        elif way == "png":
            frames = (Frame(origin=picture.origin),)
            data = rasters.png(picture.pixels, series.who)
            other = Item(key=f"{context.name()}.png", data=data, kind="png/copy", frames=frames)
        elif way == "compressed":
            syntax = context.choose(*LOSSLESS)
            other = item_of(context, again, picture, syntax=syntax, depth=depth, number=len(made))
        made += within(context.folder(again), [other])
    return made


def bare(context: Context, room: int) -> Made:
    """Slices without preamble and meta header: what old scanners and sloppy exports leave behind."""
    pictures = context.supply.run(min(2, room))
    series = context.series(pictures[0])
    made: list[Item] = []
    for picture, implicit in zip(pictures, (True, False), strict=False):
        depth = deep(context) if implicit else EIGHT
        ds, frame = dataset(context, series, picture, number=len(made) + 1, depth=depth)
        set_pixels(ds, depth.stored(picture.pixels), depth, "explicit")
        data = encode_bare(ds, implicit=implicit)
        kind = f"dicom/bare/{'implicit' if implicit else 'explicit'}"
        made.append(Item(key=context.name(), data=data, kind=kind, frames=(frame,), bits=depth.bits))
    return within(context.folder(series), made)


def odd_ones(context: Context, room: int) -> Made:
    """A localizer, a derived map, a screen shot with writing in it, a lossy copy's tags: scored, and flagged."""
    kinds: tuple[tuple[str, frozenset[Flag], dict[str, object]], ...] = (
        ("localizer", frozenset({Flag.LOCALIZER}), {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("derived", frozenset({Flag.DERIVED}), {"ImageType": ["DERIVED", "SECONDARY", "ADC"]}),
        ("secondary", frozenset({Flag.SECONDARY, Flag.BURNED_IN}), _SECONDARY),
        ("secondary", frozenset({Flag.SECONDARY, Flag.BURNED_IN}), _SECONDARY | {"PlanarConfiguration": 1}),
        ("lossy", frozenset({Flag.LOSSY}), {"LossyImageCompression": "01", "LossyImageCompressionRatio": "8"}),
    )
    made: list[Item] = []
    for kind, flags, tags in kinds[:room]:
        picture = context.supply.single()
        series = context.series(picture)
        ds, frame = dataset(context, series, picture, number=1)
        set_pixels(ds, picture.pixels, EIGHT, "explicit")
        for keyword, value in tags.items():
            setattr(ds, keyword, value)
        if kind == "secondary":
            _colour(ds, picture)
            frame = replace(frame, header=replace(frame.header, position_mm=None, normal=None, spacing_mm=None))
        item = Item(key=context.name(), data=encode(ds, "explicit"), kind=f"dicom/{kind}", frames=(frame,), flags=flags)
        made += within(context.folder(series), [item])
    return made


_SECONDARY: dict[str, object] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
    "ImageType": ["DERIVED", "SECONDARY"],
    "ConversionType": "WSD",
    "BurnedInAnnotation": "YES",
    "PlanarConfiguration": 0,
}


def _colour(ds: Dataset, picture: Picture) -> None:
    """Grey as RGB, and without a place in space, as screen shots are."""
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(ds, keyword)
    del ds.SpacingBetweenSlices
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    data = picture.pixels.tobytes() * 3 if ds.PlanarConfiguration else picture.pixels.repeat(3).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"


def _preamble(series: Series) -> bytes:
    return series.who.comment.encode("utf-8")[:120].ljust(128, b"\0")


PLAIN: tuple[Maker, ...] = (
    partial(plain, syntax="explicit", depth="12", folders=3),
    partial(plain, syntax="implicit", depth="12"),
    partial(plain, syntax="explicit", depth="signed"),
    partial(plain, syntax="rle"),
    partial(plain, syntax="jpeg-ls", depth="12"),
    partial(plain, syntax="explicit", defect="gap"),
    partial(plain, syntax="implicit", defect="double"),
    partial(plain, syntax="big-endian", depth="12", defect="one position"),
    partial(plain, syntax="deflated", defect="mixed orientation"),
)
