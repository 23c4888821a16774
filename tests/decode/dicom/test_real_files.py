"""Every real file ends as it should, and what is one picture in several encodings is one picture."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mri_ray.decode.read import read
from mri_ray.decode.settings import DecodeConfig
from mri_ray.errors import Reason
from mri_ray.records import Failure, Flag, Header, Slice

_UNKNOWN = Reason.NOT_IMAGE
_OTHER = Reason.SKIPPED_MODALITY
_NO_IMAGE = Reason.SKIPPED_NO_IMAGE

# file: slices, or the reason for none; flags on all of its slices
OUTCOMES: dict[str, tuple[int | Reason, set[Flag]]] = {
    **{f"encodings/In/{number}.dcm": (35, {Flag.MOSAIC}) for number in range(1, 10)},
    **{f"compression/MR{n}_{kind}": (1, set()) for n in (1, 2) for kind in ("J2KR", "JLSL", "JPLL", "RLE", "UNC")},
    **{f"compression/MR{n}_{kind}": (1, {Flag.LOSSY}) for n in (1, 2) for kind in ("J2KI", "JLSN", "JPLY")},
    "enhanced/emri_small.dcm": (10, set()),
    "enhanced/emri_small_RLE.dcm": (10, set()),
    "enhanced/emri_small_big_endian.dcm": (10, set()),
    "enhanced/emri_small_jpeg_2k_lossless.dcm": (10, set()),
    "enhanced/emri_small_jpeg_ls_lossless.dcm": (10, set()),
    "enhanced/emri_small_jpeg_2k_lossless_too_short.dcm": (Reason.TRUNCATED, set()),
    "edge/ExplVR_BigEndNoMeta.dcm": (_NO_IMAGE, set()),  # an RT plan
    "edge/ExplVR_LitEndNoMeta.dcm": (_NO_IMAGE, set()),
    "edge/J2K_pixelrep_mismatch.dcm": (_OTHER, set()),  # CT
    "edge/JPEG2000-embedded-sequence-delimiter.dcm": (_OTHER, set()),  # a screen shot of nuclear medicine
    "edge/MR-SIEMENS-DICOM-WithOverlays.dcm": (1, set()),  # a reformatted volume
    "edge/MR_small.dcm": (1, set()),
    "edge/MR_small_RLE.dcm": (1, set()),
    "edge/MR_small_bigendian.dcm": (1, set()),
    "edge/MR_small_expb.dcm": (1, set()),
    "edge/MR_small_implicit.dcm": (1, set()),
    "edge/MR_small_jp2klossless.dcm": (1, set()),
    "edge/MR_small_jpeg_ls_lossless.dcm": (1, set()),
    "edge/MR_small_padded.dcm": (1, set()),
    "edge/MR_truncated.dcm": (Reason.TRUNCATED, set()),
    "edge/UN_sequence.dcm": (_OTHER, set()),  # one sequence; the meta header says CT
    "edge/badVR.dcm": (_OTHER, set()),  # an RT dose
    "edge/crayons.icc": (_UNKNOWN, set()),
    "edge/empty_charset_LEI.dcm": (Reason.DAMAGED_HEADER, set()),  # two elements, neither says what it is
    "edge/meta_missing_tsyntax.dcm": (Reason.UNCERTAIN_SYNTAX, set()),
    "edge/nested_priv_SQ.dcm": (Reason.DAMAGED_HEADER, set()),
    "edge/no_meta.dcm": (_UNKNOWN, set()),  # a stray byte before its first element
    "edge/no_meta_group_length.dcm": (_OTHER, set()),  # an RT image
    "edge/rtplan_truncated.dcm": (Reason.TRUNCATED, set()),
    "non_mr/CT_small.dcm": (_OTHER, set()),
    "non_mr/SC_rgb_jpeg.dcm": (_OTHER, set()),
    "non_mr/examples_overlay.dcm": (1, set()),  # an MR image after all
    "non_mr/examples_palette.dcm": (_OTHER, set()),
    "non_mr/examples_ybr_color.dcm": (_OTHER, set()),
    "non_mr/reportsi.dcm": (_NO_IMAGE, set()),
    "non_mr/rtdose_1frame.dcm": (_OTHER, set()),
    "non_mr/rtstruct.dcm": (_NO_IMAGE, set()),
    "non_mr/test-SR.dcm": (_NO_IMAGE, set()),
    "non_mr/waveform_ecg.dcm": (_NO_IMAGE, set()),
}
NAMED = {  # what the detail of a skipped object must say
    "edge/ExplVR_BigEndNoMeta.dcm": "RT Ion Plan Storage",
    "edge/J2K_pixelrep_mismatch.dcm": "CT Image Storage",
    "edge/JPEG2000-embedded-sequence-delimiter.dcm": "Secondary Capture Image Storage, modality NM",
    "non_mr/examples_palette.dcm": "Ultrasound Image Storage",
    "non_mr/reportsi.dcm": "Basic Text SR Storage",
    "non_mr/rtdose_1frame.dcm": "RT Dose Storage",
    "non_mr/rtstruct.dcm": "RT Structure Set Storage",
    "non_mr/waveform_ecg.dcm": "12-lead ECG Waveform Storage",
}


def outcome(path: Path, config: DecodeConfig | None = None) -> list[Slice | Failure]:
    with path.open("rb") as source:
        return list(read(source, "uri", config or DecodeConfig()))


def stack(path: Path) -> np.ndarray:
    """Pixels of all slices, float32 (slices, H, W)."""
    items = outcome(path)
    assert all(isinstance(item, Slice) for item in items)
    assert [item.frame for item in items] == list(range(len(items)))
    return np.stack([item.pixels for item in items if isinstance(item, Slice)])


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_file_ends_as_it_should(real, name):
    expected, flags = OUTCOMES[name]
    items = outcome(real / name)
    if isinstance(expected, Reason):
        (failure,) = items
        assert isinstance(failure, Failure)
        assert failure.reason is expected
        assert NAMED.get(name, "") in failure.detail
        return
    assert len(items) == expected
    assert all(isinstance(item, Slice) and item.flags == flags for item in items)


def test_the_table_names_every_file(real):
    there = {str(path.relative_to(real)) for path in real.rglob("*") if path.is_file()}
    series = {name for name in there if name.startswith(("t1_series/", "epi_series/"))}
    texts = {"encodings/LICENSE", "t1_series.LICENSE"}
    assert there - series - texts == OUTCOMES.keys()
    assert Counter(Path(name).parent.name for name in series) == {
        "t1_series": 38,
        "epi_series": 40,
    }  # one of them a text


def headers(folder: Path) -> list[Header]:
    items = [outcome(path) for path in sorted(folder.glob("*.dcm"))]
    assert all(len(found) == 1 and isinstance(found[0], Slice) for found in items)
    return [found[0].header for found in items]


def test_the_t1_series_lies_in_order_along_its_normal(real):
    found = headers(real / "t1_series")
    assert {header.sequence for header in found} == {"T1"}
    assert len({header.normal for header in found}) == len({header.series_uid for header in found}) == 1
    normal = np.array(found[0].normal)
    assert np.linalg.norm(normal) == pytest.approx(1)
    along = np.array([normal @ np.array(header.position_mm) for header in found])
    steps = np.diff(along) / np.diff([header.instance_number for header in found])
    assert np.allclose(steps, steps[0], atol=1e-3)


def test_the_epi_series_is_a_volume_over_time(real):
    found = headers(real / "epi_series")
    assert len({header.position_mm for header in found}) == 15
    assert {header.normal for header in found} == {(0, 0, 1)}
    assert {header.spacing_mm for header in found} == {(3.75, 3.75)}


def test_nine_encodings_are_one_picture(real):
    """35 slices of a volume, tiled by a Siemens scanner: the greatest stored value is 2362."""
    first = stack(real / "encodings/In/1.dcm")
    assert first.shape == (35, 64, 64)
    assert first.max() == 2362
    headers = [item.header for item in outcome(real / "encodings/In/1.dcm")]
    for number in range(2, 10):
        path = real / f"encodings/In/{number}.dcm"
        assert np.array_equal(stack(path), first)
        assert [item.header.position_mm for item in outcome(path)] == [header.position_mm for header in headers]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("kind", ["J2KR", "JLSL", "JPLL", "RLE"])
def test_lossless_compression_changes_nothing(real, number, kind):
    assert np.array_equal(stack(real / f"compression/MR{number}_{kind}"), stack(real / f"compression/MR{number}_UNC"))


# Of the range of the picture: the greatest and the mean difference. MR1_J2KI is compressed 74 times.
LOSS = {
    "MR1_J2KI": (0.11, 0.01),
    "MR1_JLSN": (0.0011, 0.0006),
    "MR1_JPLY": (0.035, 0.003),
    "MR2_J2KI": (0.06, 0.008),
    "MR2_JLSN": (0.007, 0.003),
    "MR2_JPLY": (0.11, 0.01),
}


@pytest.mark.parametrize("name", LOSS)
def test_lossy_compression_changes_little(real, name):
    lossy, exact = stack(real / f"compression/{name}"), stack(real / f"compression/{name[:4]}UNC")
    difference = np.abs(lossy - exact) / np.ptp(exact)
    greatest, mean = LOSS[name]
    assert difference.max() <= greatest
    assert difference.mean() <= mean


@pytest.mark.parametrize(
    "names",
    [
        ["MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_expb", "MR_small_implicit", "MR_small_padded"],
        ["MR_small", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"],
    ],
)
def test_the_small_image_is_one_in_all_its_syntaxes(real, names):
    first, *others = [stack(real / f"edge/{name}.dcm") for name in names]
    assert (first.min(), first.max()) == (127, 2145)
    assert all(np.array_equal(other, first) for other in others)


def test_the_enhanced_image_is_one_in_all_its_syntaxes(real):
    first = stack(real / "enhanced/emri_small.dcm")
    for name in ("RLE", "big_endian", "jpeg_2k_lossless", "jpeg_ls_lossless"):
        assert np.array_equal(stack(real / f"enhanced/emri_small_{name}.dcm"), first)


def test_other_modalities_are_read_on_request(real):
    config = DecodeConfig(modalities=("MR", "CT"))
    (item,) = outcome(real / "non_mr/CT_small.dcm", config)
    assert isinstance(item, Slice)
    assert item.pixels.min() >= -1024  # slope 1, intercept -1024; its padding value -2000 does not occur
    (item,) = outcome(real / "non_mr/rtdose_1frame.dcm", DecodeConfig(modalities=("RTDOSE",)))
    assert isinstance(item, Failure)
    assert item.reason is Reason.SKIPPED_MODALITY


def test_colour_and_palettes_of_other_modalities(real):
    config = DecodeConfig(modalities=("US", "OT"))
    (palette,) = outcome(real / "non_mr/examples_palette.dcm", config)
    assert isinstance(palette, Slice)
    assert palette.bits == 8
    assert Flag.COLOUR in palette.flags
    (screen,) = outcome(real / "non_mr/SC_rgb_jpeg.dcm", config)
    assert isinstance(screen, Slice)
    assert screen.flags == {Flag.SECONDARY, Flag.LOSSY}  # white and grey, though stored as RGB
    assert len(outcome(real / "non_mr/examples_ybr_color.dcm", config)) == 30
