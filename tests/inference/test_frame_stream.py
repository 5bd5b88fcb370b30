"""Frames on their way to the network and, once more, to the writers."""

import numpy as np
import pytest

from bundle.inference.frame_stream import FrameList, RecentFrames

COUNT = 12


class Counted(FrameList):
    """A video that notes which frames it decodes."""

    def frames(self, indices):
        for i in indices:
            self.decoded.append(i)
            yield self.images[i]


@pytest.fixture
def video():
    video = Counted([np.full((2, 3, 3), i, np.uint8) for i in range(COUNT)])
    object.__setattr__(video, "decoded", [])
    return video


def numbers(frames):
    return [int(frame[0, 0, 0]) for frame in frames]


def test_a_reader_close_behind_decodes_nothing(video):
    recent = RecentFrames(video)
    second = recent.in_order()
    followed = [next(second) for _ in recent.frames(range(COUNT))]
    assert numbers(followed) == list(range(COUNT))
    assert video.decoded == list(range(COUNT))


@pytest.mark.parametrize("ahead", [[5], [3, 4, 8, 11], range(6, COUNT), range(COUNT)])
def test_whatever_was_read_before_all_frames_come_in_order(video, ahead):
    recent = RecentFrames(video)
    assert numbers(recent.frames(ahead)) == list(ahead)
    assert numbers(recent.in_order()) == list(range(COUNT))


def test_few_frames_are_kept(video, monkeypatch):
    monkeypatch.setattr("bundle.inference.frame_stream.KEPT_BYTES", 0)
    recent = RecentFrames(video)
    list(recent.frames(range(COUNT)))
    video.decoded.clear()
    assert numbers(recent.in_order()) == list(range(COUNT))
    assert 0 in video.decoded  # was dropped
    assert COUNT - 1 not in video.decoded  # was kept
