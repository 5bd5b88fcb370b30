"""The exported graphs, their check, and the loop that runs them without PyTorch."""

import contextlib
import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import av
import jaxtyping
import numpy as np
import pydicom.data
import pytest
import torch
import yaml
from PIL import Image

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from bundle.backends import onnx as export  # noqa: E402
from bundle.cli import main as run_command  # noqa: E402
from bundle.commands import export_onnx  # noqa: E402
from bundle.inference.inferers import VideoInferer  # noqa: E402
from bundle.io.reading.video import open_video  # noqa: E402
from bundle.networks import TCMN  # noqa: E402
from bundle.networks.definition import make_network  # noqa: E402
from bundle.networks.weights import file_digest, load_weights  # noqa: E402
from bundle.visualization.overlay import PALETTE  # noqa: E402
from tests.scripts import load_script  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models" / "model.pt"
HEIGHT, WIDTH = 50, 70  # neither is a multiple of 16, nor are they at any working size used here
PLAIN = {"backbone": "resnet18", "key_channels": 8, "value_channels": 16}
PLAIN |= {"decoder_channels": [16, 8, 8]}
GROWN = PLAIN | {"context_channels": 8, "previous_mask": True, "partial_masks": True}
"""With all that the paper's network has not."""


demo = load_script("demo/make_demo")
run_onnx = load_script("demo/run_onnx")


