"""The simulated user and its figures, with methods whose behaviour is known."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist

from bundle.datasets.records import Video
from bundle.evaluation.interactive import (
    Curve,
    correct_videos,
    count_interactions,
    draw_curves,
    prompt_videos,
    summarise_curves,
)
from bundle.evaluation.saved_masks import save_png
from bundle.evaluation.simulated_user import (
    FrameMethod,
    NetworkMethod,
    VideoMethod,
    WithoutNetwork,
    correct_frame,
    correct_video,
    first_mask,
    jaccard,
    prompt_frame,
    tight_box,
)
from bundle.inference.inferers import VideoInferer
from bundle.networks import TCMN
from bundle.networks.prompts import PartialMask, click_error
from tests.scripts import load_script
from tests.tiny import NETWORK, OPTIONS

SHAPE = (48, 64)


def make_frame(labels):
    """A frame that shows its truth, for methods that look it up."""
    return np.repeat(labels[..., None], 3, axis=-1).astype(np.uint8)


def make_blob(seed):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 5)
    return noise > np.quantile(noise, 0.7)


class Lens:
    """Sees the truth around each point that it is given, and keeps its guess elsewhere."""

    radius = 7

    def complete(self, frame, parts):
        truth = frame[..., 0] > 0
        found = []
        for part in parts:
            seen = ndimage.distance_transform_edt(part.unknown > 0) <= self.radius
            found.append(np.where(seen, truth, part.mask))
        return np.stack(found).astype(np.float32)


class Oracle:
    """Knows the truth; the parts are asked for in the order of the ids."""

    def complete(self, frame, parts):
        ids = np.unique(frame[frame > 0])
        return np.stack([frame[..., 0] == i for i in ids[: len(parts)]]).astype(np.float32)


class Deaf:
    """Answers nothing at all."""

    def complete(self, frame, parts):
        return np.zeros((len(parts), *frame.shape[:2]), np.float32)


class Nearest:
    """A method and its job: each frame has the mask of the nearest annotated frame."""

    def __init__(self, method=None):
        self.method = method or Oracle()

    def complete(self, frame, parts):
        return self.method.complete(frame, parts)

    def open(self, frames, annotations):
        self.count, self.given, self.asked = len(frames), dict(annotations), []
        return self

    def annotate(self, index, labels):
        self.given[index] = labels
        self.asked.append(index)

    def run(self):
        return iter(range(self.count))

    def result(self, index):
        nearest = min(sorted(self.given), key=lambda i: abs(i - index))
        return type("Found", (), {"labels": self.given[nearest]})

    def suggest(self):
        return max(range(self.count), key=lambda i: min(abs(i - j) for j in self.given))


# Where the user points


def click_by_loops(truth, found):
    """The pixel of the largest region of error that is farthest from what is no error there."""
    regions, count = ndimage.label(truth != found)
    if not count:
        return None
    sizes = [(regions == i).sum() for i in range(1, count + 1)]
    inside = np.pad(regions == 1 + int(np.argmax(sizes)), 1)
    depth = cdist(np.argwhere(inside), np.argwhere(~inside)).min(1)
    return (
        max(sizes),
        depth.max(),
        {tuple(p - 1) for p in np.argwhere(inside)[depth >= depth.max() - 1e-4]},
    )


@pytest.mark.parametrize("seed", range(6))
def test_the_user_points_at_the_middle_of_the_largest_error(seed):
    truth, found = make_blob(seed), make_blob(seed + 1 if seed else 0) & make_blob(9)
    _, _, middles = click_by_loops(truth, found)
    (x, y), positive = click_error(truth, found)
    assert (y, x) in middles
    assert positive == truth[int(y), int(x)]
    assert click_error(truth, truth) is None


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_of_a_frame_is_that_of_a_loop(seed):
    truth = make_blob(seed)
    found = np.zeros(SHAPE, bool)
    expected, known = [], np.zeros(SHAPE, bool)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for _ in range(8):
        click = click_error(truth, found)
        if click is not None:
            (x, y), _ = click
            # A point is a disk of 2 pixels at this size, around which the lens sees on.
            disk = (rows - y) ** 2 + (columns - x) ** 2 <= 4
            known |= ndimage.distance_transform_edt(~disk) <= Lens.radius
            found = np.where(known, truth, found)
        expected.append((found & truth).sum() / (found | truth).sum())
    reached = prompt_frame(Lens(), make_frame(truth), truth, "point", 8)
    np.testing.assert_allclose(reached, expected, atol=0.02)  # cv2 draws disks a little rounder
    assert reached == sorted(reached)
    assert reached[-1] > reached[0]


@pytest.mark.parametrize("first", ["box", "point"])
def test_known_methods_have_known_curves(first):
    truth = make_blob(4)
    frame = make_frame(truth)
    assert prompt_frame(Oracle(), frame, truth, first, 5) == [1.0] * 5
    deaf = prompt_frame(Deaf(), frame, truth, first, 5)
    # A point is at least its disk, whatever the network says.
    assert deaf == sorted(deaf)
    assert deaf[0] == 0 if first == "box" else 0 < deaf[0] < 0.1


def test_a_box_without_a_network_is_its_ellipse():
    y, x = np.mgrid[:48, :64] + 0.5
    truth = ((x - 30) / 20) ** 2 + ((y - 24) / 12) ** 2 < 1
    assert tight_box(truth) == (10, 12, 50, 36)
    (ellipse,) = prompt_frame(WithoutNetwork(), make_frame(truth), truth, "box", 1)
    assert ellipse == 1
    square = np.zeros(SHAPE, bool)
    square[4:44, 10:50] = True
    (ellipse,) = prompt_frame(WithoutNetwork(), make_frame(square), square, "box", 1)
    assert ellipse == pytest.approx(np.pi / 4, abs=0.02)


def test_a_loose_box_is_the_tight_one_enlarged_and_may_reach_out_of_the_frame():
    square = np.zeros(SHAPE, bool)
    square[0:40, 10:50] = True
    frame = make_frame(square)
    (ellipse,) = prompt_frame(WithoutNetwork(), frame, square, "loose_box", 1)
    # Semi-axes of 24 around (30, 20): what the square, from 10 to 50 and from 0 to 40, has of it.
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    disk = np.hypot(x - 30, y - 20) < 24
    assert ellipse == pytest.approx((disk & square).sum() / (disk | square).sum(), abs=0.01)
    assert prompt_frame(Oracle(), frame, square, "loose_box", 2) == [1, 1]


def test_the_number_of_interactions_is_the_cap_where_the_target_is_never_reached():
    assert count_interactions([0.2, 0.85, 0.9], 0.85) == 2
    assert count_interactions([0.2, 0.3, 0.4], 0.85) == 3
    assert count_interactions([0.95], 0.85) == 1


# Whole videos


def make_video():
    """Ten frames: a square that jumps to the other side after frame 4."""
    left, right = np.zeros((2, *SHAPE), np.uint8)
    left[10:30, 5:25] = right[10:30, 40:60] = 3
    truth = {t: left if t < 5 else right for t in range(10)}
    return [make_frame(truth[t]) for t in range(10)], truth


@pytest.mark.parametrize("correction", ["mask", "point"])
def test_the_worst_frame_is_corrected_until_nothing_is_wrong(correction):
    frames, truth = make_video()
    job = Nearest()
    rounds = correct_video(job, frames, truth, "mask", 3, "worst", correction)
    # Frame 5 first, which spoils 3 and 4, then 3, from which 4 is right as well; then nothing is left.
    assert [r.jaccard for r in rounds] == pytest.approx([4 / 9, 7 / 9, 1, 1])
    assert [r.dice for r in rounds] == [r.jaccard for r in rounds]
    assert job.asked == [5, 3]


def test_the_suggested_frame_is_corrected():
    frames, truth = make_video()
    job = Nearest()
    rounds = correct_video(job, frames, truth, "mask", 1, "suggested", "mask")
    assert [r.jaccard for r in rounds] == pytest.approx([4 / 9, 1])
    assert job.asked == [9]
    del truth[9], truth[8]  # the nearest frame that has a truth
    correct_video(job, frames, truth, "mask", 1, "suggested", "mask")
    assert job.asked == [7]


@pytest.mark.parametrize("first", ["box", "points"])
def test_a_video_can_begin_with_prompts(first):
    frames, truth = make_video()
    rounds = correct_video(Nearest(Oracle()), frames, truth, first, 0)
    assert [r.jaccard for r in rounds] == pytest.approx([4 / 9])
    if first == "box":  # a point is at least its disk, whatever the network says
        (deaf,) = correct_video(Nearest(Deaf()), frames, truth, first, 0)
        assert deaf == (0, 0)
        assert correct_video(Nearest(Deaf()), frames, truth, first, 2) == [(0, 0)] * 3


def test_a_painted_mask_is_taken_as_it_is():
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 3:9] = 7
    np.testing.assert_array_equal(first_mask(Deaf(), make_frame(labels), labels, "mask"), labels)


def test_where_first_answers_overlap_the_likelier_stays():
    truth = np.zeros(SHAPE, np.uint8)
    truth[:30, :40], truth[30:, 24:] = 2, 5
    truth[0, 24], truth[0, 63] = 5, 5  # so that the boxes overlap

    class Greedy:
        """Answers everything, the second object with more certainty."""

        def __init__(self):
            self.sure = iter((0.6, 0.9))

        def complete(self, frame, parts):
            return np.full((1, *SHAPE), next(self.sure), np.float32)

    labels = first_mask(Greedy(), make_frame(truth), truth, "box")
    assert (labels[:, 24:] == 5).all()  # within its box
    assert (labels[:30, :24] == 2).all()


def test_a_point_corrects_one_object_and_leaves_the_others():
    truth = np.zeros(SHAPE, np.uint8)
    truth[5:20, 5:20], truth[25:45, 25:60] = 1, 2
    wrong = np.zeros_like(truth)
    wrong[5:20, 5:12], wrong[25:45, 25:30] = 1, 2
    seen = []

    class Watched(Oracle):
        def complete(self, frame, parts):
            seen.append(parts)
            return super().complete(frame, parts)

    corrected = correct_frame(Watched(), make_frame(truth), wrong, truth, [1, 2])
    assert np.array_equal(corrected == 2, truth == 2)  # whose error is the larger
    assert np.array_equal(corrected == 1, wrong == 1)
    ((first, second),) = seen
    assert not first.unknown.any()  # given as it is
    assert 0 < (second.unknown == 0).sum() < 30  # a point
    assert correct_frame(Watched(), make_frame(truth), truth, truth, [1, 2]) is truth
    assert len(seen) == 1


@pytest.mark.parametrize("known", [{1}, {0}, {0, 1}])
def test_a_video_needs_a_first_object_and_a_later_truth(known):
    frames, truth = make_video()
    truth = {t: truth[t] if known != {0, 1} else np.zeros(SHAPE, np.uint8) for t in known}
    with pytest.raises(ValueError, match="expected the truth of the first frame, with an object"):
        correct_video(Nearest(), frames, truth)


# Figures


def test_means_are_over_videos_and_then_over_groups():
    curves = [
        Curve("polyps", "a", 0, 1, "network, box", (0.5, 0.9)),
        Curve("polyps", "a", 5, 1, "network, box", (0.7, 0.8)),
        Curve("polyps", "b", 0, 1, "network, box", (0.9, 0.9)),
        Curve("hearts", "c", 0, 2, "network, box", (0.2, 0.4)),
    ]
    rows = {row["group"]: row for row in summarise_curves(curves)}
    assert list(rows) == ["polyps", "hearts", "mean over domains"]
    assert [p["mean"] for p in rows["polyps"]["jaccard"]] == pytest.approx([70, 260 / 3])
    assert rows["polyps"]["interactions_to_85"]["mean"] == pytest.approx((2 + 2 + 1) / 3)
    assert rows["polyps"]["never_85"]["mean"] == pytest.approx(100 / 3)
    assert (rows["polyps"]["videos"], rows["polyps"]["curves"]) == (2, 3)
    mean = rows["mean over domains"]["jaccard"][0]["mean"]
    assert mean == pytest.approx(((60 + 90) / 2 + 20) / 2)
    assert "dice" not in rows["hearts"]


def write_video(folder, frames, truth, gap=()):
    paths = []
    for t, frame in enumerate(frames):
        paths.append(folder / f"{t}.png")
        Image.fromarray(frame).save(paths[-1])
        save_png(folder / f"{t}_mask.png", truth[t])
    masks = {t: folder / f"{t}_mask.png" for t in range(len(frames)) if t not in gap}
    return Video("v", tuple(paths), masks, {3: "square"}, "p")


def test_records_are_read_and_every_object_and_video_gives_its_curves(tmp_path):
    frames, truth = make_video()
    video = write_video(tmp_path, frames, truth, gap=(1,))
    methods = {"oracle": Oracle(), "no network": WithoutNetwork()}
    curves = list(prompt_videos([video], methods, ("box", "point"), 3, 2))
    assert [(c.frame, c.run) for c in curves[:2]] == [(0, "oracle, box"), (0, "oracle, point")]
    assert len(curves) == 8
    assert {c.group for c in curves} == {"square"}
    assert all(c.jaccard == (1, 1, 1) for c in curves if c.run.startswith("oracle"))
    runs = [("mask", "worst", "mask"), ("box", "suggested", "point")]
    whole = list(correct_videos([video], Nearest(), runs, 2))
    assert [c.run for c in whole] == [
        "mask, then mask on worst frame", "box, then point on suggested frame"
    ]  # fmt: skip
    assert whole[0].jaccard == pytest.approx((3 / 8, 6 / 8, 1))  # frame 1 has no truth
    assert list(correct_videos([video], Nearest(), runs, 2, max_frames=2)) == []
    draw_curves(tmp_path / "curves.png", summarise_curves(whole), whole_videos=True)
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.ptp(np.asarray(picture.convert("L"))) > 100


def test_objects_too_small_to_see_are_not_asked_for(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[:3, :5] = 3
    video = write_video(tmp_path, [make_frame(labels)], {0: labels})
    assert list(prompt_videos([video], {"oracle": Oracle()}, ("box",), 1, 1)) == []


# The network


def make_network():
    torch.manual_seed(0)
    network = TCMN(**NETWORK | {"mask_backbone": "resnet18", "partial_masks": True}).eval()
    network.decoder.predict.weight.data.mul_(10)
    return network


def test_the_network_is_a_method_of_both_kinds():
    method = NetworkMethod(
        VideoInferer(inference_size=32, spatial_prior=None, precision="float32"), make_network()
    )
    assert isinstance(method, VideoMethod)
    assert isinstance(WithoutNetwork(), FrameMethod)
    frames, truth = make_video()
    parts = [PartialMask(np.float32(truth[0] > 0), np.ones(SHAPE, np.float32))] * 2
    found = method.complete(frames[0], parts)
    assert found.shape == (2, *SHAPE)
    assert (found >= 0).all()
    assert (found.sum(0) <= 1 + 1e-5).all()  # with the background they sum to 1
    rounds = correct_video(method, frames, truth, "box", 1)
    assert len(rounds) == 2
    assert all(0 <= r.jaccard <= r.dice <= 1 for r in rounds)


def test_the_script_writes_tables_and_pictures(tmp_path, capsys):
    frames, truth = make_video()
    for name in ("a", "b"):
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / "data" / kind / name).mkdir(parents=True)
        for t in range(4):
            path = tmp_path / "data" / "JPEGImages" / name / f"{t:05d}.png"
            Image.fromarray(60 * frames[t]).save(path)
            save_png(tmp_path / "data" / "Annotations" / name / f"{t:05d}.png", truth[t])
    torch.save(make_network().state_dict(), tmp_path / "weights.pt")
    settings = [f"{name}={value}" for name, value in OPTIONS.items()]
    out = tmp_path / "out"
    arguments = [
        "--protocol", "davis", "--dataset_dir", str(tmp_path / "data"), "--output_dir", str(out),
        "--weights", str(tmp_path / "weights.pt"), "--inference_size", "32", "--interactions", "3",
        "--precision", "float32", "--frames_per_video", "1", "--corrections", "1", "--choices",
        "worst", "--set", *settings, "network_def#partial_masks=true",
    ]  # fmt: skip
    script = load_script("studies/evaluate_interactive")
    assert script.main(arguments) == 0
    assert "NoC@85" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.csv", "frames.png", "interactive.json", "videos.png"
    ]  # fmt: skip
    result = json.loads((out / "interactive.json").read_text())
    frame_runs = ["network, box", "network, point", "no network, box", "no network, point"]
    assert [row["run"] for row in result["frames"]] == frame_runs
    assert len(result["videos"]) == 6  # three first masks, painted or pointed at
    with (out / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (4 * 3 + 6 * 2)
    (ellipse,) = [row for row in result["frames"] if row["run"] == "no network, box"]
    one = [r for r in rows if r["run"] == "no network, box" and r["interaction"] == "1"]
    assert ellipse["jaccard"][0]["mean"] == pytest.approx(
        np.mean([float(r["jaccard"]) for r in one]), abs=1e-4
    )


def test_the_script_refuses_in_one_line(tmp_path, capsys):
    script = load_script("studies/evaluate_interactive")
    data = ["--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert script.main(["--protocol", "davis", *data]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.new("L", (20, 20)).save(tmp_path / name / "a.png")
    assert script.main(["--protocol", "hc18", *data, "--set", "network_def"]) == 1
    assert "--set network_def: expected NAME=VALUE" in capsys.readouterr().err
    assert script.main(["--protocol", "hc18", *data, "--frames_per_video", "0"]) == 1
    assert "gives nothing to evaluate" in capsys.readouterr().err


def test_j_of_two_empty_masks_is_1():
    empty = np.zeros(SHAPE, bool)
    assert jaccard(empty, empty) == 1
