"""Measure how alike dark regions are to the chambers of the heart, whose labels they do not use.

python scripts/studies/dark_regions.py --dataset_dir DATA

DATA is the folder that holds CAMUS. Prints, for each chamber in the pictures of the validation
patients, the mean J of the region most like it, and the share of chambers for which that is above 0.7.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bundle.datasets.camus import camus
from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.generic import single_frames
from bundle.training.regions import find_dark_regions

CHAMBERS = {1: "LV cavity", 3: "left atrium"}


def study(dataset_dir: Path) -> dict[str, list[float]]:
    """J of the best region, 0 to 1, for each picture that shows the chamber."""
    best: dict[str, list[float]] = {name: [] for name in CHAMBERS.values()}
    videos = single_frames(camus(dataset_dir / "CAMUS", "validation", labels=list(CHAMBERS)))
    for video in tqdm(videos, desc="pictures", disable=None):
        found = find_dark_regions(read_frames(video, [0])[0])
        truth = read_masks(video, [0])[0]
        for label, name in CHAMBERS.items():
            chamber = truth == label
            if chamber.any():
                regions = (found == i for i in range(1, found.max() + 1))
                scores = [(r & chamber).sum() / (r | chamber).sum() for r in regions]
                best[name].append(max(scores, default=0.0))
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder that holds CAMUS")
    for name, scores in study(parser.parse_args().dataset_dir).items():
        above = np.mean(np.array(scores) > 0.7)
        print(
            f"{name}: J {100 * np.mean(scores):.1f}, {100 * above:.0f} % above 70, n {len(scores)}"
        )
