"""Layouts that are not bound to one data set: DAVIS folders and pairs of pictures."""

from collections.abc import Iterable
from pathlib import Path

from bundle.data.decode import STILL_SUFFIXES, has_suffix, natural_key
from bundle.data.records import Video


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order.

    Raises:
        FileNotFoundError: The folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    images = [path for path in folder.iterdir() if _is_image(path)]
    if not images:
        raise FileNotFoundError(f"no pictures ({', '.join(STILL_SUFFIXES)}) in {folder}")
    return sorted(images, key=lambda path: natural_key(path.name))


def _is_image(path: Path) -> bool:
    return has_suffix(path, STILL_SUFFIXES) and not path.name.startswith(".")


def davis(
    root: str | Path, include: Iterable[str] | None = None, exclude: Iterable[str] = ()
) -> list[Video]:
    """Read ``JPEGImages/[resolution/]VIDEO/*.jpg`` with ``Annotations/[resolution/]VIDEO/*.png``.

    Args:
        root: The folder that holds both.
        include: Names of the videos wanted, all by default.
        exclude: Names of videos to leave out.

    Returns:
        One record a video. Masks may be missing after the first frame.

    Raises:
        FileNotFoundError: A folder, a video that was asked for, or a first mask is missing.
    """
    images, annotations = Path(root) / "JPEGImages", Path(root) / "Annotations"
    for folder in (images, annotations):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: the DAVIS layout has it below its root")
    present = _folders(images)
    if present and not any(_is_image(path) for path in images.glob("*/*")):
        resolution = next(iter(present))
        images, annotations = images / resolution, annotations / resolution
        present = _folders(images)
    if not present:
        raise FileNotFoundError(f"no folder of frames in {images}")
    wanted = list(present) if include is None else list(include)
    absent = sorted({*wanted, *exclude} - set(present))
    if absent:
        raise FileNotFoundError(f"no video {absent[0]} in {images}; there are {', '.join(present)}")
    videos = []
    for name in sorted(set(wanted) - set(exclude)):
        frames = list_images(present[name])
        files = [annotations / name / f"{frame.stem}.png" for frame in frames]
        if not files[0].is_file():
            raise FileNotFoundError(f"no mask {files[0]} for the first frame of {name}")
        masks = {i: file for i, file in enumerate(files) if file.is_file()}
        videos.append(
            Video(name, tuple(frames), masks, {i: f"object {i}" for i in range(1, 256)}, name)
        )
    return videos


def _folders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}


def image_pairs(root: str | Path, images: str = "images", masks: str = "masks") -> list[Video]:
    """Read static pictures, each with a mask of the same name, as videos of one frame.

    Args:
        root: The folder that holds both.
        images: Subfolder of the pictures.
        masks: Subfolder of the masks (ECSSD: ``ground_truth_mask``).

    Raises:
        FileNotFoundError: A folder is missing or empty, or a picture has no mask.
    """
    by_stem = {path.stem: path for path in list_images(Path(root) / masks)}
    videos = []
    for path in list_images(Path(root) / images):
        if path.stem not in by_stem:
            raise FileNotFoundError(
                f"no mask for {path}: looked for {Path(root) / masks / path.stem}.*"
            )
        videos.append(
            Video(
                path.stem, (path,), {0: by_stem[path.stem]}, {1: "object"}, path.stem, binary=True
            )
        )
    return videos
