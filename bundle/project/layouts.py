"""Write data sets in several layouts (DAVIS, COCO, YOLO, CVAT, nnU-Net and others), a class for each.

Frames are (H, W, 3) uint8 RGB, labels (H, W) uint8 ids. A video may have masks of only some frames.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from bundle.inference.frame_stream import read_ahead
from bundle.io.reading.decode import has_suffix
from bundle.io.reading.video import VideoSource
from bundle.io.structures import Structures
from bundle.io.writing import ResultWriter
from bundle.io.writing.array_image import write_array
from bundle.io.writing.dicom_seg import can_be_referred_to
from bundle.io.writing.formats import FORMATS
from bundle.io.writing.mask_png import encode_mask
from bundle.io.writing.rle import run_lengths
from bundle.io.writing.writer import Segmented
from bundle.types import Frame, LabelMap

JPEG_QUALITY = 95


@dataclass(frozen=True, eq=False)
class ExportedVideo:
    """One video of the data set.

    Attributes:
        name: A folder name, unique in the data set.
        source: The video.
        masks: Frame index to what reads its mask; at least one.
        part: ``train`` or ``valid``.
    """

    name: str
    source: VideoSource
    masks: Mapping[int, Callable[[], LabelMap]]
    part: str

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """All frames with their indices."""
        return enumerate(read_ahead(iter(self.source)))

    def annotated(self) -> Iterator[tuple[int, Frame, LabelMap]]:
        """Index, frame and mask of those that have one."""
        indices = sorted(self.masks)
        for index, frame in zip(indices, read_ahead(self.source.frames(indices)), strict=True):
            yield index, frame, self.masks[index]()


@runtime_checkable
class Layout(Protocol):
    """Writes a data set. Made with its folder and the structures that its masks may show."""

    def add(self, video: ExportedVideo) -> str | None:
        """Write one video; why it cannot be in this layout, if so."""
        ...

    def finish(self) -> None:
        """Write what is known at the end only."""
        ...


class VideoFolderLayout:
    """Our own: see ``bundle.datasets.video_folder``; ``split.json`` says which videos train.

    Videos that are one file are copied as they are, so that they keep their spacing and rate.
    """

    def __init__(self, folder: Path, structures: Structures) -> None:
        self._folder = folder
        self._split: dict[str, list[str]] = {"train": [], "valid": []}

    def add(self, video: ExportedVideo) -> str | None:
        path, masks = video.source.path, self._folder / f"{video.name}_mask"
        masks.mkdir()
        if path.is_file() and not has_suffix(path, (".mhd",)):  # whose pixels are another file
            suffix = path.name.removeprefix(video.source.name) or ".dcm"
            shutil.copyfile(path, self._folder / f"{video.name}{suffix}")
        else:
            target = self._folder / video.name
            target.mkdir()
            for index, frame in video.frames():
                Image.fromarray(frame).save(target / f"{index:05d}.png", compress_level=1)
        for index, _, labels in video.annotated():
            (masks / f"{index:05d}.png").write_bytes(encode_mask(labels))
        self._split[video.part].append(video.name)
        return None

    def finish(self) -> None:
        _write_json(self._folder / "split.json", self._split)


class DavisLayout:
    """``JPEGImages``, ``Annotations`` and ``ImageSets``, as DAVIS 2017 has them.

    A video begins with the first frame that has a mask, since DAVIS wants one for the first.
    """

    def __init__(self, folder: Path, structures: Structures) -> None:
        self._folder = folder
        self._split: dict[str, list[str]] = {"train": [], "valid": []}

    def add(self, video: ExportedVideo) -> str | None:
        images = self._folder / "JPEGImages" / video.name
        masks = self._folder / "Annotations" / video.name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        first = min(video.masks)
        for index, frame in video.frames():
            if index >= first:
                Image.fromarray(frame).save(images / f"{index:05d}.jpg", quality=JPEG_QUALITY)
            if index in video.masks:
                (masks / f"{index:05d}.png").write_bytes(encode_mask(video.masks[index]()))
        self._split[video.part].append(video.name)
        return None

    def finish(self) -> None:
        sets = self._folder / "ImageSets"
        sets.mkdir()
        for part, file in (("train", "train.txt"), ("valid", "val.txt")):
            text = "".join(f"{name}\n" for name in self._split[part])
            (sets / file).write_text(text, encoding="utf-8")


class CocoLayout:
    """``annotations/instances_train.json`` and ``_valid.json`` with run lengths, and ``images``.

    Besides what COCO has, each image names its ``video_id`` and ``frame_id``, each annotation its
    ``track_id``: one for each structure in each video.
    """

    def __init__(self, folder: Path, structures: Structures) -> None:
        self._folder, self._number = folder, 0
        categories = [
            {
                "id": i,
                "name": each.name,
                "supercategory": each.category.meaning if each.category else "",
            }
            for i, each in structures.items()
        ]
        self._sets: dict[str, dict[str, list[dict[str, Any]]]] = {
            part: {"videos": [], "categories": categories, "images": [], "annotations": []}
            for part in ("train", "valid")
        }
        self._tracks: dict[tuple[int, int], int] = {}

    def add(self, video: ExportedVideo) -> str | None:
        part = self._sets[video.part]
        video_id = sum(len(each["videos"]) for each in self._sets.values()) + 1
        size = {"height": video.source.height, "width": video.source.width}
        part["videos"].append(
            {"id": video_id, "name": video.name, **size, "length": len(video.masks)}
        )
        images = self._folder / "images" / video.name
        images.mkdir(parents=True)
        for index, frame, labels in video.annotated():
            file = f"{video.name}/{index:05d}.png"
            Image.fromarray(frame).save(self._folder / "images" / file, compress_level=1)
            self._number += 1
            image_id = self._number
            part["images"].append(
                {"id": image_id, "file_name": file, **size, "video_id": video_id, "frame_id": index}
            )
            for object_id in np.unique(labels[labels > 0]).tolist():
                part["annotations"].append(self._annotation(video_id, image_id, object_id, labels))
        return None

    def finish(self) -> None:
        folder = self._folder / "annotations"
        folder.mkdir()
        number = 0
        for part, content in self._sets.items():
            for annotation in content["annotations"]:
                number += 1
                annotation["id"] = number
            _write_json(folder / f"instances_{part}.json", content)

    def _annotation(
        self, video_id: int, image_id: int, object_id: int, labels: LabelMap
    ) -> dict[str, Any]:
        mask = labels == object_id
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        track = self._tracks.setdefault((video_id, object_id), len(self._tracks) + 1)
        return {
            "id": 0, "image_id": image_id, "video_id": video_id, "category_id": object_id,
            "track_id": track, "segmentation": run_lengths(mask), "area": int(mask.sum()),
            "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1], "iscrowd": 0,
        }  # fmt: skip


class NnunetLayout:
    """A raw data set of nnU-Net v2, and ``splits_final.json`` for its folder of preprocessed data.

    nnU-Net wants labels 0, 1, 2, ...: structures are renumbered in the order of their ids, as
    ``dataset.json`` says.
    """

    def __init__(self, folder: Path, structures: Structures) -> None:
        name = re.sub("[^A-Za-z0-9]", "", folder.name) or "TCMN"
        self._root = folder / f"Dataset501_{name}"
        self._images, self._labels = self._root / "imagesTr", self._root / "labelsTr"
        for each in (self._images, self._labels):
            each.mkdir(parents=True)
        self._lookup = np.zeros(256, np.uint8)
        self._names = {"background": 0}
        for number, structure in enumerate(structures.values(), start=1):
            self._lookup[structure.id] = number
            self._names[structure.name] = number
        self._cases: dict[str, list[str]] = {"train": [], "valid": []}

    def finish(self) -> None:
        _write_json(
            self._root / "dataset.json",
            {
                "channel_names": {"0": "R", "1": "G", "2": "B"},
                "labels": self._names,
                "numTraining": sum(len(each) for each in self._cases.values()),
                "file_ending": self.ending,
                **self.reader,
            },
        )
        fold = {"train": self._cases["train"], "val": self._cases["valid"]}
        _write_json(self._root / "splits_final.json", [fold])

    ending = ""
    reader: Mapping[str, str] = {}


class Nnunet2dLayout(NnunetLayout):
    """Each annotated frame is a case: a colour PNG and a PNG of labels."""

    ending = ".png"
    reader: Mapping[str, str] = {"overwrite_image_reader_writer": "NaturalImage2DIO"}

    def add(self, video: ExportedVideo) -> str | None:
        for index, frame, labels in video.annotated():
            case = f"{video.name}_{index:05d}"
            Image.fromarray(frame).save(self._images / f"{case}_0000.png", compress_level=1)
            # Grey, not a palette: nnU-Net would read that as colours.
            Image.fromarray(self._lookup[labels]).save(self._labels / f"{case}.png")
            self._cases[video.part].append(case)
        return None


class Nnunet3dLayout(NnunetLayout):
    """Each video is a case, (x, y, t), in NIfTI: red, green, blue and labels.

    The step along t is 1. Frames without a mask get nnU-Net's ignore label, if there are any.
    """

    ending = ".nii.gz"
    reader: Mapping[str, str] = {"overwrite_image_reader_writer": "SimpleITKIO"}

    def __init__(self, folder: Path, structures: Structures) -> None:
        super().__init__(folder, structures)
        self._ignore = len(structures) + 1

    def add(self, video: ExportedVideo) -> str | None:
        source = video.source
        pixels = np.empty((source.frame_count, source.height, source.width, 3), np.uint8)
        labels = np.full(pixels.shape[:3], self._ignore, np.uint8)
        for index, frame in video.frames():
            pixels[index] = frame
            if index in video.masks:
                labels[index] = self._lookup[video.masks[index]()]
        if (labels == self._ignore).any():
            self._names["ignore"] = self._ignore
        row_mm, column_mm = source.spacing_mm or (1.0, 1.0)
        files = {f"imagesTr/{video.name}_000{i}": pixels[..., i] for i in range(3)}
        for file, values in {**files, f"labelsTr/{video.name}": labels}.items():
            write_array(self._root / f"{file}{self.ending}", values, (row_mm, column_mm))
        self._cases[video.part].append(video.name)
        return None


class DicomSegLayout:
    """``train/NAME/masks.dcm`` and ``valid/...``, of videos that are DICOM; they refer to those."""

    def __init__(self, folder: Path, structures: Structures) -> None:
        self._folder, self._structures = folder, structures

    def add(self, video: ExportedVideo) -> str | None:
        if not can_be_referred_to(video.source):
            return "it is no DICOM file that a segmentation can refer to"
        target = self._folder / video.part
        writer = ResultWriter(
            target, video.source, formats="dicom_seg", structures=self._structures,
            annotated=sorted(video.masks),
        )  # fmt: skip
        nothing = np.zeros((video.source.height, video.source.width), np.uint8)
        with writer:
            for index, frame in video.frames():
                writer.write(frame, video.masks[index]() if index in video.masks else nothing)
        if writer.folder.name != video.name:
            writer.folder.rename(target / video.name)
        return None

    def finish(self) -> None:
        pass


class YoloLayout:
    """``images``, ``labels`` and ``data.yaml`` as YOLO's segmentation networks train on them."""

    def __init__(self, folder: Path, structures: Structures) -> None:
        self._folder, self._structures = folder, structures
        for kind in ("images", "labels"):
            for part in ("train", "valid"):
                (folder / kind / part).mkdir(parents=True)

    def add(self, video: ExportedVideo) -> str | None:
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            given = sorted(video.masks)
            writer = FORMATS["yolo"].open(Path(scratch), video.source, given, self._structures)
            for index, frame, labels in video.annotated():
                writer.write(Segmented(index, frame, labels))
                image = self._folder / "images" / video.part / f"{video.name}_{index:05d}.png"
                Image.fromarray(frame).save(image, compress_level=1)
            writer.close()
            for file in (Path(scratch) / "yolo" / "labels").iterdir():
                file.rename(self._folder / "labels" / video.part / f"{video.name}_{file.name}")
        return None

    def finish(self) -> None:
        # Without a path: one that is relative would count from where somebody trains.
        lines = ["train: images/train", "val: images/valid", "names:"]
        for i in range(1, max(self._structures) + 1):
            name = self._structures[i].name if i in self._structures else f"object {i}"
            lines.append(f"  {i - 1}: {json.dumps(name)}")
        (self._folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


class CvatLayout:
    """``train/NAME/annotations.xml`` and ``valid/...``: CVAT for video 1.1, a track for each object."""

    def __init__(self, folder: Path, structures: Structures) -> None:
        self._folder, self._structures = folder, structures

    def add(self, video: ExportedVideo) -> str | None:
        target = self._folder / video.part / video.name
        target.mkdir(parents=True)
        given = sorted(video.masks)
        writer = FORMATS["cvat"].open(target, video.source, given, self._structures)
        for index, frame, labels in video.annotated():
            writer.write(Segmented(index, frame, labels))
        writer.finish()
        return None

    def finish(self) -> None:
        pass


LAYOUTS: Mapping[str, Callable[[Path, Structures], Layout]] = {
    "video_folder": VideoFolderLayout,
    "davis": DavisLayout,
    "coco": CocoLayout,
    "yolo": YoloLayout,
    "cvat": CvatLayout,
    "nnunet_2d": Nnunet2dLayout,
    "nnunet_3d": Nnunet3dLayout,
    "dicom_seg": DicomSegLayout,
}
"""By name."""


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
