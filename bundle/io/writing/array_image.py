"""Write a stack of pictures as one volume file, such as NIfTI."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import UInt8


def write_array(
    path: Path, values: UInt8[np.ndarray, "T H W"], spacing_mm: tuple[float, float]
) -> None:
    """Write a volume (x, y, t), compressed, in the format that the suffix of the file names.

    Args:
        path: File to write.
        values: (x, y, t).
        spacing_mm: (row, column) distance of pixels in mm. The third spacing is written as 1.

    Raises:
        RuntimeError: It cannot be written.
    """
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((spacing_mm[1], spacing_mm[0], 1.0))
    sitk.WriteImage(image, str(path), useCompression=True)
