"""What masks tell of labelled rows: how large each lesion is, and which masks can be learned from."""

from dataclasses import dataclass

import numpy as np

from mri_ray.errors import LabelError


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesions:
    """px: float64 (N,), marked pixels of each slice, NaN where that is not known. known: bool (N,), whether the mask is
    learned from.

    warnings: what a reader must know, with counts.
    """

    px: np.ndarray
    known: np.ndarray
    warnings: list[str]


def lesions(
    label: np.ndarray,
    marked: np.ndarray,
    fault: np.ndarray,
    *,
    given: np.ndarray,
    packed: np.ndarray,
    without_slice: int,
) -> Lesions:
    """Labels and masks brought together.

    label: int8 (N,), 1 tumor. marked: float64 (N,), pixels of each row's mask, NaN where there is none. fault: str
    (N,), why a mask cannot be used, "" where it can. given: bool (N,), whether the row's archive has masks: what is
    learned from normal slices alone is that such pictures have no lesion. packed: bool (N,), whether the row is of a
    member of a pack, whose masks are not looked for. without_slice: masks that are of no slice.
    A normal slice has no lesion, mask or not; a tumor slice without a mask has one that is not known; where label and
    mask contradict each other the label stands and the mask is not used.
    Raises LabelError when no mask can be used.
    """
    tumor, there = label == 1, ~np.isnan(marked)
    on_normal, empty = ~tumor & (marked > 0), tumor & (marked == 0)
    size_known = (~tumor & ~on_normal & (fault == "")) | (tumor & (marked > 0))
    known = size_known & given
    if not np.any(known & tumor):
        raise LabelError(
            f"masks: at least one must be that of a tumor slice, got {int(np.sum(there | (fault != '')))} of "
            f"{len(label)} labelled slices with a mask ({int(np.sum(fault != ''))} of them cannot be used) and "
            f"{without_slice} masks of no slice; a mask has its slice's name, with any extension"
            + (f"; {np.sum(packed)} slices lie in packs, which must be unpacked for it" if np.any(packed) else "")
        )
    told = {
        "masks are of no labelled slice and are not used": without_slice,
        "tumor slices have no mask: nothing is learned of where their lesion is": int(
            np.sum(tumor & given & ~packed & ~there & (fault == ""))
        ),
        "tumor slices lie in packs, where masks are not looked for: unpack them for their lesions to be learned": int(
            np.sum(tumor & given & packed)
        ),
        "slices are called normal, but their mask marks a lesion: the label stands, and the mask is not used": int(
            np.sum(on_normal)
        ),
        "slices are called tumor, but their mask is empty: the label stands, and the mask is not used": int(
            np.sum(empty)
        ),
    }
    told |= {
        f"masks are {name}, and are not used": int(np.sum(fault == name)) for name in np.unique(fault[fault != ""])
    }
    return Lesions(
        px=np.where(size_known, np.where(tumor, marked, 0.0), np.nan),
        known=known,
        warnings=[f"{number:,} {what}" for what, number in told.items() if number],
    )
