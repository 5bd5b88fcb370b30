"""What the headers of NIfTI and MetaImage files say of space and time.

Units that a header does not declare are unknown, not millimetres.
"""

from pathlib import Path

import nibabel as nib
import SimpleITK as sitk

from bundle.data.decode import META_SUFFIXES, NIFTI_SUFFIXES, explained, has_suffix, load_nifti

MILLIMETRES = {"micron": 1e-3, "mm": 1.0, "meter": 1e3}
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}

Spacing = tuple[float, float]
"""(row, column) distance of pixels, mm."""


def image_spacing(path: Path) -> Spacing | None:
    """Distance of a file's pixels, (row, column) in mm; None unless the header declares units.

    Raises:
        ValueError: The header cannot be read.
    """
    with explained(f"cannot open {path}"):
        if has_suffix(path, NIFTI_SUFFIXES):
            return nifti_spacing(load_nifti(path).header)
        if has_suffix(path, META_SUFFIXES):
            return meta_image_spacing(path)
    return None


def nifti_spacing(header: nib.Nifti1Header) -> Spacing | None:
    """As ``image_spacing``."""
    zooms = [float(zoom) for zoom in header.get_zooms()]
    mm = MILLIMETRES.get(header.get_xyzt_units()[0], 0.0)
    spacing = (zooms[1] * mm, zooms[0] * mm)
    return spacing if min(spacing) > 0 else None


def nifti_fps(header: nib.Nifti1Header) -> float | None:
    """Frames per second, if time is the fourth axis.

    Only that one is time to NIfTI; writers fill the zoom of a third one with anything.
    """
    zooms = header.get_zooms()
    frame_s = float(zooms[3]) * SECONDS.get(header.get_xyzt_units()[1], 0.0)
    return 1 / frame_s if frame_s > 0 else None


def meta_image_reader(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header only."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def meta_image_spacing(path: Path) -> Spacing | None:
    """As ``image_spacing``. ITK answers 1 where the header is silent, so look into it ourselves."""
    with path.open("rb") as file:
        for line in file:
            key = line.split(b"=")[0].strip()
            if key in (b"ElementSpacing", b"ElementSize"):
                spacing = meta_image_reader(path).GetSpacing()
                return spacing[1], spacing[0]
            if key == b"ElementDataFile":  # the last key; pixels may follow
                break
    return None
