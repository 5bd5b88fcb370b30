"""Objects without annotation: pictures cut into superpixels, each of which can be an object.

A clip of such a picture teaches to carry along whatever is marked, whether or not it is a structure
with a name.

Source:
    The idea: Ouyang et al. 2020, arXiv:2007.09886. Superpixels: SLIC, Achanta et al. 2012.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import slic
from tqdm import tqdm

from bundle.data.decode import MAX_OBJECTS
from bundle.data.frames import read_frames
from bundle.data.records import Video
from bundle.scratch import sweep, written_beside
from bundle.types import Frame, LabelMap

MIN_SHARE = 0.01  # of the picture
LABELS = {i: f"region {i}" for i in range(1, MAX_OBJECTS + 1)}


def find_regions(image: Frame, count: int) -> LabelMap:
    """Cut the lit part of a picture into about ``count`` compact regions that keep to its edges.

    Args:
        image: (H, W, 3) uint8.
        count: 2 to 32. What is smaller than a hundredth of the picture is background.

    Returns:
        (H, W) uint8, ids 1, 2, ... of connected regions, from the largest down.
    """
    # Speckle in echo images would make the borders ragged.
    smooth = ndimage.gaussian_filter(image.mean(-1), 2.0)
    lit = ndimage.binary_opening(smooth > 5, iterations=3)
    least = MIN_SHARE * lit.size
    if lit.sum() < least:
        return np.zeros(lit.shape, np.uint8)
    cells = slic(
        smooth, n_segments=count, compactness=0.3, mask=lit, channel_axis=None, start_label=1
    )
    pieces = label(cells, connectivity=1)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = np.argsort(-sizes, kind="stable")[:MAX_OBJECTS]
    kept = largest[sizes[largest] >= least]
    # Ids without gaps: readers of label maps take odd ones for soft edges.
    ids = np.zeros(len(sizes), np.uint8)
    ids[kept] = np.arange(1, len(kept) + 1)
    return ids[pieces]


def regions(videos: Sequence[Video], cache_dir: str | Path, seed: int = 0) -> list[Video]:
    """The annotated frames of ``videos`` as static pictures whose objects are superpixels.

    Masks of the videos are not read. The label maps are made once and kept as PNGs; one that is
    damaged is made anew.

    Args:
        videos: Where the pictures come from, of one data set.
        cache_dir: Where the label maps are kept. A folder for this data set alone: they are named
            by the ids of its videos.
        seed: Of the number of regions of each picture, 8 to 24.
    """
    cache, random = Path(cache_dir), np.random.RandomState(seed)
    cache.mkdir(parents=True, exist_ok=True)
    sweep(cache)
    found = []
    for video in tqdm(videos, desc="regions", unit="video", disable=None):
        for i in sorted(video.masks):
            count = random.randint(8, 25)
            path = cache / f"{video.id}_{i:05d}_{count}.png".replace("/", "_")
            if not _is_sound(path):
                _write(find_regions(read_frames(video, [i])[0], count), path)
            found.append(
                replace(
                    video,
                    id=path.stem,
                    frames=(video.frames[i],),
                    masks={0: path},
                    labels=LABELS,
                    binary=False,
                )
            )
    return found


def _is_sound(path: Path) -> bool:
    """Whether there is such a picture, complete by its checksums."""
    try:
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError):  # the latter is Pillow's error for broken PNGs
        return False
    return True


def _write(labels: LabelMap, path: Path) -> None:
    """Write a PNG that is there in full or not at all, whoever else is at work."""
    with written_beside(path) as beside:
        Image.fromarray(labels).save(beside, format="PNG")
