"""Make training objects without annotations: superpixels or dark regions of a picture.

Clips of such objects teach the network to follow whatever is marked, even if it is not an anatomical
structure. Superpixels cover the picture. Dark regions look like the chambers of the heart, several of
which look alike in an echocardiogram.

Source:
    The idea: Ouyang et al. 2020, arXiv:2007.09886. Superpixels: SLIC, Achanta et al. 2012. Dark
    regions of many thresholds: as in maximally stable extremal regions, Matas et al. 2002.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import slic
from tqdm import tqdm

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.generic import single_frames
from bundle.datasets.records import Video
from bundle.io.reading.labels import MAX_OBJECTS
from bundle.types import Frame, LabelMap
from bundle.utils.atomic_write import sweep, written_beside

MIN_SHARE = 0.01  # of the picture
MAX_DARK_SHARE = 0.25
MIN_RIM = 8.0  # grey values by which a dark region's rim is brighter: speckle makes less
WORKING_PX = 224  # shorter side in which dark regions are searched
MIN_SOLIDITY = 0.8  # of a dark piece, to its convex hull: less is ragged
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
    """Find dark convex regions with a brighter rim, such as the chambers of the heart.

    Everything darker than one of many thresholds is a candidate, cut where it is narrow, so that a
    chamber parts from the one behind an open valve. Each becomes its convex hull, since papillary
    muscles and trabeculae belong to a chamber. Those with the brightest rims are kept. The picture is
    looked at with a shorter side of 224 pixels, so that its resolution hardly matters.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, ids 1, 2, ... of regions without holes, the clearest first, each of a
        hundredth to a quarter of the picture. All 0 if there is none.
    """
    height, width = image.shape[:2]
    scale = WORKING_PX / min(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    grey = cv2.resize(image.mean(-1, dtype=np.float32), size, interpolation=cv2.INTER_AREA)
    fine = cv2.GaussianBlur(grey, (0, 0), 2)
    lit = np.pad((fine > 3).astype(np.uint8), 20)
    # The sector is closed, so that a black chamber belongs to it.
    sector = cv2.morphologyEx(lit, cv2.MORPH_CLOSE, _disk(8))[20:-20, 20:-20]
    sector = cv2.erode(sector, _disk(2))  # its border is blurred
    if not sector.any():
        return np.zeros((height, width), np.uint8)
    # The deeper, the darker: thresholds are taken of the picture and of its ratio to what is around.
    around = cv2.GaussianBlur(grey, (0, 0), 25)
    around /= np.maximum(cv2.GaussianBlur(sector.astype(np.float32), (0, 0), 25), 0.1)
    found = []
    for values in (fine, fine / np.maximum(around, 4)):
        for threshold in np.percentile(values[sector > 0], range(5, 75, 5)):
            dark = ((values < threshold) & (sector > 0)).astype(np.uint8)
            for radius in (3, 6, 10):
                found += _hulls(cv2.morphologyEx(dark, cv2.MORPH_OPEN, _disk(radius)), sector)
    rims = [_rim(mask, fine) for mask in found]
    # Of two whose rims are alike, the larger: there are many small ones.
    ranked = sorted(zip(rims, found, strict=True), key=lambda x: -x[0] * x[1].mean() ** 0.25)
    labels = np.zeros(grey.shape, np.uint8)
    for rim, mask in ranked:
        overlap = (mask & (labels > 0)).sum() / mask.sum()
        if rim >= MIN_RIM and overlap <= 0.1 and labels.max() < MAX_OBJECTS:
            labels[(mask > 0) & (labels == 0)] = labels.max() + 1
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)


def _hulls(dark: np.ndarray, sector: np.ndarray) -> list[np.ndarray]:
    """The convex hulls, within the sector, of all pieces of a mask that are nearly convex."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=4)
    hulls = []
    for i in range(1, count):
        area = stats[i, cv2.CC_STAT_AREA]
        if not MIN_SHARE <= area / dark.size <= MAX_DARK_SHARE:
            continue
        corners = cv2.convexHull(np.argwhere(pieces == i)[:, ::-1].astype(np.int32))
        hull = cv2.fillConvexPoly(np.zeros_like(dark), corners, 1) & sector
        if area >= MIN_SOLIDITY * hull.sum() and hull.mean() <= MAX_DARK_SHARE:
            hulls.append(hull)
    return hulls


def _rim(mask: np.ndarray, values: np.ndarray) -> float:
    """How much brighter it is three pixels outside of a region's border than three inside."""
    outside = cv2.dilate(mask, _disk(4)) > cv2.dilate(mask, _disk(2))
    inside = cv2.erode(mask, _disk(2)) > cv2.erode(mask, _disk(4))
    if not outside.any() or not inside.any():
        return 0.0
    return float(values[outside].mean() - values[inside].mean())


def _disk(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


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
    found = _cut(videos, Path(cache_dir), lambda: ("dark_hulls", find_dark_regions))
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
