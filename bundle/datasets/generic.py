"""Readers of the DAVIS layout and of picture-mask pairs, and ways to make new videos of records."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

import numpy as np

from bundle.datasets.records import Report, Video, stop
from bundle.datasets.roots import check_root
from bundle.io.reading.decode import is_picture, list_images

# Class names for data sets that name no classes: each id of a mask file is an object.
ANY_OBJECT = {i: f"object {i}" for i in range(1, 256)}


def davis(
    root: str | Path,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    report: Report = stop,
) -> list[Video]:
    """Read ``JPEGImages/[resolution/]VIDEO/*.jpg`` with ``Annotations/[resolution/]VIDEO/*.png``.

    Args:
        root: The folder that holds both.
        include: Names of the videos to read, all by default.
        exclude: Names of videos to leave out.
        report: Called with each problem in the data; the video concerned is left out.

    Returns:
        One record for each video. Frames after the first may lack a mask.

    Raises:
        FileNotFoundError: The folder does not have this layout; by default also a video without frames
            or first mask, or a named video that is missing.
    """
    root = check_root(root, ["JPEGImages"], "a set in the DAVIS layout")
    images, annotations = root / "JPEGImages", root / "Annotations"
    if not annotations.is_dir():
        raise FileNotFoundError(f"no folder {annotations}: the DAVIS layout has it below its root")
    present = _folders(images)
    if present and not any(is_picture(path) for path in images.glob("*/*")):
        resolution = next(iter(present))
        images, annotations = images / resolution, annotations / resolution
        present = _folders(images)
    if not present:
        raise FileNotFoundError(f"no folder of frames in {images}")
    wanted, unwanted = set(present if include is None else include), set(exclude)
    for name in sorted((wanted | unwanted) - set(present)):
        report(FileNotFoundError(f"no video {name} in {images}; there are {', '.join(present)}"))
    videos = []
    for name in sorted((wanted & set(present)) - unwanted):
        try:
            frames = list_images(present[name])
        except FileNotFoundError as problem:
            report(problem)
            continue
        files = [annotations / name / f"{frame.stem}.png" for frame in frames]
        if not files[0].is_file():
            report(FileNotFoundError(f"no mask {files[0]} for the first frame of {name}"))
            continue
        masks = {i: file for i, file in enumerate(files) if file.is_file()}
        videos.append(Video(name, tuple(frames), masks, ANY_OBJECT, name))
    return videos


def _folders(folder: Path) -> dict[str, Path]:
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }


def thin(video: Video, step: int) -> Video:
    """Keep every ``step``-th frame of a video, from the first on, with its mask if it has one.

    Args:
        video: A video whose first frame has a mask.
        step: 1 keeps all frames.

    Example:
        >>> frames = tuple(Path(f"{i}.png") for i in range(7))
        >>> video = Video("v", frames, {0: Path("a.png"), 6: Path("b.png")}, {1: "object"}, "p")
        >>> thin(video, 3).masks
        {0: PosixPath('a.png'), 2: PosixPath('b.png')}
    """
    masks = {i // step: mask for i, mask in video.masks.items() if i % step == 0}
    return replace(video, frames=video.frames[::step], masks=masks)


def image_pairs(
    root: str | Path,
    images: str = "images",
    masks: str = "masks",
    report: Report = stop,
    class_name: str = "object",
) -> list[Video]:
    """Read static pictures, each with a mask of the same name, as videos of one frame.

    Args:
        root: The folder that holds both.
        images: Subfolder of the pictures.
        masks: Subfolder of the masks.
        report: Called with each picture without mask and each mask without picture.
        class_name: Name of the class that the masks show.

    Raises:
        FileNotFoundError: A folder is missing or empty; by default also an incomplete pair.
    """
    root = Path(root)
    if not (root / images).is_dir():
        check_root(root, [escape(images)], f"{images} with {masks}")
    pictures = list_images(root / images)
    truths = {path.stem: path for path in list_images(root / masks)}
    stems = {path.stem for path in pictures}
    for stem, path in truths.items():
        if stem not in stems:
            problem = f"no picture for {path}: looked for {root / images / stem}.*"
            report(FileNotFoundError(problem))
    videos = []
    for path in pictures:
        if path.stem not in truths:
            problem = f"no mask for {path}: looked for {root / masks / path.stem}.*"
            report(FileNotFoundError(problem))
            continue
        mask = {0: truths[path.stem]}
        videos.append(Video(path.stem, (path,), mask, {1: class_name}, path.stem, binary=True))
    return videos


def single_frames(videos: Sequence[Video]) -> list[Video]:
    """Turn each annotated frame into a video of one frame, with its own id."""
    return [
        replace(
            video, id=f"{video.id}_{i:05d}", frames=(video.frames[i],), masks={0: video.masks[i]}
        )
        for video in videos
        for i in sorted(video.masks)
    ]


def mixed_pairs(pictures: Sequence[Video], partners: int = 1, seed: int = 0) -> list[Video]:
    """Make videos of two frames from unrelated pictures that show objects of one class.

    In such a clip the two frames have only the class in common. It teaches the network to find a
    structure again after it left the view.

    Args:
        pictures: Videos of one frame each, all of the same size.
        partners: Number of pairs that each picture begins, each with a different partner; at most
            one less than the number of pictures.
        seed: Seed of the pairing.

    Raises:
        ValueError: There are fewer than two pictures.
    """
    if len(pictures) < 2:
        raise ValueError(f"expected at least 2 pictures to pair, got {len(pictures)}")
    # Rotations of one random order: no picture meets itself, or the same partner twice.
    order = np.random.RandomState(seed).permutation(len(pictures))
    pairs = []
    for shift in range(1, min(partners, len(pictures) - 1) + 1):
        for a, b in zip(order, np.roll(order, shift), strict=True):
            first, second = pictures[a], pictures[b]
            pairs.append(
                replace(
                    first,
                    id=f"{first.id}+{second.id}",
                    frames=first.frames + second.frames,
                    masks={0: first.masks[0], 1: second.masks[0]},
                )
            )
    return pairs
