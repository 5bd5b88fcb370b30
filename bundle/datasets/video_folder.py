"""Read a folder of videos, each with its mask beside it, named as the video plus ``_mask``.

For example ``a.mp4`` with ``a_mask.png``, ``b.nii.gz`` with ``b_mask.nii.gz``, the folder of frames
``c`` with the folder of masks ``c_mask``. Any kind of mask that ``bundle.io.reading.masks`` reads goes
with any kind of video.
"""

from collections.abc import Sequence
from pathlib import Path

from bundle.datasets.generic import ANY_OBJECT
from bundle.datasets.records import Report, Video, stop
from bundle.datasets.roots import check_root
from bundle.io.reading.decode import (
    STILL_SUFFIXES,
    TIFF_SUFFIXES,
    VOLUME_SUFFIXES,
    has_suffix,
    is_picture,
    is_tiff_stack,
    natural_key,
)
from bundle.io.reading.frame_folder import list_frames
from bundle.io.reading.frame_refs import FrameOf, FrameRef
from bundle.io.reading.mask_folder import match_masks
from bundle.io.reading.mask_volumes import check_straight
from bundle.io.reading.masks import SHAPE_SUFFIXES, holds_shapes, open_label_volume, read_stored
from bundle.io.reading.video import holds_video, is_dicom_file, open_video
from bundle.io.reading.volumes import is_single_image, source_name

MASK = "_mask"
MASK_SUFFIXES = (*STILL_SUFFIXES, *VOLUME_SUFFIXES, *SHAPE_SUFFIXES)
VIDEO_SUFFIXES = (
    ".avi", ".mp4", ".m4v", ".mov", ".qt", ".wmv", ".asf", ".mkv", ".mpg", ".mpeg", ".m2v", ".vob",
    ".ts", ".m2ts", ".mts", ".mxf", ".dv", ".webm", ".ogv", ".flv", ".3gp", ".3g2", ".gif",
)  # fmt: skip
"""Files with other suffixes are opened only if a mask beside them has no video."""


def video_folder(root: str | Path, report: Report = stop) -> list[Video]:
    """Read videos and their masks.

    A picture is the mask of the first frame. A volume holds one mask for each frame; frames with an
    empty one count as not annotated. In a folder of masks, a mask has the name of its frame or the
    frame's number (frames of a video file count from 0); otherwise there is one mask for each frame,
    in natural order.

    Args:
        root: The folder of videos and masks. Hidden and other files are ignored.
        report: Called with each problem in the data; the video concerned is left out.

    Returns:
        One record for each video, in natural order.

    Raises:
        FileNotFoundError: There is no such folder, or no mask in it; by default also a video without
            mask or a mask without video.
        ValueError: By default, if a file cannot be opened, two videos have one name, or the number of
            masks does not fit the number of frames.
    """
    records = []
    for stem, (videos, masks) in find_pairs(root).items():
        try:
            video, mask = pick_pair(stem, videos, masks)
            records.append(make_record(stem.name, video, mask))
        except (OSError, ValueError) as problem:
            report(problem)
    return records


def find_pairs(root: str | Path) -> dict[Path, tuple[list[Path], list[Path]]]:
    """List the videos and masks of a folder by name, without opening them, for ``pick_pair``.

    Args:
        root: See ``video_folder``.

    Returns:
        Path without suffix -> the videos and the masks of that name, in natural order. There may be
        none or several of each.

    Raises:
        FileNotFoundError: There is no such folder, or no mask in it.
    """
    root = check_root(root, [f"*{MASK}", f"*{MASK}.*"], "videos with masks beside them")
    videos: dict[str, list[Path]] = {}
    masks: dict[str, list[Path]] = {}
    others: dict[str, list[Path]] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        name = source_name(path)
        if name.endswith(MASK):
            if path.is_dir() or has_suffix(path, MASK_SUFFIXES) or is_dicom_file(path):
                masks.setdefault(name.removesuffix(MASK), []).append(path)
        elif _is_video(path):
            videos.setdefault(name, []).append(path)
        elif path.is_file():
            others.setdefault(name, []).append(path)
    for name in masks.keys() - videos.keys():
        if found := [path for path in others.get(name, []) if holds_video(path)]:
            videos[name] = found
    names = sorted({*videos, *masks}, key=natural_key)
    return {root / name: (videos.get(name, []), masks.get(name, [])) for name in names}


