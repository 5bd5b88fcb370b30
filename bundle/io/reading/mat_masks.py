"""Read the masks of the data set HMC-QU from its MATLAB files."""

import math
from pathlib import Path

import numpy as np
import scipy

from bundle.io.reading.decode import check_file, explained
from bundle.io.reading.limits import check_size, check_stored


def read_mat_masks(path: Path) -> np.ndarray:
    """Read the masks of a MATLAB file of HMC-QU, (F, H, W), with the values that it stores.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read or lacks the array ``predicted``, (F, H, W).
    """
    mat_masks_shape(path)
    with explained(f"cannot read {path} as a MATLAB file"):
        return np.asarray(scipy.io.loadmat(path, variable_names="predicted")["predicted"])


def mat_masks_shape(path: Path) -> tuple[int, ...]:
    """Read the shape of the masks, (frames, height, width), without reading the masks.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read or lacks the array ``predicted``, (F, H, W).
    """
    check_file(path)
    with explained(f"cannot read {path} as a MATLAB file"):
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
    shape = shapes.get("predicted", ())
    if len(shape) != 3:
        raise ValueError(f"{path} holds {shapes}: expected 'predicted', (frames, height, width)")
    frame_count, height, width = shape
    check_size(path, height, width, frame_count)
    check_stored(path, math.prod(shape), path.stat().st_size)
    return tuple(shape)
