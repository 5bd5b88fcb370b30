"""Read masks from CVAT's XML, "for video 1.1" and "for images 1.1"."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from bundle.io.reading.decode import natural_key
from bundle.io.reading.frame_refs import FrameRef
from bundle.io.reading.mask_folder import match_files
from bundle.io.reading.mask_volumes import Masks
from bundle.io.reading.shapes import (
    MAX_TEXT_BYTES,
    Shape,
    check_text,
    ellipse,
    paint,
    polygon,
    run_mask,
    tell_left_out,
)
from bundle.io.reading.volumes import VideoSource

WITHOUT_MASK = ("box", "polyline", "points", "cuboid", "skeleton")
Element = Any
"""``xml.etree.ElementTree.Element``."""


def read_cvat(
    path: Path, video: VideoSource, frames: Sequence[FrameRef], mask_frame: int | None = None
) -> Masks:
    """Read polygons, masks and ellipses of tracks, or of single images.

    Boxes, lines and points are left out, with a warning.

    Args:
        path: ``annotations.xml``, or the zip archive that CVAT exports it in.
        video: Video that the masks belong to.
        frames: Frames of the video.
        mask_frame: See ``bundle.io.reading.masks.read_annotations``; for single images only.

    Raises:
        ValueError: The file is not from CVAT, is damaged, or has no masks.
    """
    try:
        root = fromstring(_text(path))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise ValueError(f"{path} is not readable XML ({error}): export it again") from error
    if root.tag != "annotations":
        raise ValueError(f"{path} is XML of an unknown kind ({root.tag}): expected CVAT's")
    try:
        shapes = [*_tracks(root, video), *_images(path, root, video, frames, mask_frame)]
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} lacks what CVAT writes ({error}): export it again") from error
    if not shapes:
        raise ValueError(f"{path} has no mask, polygon or ellipse: expected one at least")
    drawn = (
        each for place in ("track", "image") for parent in root.findall(place) for each in parent
    )
    tell_left_out(
        (
            each.tag
            for each in drawn
            if each.tag in WITHOUT_MASK and each.attrib.get("outside") != "1"
        ),
        str(path),
    )
    yield from paint(shapes, str(path))


def _text(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        check_text(path)
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-1] == "annotations.xml"]
        if not names:
            raise ValueError("the archive holds no annotations.xml")
        if archive.getinfo(names[0]).file_size > MAX_TEXT_BYTES:
            raise ValueError(f"annotations.xml has more than {MAX_TEXT_BYTES} bytes")
        return archive.read(names[0])


def _tracks(root: Element, video: VideoSource) -> Iterator[Shape]:
    tracks = root.findall("track")
    # CVAT counts tracks from 0, ids from 1; what was written here has them from 1.
    first = min((int(track.attrib["id"]) for track in tracks), default=1)
    for track in tracks:
        for element in track:
            if element.attrib.get("outside") == "1":
                continue
            mask = _mask(element, video.height, video.width)
            if mask is not None:
                number = int(track.attrib["id"]) + (first == 0)
                yield Shape(int(element.attrib["frame"]), number, number, mask)


def _images(
    path: Path,
    root: Element,
    video: VideoSource,
    frames: Sequence[FrameRef],
    mask_frame: int | None,
) -> Iterator[Shape]:
    images = {Path(image.attrib["name"]): image for image in root.findall("image")}
    if not images:
        return
    names = sorted(images, key=lambda name: natural_key(name.name))
    found = match_files(names, path, video.path, frames, first_frame=mask_frame, ask=True)
    for frame, name in sorted(found.items()):
        image = images[name]
        height, width = int(image.attrib["height"]), int(image.attrib["width"])
        for element in image:
            mask = _mask(element, height, width)
            if mask is not None:
                yield Shape(frame, None, element.attrib.get("label", ""), mask)


def _mask(element: Element, height: int, width: int) -> np.ndarray | None:
    about = element.attrib
    if element.tag == "polygon":
        points = [
            [float(x) for x in pair.split(",")] for pair in about["points"].split(";") if pair
        ]
        return polygon(points, height, width)
    if element.tag == "ellipse":
        centre, radii = (
            (float(about["cx"]), float(about["cy"])),
            (float(about["rx"]), float(about["ry"])),
        )
        return ellipse(centre, radii, height, width)
    if element.tag == "mask":
        left, top = int(float(about["left"])), int(float(about["top"]))
        size = int(float(about["height"])), int(float(about["width"]))
        counts = [int(count) for count in about["rle"].split(",") if count.strip()]
        part = run_mask(counts, *size, down=False)
        mask = np.zeros((height, width), dtype=bool)
        if min(left, top) < 0 or top + size[0] > height or left + size[1] > width:
            raise ValueError(
                f"a mask of frame {about.get('frame', '?')} reaches beyond {width}x{height}: export "
                "masks of this video"
            )
        mask[top : top + size[0], left : left + size[1]] = part
        return mask
    return None
