"""``VideoSource``, the class of an opened video, and readers of NIfTI and MetaImage volumes over time.

Volumes have x first and time last: (x, y, t) or (x, y, 1, t). Frames are (H, W) = (y, x). Pixels are
read on demand, one block of frames at a time.
"""

import logging
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np

from bundle.io.reading.decode import (
    NIFTI_SUFFIXES,
    NRRD_SUFFIXES,
    STILL_SUFFIXES,
    TIFF_SUFFIXES,
    VOLUME_SUFFIXES,
    check_pixels,
    explained,
    has_suffix,
    is_tiff_stack,
    load_nifti,
)
from bundle.io.reading.headers import meta_image_spacing, meta_image_times, nifti_fps, nifti_spacing
from bundle.io.reading.limits import check_size, check_stored
from bundle.io.reading.meta_image import (
    Reader,
    check_unpacked,
    extract,
    meta_image_reader,
    read_meta_header,
    voxel_bytes,
)
from bundle.io.reading.scaling import Drawn, Window, choose_range, is_visible, to_rgb
from bundle.types import Frame

DOUBLE_SUFFIXES = (
    ".nii.gz",
    ".seq.nrrd",
    ".seg.nrrd",
    ".seq.nhdr",
    ".seg.nhdr",
    ".ome.tif",
    ".ome.tiff",
)
logger = logging.getLogger(__name__)

SAMPLED_FRAMES = 16
BLOCK_BYTES = 32 * 2**20

