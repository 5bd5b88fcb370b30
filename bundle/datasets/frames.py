"""Decode the frames and masks of a record, whatever files hold them.

A file with many frames is opened once for all frames that are requested.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from bundle.datasets.records import Video
from bundle.io.reading.decode import has_suffix, read_image
from bundle.io.reading.frame_refs import FrameOf, FrameRef
from bundle.io.reading.labels import Meaning, StoredMask, find_meaning, to_labels, whole_numbers
from bundle.io.reading.mask_pictures import read_labels, read_mask_picture
from bundle.io.reading.masks import holds_shapes, open_label_volume, read_stored
from bundle.io.reading.mat_masks import read_mat_masks
from bundle.io.reading.video import open_video
from bundle.types import Frame, LabelMap
from bundle.utils.atomic_write import written_beside
from bundle.utils.paths import fit_name

Pixels = TypeVar("Pixels")
BLOCK_MASKS = 16

# An opened source holds no pixels and no file handle, only sizes and counts that are slow to find.
_open = lru_cache(maxsize=512)(open_video)
_open_labels = lru_cache(maxsize=512)(open_label_volume)


@lru_cache(maxsize=4)
def _stored(mask: Path, video: Path) -> dict[int, StoredMask]:
    """All masks of a file of outlines or segments, which can only be read as a whole."""
    return read_stored(mask, _open(video))


def read_frames(
    video: Video, indices: Sequence[int], cache_dir: str | Path | None = None
) -> list[Frame]:
    """Read frames of a record, resized to ``video.size`` if it has one.

    Args:
        video: The record.
        indices: Frame indices, in any order.
        cache_dir: Folder for decoded videos and volumes, one ``.npy`` each, so that a frame can be
            read without those before it. A file that has changed is decoded again. None decodes each
            time.

    Returns:
        Frames (H, W, 3) uint8 RGB, in the order of ``indices``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file cannot be read or ends early.
    """

    def one(path: Path) -> Frame:
        return _resize(read_image(path), video.size)

    def many(path: Path, wanted: Sequence[int]) -> Iterable[Frame]:
        if cache_dir is not None:
            return iter(_decoded(path, video.size, Path(cache_dir))[list(wanted)])
        return (_resize(frame, video.size) for frame in _open(path).frames(wanted))

    return _read([video.frames[i] for i in indices], one, many)


def read_masks(video: Video, indices: Sequence[int]) -> list[LabelMap]:
    """Read masks of annotated frames of a record.

    What the pixel values mean is decided over all masks of the record, not only the requested ones.

    Returns:
        Label maps (H, W) uint8. Ids that are not in ``video.labels`` are kept.

    Raises:
        KeyError: A frame is not annotated.
        FileNotFoundError: A file is missing.
        ValueError: A file cannot be read, ends early, or holds no labels.
    """
    refs = [video.masks[i] for i in indices]
    if video.binary and all(isinstance(ref, Path) for ref in refs):
        return _read(refs, lambda path: read_labels(path, binary=True), lambda path, wanted: ())
    members = partial(_read_members, _path_of(video.frames))
    stored = _read(refs, read_mask_picture, members)
    meaning = find_meaning(stored)
    if meaning.white_only or any(mask.kind != "exact" for mask in stored):
        with suppress(OSError, ValueError):  # errors of masks that were not requested
            meaning = _judge_all(_path_of(video.frames), tuple(video.masks.values()))
    return [to_labels(mask, meaning) for mask in stored]


@lru_cache(maxsize=4096)
def _judge_all(video: Path, refs: tuple[FrameRef, ...]) -> Meaning:
    return find_meaning(_StoredMasks(video, refs))


def _path_of(frames: Sequence[FrameRef]) -> Path:
    """The file or folder that holds the frames."""
    first = frames[0]
    return first.path if isinstance(first, FrameOf) else first.parent


@dataclass(frozen=True)
class _StoredMasks:
    """The masks of a record; each iteration reads them again."""

    video: Path
    refs: Sequence[FrameRef]

    def __iter__(self) -> Iterator[StoredMask]:
        members = partial(_read_members, self.video)
        for begin in range(0, len(self.refs), BLOCK_MASKS):
            yield from _read(self.refs[begin : begin + BLOCK_MASKS], read_mask_picture, members)


def _read_members(video: Path, path: Path, wanted: Sequence[int]) -> Iterator[StoredMask]:
    """Read masks from a file with many masks, or from a folder of outlines."""
    if not has_suffix(path, (".mat",)) and path.exists() and holds_shapes(path):
        found = _stored(path, video)
        yield from (found[i] for i in wanted)
        return
    if has_suffix(path, (".mat",)):
        stored = read_mat_masks(path)
        if wanted[-1] >= len(stored):
            raise ValueError(
                f"{path} holds {len(stored)} masks but frame {wanted[-1]} of it was asked for"
            )
        values: Iterable[np.ndarray] = (stored[i] for i in wanted)
    else:
        values = _open_labels(path).pixels(wanted)
    for i, mask in zip(wanted, values, strict=True):
        source = str(FrameOf(path, i))
        yield StoredMask(whole_numbers(mask, source), "exact", source)


def _read(
    refs: Sequence[FrameRef],
    one: Callable[[Path], Pixels],
    many: Callable[[Path, Sequence[int]], Iterable[Pixels]],
) -> list[Pixels]:
    found: dict[FrameRef, Pixels] = {}
    for ref in dict.fromkeys(refs):
        if isinstance(ref, Path):
            found[ref] = one(ref)
    members = {ref for ref in refs if isinstance(ref, FrameOf)}
    for path in dict.fromkeys(ref.path for ref in members):
        wanted = sorted(ref.index for ref in members if ref.path == path)
        for i, pixels in zip(wanted, many(path, wanted), strict=True):
            found[FrameOf(path, i)] = pixels
    return [found[ref] for ref in refs]


def _resize(frame: Frame, size: tuple[int, int] | None) -> Frame:
    if size is None or frame.shape[:2] == size:
        return frame
    # Pillow's bilinear filter gets wider when it shrinks a picture, so there is no aliasing.
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))


def _decoded(path: Path, size: tuple[int, int] | None, cache_dir: Path) -> np.ndarray:
    """The decoded file from the cache, (T, H, W, 3) uint8, mapped into memory."""
    state = path.stat()
    key = f"{path.resolve()} {state.st_mtime_ns} {state.st_size} {size}"
    kept = (
        cache_dir / f"{fit_name(path.stem, 40)}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npy"
    )
    if not kept.is_file():
        source = _open(path)
        height, width = size or (source.height, source.width)
        shape = (source.frame_count, height, width, 3)
        head = {"descr": "|u1", "fortran_order": False, "shape": shape}
        # Written, not memory-mapped: on a full disk the system kills a process that writes to a map.
        with written_beside(kept) as beside, beside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, head)
            for frame in source:
                file.write(np.ascontiguousarray(_resize(frame, size)).data)
    return np.load(kept, mmap_mode="r")
