"""Write the results folder of one video, in all chosen formats, completely or not at all.

A thread writes each frame while the next one is computed. Memory hardly grows with the length of the
video; see the modules of the formats.
"""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from bundle.io.reading.video import VideoSource
from bundle.io.structures import Structures
from bundle.io.writing.formats import FORMATS, choose_formats
from bundle.io.writing.manifest import MANIFEST, Keeper, holds_results, write_manifest
from bundle.io.writing.writer import FormatWriter, Segmented, WriteBehind
from bundle.types import Frame, LabelMap
from bundle.utils.atomic_write import FULL, StagingFolder, room_for

KNOWN = frozenset(kind.file for kind in FORMATS.values())
"""Names in a folder of results."""


class ResultWriter:
    """Writes one video's results frame by frame into DIR/<name>, completely or not at all.

    The folder appears when the with-block ends without error. After an exception nothing of it is left,
    and earlier results are not changed. Temporary files of a killed run are removed by the next run for
    the same video. By format it holds

    - ``nifti``: ``masks.nii.gz``, uint8 label volume in the source's geometry,
    - ``png``: ``masks/00000.png`` ..., palette PNGs whose indices are the ids, in DAVIS colours,
    - ``overlay``: ``overlay.mp4``, ``blend`` of each frame, at the source's rate or 25 frames a second,
    - ``csv``: ``frames.csv``, a row for each frame and object; see ``bundle.io.writing.table``,
    - ``summary``: ``summary.png``, eight overlays and the area curves,
    - ``mha``: ``masks.mha``, compressed MetaImage in the source's geometry,
    - ``nrrd``: ``masks.nrrd``, label volume in the source's geometry and time,
    - ``dicom_seg``: ``masks.dcm``, DICOM segmentation that refers to the frames of a DICOM source,
    - ``rle``: ``masks.json``, COCO's uncompressed run lengths,
    - ``seg_nrrd``: ``masks.seg.nrrd``, segmentation of 3D Slicer in the source's geometry,
    - ``coco``: ``coco.json``, COCO with tracks,
    - ``cvat``: ``annotations.xml``, CVAT for video 1.1,
    - ``yolo``: ``yolo/labels/00000.txt`` ..., outlines for YOLO's segmentation networks,
    - ``mots``: ``mots``, 16-bit pictures of instances and the text of the MOTS benchmarks,

    and ``manifest.json``, which lists what was written.

    Args:
        output_dir: DIR; made if it does not exist.
        video: Name, size, frame rate, spacing and geometry of the source.
        overwrite: Replace the results that are in DIR/<name>: the files that were written here, as
            ``manifest.json`` lists them. All others stay; those whose names are needed, and those
            that were changed since, go to the folder ``kept`` in it.
        annotated: Indices of the frames whose mask was given, for the titles of the picture.
        formats: Names from above; ``auto`` stands for all that suit the source: the first five,
            ``mha`` for a MetaImage, ``nrrd`` for NRRD and ``dicom_seg`` for DICOM.
        structures: What the ids stand for, for the formats that can say so.

    Attributes:
        folder: DIR/<name>.
        formats: Those that are written.

    Raises:
        FileExistsError: There are results already and ``overwrite`` is off, or DIR/<name> is
            something else than results or holds the video, which is never replaced.
        PermissionError, NotADirectoryError, OSError: Nothing can be written to DIR.
        DiskFullError: There is no room in DIR; here and later.
        ValueError: The video's geometry does not fit its size, its name is not valid for a folder, or a
            format is unknown or cannot be written for it.

    Example::

        with ResultWriter("results", video) as writer:
            for frame, labels in segment(video):
                writer.write(frame, labels)
    """

    def __init__(
        self,
        output_dir: str | Path,
        video: VideoSource,
        *,
        overwrite: bool = False,
        annotated: Collection[int] = (0,),
        formats: str | Sequence[str] = "auto",
        structures: Structures | None = None,
    ) -> None:
        if video.name in ("", "..") or Path(video.name).name != video.name:
            raise ValueError(
                f"video name {video.name!r} is not valid for a folder: rename the video"
            )
        self.folder = Path(output_dir) / video.name
        self._video = video
        self._overwrite = overwrite
        self._annotated = frozenset(annotated)
        self._structures = structures or {}
        self._refuse_existing()
        parents = self.folder.parent, *self.folder.parent.parents
        # Those that are made here: a run that fails leaves no empty folder behind.
        self._made = [folder for folder in parents if not folder.exists()]
        with room_for(self.folder):
            _check_writable(self.folder.parent)
        self.formats = choose_formats(formats, video)

    def __enter__(self) -> "ResultWriter":
        self._written = 0
        self._open_files = ExitStack()
        self._writers: dict[Path, FormatWriter] = {}
        with room_for(self.folder):
            self._staging = StagingFolder(self.folder).__enter__()
            try:
                self._staging.new.mkdir()
                for name in self.formats:
                    kind = FORMATS[name]
                    writer = kind.open(
                        self._staging.new, self._video, self._annotated, self._structures
                    )
                    self._open_files.callback(writer.close)
                    self._writers[self.folder / kind.file] = writer
                # Entered last, so that no file is closed under it.
                behind = closing(WriteBehind(self._write))
                self._behind = self._open_files.enter_context(behind)
            except BaseException:
                self._discard()
                raise
        return self

    def write(
        self,
        frame: Frame,
        labels: LabelMap,
        confidence: Mapping[int, float] | None = None,
        review: bool = False,
    ) -> None:
        """Write the next frame, in the background. Errors may be raised later, by the next calls.

        Args:
            frame: (H, W, 3) uint8 RGB; must not change afterwards.
            labels: (H, W) uint8 object ids, 0 for background; must not change either.
            confidence: Object id to confidence, from 0 to 1.
            review: Whether the frame is flagged for review.

        Raises:
            ValueError: The shape differs from the video's, or all its frames are written.
            TypeError: The values are not uint8.
            DiskFullError: There is no room.
            OSError: The disk is gone.
        """
        self._check(frame, labels)
        self._behind.put(Segmented(self._written, frame, labels, dict(confidence or {}), review))
        self._written += 1

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _write(self, result: Segmented) -> None:
        for path, writer in self._writers.items():
            with room_for(path):
                writer.write(result)

    def _check(self, frame: Frame, labels: LabelMap) -> None:
        video, index = self._video, self._written
        size = (video.height, video.width)
        if index == video.frame_count:
            raise ValueError(
                f"{video.name}: expected {video.frame_count} frames, got one more: "
                "write each frame once"
            )
        if frame.shape != (*size, 3) or labels.shape != size:
            raise ValueError(
                f"{video.name}, frame {index}: expected frame {(*size, 3)} and labels {size}, "
                f"found {frame.shape} and {labels.shape}: resize labels to the video's size"
            )
        if frame.dtype != np.uint8 or labels.dtype != np.uint8:
            raise TypeError(
                f"{video.name}, frame {index}: expected frame and labels of type uint8, "
                f"found {frame.dtype} and {labels.dtype}: convert them"
            )

    def _refuse_existing(self) -> None:
        if not os.path.lexists(self.folder):
            return
        if self._video.path.resolve().is_relative_to(self.folder.resolve()):
            raise FileExistsError(
                f"{self.folder} holds the video itself: choose another output_dir"
            )
        if not holds_results(self.folder, KNOWN):
            raise FileExistsError(
                f"{self.folder} exists and is not a results folder: choose another output_dir"
            )
        if not self._overwrite:
            raise FileExistsError(
                f"{self.folder} already holds results: choose another output folder, or add "
                "--overwrite (in a run of MONAI: --overwrite true)"
            )

    def _finish(self) -> None:
        self._behind.wait()
        video = self._video
        if self._written != video.frame_count:
            raise ValueError(
                f"{video.name}: expected {video.frame_count} frames, found {self._written}: "
                "nothing was kept, check that the whole video can be read"
            )
        for path, writer in self._writers.items():
            with room_for(path):
                writer.finish()
        self._open_files.close()
        with room_for(self.folder / MANIFEST):
            write_manifest(self._staging.new, video.name)
        self._move_into_place()

    def _move_into_place(self) -> None:
        self._refuse_existing()
        with room_for(self.folder):
            if not self.folder.exists():
                self._staging.move_into_place()
                return
            keeper = Keeper(self.folder, self._staging.new, KNOWN)
            keeper.link()
            shutil.copymode(self.folder, self._staging.new)
            self._staging.move_into_place()
            keeper.move_late(self._staging.folder / "old")

    def _discard(self) -> None:
        with suppress(Exception):
            self._open_files.close()
        self._staging.__exit__(None, None, None)
        with suppress(OSError):  # ends at one that is not empty, as after a finished run
            for folder in self._made:
                folder.rmdir()


