"""Every config runs, shrunk, on made-up data in the official layouts; what MONAI checks passes."""

import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from PIL import Image, ImageDraw

from bundle.inference.config import OLD_TRAINING_NAMES, check_run
from bundle.networks import TCMN
from tests import processes
from tests.tiny import OPTIONS, PROMPTED_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
META = str(CONFIGS / "metadata.json")
TINY_TRAINING = OPTIONS | {
    "size": 32,
    "batch_size": 2,
    "iterations_per_epoch": 2,
    "epochs": 1,
    "warm_up": 1,
    "val_interval": 1,
    "workers": 0,
    "threads": 1,
    "device": "cpu",
    "precision": "float32",
}


def test_old_names_of_training_options_still_work(monkeypatch, caplog):
    config = CONFIGS / "train.yaml"
    for old, new in OLD_TRAINING_NAMES.items():
        monkeypatch.setattr(
            "sys.argv", ["monai.bundle", "run", "--config_file", str(config), f"--{old}", "0.5"]
        )
        check_run(resolved := {})
        assert resolved == {new: 0.5}
        assert f"--{old} is called --{new} now" in caplog.text


def draw_disk(path, x, *, mask, size=(48, 40)):
    """A disk at column x: as a picture, or its mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L" if mask else "RGB", size, 0 if mask else (90, 60, 50))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((x - 8, 12, x + 8, 28), fill=255 if mask else (220, 180, 160))
    picture.save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """All five data sets, a few frames each."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for frame in range(1, 9):
        sequence = 1 if frame <= 4 else 2
        names = f"PNG/Original/{frame}.png", f"PNG/Ground Truth/{frame}.png"
        for name, mask in zip(names, (False, True), strict=True):
            draw_disk(root / "CVC-ClinicDB" / name, 16 + 2 * frame, mask=mask)
        rows.append([frame, sequence, "train" if sequence == 1 else "valid", *names])
    with (root / "CVC-ClinicDB" / "metadata.csv").open("w", newline="") as file:
        header = ["frame_id", "sequence_id", "split", "png_image_path", "png_mask_path"]
        csv.writer(file).writerows([header, *rows])
    for split, patient in (("training", "patient0001"), ("validation", "patient0002")):
        folder = root / "CAMUS" / "database_nifti" / patient
        folder.mkdir(parents=True)
        for shift, moment in enumerate(("ED", "ES")):
            labels = np.zeros((40, 48), np.uint8)
            labels[10 + shift : 20, 8:16], labels[20:28, 8:16], labels[28:36, 8:16] = 1, 2, 3
            picture = np.where(labels == 1, 20, 90 + 30 * labels)  # a dark chamber
            for name, pixels in (("", picture.astype(np.uint8)), ("_gt", labels)):
                image = nib.Nifti1Image(pixels, np.eye(4))
                nib.save(image, folder / f"{patient}_4CH_{moment}{name}.nii.gz")
        table = root / "CAMUS" / "database_split" / f"subgroup_{split}.txt"
        table.parent.mkdir(exist_ok=True)
        table.write_text(patient + "\n")
    davis = root / "DAVIS-2016-val"
    for video in ("bear", "blackswan", "camel", "dog", "parkour", "soapbox"):
        for frame in range(4):
            name = f"240p/{video}/{frame:05d}"
            draw_disk(davis / "JPEGImages" / f"{name}.jpg", 16 + 3 * frame, mask=False)
            draw_disk(davis / "Annotations" / f"{name}.png", 16 + 3 * frame, mask=True)
    for folder, masks in (("ECSSD", "ground_truth_mask"), ("Kvasir-SEG", "masks")):
        for number in (1, 2):
            draw_disk(root / folder / "images" / f"{number}.jpg", 16 + 4 * number, mask=False)
            draw_disk(root / folder / masks / f"{number}.png", 16 + 4 * number, mask=True)
    return root


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory):
    """Random weights of the tiny network."""
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8)).state_dict(), path)
    return str(path)


