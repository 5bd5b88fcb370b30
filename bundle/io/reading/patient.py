"""Read the patient's id from a video's file."""

from pathlib import Path

import pydicom
from pydicom.misc import is_dicom

from bundle.io.reading.decode import explained


def read_patient_id(path: Path) -> str | None:
    """The patient's id in a DICOM file; None of other files, and where it is empty.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.is_file() or not is_dicom(path):
        return None
    with explained(f"cannot open {path} as DICOM"):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
    return str(header.get("PatientID") or "") or None
