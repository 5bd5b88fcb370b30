"""Convert videos to grey NIfTI volumes (x, y, time) that 3D Slicer and MONAI Label can open.

    python scripts/label_app/import_video.py STUDIES VIDEO [VIDEO ...]

Reads every video format of docs/formats.md. The volumes have no colour. To segment a video in
colour, upload it in a session instead: see docs/monai_label.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bundle.io.reading.video import open_video
from bundle.io.writing.nifti_header import save_label_volume
from bundle.utils.options import print_error

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def import_video(video: Path, studies: Path) -> Path:
    """Write a video as the volume ``studies/NAME.nii.gz``, (W, H, frames) uint8 grey.

    Args:
        video: Any file or folder that ``open_video`` reads.
        studies: Folder to write to; made if it does not exist.

    Returns:
        Path of the volume.

    Raises:
        FileExistsError: The volume exists already.
        ValueError: The video cannot be read.
    """
    source = open_video(video)
    target = studies / f"{source.name}.nii.gz"
    if target.exists():
        raise FileExistsError(f"{target} exists already: remove or rename it")
    studies.mkdir(parents=True, exist_ok=True)
    volume = np.empty((source.width, source.height, source.frame_count), dtype=np.uint8)
    for index, frame in enumerate(source):
        volume[..., index] = np.rint(frame @ LUMINANCE).T
    save_label_volume(target, volume, source.spacing_mm)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, help="folder that the server shows")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="video to convert")
    options = parser.parse_args(arguments)
    try:
        for video in options.videos:
            print(import_video(video, options.studies))
    except (OSError, ValueError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
