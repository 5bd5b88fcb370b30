"""Nothing that is read becomes code, leaves its folder, or carries a patient's name along."""

import ast
import hashlib
import logging
import stat
import tempfile
import warnings
import zipfile
from collections import namedtuple
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bundle.apps.monai_label import uploads
from bundle.io.reading.video import open_video
from bundle.io.writing import ResultWriter
from tests import processes
from tests.dicom_files import new_cine, put_pixels

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for name in ("bundle", "scripts") for path in (ROOT / name).rglob("*.py"))
SECRET = "Doe^Jane"


# Weights


def test_the_shipped_weights_are_those_of_the_list():
    """As ``sha256sum -c`` reads it."""
    models = ROOT / "models"
    listed = {}
    for line in (models / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        listed[name] = digest
    found = {
        str(path.relative_to(models)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in models.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }
    assert listed == found, "anew: (cd models && sha256sum *.pt int8*/* > SHA256SUMS)"


def unsafe_calls(tree):
    """Calls that make code of what they read, or could."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            bad = {"pickle", "marshal", "shelve", "dill", "joblib"}
            if isinstance(node, ast.ImportFrom):
                bad.add("yaml")  # by its name alone it is seen below
            yield from (name for name in names if name and name.split(".")[0] in bad)
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        constant = {k: getattr(v, "value", None) for k, v in keywords.items()}
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            yield name
        elif name.endswith("torch.load") and constant.get("weights_only") is not True:
            yield f"{name} without weights_only=True"
        elif (
            (name.startswith("yaml.") and not name.startswith("yaml.safe_"))
            or "jit.load" in name
            or "torch.hub" in name
        ):
            yield name
        elif constant.get("allow_pickle") or constant.get("shell"):
            yield f"{name} with allow_pickle or shell"


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)",
        "torch.jit.load(p)",
        "import pickle",
        "from yaml import load",
        "eval(text)",
        "np.load(p, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds_unsafe_calls(text):
    assert list(unsafe_calls(ast.parse(text)))


def test_nothing_that_is_read_becomes_code():
    """Configs do: they are MONAI's, and as trusted as code (docs/security.md)."""
    assert len(SOURCES) > 100
    trees = {path: ast.parse(path.read_text()) for path in SOURCES}
    found = {str(path): list(unsafe_calls(tree)) for path, tree in trees.items()}
    assert {path: calls for path, calls in found.items() if calls} == {}
    loads = sum(path.read_text().count("torch.load(") for path in SOURCES)
    assert loads >= 5  # the names above are those that are used


def test_configs_load_no_weights_themselves():
    for path in (ROOT / "configs").glob("*.yaml"):
        text = path.read_text()
        assert not any(name in text for name in ("torch.load", "CheckpointLoader", "pickle")), path


REPORTERS = """
import sys
from bundle.backends.conversion import core
core()
print("openvino" in sys.modules, sorted(name for name in sys.modules if "openvino_telemetry." in name))
"""


def test_openvino_does_not_report_its_use(tmp_path):
    """Importing it alone would, to a server on the Internet, by a package that it brings along."""
    pytest.importorskip("openvino_telemetry", reason="comes with openvino")
    (tmp_path / "script.py").write_text(REPORTERS)
    done = processes.run([tmp_path / "script.py"])
    assert (done.returncode, done.stdout) == (0, "True []\n"), done.stderr


def test_weights_that_hold_code_are_refused(tmp_path):
    import torch

    from bundle.networks import TCMN
    from bundle.networks.weights import load_weights

    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was run",)

    torch.save({"weight": Code()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model.pt is not a weights file: expected a plain state"):
        load_weights(TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8)), tmp_path / "model.pt")
    assert not (tmp_path / "was run").exists()


# Uploads, without a server; tests/apps/test_label.py starts one


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", "a\nb"])
def test_names_that_are_paths_are_refused(name):
    with pytest.raises(Exception, match=r"the tag is .*: expected a plain name, without slashes"):
        uploads.require_plain(name, "the tag")
    uploads.require_plain("Größe 1.final", "the tag")


def pack(path, *names, link=False):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            if link:
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, bytes(1000))
    return path


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..\\x"])
def test_a_zip_stays_in_its_folder(tmp_path, name):
    with pytest.raises(Exception, match="would lie outside its folder: pack the frames alone"):
        uploads.unpack_frames(pack(tmp_path / "a.zip", "0.png", name), tmp_path / "new")
    with pytest.raises(Exception, match="is a link: pack the frames alone"):
        uploads.unpack_frames(pack(tmp_path / "b.zip", "0.png", link=True), tmp_path / "b")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in written) == ["a.zip", "b.zip"]


def test_a_zip_that_would_fill_the_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    archive = pack(tmp_path / "a.zip", "0.png", "1.png", "2.png")
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda path: usage(0, 0, 5999))
    with pytest.raises(
        Exception, match="zip holds 3000 bytes, more than half of the server's free"
    ):
        uploads.unpack_frames(archive, tmp_path / "refused")
    assert list((tmp_path / "refused").iterdir()) == []
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda path: usage(0, 0, 6000))
    uploads.unpack_frames(archive, tmp_path / "taken")
    assert len(list((tmp_path / "taken").iterdir())) == 3


