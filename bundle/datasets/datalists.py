"""Make records from lists of dictionaries with image and label, as MONAI's tools pass them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bundle.datasets.generic import ANY_OBJECT
from bundle.datasets.records import Video
from bundle.datasets.video_folder import make_record
from bundle.io.reading.volumes import is_single_image


def as_videos(items: Iterable[Video | Mapping[str, Any]]) -> list[Video]:
    """Turn dictionaries into records; records are returned unchanged.

    A dictionary has ``image``, a picture or any video that ``open_video`` takes, and ``label``, a
    picture or a volume of the video's length; see ``make_record``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A dictionary lacks a key; image and label do not fit; a label is empty.
    """
    return [item if isinstance(item, Video) else _from_paths(item) for item in items]


def _from_paths(item: Mapping[str, Any]) -> Video:
    if not {"image", "label"} <= item.keys():
        raise ValueError(f"expected a dictionary with image and label, got {sorted(item)}")
    image, label = Path(item["image"]), Path(item["label"])
    for path in (image, label):
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}: check the path")
    if is_single_image(image):
        return Video(image.stem, (image,), {0: label}, ANY_OBJECT, image.stem)
    return make_record(image.name, image, label)
