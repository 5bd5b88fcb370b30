"""Points and boxes as 3D Slicer sends them, read and answered without a server."""

import nibabel as nib
import numpy as np
import pytest

from bundle.apps.monai_label.points import read_points, segment_pointed
from bundle.inference.settings import InferenceSettings
from bundle.io.reading.video import open_video
from bundle.networks import TCMN
from bundle.segmenter import VideoSegmenter
from tests.tiny import NETWORK, OWN_SIZE, make_prompted

X, Y, T = 48, 32, 6
SETTINGS = InferenceSettings(**OWN_SIZE, precision="float32")
REFUSED = Exception  # with a server's libraries it is an HTTPException


@pytest.fixture(scope="module")
def network():
    return make_prompted(2)


@pytest.fixture
def video(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (X, Y, T)).astype(np.uint8)
    nib.save(nib.Nifti1Image(grey, np.diag([-0.5, 0.7, 1, 1])), tmp_path / "video.nii.gz")
    return str(tmp_path / "video.nii.gz")


def answer(video, network, one_frame=False, **sent):
    pointed = read_points({"image": video, "label": "polyp", **sent}, one_frame)
    return list(segment_pointed(pointed, network, SETTINGS, one_frame))


def test_points_are_those_of_a_job(video, network):
    sent = {"foreground": [[20, 10, 2], [30, 20, 2]], "background": [[5, 5, 2]]}
    found = answer(video, network, **sent)
    job = VideoSegmenter(network, SETTINGS).start(open_video(video))
    job.add_points(2, [(20, 10), (30, 20), (5, 5)], [1, 1, 0])
    for one, other in zip(found, job.results(), strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
    assert [result.frame for result in found] == list(range(T))
    assert found[2].labels[10, 20] == found[2].labels[20, 30] == 1
    assert found[2].labels[5, 5] == 0


def test_points_in_later_frames_correct_what_was_found_there(video, network):
    found = answer(
        video, network, foreground=[[20, 10, 1], [40, 20, 4]], background=[[3, 3, 5], [9, 9, 1]]
    )
    job = VideoSegmenter(network, SETTINGS).start(open_video(video))
    job.add_points(1, [(20, 10), (9, 9)], [1, 0])
    list(job.propagate())
    job.add_points(4, [(40, 20)], [1])
    job.add_points(5, [(3, 3)], [0])
    for one, other in zip(found, job.results(), strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
    assert (found[4].labels[20, 40], found[5].labels[3, 3]) == (1, 0)


def test_a_box_is_in_the_frame_of_the_points_or_in_its_middle(video):
    roi = [40, 8, 25, 3, 1, 4]  # a mirrored axis turns an edge round
    prompts = read_points({"image": video, "roi": roi}).prompts
    assert {frame: prompt.box for frame, prompt in prompts.items()} == {2: (8, 3, 41, 26)}
    prompts = read_points({"image": video, "roi": roi, "foreground": [[20, 10, 5]]}).prompts
    assert prompts[5].box == (8, 3, 41, 26)
    assert prompts[5].points == ((20, 10),)
    chosen = read_points({"image": video, "roi": roi, "slice": 3}, one_frame=True).prompts
    assert list(chosen) == [3]


def test_one_frame_is_answered_alone(video, network):
    sent = {"foreground": [[20, 10, 2], [30, 20, 4]], "background": [[5, 5, 4]], "slice": 4}
    found = answer(video, network, one_frame=True, **sent)
    job = VideoSegmenter(network, SETTINGS).start(open_video(video))
    expected = job.add_points(4, [(30, 20), (5, 5)], [1, 0])
    np.testing.assert_array_equal(found[4].labels, expected)
    assert len(found) == T
    assert not any(result.labels.any() for result in found if result.frame != 4)
    # 3D Slicer leaves the frame out where it is 0, or sends none.
    for frame in ({}, {"slice": None}):
        pointed = read_points({"image": video, "foreground": [[20, 10, 0]], **frame}, True)
        assert list(pointed.prompts) == [0]


def test_lists_may_be_text_and_numbers_broken(video):
    prompts = read_points({"image": video, "foreground": "[[20.4, 9.5, 2.1]]"}).prompts
    assert prompts[2].points == ((20, 10),)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"image": "nowhere.nii.gz"}, "there is no such image on the server"),
        ({}, "no point on the structure came with the request: set one with Foreground"),
        ({"background": [[1, 1, 0]]}, "no point on the structure came with the request"),
        ({"foreground": [[1, 1]]}, r"foreground has \[1, 1\]: send numbers \[x, y, frame\]"),
        ({"foreground": [[1, 1, "a"]]}, "foreground has .*: send numbers"),
        ({"foreground": "nothing"}, "foreground is 'nothing': send a list, such as"),
        ({"foreground": {"x": 1}}, "foreground is .*: send a list, such as"),
        ({"roi": [1, 2, 3]}, "roi has .*: send numbers"),
        ({"foreground": [[1, 1, 6]]}, "a point is in frame 6, but the video has frames 0 to 5"),
        ({"foreground": [[1, 1, -1]]}, "a point is in frame -1, but the video has frames 0 to 5"),
        ({"foreground": [[48, 1, 0]]}, "point 48,1 of object 1 lies outside of the frame"),
        (
            {"foreground": [[4, 1, 0]], "background": [[4, 1, 0]]},
            "point 4,1 is said to be on object 1 and beside it",
        ),
    ],
)
def test_bad_requests_are_refused(video, network, sent, message):
    with pytest.raises(REFUSED, match=message):
        answer(sent.get("image", video), network, **{n: v for n, v in sent.items() if n != "image"})


def test_one_frame_without_a_point_is_refused(video):
    sent = {"image": video, "foreground": [[20, 10, 2]], "slice": 3}
    with pytest.raises(REFUSED, match="came with the request: set one with Foreground in frame 3"):
        read_points(sent, one_frame=True)


def test_weights_without_partial_masks_say_so(video):
    with pytest.raises(REFUSED, match="need a network that takes them: these weights were trained"):
        answer(video, TCMN(**NETWORK).eval(), foreground=[[20, 10, 2]])
