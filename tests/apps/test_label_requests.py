"""What annotation servers send, read without a server; tests/apps/test_label.py starts one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile
import torch

from bundle.apps.monai_label.options import RequestOptions
from bundle.apps.monai_label.requests import (
    OpenRequestd,
    RequestInferer,
    RestoreLabeld,
    choose_frames,
    read_request,
    select_segment,
)
from bundle.networks import TCMN
from tests.tiny import OWN_SIZE

ROOT = Path(__file__).resolve().parents[2]
X, Y, T = 24, 16, 4
# With a server's libraries it is an HTTPException, whose text has the status before the message.
REFUSED = Exception


def save(path, volume):
    nib.save(nib.Nifti1Image(volume.astype(np.uint8), np.diag([-0.5, 0.7, 1, 1])), path)
    return str(path)


@pytest.fixture
def video(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (X, Y, T))
    return save(tmp_path / "video.nii.gz", grey)


def paint(path, **frames):
    """A label volume; ``f2=7`` paints a corner of frame 2 with 7."""
    volume = np.zeros((X, Y, T))
    for name, value in frames.items():
        volume[2:9, 3:7, int(name[1:])] = value
    return save(path, volume)


def test_a_request_becomes_a_clip_that_stands_upright(video, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", f1=7)
    data = OpenRequestd()({"image": video, "label": mask, "direction": ["forward", "both"]})
    clip = data["image"]
    assert clip.shape == (4, Y, X, T)
    assert clip.dtype == torch.uint8
    grey = np.asarray(nib.load(video).dataobj)
    for channel in range(3):
        np.testing.assert_array_equal(clip[channel].numpy(), grey.transpose(1, 0, 2))
    np.testing.assert_array_equal(
        clip[3, ..., 1].numpy().T, np.asarray(nib.load(mask).dataobj)[..., 1] == 7
    )
    assert not clip[3, ..., 0].any()
    assert data["object_ids"] == [7]
    assert RequestOptions(**clip.meta["request_options"]) == RequestOptions("forward")
    assert tuple(clip.meta["spatial_shape"]) == (X, Y, T)
    np.testing.assert_allclose(clip.meta["original_affine"], np.diag([-0.5, 0.7, 1, 1]))


@pytest.mark.parametrize(("direction", "prior"), [("both", None), ("backward", 0.1)])
def test_a_clip_gives_what_the_video_gives(direction, prior, video, tmp_path):
    torch.manual_seed(3)
    network = TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8)).eval()
    network.decoder.predict.weight.data *= 40
    mask = paint(tmp_path / "mask.nii.gz", f2=5)
    request = {"image": video, "label": mask, "direction": direction, "spatial_prior": prior}
    inferer = RequestInferer(**OWN_SIZE, precision="float32")
    options = RequestOptions(direction, spatial_prior=prior)
    expected = [r.labels for r in inferer.run(read_request(request), network, options)]
    data = OpenRequestd()(request)
    data["pred"] = inferer(data["image"][None], network)[0]
    found = RestoreLabeld()(data)["pred"]
    assert found.shape == (1, X, Y, T)
    np.testing.assert_array_equal(found[0], np.stack(expected, axis=-1).transpose(1, 0, 2))
    assert set(np.unique(found[..., :2])) > {0}
    assert inferer.settings.direction == "both"


def test_other_inputs_pass_to_the_video_inferer():
    network = TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8)).eval()
    clip = torch.rand(1, 4, 16, 32, 2).round()
    assert RequestInferer(**OWN_SIZE)(clip, network).shape == (1, 2, 16, 32, 2)


def test_options_are_read_also_where_a_client_sends_back_all_choices():
    assert RequestOptions.read({"direction": ["both", "forward"]}) == RequestOptions()
    given = {"direction": "backward", "reference_frame": "3", "use_all_painted": "true"}
    assert RequestOptions.read(given) == RequestOptions("backward", 3, True)
    with pytest.raises(REFUSED, match="direction is 'up': choose one of both, forward"):
        RequestOptions.read({"direction": "up"})
    with pytest.raises(REFUSED, match="reference_frame is 'two': give a frame's number"):
        RequestOptions.read({"reference_frame": "two"})
    for wrong in ("near", "nan"):
        with pytest.raises(REFUSED, match=f"spatial_prior is '{wrong}': give a share of"):
            RequestOptions.read({"spatial_prior": wrong})


@pytest.mark.parametrize(
    ("sent", "used"), [({}, 0.5), ({"spatial_prior": -1}, 0.5), ({"spatial_prior": "0.15"}, 0.15),
                       ({"spatial_prior": 0}, None)]
)  # fmt: skip
def test_a_request_may_choose_the_prior(sent, used):
    settings = RequestInferer(spatial_prior=0.5).settings
    assert RequestOptions.read(sent).applied_to(settings) == replace(settings, spatial_prior=used)


def test_the_options_choose_among_painted_frames():
    painted = {i: np.ones((2, 2), np.uint8) for i in (1, 3)}
    assert list(choose_frames(painted, RequestOptions(reference_frame=3), 5)) == [3]
    assert list(choose_frames(painted, RequestOptions(use_all_painted=True), 5)) == [1, 3]
    with pytest.raises(REFUSED, match=r"2 frames are painted \(1, 3\): set reference_frame"):
        choose_frames(painted, RequestOptions(), 5)
    with pytest.raises(REFUSED, match=r"nothing is painted on frame 2 .* these are painted: 1, 3"):
        choose_frames(painted, RequestOptions(reference_frame=2), 5)
    with pytest.raises(REFUSED, match="the mask is empty"):
        choose_frames({}, RequestOptions(), 5)


def test_scribbles_add_to_the_segment_and_take_away():
    ids = {"cavity": 1, "background_scribbles": 2, "foreground_scribbles": 3}
    frame = np.array([[0, 1, 1], [0, 0, 1]])
    corrected = np.array([[0, 1, 2], [3, 0, 1]])
    found = select_segment([frame, corrected, frame], ids, "cavity")
    assert list(found) == [1]
    np.testing.assert_array_equal(found[1], [[0, 1, 0], [1, 0, 1]])
    # Without scribbles every frame of the segment counts.
    assert list(select_segment([frame, 0 * frame, frame], ids, "cavity")) == [0, 2]


@pytest.mark.parametrize("suffix", [".nrrd", ".seq.nrrd", ".tif"])
@pytest.mark.parametrize("selected", [None, "cavity"])
def test_videos_and_masks_of_other_formats_are_read(suffix, selected, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (X, Y, T), np.uint8)
    labels = np.zeros_like(grey)
    labels[2:9, 3:7, 1] = 7
    for name, values in (("video", grey), ("mask", labels)):
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, values.T, photometric="minisblack")
        elif suffix == ".nrrd":
            nrrd.write(str(path), values)
        else:
            nrrd.write(str(path), values[:, :, None], {"kinds": ["domain"] * 3 + ["list"]})
    request = {"image": str(tmp_path / f"video{suffix}"), "label": str(tmp_path / f"mask{suffix}")}
    if selected:
        request |= {"selected_label_name": selected, "label_info": [{"name": selected, "id": 7}]}
    video, painted = read_request(request)
    np.testing.assert_array_equal(np.stack(list(video))[..., 0], grey.T)
    assert list(painted) == [1]
    expected = labels[..., 1].T
    np.testing.assert_array_equal(painted[1], expected > 0 if selected else expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": ""}, "no such image on the server"),
        ({"label": None}, "no mask came with the request: paint"),
        ({"label": "empty.nii.gz"}, "the mask is empty"),
        ({"label": "mask.csv"}, r"a mask of the kind '\.csv' cannot be read"),
        ({"label": "mask.nrrd"}, r"cannot open the mask as NRRD"),
        ({"label": "short.nii.gz"}, "the mask holds 2 masks but the video has 4 frames"),
        (
            {"label": "short.nii.gz", "selected_label_name": "x"},
            "24x16 pixels and 2 frames, the video",
        ),
        ({"selected_label_name": "x"}, "no segment 'x': it has none"),
    ],
)
def test_bad_requests_are_refused(changes, message, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "good.nii.gz", f0=1)
    paint(tmp_path / "empty.nii.gz")
    save(tmp_path / "short.nii.gz", np.ones((X, Y, 2)))
    Path("mask.nrrd").write_bytes(b"NRRD")
    Path("mask.csv").touch()
    with pytest.raises(REFUSED, match=message) as caught:
        read_request({"image": video, "label": "good.nii.gz"} | changes)
    assert str(tmp_path) not in str(caught.value)


def test_the_app_refuses_a_foreign_package_of_its_name(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/__init__.py").touch()
    code = f"import bundle, runpy; runpy.run_path({str(ROOT / 'scripts/label_app/main.py')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "the package bundle was imported from" in done.stderr
    assert f"{tmp_path}/bundle/__init__.py, expected it in {ROOT}" in done.stderr


def test_the_scratch_folder_is_removed_at_exit_without_a_message(tmp_path):
    """Also where workers have used a folder of multiprocessing in it, as in a training."""
    code = (
        "from multiprocessing.util import get_temp_dir\n"
        "from bundle.apps.monai_label.uploads import use_scratch_folder\n"
        "use_scratch_folder()\n"
        "print(get_temp_dir())\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).parent.parent == tmp_path
    assert not done.stderr
    assert not list(tmp_path.iterdir())
