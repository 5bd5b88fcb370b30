"""Make of a video file a volume that 3D Slicer and MONAI Label show: grey, x, y and time.

    python scripts/label_app/import_video.py STUDIES VIDEO [VIDEO ...]

Takes what inference takes (docs/inference.md). Colours are lost in the volume; a video in colour can
be segmented through a session instead, see docs/monai_label.md.
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
    """Write STUDIES/<name>.nii.gz.

    Raises:
        FileExistsError: It is there already.
        ValueError: The video cannot be read.
    """
    source = open_video(video)
    target = studies / f"{source.name}.nii.gz"
    if target.exists():
        raise FileExistsError(f"{target} is there already: remove or rename it")
    studies.mkdir(parents=True, exist_ok=True)
    volume = np.empty((source.width, source.height, source.frame_count), dtype=np.uint8)
    for index, frame in enumerate(source):
        volume[..., index] = np.rint(frame @ LUMINANCE).T
    save_label_volume(target, volume, source.spacing_mm)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", type=Path, help="the folder that the server shows")
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
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
