"""Export the videos of a protocol in the DAVIS layout, to run another method on them.

    python scripts/dev/export_protocol.py --protocol cvc_clinicdb --dataset_dir DIR --output_dir OUT

Writes ``OUT/JPEGImages/VIDEO/FRAME.png``, and ``OUT/Annotations/VIDEO/FRAME.png`` for the first frame
alone. Save the masks of the other method as ``PREDICTIONS/VIDEO/FRAME.png``, with the same object ids.
Then score them: ``tcmn evaluate --predictions PREDICTIONS``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from bundle.datasets.protocols import PROTOCOLS, read_protocol
from bundle.datasets.whole_videos import VideoDataset
from bundle.evaluation.review import to_uint8
from bundle.evaluation.saved_masks import folder_names, parts, save_png
from bundle.utils.options import print_error


def export(
    protocol: str, dataset_dir: Path, output_dir: Path, split: Path | None, all_masks: bool
) -> int:
    """Write all videos of a protocol.

    Args:
        protocol: Name in ``PROTOCOLS``.
        dataset_dir: Root folder of the data set.
        output_dir: New or empty folder.
        split: JSON file of a split, whose valid part is exported; None for the protocol's own videos.
        all_masks: Whether to write all masks, not only that of the first frame.

    Returns:
        Number of videos.

    Raises:
        FileExistsError: ``output_dir`` is not empty.
        FileNotFoundError: The data set is not there.
    """
    if output_dir.exists() and any(output_dir.iterdir()):
        raise FileExistsError(f"{output_dir} is not empty: choose another --output_dir")
    dataset = VideoDataset(read_protocol(protocol, dataset_dir, split))
    names = folder_names(dataset.data)
    for i in tqdm(range(len(dataset)), desc=protocol, unit="video", disable=None):
        item = dataset[i]
        name = names[item["name"]]
        images, masks = (output_dir / kind / name for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        _, ids, frames = parts(item)
        pixels, labels = to_uint8(item["image"]), item["label"][0].numpy()
        original = np.array([0, *ids], np.uint8)
        for t, frame in enumerate(frames):
            Image.fromarray(pixels[..., t]).save(images / f"{frame}.png")
            annotated = (labels[..., t] >= 0).all()
            if t == 0 or (all_masks and annotated):
                save_png(masks / f"{frame}.png", original[labels[..., t]])
    return len(dataset)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--protocol",
        required=True,
        choices=list(PROTOCOLS),
        metavar="NAME",
        help=", ".join(PROTOCOLS),
    )
    for option, text in (
        ("dataset_dir", "root folder of the data set"),
        ("output_dir", "new or empty folder"),
    ):
        parser.add_argument(f"--{option}", required=True, type=Path, metavar="DIR", help=text)
    parser.add_argument(
        "--split",
        type=Path,
        metavar="JSON",
        help="export the valid part of this split; see docs/evaluate.md",
    )
    parser.add_argument(
        "--all_masks",
        action="store_true",
        help="write the masks of all frames; only for methods that read the first one alone",
    )
    options = parser.parse_args(arguments)
    try:
        count = export(
            options.protocol,
            options.dataset_dir,
            options.output_dir,
            options.split,
            options.all_masks,
        )
    except (OSError, ValueError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    print(f"{count} videos are in {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
