"""Measure how far frames of the training videos lie, by the network's keys, from what it remembers.

python scripts/study_motion.py --dataset_dir DATA --output_dir OUT --videos 60

DATA is the parent of CVC-ClinicDB, CAMUS and DAVIS-2016-val. Prints OUT/motion.json: the least,
quartiles and most over the videos of each data set, in shares of the frame's shorter side, and what
``spatial_prior auto`` makes of them. No mask is looked at.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study_clips import load_network, make_inferer, make_parser, run

from bundle.datasets.camus import camus
from bundle.datasets.cvc_clinicdb import cvc_clinicdb
from bundle.datasets.frames import read_frames
from bundle.datasets.generic import davis
from bundle.datasets.protocols import DAVIS_HELD_OUT
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import first_shown
from bundle.inference.frame_stream import to_image
from bundle.memory.bank import MemoryBank
from bundle.memory.spatial_prior import width_for
from bundle.networks import TCMN

logger = logging.getLogger(Path(__file__).stem)


def motion(video: Video, every: int, network: TCMN, options: argparse.Namespace) -> float:
    """Median over the frames of a video, each against its first and every fifth before it."""
    session, bank, found = (
        make_inferer(options).start(network),
        MemoryBank(None, "latest", "auto"),
        [],
    )
    wanted = range(first_shown(video), len(video.frames), every)[: options.frames]
    for number, frame in enumerate(read_frames(video, list(wanted))):
        image = to_image(frame, torch.device("cpu"))
        key, value = session.encode_prompt(image, torch.zeros_like(image[:, :1]))
        if number:
            bank.read(key)
            assert bank.motion is not None
            found.append(float(bank.motion))
        if number % session.settings.memory_every == 0:
            bank.add(key, value)
    return float(np.median(found))


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Motion and prior of each data set."""
    network, table = load_network(options), {}
    sets = {
        "CVC-ClinicDB": (cvc_clinicdb(options.dataset_dir / "CVC-ClinicDB", "train"), 1),
        "CAMUS": (camus(options.dataset_dir / "CAMUS", "training", labels=[2]), 1),
        "DAVIS": (
            davis(options.dataset_dir / "DAVIS-2016-val", exclude=DAVIS_HELD_OUT),
            options.every,
        ),
    }
    for name, (videos, every) in sets.items():
        some = videos[:: max(1, len(videos) // (options.videos or len(videos)))]
        found = np.array([motion(video, every, network, options) for video in some])
        priors = width_for(torch.from_numpy(found)).numpy()
        table[name] = {
            "videos": len(found),
            "motion": [round(float(x), 3) for x in np.quantile(found, (0, 0.25, 0.5, 0.75, 1))],
            "prior": [round(float(x), 3) for x in np.quantile(priors, (0, 0.25, 0.5, 0.75, 1))],
        }
        logger.info("%s: %s", name, table[name])
    return table


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--frames", type=int, default=14, help="of a video, at most so many")
    run("motion", study, parser)