RawFrames = Callable[[Sequence[int]], Iterator[np.ndarray]]
"""Rising frame indices -> (H, W) or (H, W, 3 or 4) arrays in the file's own values."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape and position in space of a label volume of the video.

    Attributes:
        shape: Shape of the label volume, x first and time last: (x, y, t) or (x, y, 1, t).
        affine: (4, 4), voxel indices to RAS in mm, as in NIfTI.
        header: Header of the video if it is NIfTI, so that results keep its codes, zooms and units.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    header: nib.Nifti1Header | None = None


@dataclass(frozen=True, eq=False)
class VideoSource:
    """One video on disk. Frames are decoded on demand, so memory does not grow with its length.

    A video is also a sequence: ``len(video)``, ``video[i]`` and ``for frame in video`` give its frames,
    (H, W, 3) uint8 RGB.

    Values of 8 bits are not changed unless the file has a window. Others are scaled by one window for
    the whole video: the first window of the file that shows something; else 0 to 255 if all values fit;
    else the range of up to 16 evenly spaced frames without outliers (``scaling.robust_range``).

    Attributes:
        path: The file or folder.
        name: Its name without suffixes.
        height: Height of a frame, in pixels, as shown (after a rotation that the file asks for).
        width: Width of a frame, likewise.
        frame_count: Number of frames.
        fps: Frames per second, on average; None if the file does not say.
        spacing_mm: (row, column) distance of pixels in mm; None unless the file declares units.
        geometry: Shape and position in space of a label volume of this video.
        read: Function that reads frames with the values that the file stores. ``frames`` checks and
            converts them.
        frame_times: (F,) rising seconds at which frames are shown, from 0, if they do not follow
            from ``fps``; see ``times``.
        windows: Windows that the file declares, in order of preference.
        inverted: Whether low values are white.
        stored: (F,) position of each frame in the file, or of its file in the folder, if frames are
            stored in another order than they are shown; see ``stored_index``.
        files: Files of the frames, in stored order, if each is a DICOM file of its own.
    """

    path: Path
    name: str
    height: int
    width: int
    frame_count: int
    fps: float | None
    spacing_mm: tuple[float, float] | None
    geometry: Geometry
    read: RawFrames = field(repr=False)
    frame_times: np.ndarray | None = field(default=None, repr=False)
    windows: tuple[Window, ...] = field(default=(), repr=False)
    inverted: bool = False
    stored: np.ndarray | None = field(default=None, repr=False)
    files: tuple[Path, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_size(self.path, self.height, self.width, self.frame_count)

    def __len__(self) -> int:
        return self.frame_count

    def __getitem__(self, index: int) -> Frame:
        """One frame, (H, W, 3) uint8 RGB; negative numbers count from the end.

        Raises:
            IndexError: There is no such frame.
            ValueError: It cannot be read.
        """
        place = operator.index(index)
        place += self.frame_count if place < 0 else 0
        if not 0 <= place < self.frame_count:
            raise IndexError(f"{self.path} has {self.frame_count} frames: no frame {index}")
        return next(self.frames([place]))

    def __iter__(self) -> Iterator[Frame]:
        return self.frames(range(self.frame_count))

    @property
    def times(self) -> np.ndarray | None:
        """Times at which frames are shown, (F,) in seconds, from 0; None if the file does not say."""
        if self.frame_times is not None:
            return self.frame_times
        return np.arange(self.frame_count) / self.fps if self.fps else None

    def stored_index(self, index: int) -> int:
        """Return the position of a frame in the file, from 0. DICOM frames may be stored unordered."""
        return index if self.stored is None else int(self.stored[index])

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decode some frames, (H, W, 3) uint8 RGB each.

        Args:
            indices: Strictly rising. Volumes and folders read these frames only. Video files are
                decoded from the key frame before, or from the start if seeking does not work.

        Raises:
            ValueError: An index is out of order or range; a frame is unreadable or of another size.
        """
        for pixels in self.pixels(indices):
            shown = pixels
            if pixels.dtype != np.uint8 or (self.windows and pixels.ndim == 2):
                window = self._window.turned() if self.inverted else self._window
                shown = window.show(pixels)
            elif self.inverted:
                shown = ~pixels
            yield to_rgb(shown)

    def pixels(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Read frames with the values that the file stores, (H, W) or (H, W, C): for label volumes."""
        steps = [-1, *indices, self.frame_count]
        if any(after <= before for before, after in pairwise(steps)):
            raise ValueError(
                f"frame indices of {self.path} must rise within 0..{self.frame_count - 1}, "
                f"got {list(indices)}"
            )
        reader = self.read(indices)
        for index in indices:
            with explained(f"cannot read frame {index} of {self.frame_count} of {self.path}"):
                pixels = next(reader, None)
                if pixels is not None:
                    check_pixels(pixels)
            if pixels is None:
                raise ValueError(
                    f"{self.path} ends at frame {index} of {self.frame_count}: the file is "
                    "truncated, copy or export it again"
                )
            height, width = pixels.shape[:2]
            if (height, width) != (self.height, self.width):
                raise ValueError(
                    f"frame {index} of {self.path} is {width}x{height} but the first is "
                    f"{self.width}x{self.height}: all frames of a video must be of one size"
                )
            yield pixels

    @cached_property
    def _window(self) -> Window:
        count = min(SAMPLED_FRAMES, self.frame_count)
        indices = np.linspace(0, self.frame_count - 1, count).round().astype(int).tolist()
        drawn = [Drawn.of(pixels) for pixels in self.pixels(indices)]
        if self.windows:
            values = np.concatenate([each.sample for each in drawn])
            for window in self.windows:
                if values.size and is_visible(window.show(values)):
                    return window
            logger.warning(
                "%s: the window that the file declares shows nothing, so the range of its values is "
                "shown instead",
                self.path,
            )
        with explained(f"cannot scale the pixels of {self.path}"):
            return Window(*choose_range(drawn))


def source_name(path: Path) -> str:
    """Return the name of a file or folder without ``.nii.gz`` or one other suffix.

    >>> [source_name(Path(name)) for name in ("a.b.nii.gz", "ES0001 _4CH_1.avi", "1.2.840.113")]
    ['a.b', 'ES0001 _4CH_1', '1.2.840.113']
    """
    path = path.absolute() if path.name else path.resolve()
    if path.is_dir() or path.suffix[1:].isdigit():  # a DICOM file may be called by its UID
        return path.name
    stem = path.stem
    # What 3D Slicer and NIfTI put before their suffix.
    for suffix in DOUBLE_SUFFIXES:
        if has_suffix(path, (suffix,)):
            return path.name[: -len(suffix)]
    return stem


def open_volume(path: Path) -> VideoSource:
    """Open a 2D+t NIfTI, MetaImage or NRRD file, or a TIFF stack.

    Raises:
        ValueError: It cannot be read, is a single 2D image or is not 2D+t.
    """
    # They build on this module.
    from bundle.io.reading.nrrd import open_nrrd
    from bundle.io.reading.tiff import open_tiff

    if has_suffix(path, NRRD_SUFFIXES):
        return open_nrrd(path)
    if has_suffix(path, TIFF_SUFFIXES):
        return open_tiff(path)
    return _open_nifti(path) if has_suffix(path, NIFTI_SUFFIXES) else _open_meta_image(path)


def is_single_image(path: Path) -> bool:
    """Whether a file is a still picture or a volume of one 2D image; False for other kinds."""
    if has_suffix(path, STILL_SUFFIXES):
        return not is_tiff_stack(path)
    if not has_suffix(path, VOLUME_SUFFIXES):
        return False
    if has_suffix(path, NRRD_SUFFIXES):
        from bundle.io.reading.nrrd import is_single_nrrd  # which imports this module

        return is_single_nrrd(path)
    with explained(f"cannot open {path}"):
        if has_suffix(path, NIFTI_SUFFIXES):
            shape = load_nifti(path).shape
        else:
            shape = meta_image_reader(path).GetSize()
    return all(size == 1 for size in shape[2:])


def image_affine(path: Path) -> np.ndarray | None:
    """Read the affine of a volume file, (4, 4), voxels to RAS in mm; None if it has two axes only."""
    with explained(f"cannot open {path}"):
        if has_suffix(path, NIFTI_SUFFIXES):
            return np.asarray(load_nifti(path).affine)
        if has_suffix(path, NRRD_SUFFIXES):
            from bundle.io.reading.nrrd import read_place  # which imports this module

            return read_place(path)[0]
        reader = meta_image_reader(path)
        return _ras_affine(reader) if reader.GetDimension() > 2 else None


def _time_axis(shape: tuple[int, ...], path: Path) -> int:
    if len(shape) < 3:
        raise ValueError(f"{path} is a single image of shape {shape}: expected a video, (x, y, t)")
    if all(size == 1 for size in shape[3:]) and (len(shape) == 3 or shape[2] > 1):
        return 2
    if shape[2] == 1 and all(size == 1 for size in shape[4:]):
        return 3
    raise ValueError(
        f"{path} has shape {shape}: expected one slice over time, (x, y, t) or (x, y, 1, t), "
        "with colours as RGB voxels or, in NIfTI, as a last axis of 3"
    )


def _open_nifti(path: Path) -> VideoSource:
    with explained(f"cannot open {path} as NIfTI"):
        image = load_nifti(path)
        header = image.header.copy()
    shape = image.shape
    declared_bytes = math.prod(shape) * header.get_data_dtype().itemsize
    check_stored(path, declared_bytes, path.stat().st_size)
    colour_axis = len(shape) > 3 and shape[-1] == 3 and (len(shape) > 4 or shape[2] > 1)
    time_axis = _time_axis(shape[:-1] if colour_axis else shape, path)
    return VideoSource(
        path=path,
        name=source_name(path),
        height=shape[1],
        width=shape[0],
        frame_count=shape[time_axis],
        fps=nifti_fps(header) if time_axis == 3 else None,
        spacing_mm=nifti_spacing(header),
        geometry=Geometry(shape[: time_axis + 1], np.asarray(image.affine), header),
        read=partial(_read_nifti, path, time_axis, colour_axis),
    )


def _read_nifti(
    path: Path, time_axis: int, colour_axis: bool, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    # One file handle per colour plane: the planes lie far apart, and a .nii.gz only runs forwards.
    planes = [load_nifti(path) for _ in range(3 if colour_axis else 1)]
    where: list[int | slice] = [0] * planes[0].ndim
    where[:2] = slice(None), slice(None)
    for index in indices:
        where[time_axis] = index
        values = []
        for colour, plane in enumerate(planes):
            if colour_axis:
                where[-1] = colour
            values.append(np.asarray(plane.dataobj[tuple(where)]).T)
        if names := values[0].dtype.names:  # RGB24 or RGBA32 voxels
            values = [values[0][name] for name in names[:3]]
        yield np.stack(values, axis=-1) if len(values) > 1 else values[0]


def _open_meta_image(path: Path) -> VideoSource:
    with explained(f"cannot open {path} as MetaImage"):
        reader = meta_image_reader(path)
        spacing, data = meta_image_spacing(path), read_meta_header(path).data
        shape = reader.GetSize()
        declared_bytes = math.prod(shape) * voxel_bytes(reader)
        if data is not None:
            check_stored(path, declared_bytes, data.stat().st_size)
        check_unpacked(path, declared_bytes)
    if reader.GetNumberOfComponents() not in (1, 3, 4):
        raise ValueError(
            f"{path} has {reader.GetNumberOfComponents()} channels: expected 1 (grey) or 3 (RGB)"
        )
    time_axis = _time_axis(shape, path)
    with explained(f"cannot open {path} as MetaImage"):
        fps, times = meta_image_times(path, shape[time_axis], time_axis == 3)
    return VideoSource(
        path=path,
        name=source_name(path),
        height=shape[1],
        width=shape[0],
        frame_count=shape[time_axis],
        fps=fps,
        spacing_mm=spacing,
        frame_times=times,
        geometry=Geometry(shape[: time_axis + 1], _ras_affine(reader)),
        read=partial(_read_meta_image, path, time_axis),
    )


def _ras_affine(reader: Reader) -> np.ndarray:
    dimension = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's axes point left and back


def _read_meta_image(path: Path, time_axis: int, indices: Sequence[int]) -> Iterator[np.ndarray]:
    reader = meta_image_reader(path)
    size, start = list(reader.GetSize()), [0] * reader.GetDimension()
    frame_bytes = size[0] * size[1] * voxel_bytes(reader)
    loaded = range(0)
    for index in indices:
        if index not in loaded:
            # In blocks, because each extraction from a compressed file unpacks it from the start.
            stop = min(index + max(1, BLOCK_BYTES // frame_bytes), indices[-1] + 1)
            loaded = range(index, stop)
            start[time_axis] = index
            reader.SetExtractIndex(start)
            reader.SetExtractSize([*size[:time_axis], len(loaded), *size[time_axis + 1 :]])
            block = extract(reader)
            channels = block.shape[len(size) :]
            block = block.reshape(len(loaded), size[1], size[0], *channels)
        yield block[index - loaded.start]