def pick_pair(stem: Path, videos: Sequence[Path], masks: Sequence[Path]) -> tuple[Path, Path]:
    """The only video and the only mask of a name that ``find_pairs`` found.

    Raises:
        FileNotFoundError: One of them is missing.
        ValueError: There are several.
    """
    video = _only(videos, "video", masks, stem)
    return video, _only(masks, "mask", [video], stem.with_name(f"{stem.name}{MASK}"))


def _is_picture_folder(path: Path) -> bool:
    """Whether a folder holds one picture for each frame, and no DICOM file or TIFF stack."""
    if not path.is_dir():
        return False
    return not any(is_tiff_stack(file) or is_dicom_file(file) for file in path.iterdir())


def _is_video(path: Path) -> bool:
    if path.is_dir():
        return any(
            has_suffix(file, STILL_SUFFIXES) or is_dicom_file(file) for file in path.iterdir()
        )
    if has_suffix(path, TIFF_SUFFIXES):
        return is_tiff_stack(path)
    return has_suffix(path, VIDEO_SUFFIXES + VOLUME_SUFFIXES) or is_dicom_file(path)


def _only(found: Sequence[Path], what: str, counterpart: Sequence[Path], stem: Path) -> Path:
    if not found:
        raise FileNotFoundError(
            f"no {what} for {counterpart[0]}: looked for {stem}.* and a folder {stem}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{found[0]} and {found[1].name} are both the {what} {stem.name}: rename or remove one"
        )
    return found[0]


def make_record(name: str, path: Path, mask: Path) -> Video:
    """Make the record of one video and its mask.

    Args:
        name: Id of the record.
        path: Anything that ``open_video`` takes.
        mask: Anything that ``bundle.io.reading.masks.read_annotations`` takes; a picture is the mask
            of the first frame. In a volume, frames with an empty mask count as not annotated: who
            painted three frames of a hundred has not said that the others show no object.

    Raises:
        FileNotFoundError: A folder is empty.
        ValueError: A file cannot be opened, or the number of masks does not fit that of the frames.
    """
    frames: tuple[FrameRef, ...]
    if _is_picture_folder(path):
        frames, fps, spacing_mm = tuple(list_frames(path)), None, None
    else:
        source = open_video(path)
        frames = tuple(FrameOf(path, i) for i in range(source.frame_count))
        fps, spacing_mm = source.fps, source.spacing_mm
    masks = _read_masks(mask, path, frames)
    return Video(name, frames, masks, ANY_OBJECT, name, fps=fps, spacing_mm=spacing_mm)


def _read_masks(mask: Path, video: Path, frames: Sequence[FrameRef]) -> dict[int, FrameRef]:
    if mask.is_dir() and any(map(is_picture, mask.iterdir())):
        return dict(match_masks(mask, video, frames))
    if is_single_image(mask):
        return {0: mask}
    if holds_shapes(mask):
        return {i: FrameOf(mask, i) for i in sorted(read_stored(mask, open_video(video)))}
    volume = open_label_volume(mask)
    count = volume.frame_count
    if count != len(frames):
        raise ValueError(
            f"{mask} holds {count} masks but {video} has {len(frames)} frames: expected one mask "
            "for each frame, or a single picture for the first"
        )
    if not video.is_dir():
        check_straight(volume, open_video(video))
    shown = [i for i, values in enumerate(volume.pixels(range(count))) if values.any()]
    if not shown:
        raise ValueError(f"{mask} is empty: paint the structure on one frame at least")
    return {i: FrameOf(mask, i) for i in shown}
