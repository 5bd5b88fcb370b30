"""A video of any length takes the same time a frame and the same memory, early and late."""

import logging
import time

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from bundle.inference import session as sessions
from bundle.inference.inferers import VideoInferer
from bundle.inference.settings import InferenceSettings
from bundle.networks.encoders import FrameFeatures

LIMIT = InferenceSettings().max_memory_frames


class Bright(nn.Module):
    """A network whose object is what is bright; its keys and values are of the usual widths."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def encode(self, image):
        small = image[:, :1, ::16, ::16]
        return FrameFeatures(small.expand(-1, 64, -1, -1), small, small, small, image[:, :1])

    def memorize(self, features, masks, unknown=None):
        return masks[:, :, None, ::16, ::16].expand(-1, -1, 256, -1, -1)

    def segment(self, features, readout, previous=None):
        bright = 20 * features.stride4 - 10
        return torch.cat([-bright, bright], dim=1) + 1e-6 * readout.mean()


class Flicker:
    """Frames of 32x32 with a bright square that moves; made when they are asked for."""

    height = width = 32

    def __init__(self, frame_count):
        self.frame_count = frame_count

    def frames(self, indices):
        for index in indices:
            frame = np.zeros((self.height, self.width, 3), np.uint8)
            frame[self.square(index)] = 255
            yield frame

    def square(self, index):
        return (slice(index % 24, index % 24 + 8), slice(8, 24))


@pytest.mark.parametrize(
    "count", [300, pytest.param(20_000, marks=[pytest.mark.heavy, pytest.mark.timeout(1800)])]
)
def test_time_and_memory_stay_flat(count):
    video, process, network = Flicker(count), psutil.Process(), Bright()
    mask = np.zeros((32, 32), np.uint8)
    mask[video.square(0)] = 1
    resident, spent = [], [time.process_time()]
    # Every frame is remembered, so that without a bound the read would be of as many as there are.
    results = VideoInferer(memory_every=1, inference_size=None).stream(video, {0: mask}, network)
    for result in results:
        expected = np.zeros((32, 32), np.uint8)
        expected[video.square(result.frame)] = 1
        np.testing.assert_array_equal(result.labels, expected)
        resident.append(process.memory_info().rss)
        spent.append(time.process_time())
    assert len(resident) == count
    # Frames from the sixtieth on, when memory is full; processor time, by the least of ten parts.
    elapsed = np.diff(spent)[60:]
    half = len(elapsed) // 2
    early, late = (
        min(part.mean() for part in np.array_split(each, 10))
        for each in (elapsed[:half], elapsed[half:])
    )
    # Without a bound it would be five times as much; other processes disturb a tenth.
    assert late < 2 * early
    assert max(resident) - max(resident[:100]) < 16 * 2**20


def test_the_limit_is_reported_once(caplog):
    sessions._tell_limit.cache_clear()
    inferer, mask = VideoInferer(memory_every=1, inference_size=None), np.zeros((32, 32), np.uint8)
    mask[:8] = 1
    with caplog.at_level(logging.INFO):
        for count, told in ((LIMIT, 0), (40, 1), (40, 1)):
            list(inferer.stream(Flicker(count), {0: mask}, Bright()))
            assert caplog.text.count(f"memory holds {LIMIT} frames: from now on") == told
