"""Make longer or harder videos from those of a protocol. They are scored by the protocol ``davis``.

    python scripts/studies/join_videos.py cut --protocol cvc_clinicdb --dataset_dir DIR --output_dir OUT
    python scripts/studies/join_videos.py to_and_fro --protocol NAME --dataset_dir DIR --output_dir OUT

``cut``: after ``--frames`` frames, each video goes on with ``--after`` frames of another one. Their
masks are empty, since the object is gone. ``--back`` lets the first video come back for as many
frames, those that follow its first ones. ``--scenes`` takes the other video from another protocol.
``to_and_fro``: each video is played ``--times`` times, every second time backwards. The videos are
written in the DAVIS layout.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.protocols import PROTOCOLS, read_protocol
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import first_shown
from bundle.evaluation.saved_masks import save_png
from bundle.types import Frame, LabelMap
from bundle.utils.options import print_error


class Shot(NamedTuple):
    """Consecutive frames and their masks. A mask is None where there is no reference."""

    frames: Sequence[Frame]
    masks: Sequence[LabelMap | None]


def cut(
    videos: Sequence[Video], scenes: Sequence[Video], frames: int, after: int, back: int = 0
) -> Iterator[Shot]:
    """Join the beginning of each video with frames of another one, whose masks are empty.

    The frames of the other one are resized to the size of the video. If both lists are the same, the
    other one is the next video.

    Args:
        videos: Videos. Each begins with the first frame that shows an object.
        scenes: Videos to continue with, by turns.
        frames: Most frames of a video.
        after: Most frames of the other video, from its first frame on.
        back: Most frames of the video after that, which go on where it was left.
    """
    for number, video in enumerate(videos):
        own = read_shot(video, frames + back)
        height, width = own.frames[0].shape[:2]
        scene = scenes[(number + 1) % len(scenes)]
        others = read_frames(scene, range(min(after, len(scene.frames))))
        resized = [cv2.resize(each, (width, height)) for each in others]
        nothing = [np.zeros((height, width), np.uint8)] * len(resized)
        yield Shot(
            [*own.frames[:frames], *resized, *own.frames[frames:]],
            [*own.masks[:frames], *nothing, *own.masks[frames:]],
        )


def to_and_fro(videos: Sequence[Video], times: int) -> Iterator[Shot]:
    """Play each video several times, every second time backwards. No frame comes twice in a row."""
    for video in videos:
        own = read_shot(video)
        order = list(range(len(own.frames)))
        for time in range(1, times):
            order += range(len(own.frames))[::-1][1:] if time % 2 else range(1, len(own.frames))
        yield Shot([own.frames[i] for i in order], [own.masks[i] for i in order])


def read_shot(video: Video, count: int | None = None) -> Shot:
    """Read a video from the first frame on that shows an object. Ids that are not objects become 0."""
    first = first_shown(video)
    indices = range(first, len(video.frames))[:count]
    annotated = [i for i in indices if i in video.masks]
    masks = dict(zip(annotated, read_masks(video, annotated), strict=True))
    objects = list(video.labels)
    frames = read_frames(video, indices)
    return Shot(
        frames,
        [
            np.where(np.isin(masks[i], objects), masks[i], np.uint8(0)) if i in masks else None
            for i in indices
        ],
    )


def write(folder: Path, name: str, shot: Shot) -> None:
    """Write a video in the DAVIS layout."""
    images, masks = (folder / kind / name for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for index, (frame, labels) in enumerate(zip(*shot, strict=True)):
        Image.fromarray(frame).save(images / f"{index:05d}.png", compress_level=1)
        if labels is not None:
            save_png(masks / f"{index:05d}.png", labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["cut", "to_and_fro"], help="what to make")
    parser.add_argument(
        "--protocol",
        required=True,
        choices=list(PROTOCOLS),
        metavar="NAME",
        help=", ".join(PROTOCOLS),
    )
    parser.add_argument(
        "--dataset_dir", required=True, type=Path, metavar="DIR", help="root folder of the data set"
    )
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="new folder")
    parser.add_argument(
        "--scenes",
        choices=list(PROTOCOLS),
        metavar="NAME",
        help="cut: protocol of the videos to continue with (default: the same)",
    )
    parser.add_argument(
        "--scenes_dir", type=Path, metavar="DIR", help="cut: root folder of their data set"
    )
    parser.add_argument("--frames", type=int, default=15, help="cut: most frames of each video")
    parser.add_argument("--after", type=int, default=15, help="cut: most frames that follow")
    parser.add_argument("--back", type=int, default=0, help="cut: most frames of the first again")
    parser.add_argument("--times", type=int, default=3, help="to_and_fro: times it is played")
    options = parser.parse_args(arguments)
    try:
        options.output_dir.mkdir(parents=True)
        videos = read_protocol(options.protocol, options.dataset_dir)
        if options.kind == "to_and_fro":
            shots = to_and_fro(videos, options.times)
        else:
            scenes = videos
            if options.scenes:
                root = options.scenes_dir or options.dataset_dir
                scenes = read_protocol(options.scenes, root)
            shots = cut(videos, scenes, options.frames, options.after, options.back)
        for number, shot in enumerate(shots):
            write(options.output_dir, f"{number:02d}", shot)
    except (OSError, ValueError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    print(f"{len(videos)} videos are in {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
