"""A whole training by the command line, with TensorBoard and with a stand-in for MLflow."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

from tests.tiny import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
FAKE_MLFLOW = '''
"""Notes the calls that MONAI's handler makes; refuses what MLflow refuses."""
import json, numbers, os
from types import SimpleNamespace as Thing
from mlflow import entities
from mlflow.exceptions import MlflowException

experiments, runs = {}, []

def note(**call):
    with open(os.environ["MLFLOW_CALLS"], "a") as file:
        file.write(json.dumps(call) + "\\n")

class MlflowClient:
    def __init__(self, tracking_uri=None):
        note(call="client", uri=tracking_uri)
    def get_experiment_by_name(self, name):
        return experiments.get(name)
    def create_experiment(self, name, artifact_location=None):
        experiments[name] = Thing(experiment_id="1", lifecycle_stage="active")
        note(call="experiment", name=name, artifacts=artifact_location)
        return name
    def get_experiment(self, name):
        return experiments[name]
    def search_runs(self, experiment_id):
        return runs
    def get_run(self, run_id):
        return runs[int(run_id)]
    def create_run(self, experiment_id, run_name):
        info = Thing(run_id=str(len(runs)), run_name=run_name, status="RUNNING")
        runs.append(Thing(info=info, data=Thing(params={})))
        note(call="run", name=run_name)
        return runs[-1]
    def log_batch(self, run_id, metrics, params, tags):
        for metric in metrics:
            if not isinstance(metric.value, numbers.Number):
                raise MlflowException(f"invalid value {metric.value!r} for metric {metric.key}")
            note(call="metric", run=run_id, key=metric.key, step=metric.step)
        for param in params:
            runs[int(run_id)].data.params[param.key] = param.value
            note(call="param", run=run_id, key=param.key, value=param.value)
    def log_artifact(self, run_id, path):
        note(call="artifact", run=run_id, path=str(path))
    def set_terminated(self, run_id, status):
        note(call="end", run=run_id, status=status)
'''
FAKE_ENTITIES = """
from collections import namedtuple
Param = namedtuple("Param", "key value")
Metric = namedtuple("Metric", "key value timestamp step")
class RunStatus:
    FINISHED = 3
    to_string = staticmethod({3: "FINISHED"}.get)
class LifecycleStage:
    ACTIVE = "active"
"""
TINY = {
    **OPTIONS,
    "train#dataset#data": {"davis": "$bundle.datasets.generic.davis(@davis_dir)"},
    "train#dataset#sampling_weights": {"davis": 1.0},
    "validate#dataset#data": "$bundle.datasets.generic.davis(@davis_dir)",
    "loss_table#every": 2,
    "size": 32,
    "batch_size": 2,
    "iterations_per_epoch": 2,
    "epochs": 3,
    "warm_up": 1,
    "val_interval": 1,
    "workers": 0,
    "threads": 1,
    "precision": "float32",
}


def write_davis(root, videos=("bear", "dog")):
    for video in videos:
        for frame in range(4):
            for kind, suffix, mode in (("JPEGImages", "jpg", "RGB"), ("Annotations", "png", "L")):
                picture = Image.new(mode, (48, 40))
                x = 16 + 3 * frame
                fill = 255 if mode == "L" else (220, 180, 160)
                ImageDraw.Draw(picture).ellipse((x - 8, 12, x + 8, 28), fill=fill)
                path = root / kind / "240p" / video / f"{frame:05d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output folder of one training with everything on, and the calls that MLflow got."""
    root = tmp_path_factory.mktemp("tracking")
    write_davis(root / "data" / "DAVIS-2016-val")
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    package = root / "packages" / "mlflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE_MLFLOW)
    (package / "entities.py").write_text(FAKE_ENTITIES)
    (package / "exceptions.py").write_text("class MlflowException(Exception): pass\n")
    files = [str(ROOT / "configs/train.yaml"), str(root / "tiny.yaml")]
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(files), "--logging_file", str(ROOT / "configs/logging.conf")]
    command += ["--meta_file", str(ROOT / "configs/metadata.json")]
    command += ["--dataset_dir", str(root / "data"), "--output_dir", str(root / "out")]
    command += ["--tensorboard", "true", "--tracking", "mlflow", "--sample_videos", "1"]
    search = os.pathsep.join([str(package.parent), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": search, "MLFLOW_CALLS": str(root / "calls.jsonl")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    calls = [json.loads(line) for line in (root / "calls.jsonl").read_text().splitlines()]
    return root / "out", calls


@pytest.mark.heavy
def test_a_training_leaves_its_files(trained):
    folder, _ = trained
    found = {path.name for path in folder.iterdir()}
    pictures = {"curves.png", "samples"}
    tables = {"losses.csv", "metrics.csv"}
    assert found >= pictures | tables | {"last.pt", "best.pt", "tensorboard"}
    assert not list(folder.rglob("*.partial"))
    samples = sorted(str(path.relative_to(folder)) for path in folder.glob("samples/*/*"))
    assert samples == [f"samples/epoch_000{epoch}/bear.png" for epoch in (1, 2, 3)]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("jaccard", "dice"))


@pytest.mark.heavy
def test_tensorboard_gets_loss_terms_and_scores(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, _ = trained
    steps = {}
    for path in (folder / "tensorboard").iterdir():
        events = accumulator.EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            steps.setdefault(tag, []).extend(event.step for event in events.Scalars(tag))
    assert steps["train/loss"] == steps["train/dice"] == [1, 2, 3, 4, 5, 6]
    assert steps["jaccard"] == steps["dice"] == [1, 2, 3]


@pytest.mark.heavy
def test_mlflow_gets_loss_terms_and_scores_of_one_run(trained):
    folder, calls = trained
    by_kind = {}
    for call in calls:
        by_kind.setdefault(call["call"], []).append(call)
    database = "sqlite:///" + (folder / "mlruns.db").as_posix()
    assert {call["uri"] for call in by_kind["client"]} == {database}
    (experiment,) = by_kind["experiment"]
    assert experiment["name"] == "tcmn"
    assert experiment["artifacts"].endswith("/out/mlruns")
    assert len(by_kind["run"]) == 1
    assert {(call["key"], call["value"]) for call in by_kind["param"]} >= {("max_epochs", "3")}
    steps = {}
    for call in by_kind["metric"]:
        steps.setdefault(call["key"], []).append(call["step"])
    assert steps["train/loss"] == steps["train/dice"] == [1, 2, 3, 4, 5, 6]
    assert steps["lr_group_0"] == [1, 2, 3, 4, 5, 6]
    assert steps["jaccard"] == steps["dice"] == [1, 2, 3]
    assert [call["status"] for call in by_kind["end"]] == ["FINISHED"]
