"""A real MONAI Label server on loopback: our app, and its stock app for bundles; a tiny network."""

import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
import yaml
from monai.bundle import ConfigWorkflow
from PIL import Image
from pydicom.uid import UltrasoundMultiFrameImageStorage

from bundle.networks import TCMN
from tests.dicom_files import new_cine, put_pixels
from tests.tiny import NETWORK

if find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not here: make label-test", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import requests
    from monailabel.client import MONAILabelClient
    from monailabel.client.client import MONAILabelClientException

pytestmark = [pytest.mark.label, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
X, Y, T = 56, 40, 6
# Turned and shifted, unlike any default.
AFFINE = np.array([[0, -0.7, 0, 10], [0.5, 0, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])
# Of the studies that write_meta and write_cine make. A client paints in the geometry of what it shows.
META_AFFINE = np.diag([-1, -1, 1, 1]) @ AFFINE
CINE_AFFINE = np.diag([-0.5, -0.7, 1, 1])
# By 30 degrees out of the plane of the frames.
OBLIQUE = np.array([[0.866, 0, 0.5, 0], [0, 1, 0, 0], [-0.5, 0, 0.866, 0], [0, 0, 0, 1]])


def disk(t, radius=9):
    """(x, y) mask of a disk that wanders; its way is no mirror image of itself."""
    x, y = np.mgrid[:X, :Y]
    return (x - 14 - 5 * t) ** 2 + (y - 12 - 2 * t) ** 2 < radius**2


def save(path, volume, affine=AFFINE):
    nib.save(nib.Nifti1Image(volume.astype(np.uint8), affine), path)
    return path


def paint(path, *frames, values=(1,), shape=(X, Y, T), affine=AFFINE):
    """A label volume whose frames show disks, smaller ones inside for further objects."""
    volume = np.zeros(shape, np.uint8)
    for t in frames:
        for number, value in enumerate(values):
            volume[..., t][disk(t, 9 - 5 * number)] = value
    return save(path, volume, affine)


def make_bundle(folder):
    """The bundle with a tiny network: configs, weights, and this package."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("inference.yaml", "train.yaml"):
        path = folder / "configs" / name
        config = yaml.safe_load(path.read_text())
        config["network_def"] |= NETWORK
        config["precision"] = "float32"
        if name == "train.yaml":
            config |= {"size": 32, "workers": 0, "threads": 1, "warm_up": 1}
        path.write_text(yaml.safe_dump(config, sort_keys=False))
    torch.manual_seed(3)
    network = TCMN(**{**NETWORK, "mask_backbone": "resnet18"})
    # Of an untrained network the masks are all or nothing: this makes them follow the picture.
    network.decoder.predict.weight.data *= 40
    network.decoder.predict.bias.data.zero_()
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models/model.pt")
    (folder / "bundle").symlink_to(ROOT / "bundle")
    return folder


def wait(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError("waited 10 s")


class Server:
    """The process, its address and its client."""

    def __init__(self, folder, app, *conf):
        self.studies, self.temporary = folder / "studies", folder / "tmp"
        self.studies.mkdir()
        self.temporary.mkdir()
        for number in range(3):
            grey = np.random.default_rng(number).integers(40, 90, (X, Y, T))
            for t in range(T):
                grey[..., t][disk(t + number)] += 120
            save(self.studies / f"echo{number}.nii.gz", grey)
        foreign = folder / "elsewhere" / "bundle"
        foreign.mkdir(parents=True)
        (foreign / "__init__.py").write_text("raise RuntimeError('this is not our package')\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--app", str(app), "--studies", str(self.studies)]
        for pair in conf:
            command += ["--conf", *pair]
        environment = os.environ | {
            "PYTHONPATH": str(foreign.parent),
            "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
            "TMPDIR": str(self.temporary),
            "MONAI_LABEL_TRACKING_ENABLED": "false",
        }
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.url = f"http://127.0.0.1:{port}"
        self.client = MONAILabelClient(self.url, tmpdir=str(folder))
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text()[-3000:])
            try:
                self.info = requests.get(f"{self.url}/info/", timeout=60).json()
                return
            except requests.ConnectionError:
                time.sleep(0.2)
        raise TimeoutError(self.log.read_text()[-3000:])

    def infer(self, model, image, label=None, session=None, **params):
        """The label volume and what was said of it, by MONAI Label's client."""
        path, answer = self.client.infer(
            model, image, params, str(label) if label else None, session_id=session
        )
        return nib.load(path), answer

    def add_study(self, write, name):
        """Lay a file into the studies of the running server; its id."""
        write(self.studies / name)
        study = name.split(".")[0]
        wait(lambda: study in self.list_studies())
        return study

    def remove_studies(self, *studies):
        for study in studies:
            for file in self.studies.glob(f"{study}.*"):
                file.unlink()
        wait(lambda: not self.list_studies() & set(studies))

    def list_studies(self):
        parameters = {"output": "all"}
        answer = requests.get(f"{self.url}/datastore/", params=parameters, timeout=60)
        return set(answer.json()["objects"])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert code in (0, -signal.SIGTERM)
        log = self.log.read_text()
        assert "App Shutdown" in log
        assert "Traceback" not in log[log.index("App Shutdown") :]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def ours(tiny, tmp_path_factory):
    """Our app, in a folder of its own, since the server writes into it."""
    folder = tmp_path_factory.mktemp("ours")
    (folder / "app").mkdir()
    (folder / "app/main.py").symlink_to(ROOT / "scripts/label_app/main.py")
    server = Server(folder, folder / "app", ("bundle", str(tiny)))
    server.app = folder / "app"
    yield server
    server.process.kill()


@pytest.fixture(scope="module")
def stock(tiny, tmp_path_factory):
    """MONAI Label's own app, unmodified."""
    folder = tmp_path_factory.mktemp("stock")
    source = Path(sys.prefix) / "monailabel/sample-apps/monaibundle"
    shutil.copytree(source, folder / "app", ignore=shutil.ignore_patterns("model", "logs"))
    (folder / "app/model").mkdir()
    (folder / "app/model/tcmn").symlink_to(tiny)
    conf = ("models", "tcmn"), ("zoo_source", "ngc"), ("sam2", "false")
    server = Server(folder, folder / "app", *conf)
    yield server
    server.process.kill()


@pytest.fixture(params=["ours", "stock"])
def server(request):
    return request.getfixturevalue(request.param)


def from_command_line(tiny, video, mask, output_dir):
    """The masks of configs/inference.yaml, as the command line runs it."""
    return run_inference(
        video,
        mask,
        output_dir,
        tiny / "configs/inference.yaml",
        weights=str(tiny / "models/model.pt"),
    )


def run_inference(video, mask, output_dir, *configs, **options):
    workflow = ConfigWorkflow(
        config_file=[str(config) for config in configs],
        workflow_type="infer",
        logging_file=False,
        video=str(video),
        mask=str(mask),
        output_dir=str(output_dir),
        device="cpu",
        progress=False,
        formats="nifti",
        **options,
    )
    workflow.initialize()
    workflow.run()
    return nib.load(output_dir / video.name.split(".")[0] / "masks.nii.gz")


def test_the_painted_frame_becomes_all_frames_as_on_the_command_line(server, tiny, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", 2)
    found, answer = server.infer("tcmn", "echo0", mask)
    labels = np.asarray(found.dataobj)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[..., 2], disk(2))
    # All or nothing in the other frames would look the same lying on its side.
    assert all(0.02 < labels[..., t].mean() < 0.9 for t in (0, T - 1))
    video = server.studies / "echo0.nii.gz"
    expected = from_command_line(tiny, video, mask, tmp_path / "results")
    # The stock app does not fold BatchNorm: a pixel on the edge may fall elsewhere.
    assert (labels != np.asarray(expected.dataobj)).mean() < 1e-3
    assert answer["latencies"]["total"] > 0


def test_all_objects_in_one_call_by_plain_http(server, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", 0, values=(2, 7))
    with mask.open("rb") as file:
        response = requests.post(
            f"{server.url}/infer/tcmn",
            params={"image": "echo1", "output": "image"},
            data={"params": json.dumps({"direction": "forward"})},
            files={"label": ("mask.nii.gz", file)},
            timeout=100,
        )
    assert response.status_code == 200, response.text
    result = tmp_path / "result.nii.gz"
    result.write_bytes(response.content)
    labels = np.asarray(nib.load(result).dataobj)
    assert set(np.unique(labels)) <= {0, 2, 7}
    np.testing.assert_array_equal(labels[..., 0], np.asarray(nib.load(mask).dataobj)[..., 0])


def test_direction_leaves_the_other_side_empty(server, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", 3)
    forward, _ = server.infer("tcmn", "echo0", mask, direction="forward")
    assert not np.asarray(forward.dataobj)[..., :3].any()
    backward, _ = server.infer("tcmn", "echo0", mask, direction="backward")
    assert not np.asarray(backward.dataobj)[..., 4:].any()


def test_a_request_may_set_its_own_spatial_prior(server, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", 0)
    answers = {
        prior: np.asarray(server.infer("tcmn", "echo0", mask, spatial_prior=prior)[0].dataobj)
        for prior in (-1, 0.01)
    }
    own = np.asarray(server.infer("tcmn", "echo0", mask)[0].dataobj)
    np.testing.assert_array_equal(answers[-1], own)
    assert (answers[0.01] != own).any()  # looks at the same place alone


def test_one_or_all_of_several_painted_frames_are_used(server, tmp_path):
    both = paint(tmp_path / "both.nii.gz", 1, 4)
    alone = paint(tmp_path / "alone.nii.gz", 4)
    found, _ = server.infer("tcmn", "echo0", both, reference_frame=4)
    expected, _ = server.infer("tcmn", "echo0", alone)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    found, _ = server.infer("tcmn", "echo0", both, use_all_painted=True)
    for t in (1, 4):
        np.testing.assert_array_equal(np.asarray(found.dataobj)[..., t], disk(t))


def write_movie(path, codec="mpeg4", pixels="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = X, Y, pixels
        for t in range(T):
            picture = np.full((Y, X, 3), (90, 60, 50), np.uint8)
            picture[disk(t).T] = 220, 180, 160
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def zip_frames():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for t in range(T):
            picture = io.BytesIO()
            Image.fromarray(np.where(disk(t).T, 200, 60).astype(np.uint8)).save(picture, "png")
            archive.writestr(f"case/{t}.png", picture.getvalue())
    return packed.getvalue()


def test_sessions_take_a_movie_and_a_zip_of_frames(server, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", 1)
    session = server.client.create_session(str(write_movie(tmp_path / "polyp.mp4")))["session_id"]
    response = requests.put(
        f"{server.url}/session/?uncompress=true",
        files={"files": ("case.zip", zip_frames())},
        timeout=60,
    )
    for session_id in (session, response.json()["session_id"]):
        found, _ = server.infer("tcmn", "", mask, session=session_id)
        assert found.shape == (X, Y, T)
        np.testing.assert_array_equal(np.asarray(found.dataobj)[..., 1], disk(1))
        assert server.client.remove_session(session_id)


def frames(colour):
    """(T, Y, X) grey or (T, Y, X, 3) colours."""
    grey = np.stack([np.where(disk(t).T, 200, 60) for t in range(T)]).astype(np.uint8)
    return np.stack([grey, grey // 2, grey // 3], axis=-1) if colour else grey


def write_meta(path, colour):
    image = sitk.GetImageFromArray(frames(colour), isVector=colour)
    image.SetSpacing((0.5, 0.7, 2.0))
    image.SetOrigin((10, -20, 5))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


def write_cine(path, colour):
    """A DICOM of the kind that ultrasound devices write."""
    pixels = frames(colour)
    cine = new_cine(pixels.shape, storage=UltrasoundMultiFrameImageStorage)
    cine.PixelSpacing = [0.7, 0.5]
    put_pixels(cine, pixels)
    cine.save_as(path)


def assert_lies_like(found, source):
    """A label volume has size, spacing, origin and directions of a source, as SimpleITK reads them."""
    labels, image = sitk.ReadImage(found.get_filename()), sitk.ReadImage(str(source))
    assert labels.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        expected = getattr(image, name)()
        np.testing.assert_allclose(getattr(labels, name)(), expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
@pytest.mark.parametrize(
    ("suffix", "write", "affine"),
    [
        (".mhd", write_meta, META_AFFINE),
        (".mha", write_meta, META_AFFINE),
        (".dcm", write_cine, CINE_AFFINE),
    ],
)
def test_a_study_of_another_kind_is_answered_in_its_geometry(
    ours, suffix, write, affine, colour, tmp_path
):
    name = f"{suffix[1:]}_{'colour' if colour else 'grey'}{suffix}"
    study = ours.add_study(lambda path: write(path, colour), name)
    found, _ = ours.infer("tcmn", study, paint(tmp_path / "mask.nii.gz", 2, affine=affine))
    assert_lies_like(found, ours.studies / name)
    np.testing.assert_array_equal(np.asarray(found.dataobj)[..., 2], disk(2))
    ours.remove_studies(study)


@pytest.mark.parametrize(
    ("name", "form"), [("movie.mp4", ("mpeg4", "yuv420p")), ("movie.avi", ("ffv1", "gray"))]
)
def test_a_video_file_among_the_studies_is_segmented(ours, name, form, tmp_path):
    study = ours.add_study(lambda path: write_movie(path, *form), name)
    found, _ = ours.infer("tcmn", study, paint(tmp_path / "mask.nii.gz", 2))
    # It has no place in space: ITK's identity.
    np.testing.assert_array_equal(found.affine, np.diag([-1, -1, 1, 1]))
    assert found.shape == (X, Y, T)
    np.testing.assert_array_equal(np.asarray(found.dataobj)[..., 2], disk(2))
    ours.remove_studies(study)


def test_a_dicom_cine_among_the_studies_is_segmented(ours, tmp_path):
    source = os.environ.get("ECHOCARDIOGRAM")
    if not source:
        pytest.skip("no environment with pydicom's echocardiogram: make demo, make label-test")
    study = ours.add_study(lambda path: shutil.copy(source, path), "echocardiogram.dcm")
    mask = np.zeros((320, 240, 30))
    mask[120:170, 60:130, 0] = 3
    found, _ = ours.infer("tcmn", study, save(tmp_path / "mask.nii.gz", mask))
    assert_lies_like(found, source)
    np.testing.assert_array_equal(np.asarray(found.dataobj)[..., 0], mask[..., 0])
    ours.remove_studies(study)


def test_two_requests_at_once_each_get_their_own_result(server, tmp_path):
    requests_ = [
        ("echo0", paint(tmp_path / "a.nii.gz", 0)),
        ("echo2", paint(tmp_path / "b.nii.gz", 5)),
    ]

    def ask(request):
        return np.asarray(server.infer("tcmn", *request)[0].dataobj)

    alone = [ask(request) for request in requests_]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(ask, requests_ * 2))
    assert not np.array_equal(*alone)
    for number, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[number % 2])


def test_bad_requests_get_a_message_and_the_server_lives_on(server, tmp_path):
    good = paint(tmp_path / "good.nii.gz", 0)
    garbage = tmp_path / "garbage.nii.gz"
    garbage.write_bytes(b"no volume")
    cases = [
        ("echo0", None, {}, 400, "no mask came with the request: paint"),
        ("echo0", paint(tmp_path / "empty.nii.gz"), {}, 400, "the mask is empty"),
        ("echo0", paint(tmp_path / "small.nii.gz", 0, shape=(X, Y, 3)), {}, 400, "3 masks but"),
        (
            "echo0",
            save(tmp_path / "wide.nii.gz", np.ones((X + 1, Y, T)), np.eye(4)),
            {},
            400,
            "57x40 but",
        ),
        (
            "echo0",
            paint(tmp_path / "oblique.nii.gz", 0, affine=AFFINE @ OBLIQUE),
            {},
            400,
            "the mask lies elsewhere in space than the video, or obliquely to it",
        ),
        ("echo0", garbage, {}, 400, "the mask"),
        ("nobody", good, {}, 404, "there is no such image"),
        (
            "echo0",
            paint(tmp_path / "several.nii.gz", 1, 3),
            {},
            400,
            r"2 frames are painted (1, 3)",
        ),
        ("echo0", good, {"reference_frame": 4}, 400, "nothing is painted on frame 4"),
        ("echo0", good, {"direction": "sideways"}, 400, "choose one of both, forward, backward"),
        ("echo0", good, {"spatial_prior": "near"}, 400, "spatial_prior is 'near'"),
    ]
    for image, mask, params, status, message in cases:
        with pytest.raises(MONAILabelClientException) as caught:
            server.infer("tcmn", image, mask, **params)
        assert f"Status: {status}" in caught.value.msg
        assert message in caught.value.msg
        assert str(tmp_path.parent) not in caught.value.msg
    found, _ = server.infer("tcmn", "echo0", good)
    assert found.shape == (X, Y, T)


def refusal(server, image, mask, **others):
    """Status and message of a request that is refused; no path of the server's is in it."""
    with pytest.raises(MONAILabelClientException) as caught:
        server.infer("tcmn", image, mask, **others)
    assert str(server.studies.parent) not in caught.value.msg
    return caught.value.msg


def test_a_video_that_was_deleted_is_reported(server, tmp_path):
    good = paint(tmp_path / "good.nii.gz", 0)
    study = server.add_study(
        lambda path: shutil.copy(server.studies / "echo0.nii.gz", path), "gone.nii.gz"
    )
    server.infer("tcmn", study, good)
    (server.studies / "gone.nii.gz").unlink()
    expected = "there is no such image on the server, or its session has ended: choose another"
    # At once, and when the server has noticed.
    for _ in range(2):
        message = refusal(server, study, good)
        assert "Status: 404" in message
        assert expected in message
        server.remove_studies(study)
    session = server.client.create_session(str(server.studies / "echo1.nii.gz"))["session_id"]
    server.client.remove_session(session)
    for session_id in (session, "never-was"):
        message = refusal(server, "", good, session=session_id)
        assert "Status: 404" in message
        assert expected in message
    assert server.infer("tcmn", "echo0", good)[0].shape == (X, Y, T)


def test_a_damaged_video_is_reported(ours, tmp_path):
    good = paint(tmp_path / "good.nii.gz", 0)
    study = ours.add_study(lambda path: write_meta(path, False), "damaged.mhd")
    (ours.studies / "damaged.raw").unlink()
    message = refusal(ours, study, paint(tmp_path / "meta.nii.gz", 0, affine=META_AFFINE))
    assert "Status: 400" in message
    assert "cannot read frame 0 of 6 of the video" in message
    ours.remove_studies(study)
    (tmp_path / "notes.txt").write_text("no video")
    session = ours.client.create_session(str(tmp_path / "notes.txt"))["session_id"]
    message = refusal(ours, "", good, session=session)
    assert "Status: 400" in message
    assert "cannot open the video as a video" in message
    assert ours.infer("tcmn", "echo0", good)[0].shape == (X, Y, T)


def test_damaged_weights_are_reported(ours, tmp_path):
    good = paint(tmp_path / "good.nii.gz", 0)
    weights = ours.app / "model/model.pt"
    weights.parent.mkdir(exist_ok=True)
    weights.write_bytes(b"half a file")
    message = refusal(ours, "echo0", good)
    assert "Status: 500" in message
    assert "model.pt on the server is not a weights file" in message
    weights.unlink()
    assert ours.infer("tcmn", "echo0", good)[0].shape == (X, Y, T)


def pack(*entries):
    """A zip of (name, content); a link where the content is a name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in entries:
            entry = zipfile.ZipInfo(name)
            if isinstance(content, str):
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def upload(server, content, name="frames.zip"):
    return requests.put(
        f"{server.url}/session/?uncompress=true", files={"files": (name, content)}, timeout=60
    )


def test_an_archive_cannot_leave_its_folder(ours, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((Y, X), np.uint8)).save(secret)
    target = tmp_path / "written.png"
    up = "../" * 20
    cases = [
        (pack((f"{up}{target}", b"evil")), "would lie outside its folder: pack the frames alone"),
        (pack(("case/../../0.png", b"evil")), "would lie outside its folder"),
        (pack(("case\\..\\..\\0.png", b"evil")), "would lie outside its folder"),
        (pack((str(target), b"evil")), "would lie outside its folder"),
        (pack(("case/0.png", str(secret))), "is a link: pack the frames alone"),
        (pack(("case", str(tmp_path)), ("case/written.png", b"evil")), "is a link"),
        (b"no zip", "cannot be unpacked (File is not a zip file): send a zip of the frames"),
        (zip_frames()[:-100], "cannot be unpacked"),
        (zip_frames().replace(b"IDAT", b"IDAX", 1), "cannot be unpacked (Bad CRC-32"),
    ]
    for content, message in cases:
        response = upload(ours, content)
        assert response.status_code == 400, response.text
        assert message in response.json()["detail"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(f"{up}{target}")
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"evil"))
    response = upload(ours, packed.getvalue(), "frames.tar")
    assert response.status_code == 400
    assert "send a zip of the frames" in response.json()["detail"]
    assert not target.exists()
    session = upload(ours, zip_frames()).json()["session_id"]
    found, _ = ours.infer("tcmn", "", paint(tmp_path / "mask.nii.gz", 0), session=session)
    assert found.shape == (X, Y, T)


def test_the_stock_app_leaves_out_what_an_archive_holds_elsewhere(stock, tmp_path):
    target = tmp_path / "written.png"
    packed = pack((f"{'../' * 20}{target}", b"evil"), (str(target), b"evil"))
    session = upload(stock, packed).json()["session_id"]
    mask = paint(tmp_path / "mask.nii.gz", 0)
    message = refusal(stock, "", mask, session=session)
    assert "Status: 400" in message
    assert "the video holds no frames" in message
    assert not target.exists()
    assert stock.infer("tcmn", "echo0", mask)[0].shape == (X, Y, T)


def tree(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_name_cannot_lead_outside_its_folder(ours, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", 0)
    outside = ours.studies.parent / "outside"
    outside.mkdir()
    video = save(tmp_path / "video.nii.gz", np.zeros((X, Y, T)))
    movie = write_movie(tmp_path / "polyp.mp4")
    up = f"../{outside.name}"
    before = tree(ours.studies.parent)

    def put(path, **fields):
        name, content, parameters = fields["name"], fields["content"], fields["parameters"]
        files = {fields["field"]: (name, content)}
        return requests.put(f"{ours.url}/{path}", params=parameters, files=files, timeout=60)

    for tag in (f"../../{outside.name}", str(outside), ".."):
        parameters = {"image": "echo0", "tag": tag}
        answer = put(
            "datastore/label", name="m.nii.gz", content=mask.read_bytes(), field="label",
            parameters=parameters,
        )  # fmt: skip
        assert answer.status_code == 400, answer.text
        assert "the label's tag is" in answer.json()["detail"]
    for image, name, message in (
        (f"{up}/video", "v.nii.gz", "the image's id is"),
        (str(outside / "video"), "v.nii.gz", "the image's id is"),
        ("datastore_v2", "v.json", "a study is one of nii.gz, nii, "),  # the list of studies itself
    ):
        answer = put(
            "datastore/image", name=name, content=video.read_bytes(), field="file",
            parameters={"image": image},
        )  # fmt: skip
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["detail"]
    assert tree(ours.studies.parent) == before

    session = ours.client.create_session(str(movie))["session_id"]
    folder = ours.studies.parent / "sessions" / session
    for session_id in ("..", f"../sessions/{session}", f"{session}/.", str(folder)):
        assert "Status: 404" in refusal(ours, "", mask, session=session_id)
    assert folder.is_dir()
    assert ours.client.remove_session(session)
    packed = io.BytesIO(zip_frames())
    response = put(
        "session/", name="../../outside/0.png", content=packed, field="files", parameters={}
    )
    assert (ours.studies.parent / "sessions" / response.json()["session_id"] / "0.png").is_file()
    assert not list(outside.iterdir())
    outside.rmdir()


def test_uploaded_weights_do_not_replace_the_shipped_ones(ours, tiny):
    shipped, own = tiny / "models/model.pt", ours.app / "model/model.pt"
    before = shipped.read_bytes()
    url = f"{ours.url}/model/tcmn"
    assert requests.delete(url, timeout=60).status_code == 404  # none of its own yet
    answer = requests.put(url, files={"file": ("w.pt", before)}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert own.read_bytes() == before
    assert requests.delete(url, timeout=60).status_code == 200
    assert not own.exists()
    assert shipped.read_bytes() == before


def test_pages_of_other_sites_are_refused(ours):
    url = f"{ours.url}/info/"
    port = ours.url.rpartition(":")[2]
    for headers in (
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Host": f"elsewhere.example:{port}"},  # a name that leads here
    ):
        answer = requests.get(url, headers=headers, timeout=60)
        assert answer.status_code == 403, headers
        assert "no page of another site; start it with --conf hosts NAME" in answer.text
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert requests.get(url, headers={"Origin": ours.url}, timeout=60).status_code == 200
    assert requests.get(f"http://localhost:{port}/info/", timeout=60).status_code == 200


def test_nothing_of_a_request_is_kept(ours, tmp_path):
    good = paint(tmp_path / "good.nii.gz", 0)
    before = tree(ours.temporary)
    ours.infer("tcmn", "echo0", good)
    refusal(ours, "echo0", paint(tmp_path / "empty.nii.gz"))
    refusal(ours, "nobody", good)
    upload(ours, b"no zip")
    wait(lambda: tree(ours.temporary) <= before)


def test_nothing_of_a_patient_is_written(ours, tmp_path):
    secrets = {
        "PatientName": "Doe^Jane", "PatientID": "ID-4711", "PatientBirthDate": "19010203",
        "InstitutionName": "St. Elsewhere", "StudyDescription": "Very secret",
    }  # fmt: skip

    def write(path):
        write_cine(path, False)
        cine = pydicom.dcmread(path)
        for keyword, value in secrets.items():
            setattr(cine, keyword, value)
        cine.save_as(path)

    mask = paint(tmp_path / "mask.nii.gz", 2, affine=CINE_AFFINE)
    study = ours.add_study(write, "patient.dcm")
    found, answer = ours.infer("tcmn", study, mask)
    ours.client.save_label(study, str(mask))
    session = ours.client.create_session(str(ours.studies / "patient.dcm"))["session_id"]
    ours.infer("tcmn", "", mask, session=session)
    ours.client.remove_session(session)
    written = [Path(found.get_filename()), *ours.studies.parent.rglob("*")]
    texts = {str(path): path.read_bytes() for path in written if path.is_file()}
    texts["answer"] = json.dumps(answer).encode()
    assert any(name.endswith("app.log") for name in texts)
    for name, data in texts.items():
        data = zlib.decompress(data, 31) if name.endswith(".gz") else data
        for value in secrets.values():
            assert name.endswith("patient.dcm") or value.encode() not in data, (name, value)
    ours.remove_studies(study)


def test_the_server_describes_its_models_to_slicer(ours):
    models = ours.info["models"]
    assert {name: model["type"] for name, model in models.items()} == {
        "tcmn": "scribbles",
        "tcmn_stored_label": "segmentation",
        "tcmn_points": "deepedit",
        "tcmn_points_one_frame": "deepedit",
    }
    # Without labels 3D Slicer offers foreground and background; two dimensions are one frame.
    assert not models["tcmn_points"]["labels"]
    dimensions = [models[name]["dimension"] for name in ("tcmn_points", "tcmn_points_one_frame")]
    assert dimensions == [3, 2]
    config = models["tcmn"]["config"]
    assert config["direction"][0] == "both"
    assert config["reference_frame"] == -1
    assert config["spatial_prior"] == -1
    assert list(ours.info["trainers"]) == ["tcmn"]
    assert "lowest_confidence" in ours.info["strategies"]


@pytest.mark.parametrize("model", ["tcmn_points", "tcmn_points_one_frame"])
def test_points_need_weights_that_take_them(ours, model):
    """The tiny network was made without; test_label_points.py has one that takes points."""
    points = {"foreground": [[14, 12, 0]], "background": [], "slice": 0}
    with pytest.raises(MONAILabelClientException) as caught:
        ours.infer(model, "echo0", **points)
    assert "Status: 400" in caught.value.msg
    assert "these weights were trained without" in caught.value.msg
    with pytest.raises(MONAILabelClientException) as caught:
        ours.infer(model, "echo0", **(points | {"foreground": []}))
    assert "no point on the structure came with the request" in caught.value.msg
    assert ours.process.poll() is None


def test_scribbles_of_slicer_correct_the_selected_segment(ours, tmp_path):
    # The segment is in all frames, from an earlier answer; the user adds to frame 2 and takes away.
    volume = np.stack([2 * disk(t) for t in range(T)], axis=-1).astype(np.uint8)
    volume[20:24, 20:24, 2], volume[disk(2, 3), 2] = 4, 3
    mask = save(tmp_path / "scribbles.nii.gz", volume)
    names = "wall", "cavity", "background_scribbles", "foreground_scribbles"
    found, answer = ours.infer(
        "tcmn",
        "echo0",
        mask,
        label_info=[{"name": name, "id": i} for i, name in enumerate(names, start=1)],
        selected_label_name="cavity",
        result_extension=".nrrd",
    )
    labels = np.asarray(found.dataobj)
    assert set(np.unique(labels)) == {0, 1}
    assert answer["painted_frames"] == [2]
    assert answer["label_names"] == {"cavity": 1}
    np.testing.assert_array_equal(labels[..., 2], np.isin(volume[..., 2], (2, 4)))


def test_an_unknown_image_model_and_segment_are_reported(ours, tmp_path):
    mask = paint(tmp_path / "mask.nii.gz", 0)
    with pytest.raises(MONAILabelClientException) as caught:
        ours.client.save_label("nobody", str(mask))
    assert "there is no image 'nobody' on the server" in caught.value.msg
    with pytest.raises(MONAILabelClientException) as caught:
        ours.infer("nothing", "echo0", mask)
    assert "Status: 404" in caught.value.msg
    assert "no model 'nothing'" in caught.value.msg
    with pytest.raises(MONAILabelClientException) as caught:
        ours.infer("tcmn", "echo0", mask, label_info=[], selected_label_name="polyp")
    assert "no segment 'polyp'" in caught.value.msg


def test_a_volume_with_a_slice_axis_keeps_it(ours, tmp_path):
    video = np.asarray(nib.load(ours.studies / "echo0.nii.gz").dataobj)[:, :, None]
    session = ours.client.create_session(str(save(tmp_path / "4d.nii.gz", video)))["session_id"]
    found, _ = ours.infer("tcmn", "", paint(tmp_path / "mask.nii.gz", 0), session=session)
    assert found.shape == (X, Y, 1, T)


def test_the_stored_label_serves_where_none_is_sent_and_the_worst_image_is_next(ours, tmp_path):
    with pytest.raises(MONAILabelClientException) as caught:
        ours.infer("tcmn_stored_label", "echo2")
    assert "none is stored for this image" in caught.value.msg
    mask = paint(tmp_path / "echo2.nii.gz", 1)
    ours.client.save_label("echo2", str(mask), tag="original")
    found, answer = ours.infer("tcmn_stored_label", "echo2")
    np.testing.assert_array_equal(np.asarray(found.dataobj)[..., 1], disk(1))
    lowest = {"echo2": min(answer["confidence"])}
    for image in ("echo0", "echo1"):
        answer = ours.infer("tcmn", image, mask)[1]
        lowest[image] = min(answer["confidence"])
        assert answer["confidence"][answer["suggested_frame"]] < 1
    chosen = ours.client.next_sample("lowest_confidence", {})
    assert chosen["id"] == min(lowest, key=lowest.get)
    assert chosen["lowest_confidence"] == lowest[chosen["id"]]
    assert 0 <= chosen["frame"] < T


def fine_tune(server, **numbers):
    server.client.train_start("tcmn", {**numbers, "run_id": ""})
    wait_for_training(server)


def wait_for_training(server):
    for _ in range(1500):
        status = server.client.train_status(check_if_running=False)
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            break
        time.sleep(0.2)
    assert status["status"] == "DONE", status["details"]


def test_one_epoch_of_training_changes_what_is_served(ours, tiny, tmp_path):
    weights = ours.app / "model/model.pt"
    mask = paint(tmp_path / "mask.nii.gz", 0)
    before, _ = ours.infer("tcmn", "echo0", mask)
    for image in ("echo0", "echo1"):
        ours.client.save_label(image, str(paint(tmp_path / f"{image}.nii.gz", *range(T))))
    fine_tune(ours, epochs=1, iterations_per_epoch=2, batch_size=2)
    after = torch.load(weights, weights_only=True)
    shipped = torch.load(tiny / "models/model.pt", weights_only=True)
    assert after.keys() == shipped.keys()
    found, _ = ours.infer("tcmn", "echo0", mask)
    assert f"loading {weights}" in ours.log.read_text()
    assert found.shape == before.shape


@pytest.mark.skipif(shutil.which("curl") is None, reason="the requests of the page need curl")
def test_the_requests_of_the_page_work_as_written(ours, tmp_path):
    """Except those with points, which the tiny weights do not take; with a shorter training."""
    page = (ROOT / "docs/monai_label.md").read_text()
    found = re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = "".join(block for block in found if "tcmn_points" not in block)
    for old, new in {
        "http://127.0.0.1:8000": ours.url,
        "curl -s": "curl -sSf",  # an answer of 400 ends it
        '"epochs": 6, "iterations_per_epoch": 50': '"epochs": 1, "iterations_per_epoch": 2',
    }.items():
        assert old in lines
        lines = lines.replace(old, new)
    ours.add_study(lambda path: shutil.copy(ours.studies / "echo0.nii.gz", path), "echo.nii.gz")
    ours.client.save_label("echo1", str(paint(tmp_path / "echo1.nii.gz", *range(T))))
    paint(tmp_path / "mask.nii.gz", 0)
    paint(tmp_path / "corrected.nii.gz", *range(T))
    Image.fromarray(255 * disk(0).T.astype(np.uint8)).save(tmp_path / "mask.png")
    with av.open(str(tmp_path / "polyp.mp4"), "w") as movie:
        stream = movie.add_stream("mpeg4", rate=25, width=X, height=Y)
        for t in range(4):
            picture = np.repeat(90 + 90 * disk(t).T[..., None].astype(np.uint8), 3, axis=-1)
            movie.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        movie.mux(stream.encode())
    with zipfile.ZipFile(tmp_path / "frames.zip", "w") as frames:
        frames.write(tmp_path / "mask.png", "000.png")
    done = subprocess.run(
        ["bash", "-e", "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    labels = np.asarray(nib.load(tmp_path / "all_frames.nii.gz").dataobj)
    assert labels.shape == (X, Y, 4)
    np.testing.assert_array_equal(labels[..., 0], disk(0))
    wait_for_training(ours)
    ours.remove_studies("echo")


def test_servers_stop_cleanly(server):
    server.stop()
