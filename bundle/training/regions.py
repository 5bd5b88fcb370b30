"""Make training objects without annotations: superpixels or dark regions of a picture.

Clips of such objects teach the network to follow whatever is marked, even if it is not an anatomical
structure. Superpixels cover the picture. Dark regions look like the chambers of the heart, several of
which look alike in an echocardiogram.

Source:
    The idea: Ouyang et al. 2020, arXiv:2007.09886. Superpixels: SLIC, Achanta et al. 2012. Dark
    regions: watershed of the grey values, Meyer 1994.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import label, regionprops
from skimage.morphology import h_minima
from skimage.segmentation import find_boundaries, slic, watershed
from tqdm import tqdm

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.generic import single_frames
from bundle.datasets.records import Video
from bundle.io.reading.labels import MAX_OBJECTS
from bundle.types import Frame, LabelMap
from bundle.utils.atomic_write import sweep, written_beside

MIN_SHARE = 0.01  # of the picture
MAX_DARK_SHARE = 0.25
MIN_SOLIDITY = 0.75  # of a basin, to its convex hull: less is ragged
LABELS = {i: f"region {i}" for i in range(1, MAX_OBJECTS + 1)}


def find_regions(image: Frame, count: int) -> LabelMap:
    """Divide the lit part of a picture into about ``count`` compact regions along its edges.

    Args:
        image: (H, W, 3) uint8.
        count: 2 to 32. Regions smaller than a hundredth of the picture become background.

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
    # Ids without gaps: readers of label maps treat isolated values as soft edges.
    ids = np.zeros(len(sizes), np.uint8)
    ids[kept] = np.arange(1, len(kept) + 1)
    return ids[pieces]


def find_dark_regions(image: Frame) -> LabelMap:
    """Find dark regions with a brighter rim, such as the chambers of the heart.

    Lengths scale with the shorter side, so that the picture's resolution hardly matters.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, ids 1, 2, ... of connected regions without holes, from the largest down, each of
        a hundredth to a quarter of the picture. All 0 if there is none.
    """
    grey = image.mean(-1)
    pixel = min(grey.shape) / 224
    fine = ndimage.gaussian_filter(grey, 2 * pixel)
    steps = max(round(2 * pixel), 1)
    # The sector is closed, so that a black chamber belongs to it, and loses its ragged border.
    sector = ndimage.binary_closing(np.pad(fine > 3, 8 * steps), iterations=4 * steps)
    sector = ndimage.binary_fill_holes(sector)[8 * steps : -8 * steps, 8 * steps : -8 * steps]
    sector = ndimage.binary_erosion(sector, iterations=steps)
    # Pixels outside the sector are black: the mean is taken over those inside.
    inside = ndimage.gaussian_filter(sector.astype(float), 4 * pixel)
    coarse = ndimage.gaussian_filter(grey, 4 * pixel) / np.maximum(inside, 0.2)
    basins = watershed(coarse, label(h_minima(coarse, 6.0).astype(bool) & sector), mask=sector)
    pools = []
    for i in range(1, basins.max() + 1):
        basin = basins == i
        floor = np.percentile(fine[basin], 10)
        rim = np.percentile(fine[find_boundaries(basin, mode="inner")], 60)
        pool = ndimage.binary_opening(basin & (fine < (floor + rim) / 2), iterations=steps)
        pieces = label(pool, connectivity=1)
        if not pieces.any():
            continue
        pool = pieces == np.argmax(np.bincount(pieces[pieces > 0]))
        pool = ndimage.binary_fill_holes(ndimage.binary_closing(pool, iterations=2 * steps) & basin)
        (shape,) = regionprops(pool.astype(np.uint8))
        if MIN_SHARE <= pool.mean() <= MAX_DARK_SHARE and shape.solidity >= MIN_SOLIDITY:
            pools.append(pool)
    pools.sort(key=np.sum, reverse=True)
    labels = np.zeros(grey.shape, np.uint8)
    for i, pool in enumerate(pools[:MAX_OBJECTS], 1):
        labels[pool] = i
    return labels


def regions(videos: Sequence[Video], cache_dir: str | Path, seed: int = 0) -> list[Video]:
    """Turn the annotated frames of ``videos`` into static pictures whose objects are superpixels.

    The masks of the videos are not used. Label maps are computed once and stored as PNGs; a damaged
    one is computed again.

    Args:
        videos: Videos of one data set.
        cache_dir: Folder for the label maps, used by this data set only, since files are named by the
            ids of the videos.
        seed: Seed of the number of regions of each picture, 8 to 24.
    """
    random = np.random.RandomState(seed)

    def draw() -> tuple[str, Callable[[Frame], LabelMap]]:
        count = random.randint(8, 25)
        return str(count), lambda image: find_regions(image, count)

    return _cut(videos, Path(cache_dir), draw)


def dark_regions(videos: Sequence[Video], cache_dir: str | Path) -> list[Video]:
    """The same as ``regions`` with dark regions as objects; pictures without any are left out."""
    found = _cut(videos, Path(cache_dir), lambda: ("dark_regions", find_dark_regions))
    return [video for video in found if read_masks(video, [0])[0].any()]


def _cut(
    videos: Sequence[Video],
    cache: Path,
    draw: Callable[[], tuple[str, Callable[[Frame], LabelMap]]],
) -> list[Video]:
    """Make a static picture of each annotated frame; ``draw`` gives the cache name and the method."""
    cache.mkdir(parents=True, exist_ok=True)
    sweep(cache)
    found = []
    for frame in tqdm(single_frames(videos), desc="regions", unit="frame", disable=None):
        name, find = draw()
        path = cache / f"{frame.id}_{name}.png".replace("/", "_")
        if not _is_sound(path):
            _write(find(read_frames(frame, [0])[0]), path)
        found.append(replace(frame, id=path.stem, masks={0: path}, labels=LABELS, binary=False))
    return found


def _is_sound(path: Path) -> bool:
    """Whether the picture exists and its checksums are right."""
    try:
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError):  # the latter is Pillow's error for broken PNGs
        return False
    return True


def _write(labels: LabelMap, path: Path) -> None:
    """Write a PNG, renamed into place when it is complete, since other processes may write it too."""
    with written_beside(path) as beside:
        Image.fromarray(labels).save(beside, format="PNG")
