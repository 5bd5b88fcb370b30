"""Write a stack of pictures as one volume file, such as NIfTI."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import UInt8


def write_array(
    path: Path, values: UInt8[np.ndarray, "T H W"], spacing_mm: tuple[float, float]
) -> None:
    """Write (x, y, t) in the format of the file's suffix, compressed.

    Args:
        path: The file.
        values: Frames.
        spacing_mm: Distance between rows and between columns; that of frames is written as 1.

    Raises:
        RuntimeError: It cannot be written.
    """
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((spacing_mm[1], spacing_mm[0], 1.0))
    sitk.WriteImage(image, str(path), useCompression=True)
