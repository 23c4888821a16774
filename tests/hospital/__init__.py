"""A hospital's archive in miniature, with known truth: what the end-to-end tests run on.

truth     what must come out: Origin, Frame, Expected, Hospital
source    8-bit grey pictures with labels: phantoms, or a folder of real ones
planted   the people: identifiers that no output may repeat
context   what the makers draw from: pictures, people, names
dicom     single slices in any encoding
frames    many slices in one object: enhanced multi-frame, Siemens mosaic
volumes   NIfTI
rasters   PNG, JPEG, TIFF with identifiers in their text
packs     zip, tar, WebDataset
good      makers of what must be scored
strays    makers of what is no MR image: skipped
bad       makers of what must be quarantined, at least one for every reason a file can cause
build     all of it into a folder
"""

from hospital.build import build
from hospital.truth import Expected, Frame, Hospital, Origin

__all__ = ["build", "Expected", "Frame", "Hospital", "Origin"]
