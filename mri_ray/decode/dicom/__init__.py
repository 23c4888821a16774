"""DICOM -> slices."""

from mri_ray.decode.dicom.recognise import recognise
from mri_ray.decode.dicom.whole import decode

__all__ = ["decode", "recognise"]