def test_refused_uploads_go_and_other_files_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(uploads, "Finalize", lambda *call, **named: call)
    other = tmp_path / "other.nii"
    uploads.use_scratch_folder()
    folder = Path(tempfile.gettempdir())
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    uploads.use_scratch_folder()
    assert Path(tempfile.gettempdir()) == folder
    upload, frames, deep = folder / "a.nii", folder / "frames", folder / "kept" / "b.nii"
    for path in (frames, deep.parent):
        path.mkdir()
    for path in (other, upload, frames / "0.png", deep):
        path.touch()
    paths = [str(path) for path in (other, upload, frames, deep)]
    with uploads.deleted_if_refused(*paths):
        pass
    assert upload.exists()
    with pytest.raises(KeyError), uploads.deleted_if_refused(*paths, None, ["a"], str(upload)):
        raise KeyError("refused")
    assert not upload.exists()
    assert not frames.exists()
    assert other.exists()
    assert deep.exists()


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8000", None, True),
        ("localhost:8000", "http://localhost:8000", True),
        ("[::1]:8000", None, True),
        ("proxy.hospital", "https://proxy.hospital", True),
        ("elsewhere.example:8000", None, False),  # a name that leads here
        ("", None, False),
        ("127.0.0.1:8000", "https://elsewhere.example", False),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("127.0.0.1:8000", "null", False),
    ],
)
def test_who_may_use_the_label_server(host, origin, allowed):
    pytest.importorskip("starlette", reason="comes with MONAI Label and NiceGUI")
    import asyncio

    from bundle.apps.monai_label.guard import guard

    class Server:
        async def middleware_stack(self, scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})

    server, sent = Server(), []
    guard(server, ["proxy.hospital"])
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": headers, "method": "GET", "path": "/", "query_string": b""}
    asyncio.run(server.middleware_stack(scope, None, send))
    assert sent[0]["status"] == (200 if allowed else 403)
    if not allowed:
        assert b"start it with --conf hosts NAME" in sent[1]["body"]


# Patients


def frames_of(size=(24, 32)):
    return np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)


def write_pngs(path):
    path.mkdir()
    info, exif = PngInfo(), Image.Exif()
    info.add_text("Patient", SECRET)
    exif[0x010E] = SECRET  # ImageDescription
    for index, frame in enumerate(frames_of()):
        Image.fromarray(frame).save(path / f"{index}.png", pnginfo=info, exif=exif)


def write_movie(path):
    with av.open(str(path), "w") as container:
        container.metadata["title"] = container.metadata["comment"] = SECRET
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        for frame in frames_of():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_nifti(path):
    image = nib.Nifti1Image(frames_of()[..., 0].T.copy(), np.eye(4))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = SECRET
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
    nib.save(image, path)


def write_meta(path):
    image = sitk.GetImageFromArray(frames_of()[..., 0])
    image.SetMetaData("PatientName", SECRET)
    sitk.WriteImage(image, str(path))


ODD = {
    "PatientName": f"{SECRET}{'x' * 70}", "PatientID": f"{SECRET}-{'7' * 70}",
    "PatientBirthDate": f"3 March {SECRET}", "PatientSex": f"{SECRET} unknown",
    "InstitutionName": f"{SECRET} clinic {'y' * 70}", "StudyDate": f"{SECRET} day",
    "StudyTime": f"{SECRET} noon", "AccessionNumber": f"{SECRET} number {'4' * 20}",
    "ReferringPhysicianName": f"{SECRET} {'z' * 70}", "StudyID": f"{SECRET} {'5' * 20}",
}  # fmt: skip
"""What no DICOM may say, and some do; libraries like to quote it in a warning."""


def write_dicom(path, odd=True):
    cine = new_cine((3, 24, 32, 3))
    cine.StudyInstanceUID, cine.SeriesInstanceUID, cine.FrameTime = "1.2.4", "1.2.5", 40
    put_pixels(cine, frames_of())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in ODD.items():
            setattr(cine, keyword, value if odd else SECRET[:3])
        cine.save_as(path)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a", write_pngs), ("a.mkv", write_movie), ("a.mp4", write_movie), ("a.nii.gz", write_nifti),
        ("a.mha", write_meta), ("a.dcm", write_dicom),
    ],
)  # fmt: skip
def test_what_a_file_says_of_its_patient_stays_in_it(tmp_path, name, write, caplog, capfd, recwarn):
    caplog.set_level(logging.INFO)
    write(tmp_path / name)
    caplog.clear()
    recwarn.clear()
    formats = "auto,rle,mha"
    video = open_video(tmp_path / name)
    with ResultWriter(tmp_path / "out", video, formats=formats) as writer:
        for frame in video:
            writer.write(frame, (frame[..., 0] > 128).astype(np.uint8), {1: 0.5}, True)
    said = "".join([caplog.text, *capfd.readouterr(), *(str(each.message) for each in recwarn)])
    assert SECRET not in said
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 9
    for path in written:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = nib.load(path).header.binaryblock + b"".join(
                each.get_content() for each in nib.load(path).header.extensions
            )
        elif path.suffix == ".png":
            data = repr(Image.open(path).info).encode()
        assert path.name == "masks.dcm" or SECRET.encode() not in data, path