@contextlib.contextmanager
def unchecked():
    """No checks of annotations: while a network is traced its sizes are no numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def network():
    """A tiny network with weights that count, not trained."""
    torch.manual_seed(2)
    network = TCMN(**GROWN)
    decoder = network.decoder
    for each in (decoder.context.leave, decoder.previous.conv, network.mask_encoder.trunk.conv1):
        torch.nn.init.kaiming_normal_(each.weight)
    torch.nn.init.normal_(decoder.predict.weight, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """What the command made of it: the folder of the graphs, its config and weights."""
    return make_export(network, GROWN, tmp_path_factory.mktemp("export"))


def make_export(network, definition, folder):
    torch.save(network.state_dict(), folder / "tiny.pt")
    definition = {"_target_": "bundle.networks.TCMN", **definition}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"network_def": definition}))
    with unchecked():
        assert run_command(["export", *script_options(folder)]) == 0
    return folder


def script_options(folder, weights="tiny.pt", out="onnx"):
    options = {"weights": weights, "config": "tiny.yaml", "output_dir": out}
    return [text for name, file in options.items() for text in (f"--{name}", str(folder / file))]


def make_frames(count, height=HEIGHT, width=WIDTH):
    """Frames with two discs that drift, and the label map of the first, with the ids 2 and 5."""
    images, masks = export.draw_scene(height, width, objects=2, frames=count - 1)
    frames = (images * 255).to(torch.uint8).movedim(1, -1).numpy()
    return list(frames), (masks[0, 0] * 2 + masks[0, 1] * 5).to(torch.uint8).numpy()


def propagate_with_torch(network, frames, first, size, max_memory_frames=None):
    inferer = VideoInferer(
        inference_size=size,
        max_memory_frames=max_memory_frames,
        precision="float32",
        direction="forward",
        spatial_prior=None,
    )
    return np.stack([found.labels for found in inferer.stream(frames, {0: first}, network)])


def write_frames(folder, frames):
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{number}.png")  # 2 before 10
    return folder


@pytest.fixture
def job(exported, tmp_path):
    """Options of a run that works, to be spoilt."""
    frames, first = make_frames(2)
    Image.fromarray(first).save(tmp_path / "mask.png")
    return {
        "network": exported / "onnx",
        "video": write_frames(tmp_path / "frames", frames),
        "mask": tmp_path / "mask.png",
        "output_dir": tmp_path / "out" / "masks",
        "inference_size": 32,
    }


def run(job):
    run_onnx.main([text for name, value in job.items() for text in (f"--{name}", str(value))])


# The export and its check


def test_the_graphs_compute_what_the_network_does(network, exported):
    found = export.check_export(network, exported / "onnx")
    assert set(found) == {name for graph in export.GRAPHS.values() for name in graph.outputs}
    for output, each in found.items():
        assert each.scale > 0.1, output
        assert each.within(1e-4), (output, each)


def test_axes_have_names_and_weights_are_inside(exported):
    files = sorted(path.name for path in (exported / "onnx").iterdir())
    assert files == ["encode.onnx", "memorize.onnx", "network.json", "read_and_decode.onnx"]
    shapes = {}
    for name in export.GRAPHS:
        model = onnx.load(exported / "onnx" / f"{name}.onnx", load_external_data=False)
        onnx.checker.check_model(model)
        assert [each.version for each in model.opset_import if each.domain == ""] == [export.OPSET]
        for each in (*model.graph.input, *model.graph.output):
            axes = each.type.tensor_type.shape.dim
            shapes[name, each.name] = [axis.dim_param or axis.dim_value for axis in axes]
    assert shapes["encode", "image"] == [1, 3, "16*h", "16*w"]
    assert shapes["encode", "key"] == [1, 8, "h", "w"]
    assert shapes["encode", "stride4"] == [1, 64, "4*h", "4*w"]
    assert shapes["memorize", "masks"] == [1, "objects", "16*h", "16*w"]
    assert shapes["read_and_decode", "values"] == ["frames", "objects", 16, "h", "w"]
    assert shapes["read_and_decode", "logits"] == [1, "objects + 1", "16*h", "16*w"]


def test_the_description_names_the_weights(exported):
    found = json.loads((exported / "onnx" / "network.json").read_text())
    assert found["weights"] == {
        "file": "tiny.pt",
        "sha256": file_digest(exported / "tiny.pt"),
    }
    assert (found["stride"], found["key_channels"], found["value_channels"]) == (16, 8, 16)
    assert found["graphs"]["memorize"]["inputs"] == ["stride16", "masks", "unknown"]
    assert found["graphs"]["read_and_decode"]["inputs"][-1] == "previous"


@pytest.mark.heavy
def test_the_papers_network_has_fewer_inputs(tmp_path):
    torch.manual_seed(2)
    network = TCMN(**PLAIN).eval()
    folder = make_export(network, PLAIN, tmp_path) / "onnx"
    found = json.loads((folder / "network.json").read_text())["graphs"]
    assert found["memorize"]["inputs"] == ["stride16", "masks"]
    assert found["read_and_decode"]["inputs"][-1] == "weights"
    for output, each in export.check_export(network, folder).items():
        assert each.within(1e-4), (output, each)


def test_a_graph_of_other_weights_is_noticed(network, exported):
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.decoder.predict.bias += 0.1
    found = export.check_export(other, exported / "onnx")
    wrong = [output for output, each in found.items() if not each.within(export.TOLERANCE)]
    assert wrong == ["logits", "probability"]


@pytest.mark.parametrize("largest", [0.1, float("nan")])
def test_graphs_that_differ_are_not_written(exported, tmp_path, monkeypatch, capsys, largest):
    differences = {"key": export.Difference(0.0, 1.0), "value": export.Difference(largest, 2.0)}
    monkeypatch.setattr(export_onnx, "export_network", lambda *_: None)
    monkeypatch.setattr(export_onnx, "check_export", lambda *_: differences)
    options = [*script_options(exported), "--output_dir", str(tmp_path)]
    assert run_command(["export", *options]) == 1
    assert "error: value of the graphs differ from PyTorch's by more" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_are_named(exported, tmp_path, capsys):
    assert run_command(["export", *script_options(exported, weights="none.pt", out="new")]) == 1
    assert (
        capsys.readouterr().err == f"error: no weights at {exported / 'none.pt'}: check the path\n"
    )
    assert not (exported / "new").exists()


def test_a_missing_package_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(export.MissingPackageError, match=r"no package onnxscript: pip install 'tc"):
        export.export_network(network, tmp_path)


def test_openvino_reads_the_same_files(network, exported):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    expected = export.run_network(network, *export.draw_scene(64, 112, objects=3, frames=4))
    for name, graph in export.list_graphs(network).items():
        model = core.compile_model(
            exported / "onnx" / f"{name}.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        found = model({each: expected[each].numpy() for each in graph.inputs})
        for output in graph.outputs:
            torch.testing.assert_close(
                torch.from_numpy(found[output]), expected[output], rtol=1e-3, atol=1e-3
            )


def test_the_page_on_deploying_works_as_written(exported, tmp_path, monkeypatch):
    """The graphs are those of a tiny network; test_model_zoo.py exports to TorchScript."""
    pytest.importorskip("openvino")
    page = (ROOT / "docs/deploy.md").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    (tmp_path / "output/onnx").symlink_to(exported / "onnx")
    frames, first = make_frames(3)
    Image.fromarray(first).save("first_frame.png")
    with av.open("colonoscopy.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=WIDTH, height=HEIGHT)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    [line] = re.findall(r"^ {4}python scripts/demo/run_onnx.py (.*)$", page, re.MULTILINE)
    run_onnx.main(shlex.split(line))
    assert len(list(Path("masks").glob("*.png"))) == 3
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(block, values := {"image": np.zeros((1, 3, 320, 432), np.float32)})
    assert values["key"].shape == (1, 8, 20, 27)


# The loop without PyTorch


# Smaller, the frames' own, larger; grids of 48 and 80 have odd sides, whose halves are not whole.
@pytest.mark.parametrize("size", [32, 48, 50, 60, 80])
@pytest.mark.parametrize("max_memory_frames", [None, 2])
def test_the_loop_agrees_with_the_inferer(network, exported, size, max_memory_frames):
    frames, first = make_frames(17)
    expected = propagate_with_torch(network, frames, first, size, max_memory_frames)
    found = np.stack(
        list(
            run_onnx.propagate(
                run_onnx.load(exported / "onnx"), frames, first, size, max_memory_frames
            )
        )
    )
    assert (found[0] == first).all()
    assert set(np.unique(expected)) == set(np.unique(found)) == {0, 2, 5}
    assert (found == expected).mean() > 0.995


@pytest.mark.parametrize(
    ("frames", "max_memory_frames", "kept"),
    [
        (17, None, [0, 5, 10, 15]),
        (18, None, [0, 5, 10, 15, 16]),
        (17, 2, [0, 15]),
        (18, 2, [0, 16]),
        (18, 3, [0, 15, 16]),
    ],
)
def test_the_first_and_the_latest_frames_are_kept(exported, frames, max_memory_frames, kept):
    encode, memorize, read_and_decode = run_onnx.load(exported / "onnx")
    keys, held = [], []

    class Encode:
        def run(self, names, inputs):
            found = encode.run(names, inputs)
            keys.append(found[0])
            return found

    class Read:
        get_inputs = read_and_decode.get_inputs

        def run(self, names, inputs):
            held.append(inputs["keys"])
            assert len(inputs["values"]) == len(inputs["keys"]) == len(inputs["weights"])
            assert (inputs["weights"][:-1] == 1).all()
            return read_and_decode.run(names, inputs)

    frames, first = make_frames(frames)
    list(run_onnx.propagate([Encode(), memorize, Read()], frames, first, 32, max_memory_frames))
    assert (held[-1] == np.concatenate([keys[index] for index in kept])).all()


def test_it_runs_where_there_is_no_torch(job):
    code = (
        f"import runpy, sys; sys.argv = ['run_onnx.py', *sys.argv[1:]]\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'demo' / 'run_onnx.py')!r}, run_name='__main__')\n"
        "print({'torch', 'monai', 'bundle', 'av'} & set(sys.modules))"
    )
    options = [text for name, value in job.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", code, *options], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
    assert sorted(path.name for path in job["output_dir"].iterdir()) == ["00000.png", "00001.png"]
    assert [path.name for path in job["output_dir"].parent.iterdir()] == ["masks"]
    with Image.open(job["output_dir"] / "00000.png") as found, Image.open(job["mask"]) as given:
        assert (np.asarray(found) == np.asarray(given)).all()
        assert found.getpalette() == PALETTE.ravel().tolist()


def test_a_video_file_gives_the_frames_that_the_package_reads(tmp_path):
    with av.open(str(tmp_path / "video.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=32, height=16, pix_fmt="bgr0")
        for value in (10, 100, 200):
            pixels = np.full((16, 32, 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    found = list(run_onnx.read_frames(tmp_path / "video.mkv"))
    assert len(found) == 3
    for frame, expected in zip(found, open_video(tmp_path / "video.mkv"), strict=True):
        assert (frame == expected).all()


def test_frames_of_a_folder_come_by_number(tmp_path):
    values = list(range(0, 240, 20))
    write_frames(tmp_path / "frames", [np.full((4, 4, 3), value, np.uint8) for value in values])
    assert [frame.max() for frame in run_onnx.read_frames(tmp_path / "frames")] == values


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((HEIGHT, WIDTH), np.uint8), r"mask.png is empty: expected 1 to 32 objects"),
        (np.ones((HEIGHT, WIDTH, 3), np.uint8), r"mask.png has RGB pixels: save it in grey"),
        (np.arange(4096, dtype=np.uint8).reshape(64, 64), r"holds 255 labels \(soft edges\?\)"),
        (
            np.ones((40, 60), np.uint8),
            r"frame 0 is \(50, 70\) \(rows, columns\), the mask \(40, 60\): give both at one size",
        ),
    ],
)
def test_an_unsuitable_mask_is_named(job, pixels, message):
    Image.fromarray(pixels).save(job["mask"])
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run(job)
    assert not job["output_dir"].parent.exists() or not list(job["output_dir"].parent.iterdir())


def test_a_sole_255_becomes_1(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "bits.png")
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "grey.png")
    for name in ("bits.png", "grey.png"):
        assert run_onnx.read_mask(tmp_path / name).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("network", "nowhere", r"no nowhere/encode.onnx: write it with `tcmn export`"),
        ("video", "nowhere.mp4", r"nowhere.mp4"),
        ("mask", "nowhere.png", r"nowhere.png"),
        ("video", "empty", r"empty holds no frames: expected .png"),
        ("video", "deep", r"0.png has I;16 pixels: expected 8 bits a channel"),
        ("output_dir", "empty", r"empty exists: choose another --output_dir"),
    ],
)
def test_an_unsuitable_path_is_named(job, tmp_path, monkeypatch, option, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep").mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(tmp_path / "deep" / "0.png")
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run({**job, option: value})


@pytest.mark.parametrize(("option", "value"), [("inference_size", 15), ("max_memory_frames", 1)])
def test_a_number_out_of_range_is_refused(job, capsys, option, value):
    with pytest.raises(SystemExit):
        run({**job, option: value})
    assert (
        "--inference_size must be 16 at least, and --max_memory_frames 2" in capsys.readouterr().err
    )


@pytest.mark.heavy
def test_the_shipped_weights_give_the_inferers_masks(tmp_path):
    with unchecked():
        assert run_command(["export", "--output_dir", str(tmp_path)]) == 0
    graphs = run_onnx.load(tmp_path)
    network = load_weights(make_network(weights=WEIGHTS), WEIGHTS).eval()
    scenes = {"discs": make_frames(12, 120, 150)}
    if cine := pydicom.data.get_testdata_file(demo.CINE, download=False):
        outline = json.loads(demo.OUTLINES.read_text())["0"]
        scenes["echocardiogram"] = list(open_video(cine)), demo.fill_outline(outline, 240, 320)
    for name, (frames, first) in scenes.items():
        expected = propagate_with_torch(network, frames, first, 128)
        found = np.stack(list(run_onnx.propagate(graphs, frames, first, 128, None)))
        assert (found[-1] > 0).sum() > 100
        print(f"{name}: {100 * (found == expected).mean():.4f} % of the pixels agree")
        assert (found == expected).mean() > 0.999
