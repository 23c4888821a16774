"""The builder of the test archive, checked with pydicom, nibabel, zipfile and tarfile: not with what it is to test."""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict

import cv2
import imagecodecs
import nibabel as nib
import numpy as np
import pydicom
import pytest
from hospital import build
from hospital.bad import BAD, MAX_MEMBERS, OTHER_CAUSES
from hospital.dicom import SYNTAXES
from hospital.planted import UID_ROOT
from hospital.source import CHANGES, Picture, Supply, changed
from hospital.truth import Origin
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from mri_ray.archive.storage import Location
from mri_ray.cohort.labels import DEFAULT_CLASSES, labels_from_file, match
from mri_ray.errors import Reason
from mri_ray.records import Flag, State

OBJECTS, QUARANTINED = 220, len(BAD)
LONG = 50e6  # bytes: members announced as longer are not unpacked here
DEPTH = 2  # packs within packs


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    root = tmp_path_factory.mktemp("hospital") / "archive"
    return build(root, objects=OBJECTS, bad=QUARANTINED / OBJECTS, seed=11)


@pytest.fixture(scope="module")
def stored(hospital):
    """The bytes of every object as zipfile and tarfile give them, by key; None where they do not."""
    found = {}
    for path in sorted(hospital.root.rglob("*")):
        if path.is_file():
            found |= unpacked(str(path.relative_to(hospital.root)), path.read_bytes())
    return found


def unpacked(key, data, depth=0):
    """{key: bytes} of a file or of what is in it; of a pack that breaks off, the pack itself beside what was read."""
    tar = gunzipped(data) if data.startswith(b"\x1f\x8b") else data
    if data.startswith(b"PK") and depth < DEPTH:
        entries, whole = unzipped(data)
    elif tar[257:262] == b"ustar":
        entries, whole = untarred(tar)
    else:
        return {key: data}
    found = {} if whole and entries else {key: data}
    for name, content in entries:
        found |= unpacked(f"{key}!/{name}", content, depth + 1) if content else {f"{key}!/{name}": content}
    return found


def unzipped(data):
    def content(info):
        with contextlib.suppress(RuntimeError, NotImplementedError, zipfile.BadZipFile):
            return pack.read(info) if info.file_size < LONG else None

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as pack:
            return [(info.filename, content(info)) for info in pack.infolist() if not info.is_dir()], True
    except zipfile.BadZipFile:
        return [], False


def untarred(data):
    entries = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), errorlevel=2) as pack:
            files = (info for info in pack if not info.isdir())
            entries.extend((info.name, pack.extractfile(info).read() if info.isreg() else None) for info in files)
            return entries, data[pack.offset :].startswith(bytes(512))
    except tarfile.ReadError:
        return entries, False


def gunzipped(data):
    return zlib.decompressobj(wbits=31).decompress(data)


def of_kind(hospital, *prefixes):
    """Objects with slices whose maker's name begins so."""
    found = [item for item in hospital.expected.values() if item.slices and item.kind.startswith(prefixes)]
    assert found, prefixes
    return found


def readable(hospital, stored, *prefixes):
    """Those of them whose bytes are at hand: zipfile gives none of a damaged zip's."""
    return [(item, stored[item.key]) for item in of_kind(hospital, *prefixes) if item.key in stored]


def sources(hospital, item):
    return np.stack([hospital.pixels(frame.origin) for frame in item.frames])


def parsed(data):
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    if "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2" + ("" if ds.original_encoding[0] else ".1"))
    return ds


CODECS = {
    "jpeg-ls": imagecodecs.jpegls_decode,
    "jpeg-2000": imagecodecs.jpeg2k_decode,
    "jpeg-lossless": imagecodecs.ljpeg_decode,
    "jpeg-lossless-14": imagecodecs.ljpeg_decode,
}
BY_CODEC = {SYNTAXES[name]: decode for name, decode in CODECS.items()}


def values_of(ds):
    """What pydicom decodes by itself, or what a codec gives for each of its frames."""
    decode = BY_CODEC.get(ds.file_meta.TransferSyntaxUID)
    if decode is None:
        return ds.pixel_array
    streams = generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames", 1)))
    return np.stack([decode(stream) for stream in streams])