@runtime_checkable
class FrameLabels(Protocol):
    """What ``write_results`` reads from the result of a frame, such as a ``FrameResult``."""

    @property
    def labels(self) -> LabelMap: ...

    @property
    def confidence(self) -> Mapping[int, float]: ...

    @property
    def review(self) -> bool: ...


def write_results(
    output_dir: str | Path,
    video: VideoSource,
    results: Iterable[FrameLabels],
    *,
    formats: str | Sequence[str] = "auto",
    overwrite: bool = False,
    annotated: Collection[int] = (0,),
) -> Path:
    """Write one video's results, completely or not at all; see ``ResultWriter``.

    Args:
        output_dir: Results go to ``output_dir/NAME``, where NAME is the video's name.
        video: From ``open_video``.
        results: One for each frame, in time order, such as from ``VideoSegmenter.segment`` or
            ``SegmentationJob.results``.
        formats: ``auto``, or names of formats.
        overwrite: Whether to replace earlier results.
        annotated: Indices of the frames whose mask was given, for the titles of the summary picture.

    Returns:
        The folder of the results.

    Raises:
        FileExistsError: There are earlier results and ``overwrite`` is off.
        ValueError: The number of results differs from that of the frames, a size differs, or a format
            is unknown or cannot be written for this video.
        DiskFullError: The disk is full.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from bundle import VideoSegmenter, open_video
        >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
        >>> mask = np.zeros((48, 64), np.uint8)
        >>> mask[10:30, 20:40] = 1
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "video").mkdir()
        ...     for index in range(3):
        ...         Image.new("RGB", (64, 48), "red").save(f"{folder}/video/{index}.png")
        ...     video = open_video(f"{folder}/video")
        ...     results = segmenter.segment(video, {0: mask})
        ...     written = write_results(f"{folder}/results", video, results, formats="nifti,csv")
        ...     sorted(path.name for path in written.iterdir())
        ['frames.csv', 'manifest.json', 'masks.nii.gz']
    """
    writer = ResultWriter(
        output_dir, video, overwrite=overwrite, annotated=annotated, formats=formats
    )
    with writer:
        for frame, result in zip(video, results, strict=True):
            writer.write(frame, result.labels, result.confidence, result.review)
    return writer.folder


def _check_writable(output_dir: Path) -> None:
    """Check that files can be written, before any work. Permission bits alone are not reliable."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"output_dir {output_dir} is or lies under a file: choose another output_dir"
        ) from error
    except OSError as error:
        if error.errno in FULL:
            raise  # the caller says what to do
        raise type(error)(
            f"cannot write to the folder {output_dir} ({error.strerror}): choose another output_dir"
        ) from error
