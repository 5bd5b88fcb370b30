"""Writing one video's results: label volume, palette PNGs, overlay video, area table, picture.

Everything streams to disk frame by frame, so memory does not grow with the video's length but for
eight thumbnails and one number per frame and object. Reading videos: ``bundle.data.video``.
"""

import csv
import gzip
import os
import shutil
import tempfile
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from bundle.data.video import VideoSource
from bundle.label_header import label_header
from bundle.summary import PALETTE, OverlayVideo, blend, draw_summary, pick_frames
from bundle.types import Frame, LabelMap

__all__ = ["ResultWriter", "blend"]

THUMBNAIL = (480, 480)


class ResultWriter:
    """Writes one video's results frame by frame into DIR/<name>, all or nothing.

    The folder appears, complete, when the with-block ends well; after an exception nothing of it is
    left, and what was there before is untouched. It holds

    - ``masks.nii.gz``: uint8 label volume in the source's geometry,
    - ``masks/00000.png`` ...: palette PNGs whose indices are the ids, in DAVIS colours,
    - ``overlay.mp4``: H.264, ``blend`` of each frame, at the source's rate, or 25 frames a second,
    - ``frames.csv``: a row for each frame and object: frame, time_s, object, area_px, area_mm2;
      time and mm2 stay empty where frame rate or spacing are unknown,
    - ``summary.png``: eight overlays and the area curves.

    Args:
        output_dir: DIR; made if it does not exist.
        video: Name, size, frame rate, spacing and geometry of the source.
        overwrite: Replace the results that are in DIR/<name>.
        annotated: Indices of the frames whose mask was given, for the titles of the picture.

    Attributes:
        folder: DIR/<name>.

    Raises:
        FileExistsError: There are results already and ``overwrite`` is off, or DIR/<name> is
            something else than results or holds the video, which is never replaced.
        PermissionError, NotADirectoryError, OSError: Nothing can be written to DIR.
        ValueError: The video's geometry does not fit its size, or its name is no folder name.

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
    ) -> None:
        if video.name in ("", "..") or Path(video.name).name != video.name:
            raise ValueError(f"video name {video.name!r} is no folder name: rename the video")
        self.folder = Path(output_dir) / video.name
        self._video = video
        self._overwrite = overwrite
        self._annotated = frozenset(annotated)
        self._refuse_existing()
        _check_writable(self.folder.parent)
        self._header = label_header(video)

    def __enter__(self) -> "ResultWriter":
        video = self._video
        self._written = 0
        self._areas_px: dict[int, npt.NDArray[np.int64]] = {}
        self._panels: dict[int, Frame] = {}
        self._picks = pick_frames(video.frame_count, given=min(self._annotated, default=0))
        self._digits = max(5, len(str(video.frame_count - 1)))
        # Renaming an inner folder gives it the permissions of any new folder; mkdtemp's are 0700.
        self._scratch = Path(
            tempfile.mkdtemp(prefix=f".{video.name}.", suffix=".partial", dir=self.folder.parent)
        )
        self._partial = self._scratch / "new"
        self._open_files = ExitStack()
        try:
            (self._partial / "masks").mkdir(parents=True)
            self._volume = self._open_volume()
            self._overlay = self._open_files.enter_context(
                OverlayVideo(
                    self._partial / "overlay.mp4",
                    (video.height, video.width),
                    fps=video.fps,
                    spacing_mm=video.spacing_mm,
                )
            )
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, frame: Frame, labels: LabelMap) -> None:
        """Write the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8 object ids, 0 for background.

        Raises:
            ValueError: The shape differs from the video's, or all its frames are written.
            TypeError: The values are not uint8.
            OSError: The disk is full or gone.
        """
        self._check(frame, labels)
        index = self._written
        shown = blend(frame, labels)
        self._volume.write(np.ascontiguousarray(labels).data)
        picture = Image.fromarray(labels)
        picture.putpalette(PALETTE.tobytes())
        picture.save(self._partial / "masks" / f"{index:0{self._digits}d}.png")
        self._overlay.write(shown)
        areas = np.bincount(labels.ravel())
        for object_id in np.flatnonzero(areas[1:]) + 1:
            unseen = np.zeros(self._video.frame_count, dtype=np.int64)
            self._areas_px.setdefault(int(object_id), unseen)[index] = areas[object_id]
        if index in self._picks:
            thumbnail = Image.fromarray(shown)
            thumbnail.thumbnail(THUMBNAIL)
            self._panels[index] = np.asarray(thumbnail)
        self._written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

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
        if not (self.folder / "masks.nii.gz").is_file():
            raise FileExistsError(
                f"{self.folder} exists and is no result folder: choose another output_dir"
            )
        if not self._overwrite:
            raise FileExistsError(
                f"{self.folder} already holds results: choose another output_dir or add "
                "--overwrite true"
            )

    def _open_volume(self) -> gzip.GzipFile:
        # Without a time stamp equal masks give equal files.
        volume = gzip.GzipFile(self._partial / "masks.nii.gz", "wb", compresslevel=6, mtime=0)
        self._open_files.enter_context(volume)
        self._header.write_to(cast(IO[bytes], volume))
        return volume

    def _finish(self) -> None:
        video = self._video
        if self._written != video.frame_count:
            raise ValueError(
                f"{video.name}: expected {video.frame_count} frames, found {self._written}: "
                "nothing was kept, check that the whole video can be read"
            )
        self._overlay.flush()
        self._open_files.close()
        self._write_table()
        draw_summary(
            self._partial / "summary.png",
            video.name,
            self._panels,
            self._areas_px,
            fps=video.fps,
            spacing_mm=video.spacing_mm,
            given=self._annotated,
        )
        self._move_into_place()

    def _write_table(self) -> None:
        fps, spacing = self._video.fps, self._video.spacing_mm
        objects = sorted(self._areas_px)
        with open(self._partial / "frames.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["frame", "time_s", "object", "area_px", "area_mm2"])
            for index in range(self._written):
                time = f"{index / fps:.6f}" if fps else ""
                for object_id in objects:
                    area = int(self._areas_px[object_id][index])
                    mm2 = f"{area * spacing[0] * spacing[1]:.10g}" if spacing else ""
                    table.writerow([index, time, object_id, area, mm2])

    def _move_into_place(self) -> None:
        self._refuse_existing()
        old = self._scratch / "old"
        try:
            if self.folder.exists():
                self.folder.rename(old)
            self._partial.rename(self.folder)
        except BaseException:
            if old.exists() and not self.folder.exists():
                old.rename(self.folder)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _discard(self) -> None:
        with suppress(Exception):
            self._open_files.close()
        shutil.rmtree(self._partial, ignore_errors=True)
        # Not rmtree: should old results be stuck in there, they stay.
        with suppress(OSError):
            self._scratch.rmdir()


def _check_writable(output_dir: Path) -> None:
    """Find out before hours of work, not after; permission bits alone do not tell."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"output_dir {output_dir} is or lies under a file: choose another output_dir"
        ) from error
    except OSError as error:
        raise type(error)(
            f"cannot write to the folder {output_dir} ({error.strerror}): choose another output_dir"
        ) from error
