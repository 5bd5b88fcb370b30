"""List the output formats, and choose those that suit a video."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle.io.reading.decode import META_SUFFIXES, NRRD_SUFFIXES, has_suffix
from bundle.io.reading.video import VideoSource
from bundle.io.structures import Structures
from bundle.io.writing.coco import CocoWriter
from bundle.io.writing.cvat import CvatWriter
from bundle.io.writing.dicom_seg import DicomSegWriter, can_be_referred_to, check_dicom
from bundle.io.writing.meta_image import MetaImageWriter
from bundle.io.writing.mots import MotsWriter
from bundle.io.writing.nifti_header import label_header
from bundle.io.writing.nrrd import NrrdWriter
from bundle.io.writing.pictures import OverlayWriter, PngWriter, SummaryWriter
from bundle.io.writing.rle import RleWriter
from bundle.io.writing.seg_nrrd import SegNrrdWriter
from bundle.io.writing.table import TableWriter
from bundle.io.writing.volume import NiftiWriter
from bundle.io.writing.writer import FormatWriter
from bundle.io.writing.yolo import YoloWriter


@dataclass(frozen=True)
class Format:
    """One output format.

    Attributes:
        file: Name of the file in the results folder.
        writer: Makes the writer, given the folder, the video, the frames whose mask was given, and, if
            ``names``, the structures.
        names: Whether the file says what the ids mean.
        suits: Whether ``auto`` includes it for a video.
        check: Raises ValueError if it cannot be written for a video.
    """

    file: str
    writer: Callable[..., FormatWriter]
    names: bool = False
    suits: Callable[[VideoSource], bool] = lambda video: True
    check: Callable[[VideoSource], object] = lambda video: None

    def open(
        self, folder: Path, video: VideoSource, given: Collection[int], structures: Structures
    ) -> FormatWriter:
        """Make the writer of this format for one video."""
        if self.names:
            return self.writer(folder, video, given, structures)
        return self.writer(folder, video, given)


def _on_demand(video: VideoSource) -> bool:
    """Say that ``auto`` never includes a format."""
    return False


FORMATS = {
    "nifti": Format("masks.nii.gz", NiftiWriter, check=label_header),
    "png": Format("masks", PngWriter),
    "overlay": Format("overlay.mp4", OverlayWriter),
    "csv": Format("frames.csv", TableWriter),
    "summary": Format("summary.png", SummaryWriter),
    "mha": Format(
        "masks.mha", MetaImageWriter, suits=lambda video: has_suffix(video.path, META_SUFFIXES)
    ),
    "nrrd": Format(
        "masks.nrrd", NrrdWriter, suits=lambda video: has_suffix(video.path, NRRD_SUFFIXES)
    ),
    "dicom_seg": Format(
        "masks.dcm", DicomSegWriter, names=True, suits=can_be_referred_to, check=check_dicom
    ),
    "rle": Format("masks.json", RleWriter, suits=_on_demand),
    "seg_nrrd": Format("masks.seg.nrrd", SegNrrdWriter, names=True, suits=_on_demand),
    "coco": Format("coco.json", CocoWriter, names=True, suits=_on_demand),
    "cvat": Format("annotations.xml", CvatWriter, names=True, suits=_on_demand),
    "yolo": Format("yolo", YoloWriter, names=True, suits=_on_demand),
    "mots": Format("mots", MotsWriter, suits=_on_demand),
}


def parse_formats(formats: str | Sequence[str]) -> tuple[str, ...]:
    """Read a choice of formats: names, in a list or with commas between them.

    Example:
        >>> parse_formats("auto, rle")
        ('auto', 'rle')

    Raises:
        ValueError: The list is empty, or a name is unknown.
    """
    names = formats.strip(" []()").split(",") if isinstance(formats, str) else formats
    names = [str(name).strip(" '\"") for name in names]
    known = ["auto", *FORMATS]
    for name in names or [""]:
        if name not in known:
            raise ValueError(f"unknown format {name!r} in --formats: there are {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def choose_formats(formats: str | Sequence[str], video: VideoSource) -> tuple[str, ...]:
    """The formats to write for one video; ``auto`` stands for all that suit its source.

    Raises:
        ValueError: A name is unknown, or a format cannot be written for this video.
    """
    asked = parse_formats(formats)
    chosen = [
        name
        for name, kind in FORMATS.items()
        if name in asked or ("auto" in asked and kind.suits(video))
    ]
    for name in chosen:
        FORMATS[name].check(video)
    return tuple(chosen)
