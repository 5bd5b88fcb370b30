"""Make the NIfTI header of a label volume, with the geometry of its video."""

from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import UInt8

from bundle.io.reading.video import VideoSource

NIFTI1_MAX_SIDE = 32767
# What places a NIfTI volume in space and time; the rest of a source's header speaks of its values.
GEOMETRY_FIELDS = (
    "dim_info", "xyzt_units", "toffset", "qform_code", "sform_code",
    "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def label_header(video: VideoSource) -> nib.Nifti1Header:
    """Make a uint8 header in the geometry of the source. NIfTI-2 if an axis is too long for NIfTI-1.

    Raises:
        ValueError: The geometry's shape is not that of the video.
    """
    shape, source = video.geometry.shape, video.geometry.header
    expected = (video.width, video.height, video.frame_count)
    if shape not in (expected, (*expected[:2], 1, expected[2])):
        raise ValueError(
            f"{video.name}: geometry has shape {shape}, expected (x, y, t) or (x, y, 1, t) with "
            f"(x, y, t) = {expected}: read the video anew"
        )
    header = nib.Nifti1Header() if max(shape) <= NIFTI1_MAX_SIDE else nib.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_data_offset(header.single_vox_offset)
    header.set_slope_inter(1, 0)
    if source is not None:
        for field in GEOMETRY_FIELDS:
            header[field] = source[field]
        # Entry 0 is the sign of the rotation; those past the axes belong to the source's channels.
        header["pixdim"][: len(shape) + 1] = source["pixdim"][: len(shape) + 1]
        return header
    header.set_sform(video.geometry.affine, code="scanner")
    header.set_qform(video.geometry.affine, code="scanner")
    fps = video.fps if len(shape) == 4 else None
    if fps:
        header["pixdim"][4] = 1 / fps
    # Without a unit, whoever reads the file knows that its spacing means nothing.
    header.set_xyzt_units("mm" if video.spacing_mm else None, "sec" if fps else None)
    return header


def save_label_volume(
    path: Path, labels: UInt8[np.ndarray, "x y t"], spacing_mm: tuple[float, float] | None
) -> None:
    """Write a volume without position in space as NIfTI, with the upper left pixel at the origin.

    Args:
        path: File to write; ends in ``.nii.gz``.
        labels: (x, y, t) uint8, as in NIfTI.
        spacing_mm: (row, column) distance of pixels in mm; if None, no unit is declared.
    """
    row, column = spacing_mm or (1.0, 1.0)
    kind = nib.Nifti1Image if max(labels.shape) <= NIFTI1_MAX_SIDE else nib.Nifti2Image
    image = kind(labels, np.diag([column, row, 1.0, 1.0]))
    image.header.set_xyzt_units("mm" if spacing_mm else None)
    nib.save(image, path)