@pytest.fixture
def threads():
    """Configs set the number of threads of the whole process: put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(files, run_id, **options):
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in files],
        meta_file=META,
        workflow_type="train",
        run_id=run_id,
        logging_file=False,
        **options,
    )
    workflow.initialize()
    workflow.run()
    return workflow


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "files",
    [["train.yaml"], ["train.yaml", "pretrain.yaml"], ["train.yaml", "paper.yaml"]],
    ids=str,
)
def test_training_runs_and_leaves_checkpoints(files, data, tmp_path):
    options = TINY_TRAINING | PROMPTED_OPTIONS
    options |= {f"network_def#{trunk}_weights": None for trunk in ("backbone", "mask_backbone")}
    run(files, "training", dataset_dir=str(data), output_dir=str(tmp_path), **options)
    assert {"last.pt", "best.pt"} <= {path.name for path in tmp_path.iterdir()}
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in best.values())


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("layout", "folder"), [("image_pairs", "Kvasir-SEG"), ("davis", "DAVIS-2016-val")]
)
def test_fine_tuning_runs_on_pictures_and_videos(layout, folder, data, tiny_weights, tmp_path):
    run(
        ["train.yaml", "finetune.yaml"],
        "training",
        layout=layout,
        dataset_dir=str(data / folder),
        initial_weights=tiny_weights,
        output_dir=str(tmp_path),
        **TINY_TRAINING | PROMPTED_OPTIONS,
    )
    with (tmp_path / "metrics.csv").open() as file:
        assert [0 <= float(row["jaccard"]) <= 1 for row in csv.DictReader(file)] == [True]
    split = json.loads((tmp_path / "splits" / f"{layout}.json").read_text())
    assert split["train"]
    assert not set(split["train"]) & set(split["valid"])


@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("protocol", "folder", "classes"),
    [
        ("cvc_clinicdb", "CVC-ClinicDB", {"polyp"}),
        ("camus_seen", "CAMUS", {"LV wall"}),
        ("camus_unseen_from_es", "CAMUS", {"LV cavity", "left atrium"}),
        ("davis", "DAVIS-2016-val", {"object 1"}),
    ],
)
def test_evaluation_writes_a_row_per_object_and_method(
    protocol, folder, classes, data, tiny_weights, tmp_path
):
    run(
        ["train.yaml", "evaluate.yaml"],
        "evaluating",
        dataset_dir=str(data / folder),
        output_dir=str(tmp_path / "scores"),
        protocol=protocol,
        weights=tiny_weights,
        **TINY_TRAINING,
    )
    with (tmp_path / "scores" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == classes
    methods = {"network", "copy first mask", "optical flow (DIS)"}
    assert {row["method"] for row in rows} == methods
    copied = [float(row["dice"]) for row in rows if row["method"] == "copy first mask"]
    assert all(20 < score <= 100 for score in copied)  # the made-up objects hardly move


def test_pretraining_on_unknown_data_set_folder_names_it(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run(["train.yaml"], "training", dataset_dir=str(tmp_path), **TINY_TRAINING)
    root = caught.value
    while root.__cause__ is not None:
        root = root.__cause__
    assert isinstance(root, FileNotFoundError)
    assert str(tmp_path) in str(root)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["train.yaml"], "train"),
        (["train.yaml", "pretrain.yaml"], "train"),
        (["train.yaml", "paper.yaml"], "train"),
        (["train.yaml", "larger.yaml"], "train"),
        (["train.yaml", "more_data.yaml"], "train"),
        (["train.yaml", "more_data.yaml", "release.yaml"], "train"),
        (["train.yaml", "finetune.yaml"], "train"),
        (["inference.yaml"], "infer"),
    ],
    ids=str,
)
def test_monai_finds_every_property(files, kind, data, tiny_weights, tmp_path):
    options = OPTIONS | {"output_dir": str(tmp_path)}
    if kind == "train":
        options |= TINY_TRAINING | {"dataset_dir": str(data)}
        options |= {
            f"network_def#{backbone}_weights": None for backbone in ("backbone", "mask_backbone")
        }
        if "finetune.yaml" in files:
            options |= {"layout": "davis", "initial_weights": tiny_weights}
            options["dataset_dir"] = str(data / "DAVIS-2016-val")
        if "more_data.yaml" in files:
            options |= PROMPTED_OPTIONS
            options["train#dataset#data"] = {"davis": "$bundle.datasets.generic.davis(@davis_dir)"}
            options["train#dataset#sampling_weights"] = {"davis": 1.0}
    else:
        options |= {"weights": tiny_weights, "backend": "torch"}
    workflow = ConfigWorkflow(
        config_file=[str(CONFIGS / name) for name in files],
        meta_file=META,
        logging_file=False,
        workflow_type=kind,
        **options,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_monai_s_own_name_runs_a_training():
    """What MONAI runs where no id is given."""
    assert ConfigParser.load_config_file(str(CONFIGS / "train.yaml"))["run"] == "%training"


def test_paper_config_builds_the_paper_size_network():
    files = [str(CONFIGS / name) for name in ("train.yaml", "paper.yaml")]
    network = ConfigParser(ConfigParser.load_config_files(files)).get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_251_073
    with torch.inference_mode():
        logits, values = network.eval()(torch.rand(1, 5, 32, 48, 3), return_values=True)
    assert logits.shape == (1, 3, 32, 48, 3)
    assert values.shape == (1, 2, 512, 3, 2, 3)


def test_metadata_fits_the_schema(tmp_path):
    # The rules of MONAI's schema of 2024-07-25, in short; the file itself is a download.
    tensor = {
        "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]
    }
    values = {"additionalProperties": tensor}
    required = (
        "schema version monai_version pytorch_version numpy_version required_packages_version task "
        "description authors copyright network_data_format changelog"
    )
    schema = {
        "required": required.split(),
        "properties": {
            "network_data_format": {"properties": {"inputs": values, "outputs": values}},
            "references": {"type": "array", "items": {"type": "string"}},
        },
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    verify_metadata(meta_file=META, filepath=str(path), hash_val=digest)
    metadata = json.loads(Path(META).read_text())
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("name", ["train.yaml", "inference.yaml"])
@pytest.mark.parametrize("n", [1, 2])
def test_network_takes_and_gives_what_metadata_says(name, n):
    verify_net_in_out(
        net_id="network_def",
        meta_file=META,
        config_file=str(CONFIGS / name),
        device="cpu",
        n=n,
        **{"network_def#backbone_weights": None},
    )


@pytest.mark.slow
def test_inference_from_the_command_line(data, tiny_weights, tmp_path):
    """From another folder, and again from the root."""
    options = OPTIONS | {
        "video": data / "DAVIS-2016-val" / "JPEGImages" / "240p" / "bear",
        "mask": data / "DAVIS-2016-val" / "Annotations" / "240p" / "bear" / "00000.png",
        "output_dir": tmp_path / "results",
        "weights": tiny_weights,
        "backend": "torch",
    }
    done = segment(options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "results" / "bear").iterdir()}
    results = {"masks.nii.gz", "masks", "overlay.mp4", "frames.csv", "summary.png"}
    assert written == results | {"manifest.json"}

    again = segment(options, cwd=ROOT)
    assert again.returncode == 1
    assert "error: " in again.stderr
    assert "already holds results" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.slow
def test_a_misspelt_option_is_refused_in_one_line(tmp_path):
    done = segment({"vidoe": "a.mp4"}, cwd=ROOT)
    assert done.returncode == 1
    assert "error: unknown option --vidoe: did you mean --video?" in done.stderr
    assert "Traceback" not in done.stderr


def segment(options, cwd):
    """Run configs/inference.yaml as a user would; the package is installed or the root is the cwd."""
    command = ["-m", "monai.bundle", "run", "--config_file", CONFIGS / "inference.yaml"]
    command += [text for name, value in options.items() for text in (f"--{name}", value)]
    return processes.run(command, cwd)
