"""Read requests to the label server (a video, a painted mask, options), and make the answers.

Works in any app of MONAI Label that serves bundles. It hands the inferer one tensor, so
``OpenRequestd`` turns files into a clip of bytes and ``RestoreLabeld`` turns the answer into a label
volume. Files list x first, frames are (H, W) = (y, x).
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from bundle.apps.monai_label.options import RequestOptions, refuse
from bundle.inference.frame_stream import FrameList
from bundle.inference.inferers import VideoInferer
from bundle.inference.results import FrameResult
from bundle.io.reading.decode import (
    NRRD_SUFFIXES,
    STILL_SUFFIXES,
    VOLUME_SUFFIXES,
    has_suffix,
)
from bundle.io.reading.mask_nrrd import open_labels
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import VideoSource, open_video
from bundle.io.reading.volumes import is_single_image, open_volume
from bundle.types import LabelMap

SCRIBBLES = "foreground_scribbles", "background_scribbles"
"""Segments that 3D Slicer's Scribbles pane paints on: what to add to the selected one, to remove."""


class Prompts(NamedTuple):
    """A request, read: the video, and the masks to start from by frame."""

    video: VideoSource
    annotations: dict[int, LabelMap]


def read_request(request: Mapping[str, Any]) -> Prompts:
    """Open the files of a request.

    Args:
        request: ``image`` and ``label`` are paths; ``RequestOptions``; and what 3D Slicer sends of
            its segments, ``label_info`` [{name, id}] and ``selected_label_name``. The segment of
            that name becomes object 1; without, all objects keep their ids.

    Raises:
        HTTPException: Or ValueError, see ``refuse``: a file is missing or unreadable, the mask is
            empty, of another size, or on several frames with no word which to take.
    """
    options = RequestOptions.read(request)
    label = request.get("label")
    _check_image(request)
    if not label or not Path(label).is_file():
        refuse("no mask came with the request: paint the structure on one frame and send it again")
    video = open_image(request)
    with understandable({str(label): "the mask", str(request["image"]): "the video"}):
        painted = _read_painted(Path(label), video, request, options)
    return Prompts(video, choose_frames(painted, options, video.frame_count))


def open_image(request: Mapping[str, Any]) -> VideoSource:
    """Open the video of a request.

    Raises:
        HTTPException: Or ValueError, see ``refuse``: it is not there, or unreadable.
    """
    _check_image(request)
    folder = Path(request["image"])
    with understandable({str(folder): "the video"}):
        return open_video(only_folder(folder) if folder.is_dir() else folder)


def _check_image(request: Mapping[str, Any]) -> None:
    image = request.get("image")
    if not image or not Path(image).exists():
        refuse(
            "there is no such image on the server, or its session has ended: choose another", 404
        )


