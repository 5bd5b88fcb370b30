"""Read masks from volumes, and align them with the pixels of the video by their affines.

Volumes have x first and time last; label maps are (H, W) = (y, x). Affines map voxel indices to RAS in
mm.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bundle.io.reading.labels import StoredMask, whole_numbers
from bundle.io.reading.mask_pictures import read_mask_picture
from bundle.io.reading.volumes import VideoSource, image_affine

logger = logging.getLogger(__name__)

NEAR = 0.02
"""Voxels that two grids may differ by at their far ends and still be one."""

Masks = Iterator[tuple[int, StoredMask]]
"""Frame indices with their masks."""


def read_volume(volume: VideoSource, video: VideoSource, first_frame: int | None = None) -> Masks:
    """Read a label volume frame by frame, aligned with the pixels of the video.

    The affines say whether the volume is flipped or rotated, or has another size or position. Then
    labels are resampled (nearest neighbour). If either has no position in space, or both have the same
    axes and size, pixels correspond one to one.

    Args:
        volume: Volume of labels.
        video: Video that the labels belong to.
        first_frame: Frame of the video for the first mask of a shorter volume. The others follow by
            their times, or one by one if times are unknown.

    Raises:
        ValueError: The numbers of frames differ, or the volume lies elsewhere in space, is oblique to
            the video, or has other times.
    """
    grid = _voxels_to_video(volume, video)
    if grid is None:
        yield from _straight(volume, video, first_frame)
        return
    labels = np.stack([frame for _, frame in _frames(volume)]).T  # (x, y, t)
    found = _resample(labels, grid, (video.width, video.height, video.frame_count))
    if found is None or (labels.any() and not found.any()):
        raise ValueError(
            f"{volume.path} lies elsewhere in space than {video.path}, or obliquely to it: save the "
            "masks in the video's geometry"
        )
    logger.warning("%s has other axes than %s: put right by its affine", volume.path, video.path)
    for index in range(video.frame_count):
        values = np.ascontiguousarray(found[:, :, index].T)
        if values.any():
            yield index, StoredMask(values, "exact", f"frame {index} of {volume.path}")


def check_straight(volume: VideoSource, video: VideoSource) -> None:
    """Check that a label volume matches the video pixel by pixel and frame by frame.

    Other times are only logged.

    Raises:
        ValueError: The volume has other axes or lies elsewhere in space.
    """
    if _voxels_to_video(volume, video) is not None:
        raise ValueError(
            f"{volume.path} has other axes, or lies elsewhere in space, than {video.path}: save the "
            "masks in the video's geometry"
        )
    _places_in_time(volume, video, None)


def read_single(path: Path, video: VideoSource) -> StoredMask:
    """Read a 2D NIfTI or MetaImage mask, flipped or rotated to match the video by its affine.

    Raises:
        ValueError: It cannot be read as one image, or its values cannot be labels.
    """
    mask = read_mask_picture(path)
    affine = image_affine(path)
    if affine is None:
        return mask
    height, width = mask.values.shape
    grid = _in_plane(np.linalg.pinv(video.geometry.affine) @ affine)
    turned = _turns_onto(
        grid, np.array([width, height, 1]), np.array([video.width, video.height, 1])
    )
    if turned is None or np.array_equal(turned, np.eye(4)):
        return mask
    found = _resample(mask.values.T[:, :, None], turned, (video.width, video.height, 1))
    assert found is not None
    logger.warning("%s has other axes than %s: put right by its affine", path, video.path)
    return replace(mask, values=np.ascontiguousarray(found[:, :, 0].T))


def _in_plane(grid: np.ndarray) -> np.ndarray:
    """Remove the third axis from an affine, since there is one slice."""
    grid = grid.copy()
    grid[2, :], grid[:, 2] = 0, 0
    grid[2, 2] = 1
    return grid


def _straight(volume: VideoSource, video: VideoSource, first_frame: int | None) -> Masks:
    places = _places_in_time(volume, video, first_frame)
    for index, values in _frames(volume):
        if values.any():
            yield (
                int(places[index]),
                StoredMask(values, "exact", f"frame {index} of {volume.path}"),
            )


def _places_in_time(volume: VideoSource, video: VideoSource, first_frame: int | None) -> np.ndarray:
    """Find the frame of the video for each frame of the volume, (F,)."""
    begin, count = first_frame or 0, volume.frame_count
    one_by_one = np.arange(begin, begin + count)
    if not (count == video.frame_count and not begin) and (
        first_frame is None or begin + count > video.frame_count
    ):
        raise ValueError(
            f"{volume.path} holds {count} masks but {video.path} has {video.frame_count} frames: "
            "expected one mask for the first frame, or as many as frames (empty where not "
            "annotated), or --mask-frame N if the first is the mask of frame N"
        )
    ours, theirs = video.times, volume.times
    # A rate of exactly 1 is what writers put where nothing is known.
    if ours is None or theirs is None or count == 1 or (volume.fps == 1 != video.fps):
        return one_by_one
    step = ours[-1] / (video.frame_count - 1)
    if count == video.frame_count:
        if np.abs(ours - theirs).max() > step / 2:
            logger.warning(
                "%s spans %.4g s and %s %.4g s: taken frame by frame",
                volume.path, theirs[-1], video.path, ours[-1],
            )  # fmt: skip
        return one_by_one
    wanted = theirs + ours[begin]
    later = np.clip(np.searchsorted(ours, wanted), 1, video.frame_count - 1)
    nearest = later - (wanted - ours[later - 1] < ours[later] - wanted)
    if (np.diff(nearest) < 1).any() or np.abs(ours[nearest] - wanted).max() > step / 2:
        raise ValueError(
            f"{volume.path} has masks at times at which {video.path} has no frames, from frame "
            f"{begin} on: export one mask for each frame, or a file that declares no times"
        )
    if not np.array_equal(nearest, one_by_one):
        logger.warning(
            "%s: its masks are taken by their times as those of the frames %s",
            volume.path, ", ".join(map(str, nearest[:4])) + (", ..." if count > 4 else ""),
        )  # fmt: skip
    return nearest


def _frames(volume: VideoSource) -> Iterator[tuple[int, np.ndarray]]:
    for index, values in enumerate(volume.pixels(range(volume.frame_count))):
        if values.ndim != 2:
            raise ValueError(
                f"{volume.path} holds colours: expected label numbers, 0 for background"
            )
        yield index, whole_numbers(values, f"frame {index} of {volume.path}")


def _voxels_to_video(volume: VideoSource, video: VideoSource) -> np.ndarray | None:
    """Map the volume's voxels to the video's, (4, 4); None if pixels correspond one to one."""
    source, target = volume.geometry.affine, video.geometry.affine
    try:
        grid = np.linalg.inv(target) @ source
    except np.linalg.LinAlgError:
        return None
    shape = np.array([volume.width, volume.height, volume.frame_count])
    expected = np.array([video.width, video.height, video.frame_count])
    time_is_space = len(volume.geometry.shape) == len(video.geometry.shape) == 3
    if not time_is_space:
        grid = _in_plane(grid)
    turned = _turns_onto(grid, shape, expected)
    if turned is not None:
        return None if np.array_equal(turned, np.eye(4)) else turned
    cropped = (shape < expected).any() and (shape <= expected).all()
    has_places = _has_place(source) and _has_place(target)
    # A crop says by its origin where it lies. Fewer frames alone may be another video's, and smaller
    # ones that lie nowhere are those of a video that was shrunk.
    smaller = (shape[:2] < expected[:2]).any()
    placed = not np.array_equal(np.rint(grid), np.eye(4)) or (smaller and has_places)
    if cropped and placed and np.abs(grid - np.rint(grid)).max() <= NEAR:
        return np.rint(grid)
    if not has_places:
        return None
    steps = np.linalg.norm(grid[:3, :3], axis=0)
    same_axes = np.allclose(grid[:3, :3] / np.where(steps, steps, 1), np.eye(3), atol=0.01)
    if same_axes and np.array_equal(shape[:2], expected[:2]):
        if not np.allclose(grid[:2], np.eye(4)[:2], atol=0.5):
            logger.warning(
                "%s has another spacing or origin than %s, but its size: taken pixel by pixel",
                volume.path,
                video.path,
            )
        return None
    return grid


def _turns_onto(grid: np.ndarray, shape: np.ndarray, expected: np.ndarray) -> np.ndarray | None:
    """Round the mapping to whole numbers, if it is one to one: a flip, a rotation or both."""
    whole = np.rint(grid)
    extent = np.array([*shape, 1])
    axes = np.abs(whole[:3, :3])
    if (np.abs(grid - whole) @ extent).max() > NEAR:
        return None
    if not ((axes.sum(0) == 1).all() and (axes.sum(1) == 1).all()):
        return None
    corners = whole[:3] @ np.array([[0, 0, 0, 1], [*(shape - 1), 1]]).T
    low, high = corners.min(axis=1), corners.max(axis=1)
    if (low == 0).all() and (high == expected - 1).all():
        return whole
    return None


def _has_place(affine: np.ndarray) -> bool:
    """Whether an affine has a position in space: not only ones and signs, the default of writers."""
    return not np.allclose(np.abs(affine), np.eye(4), atol=1e-6)


def _resample(
    labels: np.ndarray, grid: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Resample (x, y, t) labels to the video's voxels (nearest); None if time is not an axis."""
    axes = np.abs(grid[:3, :3])
    source_of_time = int(axes[2].argmax())
    lengths = np.linalg.norm(grid[:3, :3], axis=0)
    aside = np.delete(axes[2], source_of_time).max(), np.delete(axes[:, source_of_time], 2).max()
    if axes[2, source_of_time] == 0 or max(aside) > 0.01 * lengths[source_of_time]:
        return None
    back = np.linalg.inv(grid)
    found = np.zeros(shape, dtype=labels.dtype)
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    for index in range(shape[2]):
        points = np.stack([x, y, np.full_like(x, index), np.ones_like(x)])
        voxels = np.rint(np.tensordot(back[:3], points, 1)).astype(np.int64)
        sizes = np.array(labels.shape)[:, None, None]
        inside = ((voxels >= 0) & (voxels < sizes)).all(axis=0)
        voxels = np.where(inside, voxels, 0)
        found[:, :, index] = np.where(inside, labels[tuple(voxels)], 0)
    return found
