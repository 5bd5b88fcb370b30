"""Two simple baselines: copy the first mask to all frames, or move it by optical flow.

T frames of H x W.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

# Side of a frame in pixels: OpenCV may crash on smaller ones, as the coarsest level of its pyramid
# becomes smaller than the patches of 8 pixels that it matches.
SMALLEST = 16


def copy_first_mask(
    frames: UInt8[np.ndarray, "H W 3 T"], first: UInt8[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W T"]:
    """Copy the labels of frame 0 to every frame.

    Args:
        frames: RGB; only the number of frames is used.
        first: Labels of frame 0.
    """
    return np.repeat(first[..., None], frames.shape[-1], axis=-1)


def warp_first_mask(
    frames: UInt8[np.ndarray, "H W 3 T"], first: UInt8[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W T"]:
    """Move the labels of frame 0 from frame to frame by dense optical flow (DIS).

    The flow is that of ``cv2.DISOpticalFlow``, medium preset, from each frame to the one before, on
    grey pictures. Each object's mask is warped as float32 and never rounded, so that motion of less
    than a pixel per frame adds up. Occlusion is not handled: background that a moving object
    uncovers keeps the object's label.

    Args:
        frames: RGB.
        first: Labels of frame 0.

    Returns:
        At each pixel, the object (or the background) with the largest warped value.

    Raises:
        ValueError: The frames are too small for the flow.
    """
    height, width, _, count = frames.shape
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"frames are {width}x{height}: DIS optical flow needs at least {SMALLEST} pixels a side"
        )
    ids = np.concatenate([[0], np.unique(first[first > 0])]).astype(np.uint8)
    masks = [(first == i).astype(np.float32) for i in ids]
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    labels = [first]
    before = _grey(frames[..., 0])
    for t in range(1, count):
        here = _grey(frames[..., t])
        motion = flow.calc(here, before, None)
        x, y = columns + motion[..., 0], rows + motion[..., 1]
        # An object is taken to continue beyond the frame's edge, or it would wear away there.
        masks = [
            cv2.remap(mask, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for mask in masks
        ]
        labels.append(ids[np.argmax(masks, axis=0)])
        before = here
    return np.stack(labels, axis=-1)


def _grey(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY))


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "copy first mask": copy_first_mask,
    "optical flow (DIS)": warp_first_mask,
}
