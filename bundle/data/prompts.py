"""A video together with the masks that were given for it, opened by a MONAI transform."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai.transforms import Transform

from bundle.data.video import open_video, read_annotations
from bundle.data.volumes import VideoSource
from bundle.types import LabelMap


@dataclass(frozen=True, eq=False)
class PromptedVideo:
    """What the main job starts from.

    Attributes:
        source: The video; its frames are decoded when they are iterated over.
        annotations: Frame index to label map (H, W).
    """

    source: VideoSource
    annotations: Mapping[int, LabelMap]


class OpenPromptedVideod(Transform):
    """Opens the paths in ``image`` and ``label`` as one ``PromptedVideo`` in ``image``.

    Raises:
        ValueError: A path is missing, or what ``open_video`` and ``read_annotations`` raise.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        for key, option in (("image", "video"), ("label", "mask")):
            if data.get(key) is None:
                raise ValueError(f"no {option} given: add --{option} PATH")
        video = open_video(str(data["image"]))
        return {"image": PromptedVideo(video, read_annotations(str(data["label"]), video))}