def decoded(ds):
    """Frames as float64 (N, H, W), brighter is more: the stored values, rescaled and turned here."""
    array = values_of(ds).astype(float)
    if ds.SamplesPerPixel == 3:
        assert (array == array[..., :1]).all()
        array = array[..., 0]
    array = array.reshape(-1, ds.Rows, ds.Columns)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        array = 2**ds.BitsStored - 1 - array
    for frame, group in zip(array, ds.get("PerFrameFunctionalGroupsSequence", [ds] * len(array)), strict=True):
        values = group.get("PixelValueTransformationSequence", [ds])[0]
        frame[:] = frame * float(values.get("RescaleSlope", 1)) + float(values.get("RescaleIntercept", 0))
    return array


def untiled(frame, count):
    side = int(np.ceil(np.sqrt(count)))
    height, width = frame.shape[0] // side, frame.shape[1] // side
    tiles = frame.reshape(side, height, side, width).swapaxes(1, 2).reshape(-1, height, width)
    assert not tiles[count:].any()
    return tiles[:count]


def test_every_file_and_member_is_expected_and_nothing_else(hospital, stored):
    # A pack that breaks off has a row of its own, and zipfile gets less out of it than is there.
    broken = tuple(f"{key}!/" for key in hospital.expected if key.endswith((".zip", ".tar", ".tar.gz")))
    expected = {key for key in hospital.expected if not key.startswith(broken)}
    assert {key for key in stored if not key.startswith(broken)} == expected
    assert len(hospital.expected) == OBJECTS == hospital.counts["objects"]
    states = Counter(str(item.state) for item in hospital.expected.values())
    assert states == {str(state): hospital.counts[state] for state in State}
    assert states["quarantined"] == QUARANTINED
    packs = [path for path in hospital.root.rglob("*") if path.name.endswith((".zip", ".tar", ".tar.gz"))]
    assert hospital.counts["packs"] == len(packs)
    assert hospital.counts["inner_packs"] == len({key.rpartition("!/")[0] for key in stored if key.count("!/") == 2})


def test_an_object_is_scored_or_has_one_reason(hospital):
    for item in hospital.expected.values():
        scored = item.state in (State.SCORED, State.DUPLICATE)
        assert scored == (item.slices > 0) == (item.reason is None)
        assert (item.state is State.SKIPPED) == (item.reason is not None and item.reason.skips)
        assert (item.label is None) == (not scored)


def test_every_reason_that_a_file_can_cause_is_there(hospital):
    found = {item.reason for item in hospital.expected.values()} - {None}
    assert found == set(Reason) - OTHER_CAUSES
    assert {kind.reason for kind in BAD[:24]} == {reason for reason in found if not reason.skips}


@pytest.mark.parametrize(("objects", "bad"), [(1, 0.0), (1, 1.0), (7, 0.3), (24, 1.0), (61, 0.05)])
def test_the_numbers_are_those_asked_for(tmp_path, objects, bad):
    made = build(tmp_path / "a", objects=objects, bad=bad, seed=1)
    assert made.counts["objects"] == len(made.expected) == objects
    assert made.counts["quarantined"] == round(objects * bad)


def test_the_same_seed_writes_the_same_bytes_and_another_one_others(tmp_path):
    def digests(name, seed):
        made = build(tmp_path / name, objects=60, bad=0.2, seed=seed)
        files = sorted(path for path in tmp_path.glob(f"{name}*/**/*") if path.is_file())
        return made.expected, {
            str(path.relative_to(tmp_path))[len(name) :]: hashlib.sha256(path.read_bytes()).digest() for path in files
        }

    first, again, other = digests("a", 5), digests("b", 5), digests("c", 6)
    assert first == again
    assert not {key for key, item in first[0].items() if item.slices} & set(other[0])


def test_single_slices_hold_the_source_in_every_encoding(hospital, stored):
    seen = defaultdict(set)
    for item, data in readable(hospital, stored, "dicom/"):
        if item.kind.startswith(("dicom/enhanced", "dicom/mosaic")):
            continue
        ds = parsed(data)
        assert np.array_equal(decoded(ds), sources(hospital, item)), item.kind
        assert item.bits == ds.BitsStored
        seen[str(ds.file_meta.TransferSyntaxUID)].add(int(ds.BitsStored))
    assert set(seen) == {str(uid) for uid in SYNTAXES.values()}
    assert set().union(*seen.values()) == {8, 12}


