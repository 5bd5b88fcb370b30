"""Read videos of an evaluation again with their saved masks, for pictures and clinical values.

T frames of H x W.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from bundle.datasets.whole_videos import VideoDataset
from bundle.evaluation.clinical import Chamber
from bundle.evaluation.saved_masks import load_masks, parts, spacing_of

CHAMBER = "LV cavity"
"""The class whose masks get volumes and ejection fractions."""


@dataclass(frozen=True, eq=False)
class Reviewed:
    """One video with its truth and the saved masks, for pictures.

    Attributes:
        frames: RGB.
        prediction: Labels 1..N.
        truth: Labels 1..N, -1 in frames that are not annotated.
        annotated: Indices of the annotated frames.
        spacing_mm: Distance between rows and between columns; None if unknown.
    """

    frames: UInt8[np.ndarray, "H W 3 T"]
    prediction: Integer[np.ndarray, "H W T"]
    truth: Integer[np.ndarray, "H W T"]
    annotated: tuple[int, ...]
    spacing_mm: tuple[float, float] | None


def to_uint8(image: Any) -> UInt8[np.ndarray, "H W 3 T"]:
    """Frames (3, H, W, T) in [0, 1] as 8-bit RGB."""
    pixels: UInt8[np.ndarray, "H W 3 T"] = (
        (255 * image).round().byte().movedim(0, 2).contiguous().cpu().numpy()
    )
    return pixels


class Reviewer:
    """Reads videos again by their ids.

    Args:
        dataset: The videos.
        masks: Folder of the saved masks.
        names: Id of a video -> name of its folder there.
    """

    def __init__(self, dataset: VideoDataset, masks: Path, names: Mapping[str, str]) -> None:
        self.dataset, self.masks, self.names = dataset, masks, names
        self.places = {video.id: i for i, video in enumerate(dataset.data)}

    def __call__(self, video: str) -> Reviewed:
        """The video with that id."""
        item, prediction = self._read(video)
        truth = item["label"][0].numpy()
        return Reviewed(
            to_uint8(item["image"]),
            prediction,
            truth,
            tuple(np.flatnonzero((truth >= 0).all((0, 1))).tolist()),
            spacing_of(item),
        )

    def chambers(self, videos: Iterable[str]) -> list[Chamber]:
        """The left ventricle (class ``CHAMBER``) of each video, as segmented."""
        found = []
        for video in videos:
            item, prediction = self._read(video)
            classes, _, frames = parts(item)
            number = classes.index(CHAMBER) + 1
            truth = item["label"][0].movedim(-1, 0).numpy()
            view = re.search("[24]CH", video)
            reference = json.loads(item["info"]).get("ejection_fraction_percent")
            found.append(
                Chamber(
                    patient=item["patient"],
                    view=view[0] if view else "",
                    name=video,
                    frame_ids=frames,
                    masks=np.moveaxis(prediction == number, -1, 0),
                    truth=[None if (mask < 0).any() else mask == number for mask in truth],
                    spacing_mm=spacing_of(item),
                    reference_ef_percent=reference,
                )
            )
        return found

    def _read(self, video: str) -> tuple[dict[str, Any], Integer[np.ndarray, "H W T"]]:
        item = self.dataset[self.places[video]]
        frames = range(item["label"].shape[-1])
        return item, load_masks(self.masks, self.names[video], item, frames)
