"""Read masks from JSON: ``masks.json`` as this program writes it, COCO and labelme."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bundle.io.reading.decode import natural_key
from bundle.io.reading.frame_refs import FrameRef
from bundle.io.reading.labels import StoredMask
from bundle.io.reading.mask_folder import match_files
from bundle.io.reading.mask_volumes import Masks
from bundle.io.reading.shapes import (
    Shape,
    coco_mask,
    ellipse,
    load_json,
    paint,
    polygon,
    tell_left_out,
)
from bundle.io.reading.volumes import VideoSource

KINDS = "our masks.json, COCO with images and annotations, or labelme with shapes"


def read_json(
    path: Path, video: VideoSource, frames: Sequence[FrameRef], mask_frame: int | None = None
) -> Masks:
    """Read the masks of a JSON file: ``masks.json``, COCO or labelme.

    Args:
        path: JSON file.
        video: Video that the masks belong to.
        frames: Frames of the video.
        mask_frame: See ``bundle.io.reading.masks.read_annotations``; for COCO and labelme.

    Raises:
        ValueError: The file is of another kind, is damaged, or matches no frame.
    """
    content = load_json(path)
    try:
        if isinstance(content, dict) and isinstance(content.get("frames"), list):
            yield from _read_own(path, content)
        elif isinstance(content, dict) and "annotations" in content and "images" in content:
            yield from paint(_coco_shapes(path, content, video, frames, mask_frame), str(path))
        elif isinstance(content, dict) and isinstance(content.get("shapes"), list):
            yield from read_labelme([path], video, frames, mask_frame)
        else:
            raise ValueError(f"{path} is JSON of an unknown kind: expected {KINDS}")
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{path} lacks what its kind of JSON has ({type(error).__name__}: {error}): export it "
            "again"
        ) from error


def _read_own(path: Path, content: Mapping[str, Any]) -> Masks:
    height, width = int(content["height"]), int(content["width"])
    for entry in content["frames"]:
        values = np.zeros((height, width), dtype=np.uint8)
        for each in entry["objects"]:
            if not 1 <= int(each["id"]) <= 255:
                raise ValueError(f"{path} has the id {each['id']}: expected 1 to 255")
            values[coco_mask(each["segmentation"], height, width)] = int(each["id"])
        if values.any():
            frame = int(entry["frame"])
            yield frame, StoredMask(values, "exact", f"frame {frame} of {path}")


def _coco_shapes(
    path: Path,
    content: Mapping[str, Any],
    video: VideoSource,
    frames: Sequence[FrameRef],
    mask_frame: int | None,
) -> Iterator[Shape]:
    images = {image["id"]: image for image in content["images"]}
    drawn = [each for each in content["annotations"] if each.get("segmentation")]
    if not drawn:
        raise ValueError(f"{path} has no annotation with a segmentation: expected masks, not boxes")
    tell_left_out(["box"] * (len(content["annotations"]) - len(drawn)), str(path))
    used = {each["image_id"] for each in drawn}
    if all("frame_index" in images[key] for key in used):
        index = {key: int(images[key]["frame_index"]) for key in used}
    else:
        # All images count, also those without an object: their number tells how they are numbered.
        names = sorted((Path(image["file_name"]) for image in images.values()), key=_key)
        found = match_files(names, path, video.path, frames, first_frame=mask_frame, ask=True)
        by_name = {file: frame for frame, file in found.items()}
        index = {key: by_name[Path(images[key]["file_name"])] for key in used}
    for each in drawn:
        image = images[each["image_id"]]
        size = int(image.get("height") or video.height), int(image.get("width") or video.width)
        mask = coco_mask(each["segmentation"], *size)
        yield Shape(index[each["image_id"]], _track(each), each.get("category_id", 1), mask)


def _track(annotation: Mapping[str, Any]) -> int | None:
    attributes = annotation.get("attributes") or {}
    for name in ("track_id", "instance_id", "object_id"):
        value = annotation.get(name, attributes.get(name))
        if value is not None:
            return int(value)
    return None


def read_labelme(
    paths: Sequence[Path],
    video: VideoSource,
    frames: Sequence[FrameRef],
    mask_frame: int | None = None,
) -> Masks:
    """Read labelme files, one for each annotated frame, with the name of the frame.

    Shapes with the same label and group are one object.

    Raises:
        ValueError: A file is not of labelme, or matches no frame.
    """
    paths = sorted(paths, key=_key)
    found = match_files(
        paths, paths[0].parent, video.path, frames, first_frame=mask_frame, ask=True
    )
    yield from paint(
        (shape for frame, path in sorted(found.items()) for shape in _labelme_shapes(path, frame)),
        str(paths[0].parent if len(paths) > 1 else paths[0]),
    )


def _labelme_shapes(path: Path, frame: int) -> Iterator[Shape]:
    content = load_json(path)
    left_out: list[str] = []
    try:
        height, width = int(content["imageHeight"]), int(content["imageWidth"])
        for each in content["shapes"]:
            name = (str(each["label"]), each.get("group_id"))
            mask = _labelme_mask(each, height, width)
            if mask is None:
                left_out.append(str(each.get("shape_type")))
            else:
                yield Shape(frame, name, name, mask)
    except (KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise ValueError(
            f"{path} lacks what labelme writes ({type(error).__name__}: {error}): save it again"
        ) from error
    tell_left_out(left_out, str(path))


def _labelme_mask(shape: Mapping[str, Any], height: int, width: int) -> np.ndarray | None:
    points, kind = np.asarray(shape["points"], dtype=float), shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return polygon(points.tolist(), height, width)
    if kind == "circle":
        radius = float(np.linalg.norm(points[1] - points[0]))
        return ellipse((points[0, 0], points[0, 1]), (radius, radius), height, width)
    if kind == "mask":
        left, top = np.rint(points.min(axis=0)).astype(int)
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            part = np.asarray(image.convert("L")) > 0
        mask = np.zeros((height, width), dtype=bool)
        room = mask[top : top + part.shape[0], left : left + part.shape[1]]
        room[...] = part[: room.shape[0], : room.shape[1]]
        return mask
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return polygon(corners, height, width)
    return None  # points and lines have no area


def _key(path: Path) -> tuple[list[str | int], str]:
    return natural_key(path.name)
