"""Read the id of the patient from the file of a video."""

from pathlib import Path

import pydicom
from pydicom.misc import is_dicom

from bundle.io.reading.decode import explained


def read_patient_id(path: Path) -> str | None:
    """Read the patient id of a DICOM file. None for other files, or if it is empty.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.is_file() or not is_dicom(path):
        return None
    with explained(f"cannot open {path} as DICOM"):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
    return str(header.get("PatientID") or "") or None