@contextmanager
def understandable(names: Mapping[str, str], status: int = 400) -> Iterator[None]:
    """Turn errors of the readers into refusals, with the user's names in place of paths."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        for path, name in names.items():
            message = message.replace(path, name)
        refuse(message, status)


def only_folder(folder: Path) -> Path:
    """Where the frames of an unpacked archive are: in it, or in the sole folder that it holds."""
    inside = [path for path in folder.iterdir() if path.name not in ("__MACOSX", "meta.info")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def choose_frames(
    painted: Mapping[int, LabelMap], options: RequestOptions, count: int
) -> dict[int, LabelMap]:
    """The painted frames to start from: one, unless all are asked for.

    Raises:
        HTTPException: Or ValueError, see ``refuse``: none is painted, not the one that is asked for,
            or several are and none is asked for.
    """
    wanted = options.reference_frame
    if not painted:
        refuse("the mask is empty: paint the structure on one frame and send it again")
    names = ", ".join(str(i) for i in sorted(painted)[:8]) + (", ..." if len(painted) > 8 else "")
    if wanted is not None and wanted not in painted:
        refuse(
            f"nothing is painted on frame {wanted} (reference_frame): of the frames 0 to {count - 1} "
            f"these are painted: {names}"
        )
    if wanted is not None:
        return {wanted: painted[wanted]}
    if len(painted) > 1 and not options.use_all_painted:
        refuse(
            f"{len(painted)} frames are painted ({names}): set reference_frame to the one to start "
            "from, or use_all_painted to start from all of them"
        )
    return dict(painted)


def _read_painted(
    path: Path, video: VideoSource, request: Mapping[str, Any], options: RequestOptions
) -> dict[int, LabelMap]:
    """Frame index to labels, of the frames that show any."""
    selected = request.get("selected_label_name")
    if not has_suffix(path, VOLUME_SUFFIXES + STILL_SUFFIXES):
        refuse(f"a mask of the kind {path.suffix!r} cannot be read: send NIfTI, .nii.gz")
    if is_single_image(path):
        return read_annotations(path, video, options.reference_frame or 0)
    if not selected:
        return read_annotations(path, video)
    volume = open_labels(path) if has_suffix(path, NRRD_SUFFIXES) else open_volume(path)
    sizes = [(each.width, each.height, each.frame_count) for each in (volume, video)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "the mask has {}x{} pixels and {} frames, the video {}x{} and {}: paint on the video "
            "itself".format(*sizes[0], *sizes[1])
        )
    ids = {entry["name"]: int(entry["id"]) for entry in request.get("label_info") or ()}
    if selected not in ids:
        refuse(f"the mask has no segment {selected!r}: it has {', '.join(ids) or 'none'}")
    return select_segment(volume.pixels(range(volume.frame_count)), ids, selected)


def select_segment(
    frames: Iterable[np.ndarray], ids: Mapping[str, int], selected: str
) -> dict[int, LabelMap]:
    """The frames of one segment out of what 3D Slicer sends, as object 1.

    Where there are scribbles, they are what the user painted last: only their frames count, on which
    they add to the segment or take away from it.

    Args:
        frames: (H, W) each.
        ids: Segment name to its id in the frames.
        selected: Name of the segment.
    """
    add, remove = (ids.get(name) for name in SCRIBBLES)
    shown, scribbled = dict[int, LabelMap](), set[int]()
    for index, values in enumerate(frames):
        added = values == add if add else np.zeros(values.shape, dtype=bool)
        if added.any() or (remove and (values == remove).any()):
            scribbled.add(index)
        mask = (values == ids[selected]) | added
        if mask.any():
            shown[index] = mask.astype(np.uint8)
    return {i: mask for i, mask in shown.items() if i in scribbled or not scribbled}


class OpenRequestd(Transform):
    """Makes of a request's files one clip (3 + N, H, W, T) of bytes in ``image``.

    RGB from 0 to 255, then a channel for each object, 1 where it was painted. ``object_ids`` are the
    objects' ids. The clip's meta data say where a label volume (x, y, t) of the video lies.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        video, annotations = read_request(data)
        ids = sorted({int(i) for labels in annotations.values() for i in np.unique(labels) if i})
        shape = (3 + len(ids), video.height, video.width, video.frame_count)
        clip = np.zeros(shape, dtype=np.uint8)
        with understandable({str(data["image"]): "the video"}):
            for index, frame in enumerate(video):
                clip[:3, ..., index] = frame.transpose(2, 0, 1)
        for index, labels in annotations.items():
            for channel, object_id in enumerate(ids):
                clip[3 + channel, ..., index] = labels == object_id
        affine = torch.from_numpy(np.asarray(video.geometry.affine, dtype=np.float64))
        meta = {
            "affine": affine,
            "original_affine": affine.numpy(),
            "spatial_shape": np.array([video.width, video.height, video.frame_count]),
            "request_options": asdict(RequestOptions.read(data)),
        }
        image = MetaTensor(torch.from_numpy(clip), meta=meta)
        # A video file has a suffix that no label volume can have.
        volume = data.get("result_extension") or ".nii.gz"
        return {**data, "image": image, "object_ids": ids, "result_extension": volume}


class RequestInferer(VideoInferer):
    """``VideoInferer`` that takes the clips of ``OpenRequestd`` too; it keeps nothing of a request."""

    def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Of bytes a label volume (1, 1, H, W, T), numbered like the mask channels, from 1.

        Of all else what ``VideoInferer`` gives.
        """
        if not (torch.is_tensor(inputs) and inputs.dtype == torch.uint8):
            return super().__call__(inputs, network, *args, **kwargs)
        meta = inputs.meta if isinstance(inputs, MetaTensor) else {}
        clip = torch.as_tensor(inputs).cpu().numpy()[0]
        painted = np.flatnonzero(clip[3:].any(axis=(0, 1, 2)))
        numbers = np.arange(1, len(clip) - 2, dtype=np.uint8)[:, None, None]
        annotations = {int(t): (clip[3:, ..., t] * numbers).max(axis=0) for t in painted}
        frames = [clip[:3, ..., t].transpose(1, 2, 0) for t in range(clip.shape[-1])]
        device = next(network.parameters()).device
        chosen = meta.get("request_options")
        inferer = self if chosen is None else self.with_options(RequestOptions(**chosen))
        results = inferer.stream(FrameList(frames), annotations, network, device)
        labels = np.stack([result.labels for result in results], axis=-1)
        return torch.from_numpy(labels)[None, None]

    def with_options(self, options: RequestOptions) -> "RequestInferer":
        """The same, with what a request chose."""
        other = copy.copy(self)
        other.settings = options.applied_to(self.settings)
        return other

    def run(self, prompts: Prompts, network: Any, options: RequestOptions) -> Iterator[FrameResult]:
        """The results of a request, frame by frame, without holding the video in memory."""
        device = next(network.parameters()).device
        video, annotations = prompts
        return self.with_options(options).stream(video, annotations, network, device)


class RestoreLabeld(Transform):
    """Turns the numbers in ``pred`` (1, H, W, T) into ids, in the order of files, (1, x, y, t)."""

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        ids = np.array([0, *data["object_ids"]], dtype=np.uint8)
        labels = ids[torch.as_tensor(data["pred"]).cpu().numpy()]
        return {**data, "pred": np.ascontiguousarray(labels.transpose(0, 2, 1, 3))}
