"""Answer requests with points or a box, as 3D Slicer's and OHIF's *SmartEdit* panels send them.

A point is [x, y, frame] in the video's pixels, in the convention of volumes: (0, 0) is the middle of
the first pixel. The server keeps no state, so each request has all points that were set so far.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bundle.apps.monai_label.options import refuse
from bundle.apps.monai_label.requests import open_image, understandable
from bundle.inference.job import SegmentationJob
from bundle.inference.prompts import LoadedNetwork, ObjectPrompt, require_prompts
from bundle.inference.results import FrameResult
from bundle.inference.settings import InferenceSettings
from bundle.io.reading.video import VideoSource
from bundle.networks.tcmn import VideoNetwork

OBJECT = 1
"""The id of the structure, in answers."""
SIGNS = {"foreground": True, "background": False}
"""Names of lists of points to whether these lie on the structure."""


class PointedVideo(NamedTuple):
    """A request, read.

    Attributes:
        video: What it is about.
        prompts: Frame to what was pointed at there, in the order in which frames were pointed at.
    """

    video: VideoSource
    prompts: dict[int, ObjectPrompt]


def read_points(request: Mapping[str, Any], one_frame: bool = False) -> PointedVideo:
    """Open the video of a request, and read its points.

    Args:
        request: ``image`` is a path; ``foreground`` and ``background`` are lists of points; ``roi`` is
            a box [x, x, y, y, frame, frame], or empty. With ``one_frame``, ``slice`` is the frame.
        one_frame: What was pointed at in other frames does not count.

    Raises:
        HTTPException: Or ValueError, see ``refuse``: the file is missing or unreadable, a point cannot
            be read or lies outside, or nothing was pointed at.
    """
    video = open_image(request)
    points = {
        name: [_numbers(each, 3, name, "[x, y, frame]") for each in _list(request, name)]
        for name in SIGNS
    }
    box, chosen = _list(request, "roi"), request.get("slice") if one_frame else None
    frame_of_box = None
    if box:
        left, right, top, bottom, first, last = _numbers(
            box, 6, "roi", "[x, x, y, y, frame, frame]"
        )
        shown = [frame for _, _, frame in points["foreground"]]
        frame_of_box = shown[0] if shown else (first + last) // 2
        if isinstance(chosen, int):
            frame_of_box = chosen
    wanted = _frame_of(chosen, points, frame_of_box) if one_frame else None
    prompts: dict[int, ObjectPrompt] = {}
    if box and frame_of_box is not None and wanted in (None, frame_of_box):
        edges = min(left, right), min(top, bottom), max(left, right) + 1, max(top, bottom) + 1
        prompts[frame_of_box] = ObjectPrompt(box=edges)
    for name, on in SIGNS.items():
        for x, y, frame in points[name]:
            if wanted in (None, frame):
                had = prompts.get(frame, ObjectPrompt())
                prompts[frame] = had.with_points([(x, y)], [on])
    if not any(prompt.box or any(prompt.positive) for prompt in prompts.values()):
        refuse(
            "no point on the structure came with the request: set one with Foreground"
            + ("" if wanted is None else f" in frame {wanted}, or choose another model")
        )
    for frame in prompts:
        if not 0 <= frame < video.frame_count:
            refuse(
                f"a point is in frame {frame}, but the video has frames 0 to "
                f"{video.frame_count - 1}: set it anew"
            )
    return PointedVideo(video, prompts)


def segment_pointed(
    pointed: PointedVideo,
    network: VideoNetwork,
    settings: InferenceSettings,
    one_frame: bool = False,
) -> Iterator[FrameResult]:
    """The answer to a request, frame by frame.

    The frame that was pointed at first begins; it is propagated, and points in other frames correct
    what was found there.

    Args:
        pointed: The request.
        network: On its device.
        settings: With what the request chose.
        one_frame: Answer for the frame alone that was pointed at; the others are empty.

    Raises:
        HTTPException: Or ValueError, see ``refuse``: points contradict each other, nothing was found
            at them, or the network takes no partial masks.
    """
    video, prompts = pointed
    loaded = LoadedNetwork(network, settings, next(network.parameters()).device)
    job = SegmentationJob(loaded, video)
    first, *others = prompts
    with understandable({}):
        require_prompts(network)
        labels = job.add_prompts(first, {OBJECT: prompts[first]})
        if not labels.any():
            refuse(
                f"nothing was found at the points in frame {first}: set more points on the structure"
            )
        if others and not one_frame:
            for _ in job.propagate():
                pass
            for frame in others:
                job.add_prompts(frame, {OBJECT: prompts[frame]})
    if not one_frame:
        yield from job.results()
        return
    for frame in range(video.frame_count):
        shown = labels if frame == first else np.zeros_like(labels)
        yield FrameResult(frame, shown, {OBJECT: 1.0} if frame == first else {}, False)


def _frame_of(
    chosen: Any, points: Mapping[str, list[list[int]]], frame_of_box: int | None
) -> int | None:
    """The one frame that a request is about, which 3D Slicer may leave out."""
    if isinstance(chosen, int):
        return chosen
    shown = [frame for name in SIGNS for _, _, frame in points[name]]
    return shown[-1] if shown else frame_of_box


def _list(request: Mapping[str, Any], name: str) -> list[Any]:
    values = request.get(name) or []
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError:
            refuse(f"{name} is {values!r}: send a list, such as [[60, 70, 0]]")
    if not isinstance(values, (list, tuple)):
        refuse(f"{name} is {values!r}: send a list, such as [[60, 70, 0]]")
    return list(values)


def _numbers(value: Any, count: int, name: str, form: str) -> list[int]:
    """The nearest pixels."""
    good = isinstance(value, (list, tuple)) and len(value) == count
    if not good or not all(type(x) in (int, float) and math.isfinite(x) for x in value):
        refuse(f"{name} has {value!r}: send numbers {form}")
    return [math.floor(x + 0.5) for x in value]