def test_headers_are_what_the_files_say(hospital, stored):
    for item, data in readable(hospital, stored, "dicom/"):
        ds = parsed(data)
        for frame in item.frames:
            header = frame.header
            told = (ds.Modality, ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
            assert told == (header.modality, header.patient, header.study_uid, header.series_uid, header.sop_uid)
            assert ds.InstanceNumber == header.instance_number
            assert ds.AcquisitionDate == f"{header.acquired:%Y%m%d}"
            assert ds.Manufacturer == header.manufacturer
            assert float(ds.MagneticFieldStrength) == header.field_strength_t
            assert ("InversionTime" in ds) == (header.sequence == "FLAIR")
            assert ("ContrastBolusAgent" in ds) == (header.sequence == "T1+C")
            if "ImagePositionPatient" in ds and "mosaic" not in item.kind:
                assert np.allclose(ds.ImagePositionPatient, header.position_mm)
                assert np.allclose(ds.PixelSpacing, header.spacing_mm)
                across, down = ds.ImageOrientationPatient[:3], ds.ImageOrientationPatient[3:]
                assert np.allclose(np.cross(across, down), header.normal)


def test_slices_lie_along_the_normal_in_another_order_than_their_numbers(hospital):
    series = defaultdict(list)
    for item in of_kind(hospital, "dicom/"):
        for frame in item.frames:
            if item.state is State.SCORED and frame.header.position_mm is not None:
                series[frame.header.series_uid].append((item.key, frame))
    shuffled = 0
    for uid, members in series.items():
        if hospital.series[uid]:
            continue
        members.sort(key=lambda member: member[1].origin.number)
        numbers = [frame.origin.number for _, frame in members]
        places = [np.dot(frame.header.position_mm, frame.header.normal) for _, frame in members]
        steps = np.diff(places) / np.diff(numbers)
        assert np.allclose(steps, steps[0] if len(steps) else 0, atol=1e-3)
        assert (steps > 1).all()
        names = [key for key, _ in members]
        instances = [frame.header.instance_number for _, frame in members]
        shuffled += names != sorted(names) and instances != sorted(instances)
    assert shuffled > 2


def test_planned_defects_of_series_are_there(hospital):
    frames = defaultdict(list)
    for item in of_kind(hospital, "dicom/"):
        for frame in item.frames:
            frames[frame.header.series_uid].append(frame)
    assert set(hospital.series) == {uid for uid in frames if uid}
    found = {defect: frames[uid] for uid, defects in hospital.series.items() for defect in defects}
    assert set(found) >= {"double", "one position", "mixed orientation"}
    for defect, members in found.items():
        positions = {frame.header.position_mm for frame in members}
        assert (len(positions) == 1) == (defect == "one position")
        assert (len(positions) == len(members) - 1) == (defect == "double" or len(members) == 2)
        assert (len({frame.header.normal for frame in members}) == 2) == (defect == "mixed orientation")


def test_multi_frame_objects_rescale_each_frame_and_are_not_in_order(hospital, stored):
    for item in of_kind(hospital, "dicom/enhanced"):
        ds = parsed(stored[item.key])
        assert ds.NumberOfFrames == item.slices + len(item.failed)
        groups = ds.PerFrameFunctionalGroupsSequence
        kept = [group for index, group in enumerate(groups) if index not in item.failed]
        for frame, group in zip(item.frames, kept, strict=True):
            position = group.PlanePositionSequence[0].ImagePositionPatient
            assert np.allclose(position, frame.header.position_mm)
        if item.failed:
            (number,) = item.failed
            fragments = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
            assert [data[:4] == b"\xff\x4f\xff\x51" for data in fragments].count(False) == 1
            assert fragments[number][:4] != b"\xff\x4f\xff\x51"
            continue
        assert np.array_equal(decoded(ds), sources(hospital, item)), item.kind
        slopes = {group.PixelValueTransformationSequence[0].RescaleSlope for group in kept if item.bits > 8}
        assert item.bits == 8 or len(slopes) > 1
    orders = [[frame.origin.number for frame in item.frames] for item in of_kind(hospital, "dicom/enhanced")]
    assert any(order != sorted(order) for order in orders)


def test_mosaics_hold_their_tiles_and_tell_where_they_lie(hospital, stored):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is experimental
        from nibabel.nicom import csareader
    for item in of_kind(hospital, "dicom/mosaic"):
        ds = parsed(stored[item.key])
        (frame,) = decoded(ds)
        count = ds[0x0019, 0x100A].value
        assert ds[0x0019, 0x0010].value == "SIEMENS MR HEADER"
        assert count == item.slices
        tiles = untiled(frame, count)
        assert np.array_equal(tiles, sources(hospital, item))
        csa = csareader.read(ds[0x0029, 0x1010].value)
        assert csareader.get_n_mosaic(csa) == count
        normal = csareader.get_slice_normal(csa)
        assert np.allclose(normal, item.frames[0].header.normal)
        # nibabel.nicom's rule: the position is that of a slice as large as the mosaic, with the same centre.
        spacing = np.array(ds.PixelSpacing, float)
        axes = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        more = (np.array(frame.shape) - tiles[0].shape) / 2 * spacing
        first = np.array(ds.ImagePositionPatient, float) + axes[0] * more[1] + axes[1] * more[0]
        for index, one in enumerate(item.frames):
            place = first + index * float(ds.SpacingBetweenSlices) * normal
            assert np.allclose(place, one.header.position_mm, atol=1e-3)


def test_volumes_turn_into_the_source_by_their_affine_alone(hospital, stored):
    kinds = set()
    for item in of_kind(hospital, "nifti/"):
        data = stored[item.key]
        image = nib.Nifti1Image.from_bytes(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
        kinds.add((item.kind, image.get_data_dtype().name, image.ndim, "".join(nib.aff2axcodes(image.affine))))
        if item.failed:
            with pytest.raises((OSError, EOFError, ValueError)):
                image.get_fdata()
            continue
        upright = nib.as_closest_canonical(image)
        values = upright.get_fdata()
        values = values[..., 0] if values.ndim == 4 else values
        pictures = np.stack([values[::-1, ::-1, index].T for index in range(values.shape[2])])
        assert np.array_equal(pictures, sources(hospital, item)), item.kind
        for index, frame in enumerate(item.frames):
            world = upright.affine @ [values.shape[0] - 1, values.shape[1] - 1, index, 1]
            assert np.allclose(world[:3] * [-1, -1, 1], frame.header.position_mm, atol=1e-2)
            assert np.allclose(frame.header.spacing_mm, upright.header.get_zooms()[1::-1], atol=1e-4)
    assert {dtype for _, dtype, _, _ in kinds} == {"uint8", "int16"}
    assert {dimensions for _, _, dimensions, _ in kinds} == {3, 4}
    assert {axes for *_, axes in kinds} >= {"RAS", "LPI"}
    assert len({axes for *_, axes in kinds}) == 4


def test_pictures_hold_the_source(hospital, stored):
    for item in of_kind(hospital, "png", "tiff", "jpeg"):
        pixels = cv2.imdecode(np.frombuffer(stored[item.key], np.uint8), cv2.IMREAD_UNCHANGED)
        difference = np.abs(pixels.astype(int) - hospital.pixels(item.frames[0].origin))
        assert difference.max() <= (0 if item.exact else 30)
        assert item.exact == (item.kind != "jpeg")


def test_duplicates_are_the_planned_copies_and_no_others(hospital):
    alike = defaultdict(list)
    for key in sorted(hospital.expected):
        item = hospital.expected[key]
        if item.slices and not item.failed and item.exact:
            pixels = sources(hospital, item)
            alike[item.bits > 8, pixels.shape, hashlib.sha256(pixels.tobytes()).digest()].append(item)
    assert len(hospital.pictures) == len({hospital.pixels(origin).tobytes() for origin in hospital.pictures})
    for first, *others in alike.values():
        assert first.state is State.SCORED
        assert first.duplicate_of is None
        assert all(item.state is State.DUPLICATE and item.duplicate_of == first.key for item in others)
    copies = [{item.kind for item in items} for items in alike.values() if len(items) > 1]
    assert len(copies) >= 4
    assert all(any("copy" in kind or "monochrome1" in kind or "/12" in kind for kind in kinds) for kinds in copies)
    assert any("png/copy" in kinds for kinds in copies)
    assert any("monochrome1" in kind for kinds in copies for kind in kinds)


def test_bare_files_have_no_mark_and_flagged_ones_their_tags(hospital, stored):
    assert all(stored[item.key][128:132] != b"DICM" for item in of_kind(hospital, "dicom/bare"))
    assert {item.kind for item in of_kind(hospital, "dicom/bare")} == {"dicom/bare/implicit", "dicom/bare/explicit"}
    for kind, flag in (("localizer", Flag.LOCALIZER), ("derived", Flag.DERIVED), ("secondary", Flag.BURNED_IN)):
        for item in of_kind(hospital, f"dicom/{kind}"):
            ds = parsed(stored[item.key])
            assert flag in item.flags
            assert (ds.get("BurnedInAnnotation") == "YES") == (kind == "secondary")
            assert ("LOCALIZER" in ds.ImageType) == (kind == "localizer")
            assert (ds.ImageType[0] == "DERIVED") == (kind != "localizer")


def test_strays_say_what_they_are(hospital, stored):
    names = defaultdict(set)
    for item in hospital.expected.values():
        if item.kind.startswith("stray/"):
            ds = parsed(stored[item.key])
            names[item.reason].add(ds.file_meta.MediaStorageSOPClassUID.name)
            assert ("PixelData" in ds) == (item.reason is Reason.SKIPPED_MODALITY)
            assert ds.get("Modality") != "MR" or "PixelData" not in ds
    assert names[Reason.SKIPPED_DIRECTORY] == {"Media Storage Directory Storage"}
    assert {"Basic Text SR Storage", "RT Structure Set Storage", "Encapsulated PDF Storage"} <= names[
        Reason.SKIPPED_NO_IMAGE
    ]
    assert "CT Image Storage" in names[Reason.SKIPPED_MODALITY]
    sidecars = [item.key for item in hospital.expected.values() if item.reason is Reason.SKIPPED_SIDECAR]
    assert all(stored[key] for key in sidecars)
    assert {key.rpartition(".")[2] for key in sidecars} == {"cls", "json", "txt", "DS_Store"}


def bad_ones(hospital, kind):
    found = [item for item in hospital.expected.values() if item.kind == f"bad/{kind}"]
    assert found, kind
    return [(item, hospital.root / item.key) for item in found]


def test_bad_pictures_and_objects_are_bad(hospital, stored):
    for item, _ in [pair for kind in ("cut png", "flipped png") for pair in bad_ones(hospital, kind)]:
        data = stored[item.key]
        assert data.startswith(b"\x89PNG")
        checks = [zlib.crc32(data[at + 4 : at + 8 + size]) == crc for at, size, crc in chunks(data)]
        assert not all(checks) or not data.endswith(b"IEND\xaeB`\x82")
    for item, _ in bad_ones(hospital, "pixel bomb"):
        assert int.from_bytes(stored[item.key][16:20], "big") ** 2 > 64e6
    for item, _ in bad_ones(hospital, "dicom/cut pixels"):
        ds = parsed(stored[item.key])
        assert len(ds.PixelData) < ds.Rows * ds.Columns
    for item, _ in bad_ones(hospital, "dicom/cut header"):
        assert len(parsed(stored[item.key])) == 0
    for item, _ in bad_ones(hospital, "dicom/no pixels"):
        assert "PixelData" not in parsed(stored[item.key])
    for item, _ in bad_ones(hospital, "dicom/many frames"):
        ds = parsed(stored[item.key])
        assert ds.NumberOfFrames * 256 == len(ds.PixelData)
        assert ds.NumberOfFrames > 4096
    for item, _ in bad_ones(hospital, "dicom/video"):
        assert parsed(stored[item.key]).file_meta.TransferSyntaxUID.name.startswith("MPEG2")
    for item, _ in bad_ones(hospital, "dicom/mosaic"):
        ds = parsed(stored[item.key])
        assert "MOSAIC" in ds.ImageType
        assert (0x0019, 0x100A) not in ds
        assert (0x0029, 0x1010) not in ds
    for item, _ in bad_ones(hospital, "nifti/cut gzip"):
        with pytest.raises(EOFError):
            gzip.decompress(stored[item.key])


def chunks(data):
    """Where each chunk of a PNG begins, its length and its checksum, as far as they go."""
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield at, size, int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        at += 12 + size


def test_bad_packs_are_bad(hospital):
    def entries(reason):
        keys = [key for key, item in hospital.expected.items() if item.reason is reason and "!/" in key]
        assert keys, reason
        for key in keys:
            pack, _, name = key.partition("!/")
            if pack.endswith(".zip"):
                with zipfile.ZipFile(hospital.root / pack) as found:
                    yield found, found.NameToInfo.get(name)

    for pack, info in entries(Reason.ENCRYPTED):
        with pytest.raises(RuntimeError, match="encrypted"):
            pack.read(info)
    for pack, info in entries(Reason.UNSUPPORTED_COMPRESSION):
        with pytest.raises(NotImplementedError):
            pack.read(info)
    assert any(info.filename.startswith("../") for _, info in entries(Reason.UNSAFE_MEMBER))
    for _, info in entries(Reason.PACK_BOMB):
        assert 64 * 2**20 < info.file_size > 200 * info.compress_size
    for pack, info in entries(Reason.TOO_MANY_BYTES):
        assert 512 * 2**20 < info.file_size < 200 * info.compress_size
        with pack.open(info) as member:
            assert member.read(2) == b"BM"
    for _, path in bad_ones(hospital, "too many members"):
        with zipfile.ZipFile(path) as pack:
            assert len(pack.infolist()) > MAX_MEMBERS
            assert all(info.is_dir() for info in pack.infolist())
    assert hospital.overrides == (f"decode.pack.max_members={MAX_MEMBERS}",)
    for kind in ("damaged zip", "cut zip"):
        for _, path in bad_ones(hospital, kind):
            with pytest.raises(zipfile.BadZipFile):
                zipfile.ZipFile(path)
    for kind in ("damaged tar", "cut tar", "cut gzip of a tar"):
        for item, path in bad_ones(hospital, kind):
            data = path.read_bytes()
            entries_of, whole = untarred(gunzipped(data) if kind.startswith("cut gzip") else data)
            assert not whole
            assert [f"{item.key}!/{name}" for name, _ in entries_of] == [
                key for key in hospital.expected if key.startswith(f"{item.key}!/")
            ]


def test_a_heavy_member_holds_what_it_announces(hospital):
    key = next(key for key, item in hospital.expected.items() if item.reason is Reason.PACK_BOMB)
    pack, _, name = key.partition("!/")
    with zipfile.ZipFile(hospital.root / pack) as found, found.open(name) as member:
        length = 0
        while piece := member.read(2**20):  # its end checks the checksum
            length += len(piece)
    assert length == found.getinfo(name).file_size


def test_every_planted_text_is_in_the_archive_and_is_found_in_any_form(hospital, stored):
    data = b"\0".join(
        [*(key.encode() + b"\0" + content for key, content in stored.items() if content)]
        + [path.read_bytes() for path in hospital.root.rglob("*") if path.is_file()]
    )
    data += b"\0".join(gunzipped(content) for content in stored.values() if content and content[:2] == b"\x1f\x8b")
    assert set(hospital.leaks(data)) == set(hospital.planted)
    assert len(set(hospital.planted)) == len(hospital.planted)
    for text in hospital.planted:
        forms = [text.encode(), json.dumps(text).encode(), repr(text).encode(), ascii(text).encode()]
        assert all(text in hospital.leaks(b"before " + form + b" behind") for form in forms)
    assert "Müßigbrodtler" in hospital.leaks("Müßigbrodtler".encode("latin-1"))
    assert hospital.leaks(b"a log line about s3://bucket/archive, 2017-03-04, 1.2.840.10008.5.1.4.1.1.4") == []


def test_tags_hold_the_planted_texts_in_their_character_sets(hospital, stored):
    names, charsets = set(), set()
    for _, data in readable(hospital, stored, "dicom/"):
        ds = parsed(data)
        names.add(str(ds.PatientName))
        charsets.add(str(ds.SpecificCharacterSet))
        assert ds.StudyInstanceUID.startswith(UID_ROOT)
        assert ds.PatientID in ds.PatientComments
        private = ds[0x0009, 0x1001].value
        private = private if isinstance(private, str) else private.decode()  # implicit: its kind is unknown
        assert private.startswith("PRIVZX_")
        assert ds.PatientBirthDate in private
    assert {"Müßigbrodtler^Änneliese", "Yakushizin^Tarokazu=薬師神^太郎一=やくしじん^たろかず"} <= names
    assert len(charsets) >= 5


def test_a_named_path_repeats_its_own_header(hospital):
    found = of_kind(hospital, "dicom/")
    assert {item.named_path for item in found} == {True, False}
    for item in found:
        if item.frames[0].header.patient in item.key:
            assert item.named_path
        if item.key.startswith("export/") and item.frames[0].header.patient not in item.key:
            assert not item.named_path
    assert not any(item.named_path for item in of_kind(hospital, "nifti/", "png"))


def test_labels_tell_the_truth_at_every_level(hospital):
    rows = {}
    for level, path in hospital.labels_csv.items():
        assert hospital.root not in path.parents
        with path.open(newline="", encoding="utf-8") as file:
            rows[level] = list(csv.DictReader(file))
        assert {row["label"] for row in rows[level]} == {"tumor", "normal"}, level
    scored = {key: item for key, item in hospital.expected.items() if item.slices}
    assert {row["path"]: row["label"] for row in rows["path"]} == {key: item.label for key, item in scored.items()}
    assert len(rows["frame"]) == sum(item.slices for item in scored.values())
    assert not any(int(row["frame"]) in scored[row["path"]].failed for row in rows["frame"])
    by_series = {row["series_uid"]: row for row in rows["series"]}
    assert set(by_series) == set(hospital.series)
    of_patient = defaultdict(set)
    for row in rows["study"]:
        of_patient[row["patient_id"]].add(row["label"])
    assert {"tumor"} in of_patient.values()
    assert {"normal"} in of_patient.values()
    for item in scored.values():
        for frame in item.frames:
            if frame.header.study_uid and frame.origin.label == "tumor":
                assert by_series[frame.header.series_uid]["label"] == "tumor"
    files = [key for key in scored if "!/" not in key]
    table = labels_from_file(Location.of(str(hospital.labels_csv["path"])), DEFAULT_CLASSES)
    assert (match(files, table).label >= 0).all()


def test_real_slices_come_out_as_they_are(tmp_path, mri_data):
    made = build(tmp_path / "a", objects=130, bad=0.1, seed=2, source=mri_data / "lgg")
    with (mri_data / "lgg.csv").open(newline="") as file:
        rows = {(row["patient_id"], row["study_date"], int(row["slice"])): row for row in csv.DictReader(file)}
    for origin, picture in made.pictures.items():
        row = rows[origin.patient, origin.study, origin.number]
        plain = cv2.imread(str(mri_data / "lgg" / row["path"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(picture.pixels, plain)
        assert origin.label == row["label"]
    assert not any("TCGA" in key for key in made.expected)
    studies = {frame.header.study_uid for item in made.expected.values() for frame in item.frames}
    assert len(studies) > 5


def test_a_source_that_is_used_up_goes_round_again_as_other_patients():
    pixels = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) ** 2 % 251
    png = cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes()
    plain = Picture(origin=Origin("somebody", "20200101", 1, "tumor"), stored=png)
    again = [plain, *(changed(plain, change) for change in list(CHANGES)[1:])]
    assert len({picture.pixels.tobytes() for picture in again}) == len(CHANGES)
    assert len({picture.origin.patient for picture in again}) == len(CHANGES)
    assert np.array_equal(again[1].pixels, pixels[:, ::-1])
    supply = Supply(iter([[picture] for picture in [*again, *again]]))
    assert [supply.single() for _ in again] == again
    with pytest.raises(ValueError, match=f"^source: must hold more pictures, got {len(again)} of use$"):
        supply.single()
