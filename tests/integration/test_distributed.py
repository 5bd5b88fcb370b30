"""Two processes do what one does; golden: losses, weights and scores of real runs by torchrun."""

import csv
import itertools
import json
import os
import shutil
import socket
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism
from PIL import Image, ImageDraw
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from bundle.datasets.records import Video
from bundle.networks import TCMN
from bundle.training.clips import ClipDataset
from bundle.training.handlers import ResumableCheckpoint
from bundle.utils.devices import process_device
from bundle.utils.distributed import (
    ShardSampler,
    gather_shards,
    mean_over_processes,
    start,
)
from tests import processes
from tests.tiny import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
STOP_AT = 6  # iteration, of 8; in the middle of the second epoch
CLIPS = 4  # of an iteration, of all processes together
# Rounding differs by CPU and grows with Adam's steps, to 3e-5 in eight. Processes that do not average
# their gradients differ by 4e-3 to 9e-2.
ROUNDING = 3e-4
TINY = {
    **OPTIONS,
    "size": 32,
    "iterations_per_epoch": 4,
    "epochs": 2,
    "warm_up": 1,
    "val_interval": 1,
    "threads": 1,
    "precision": "float32",
    "learning_rate": 0.001,
    "ema_momentum": 0.1,
    "loss#warm_up": 2,
    "loss_table#every": 1,
    "train#dataset#data": {"davis": "$bundle.datasets.generic.davis(@davis_dir)"},
    "train#dataset#sampling_weights": {"davis": 1.0},
    "validate#dataset#data": "$bundle.datasets.generic.davis(@davis_dir)",
    "davis_dir": "@dataset_dir",
}
# A handler that tells the second process to stop, and its loader's workers, as torchrun would.
TERMINATE = """
import os
import signal

import ignite.distributed as idist
from ignite.engine import Events


class Terminate:
    def __init__(self, after):
        self.event = Events.ITERATION_COMPLETED(once=after)

    def attach(self, engine):
        engine.add_event_handler(self.event, self.kill)

    def kill(self, engine):
        if idist.get_rank() == 1:
            os.killpg(os.getpgid(0), signal.SIGTERM)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five videos of six frames, a disk each, in the layout of DAVIS."""
    root = tmp_path_factory.mktemp("data")
    for video in range(5):
        for frame in range(6):
            x, y = 14 + 3 * frame, 14 + 2 * video
            for kind, empty, full in (
                ("JPEGImages", (90, 60, 50), (220, 180, 20 * video)),
                ("Annotations", 0, 255),
            ):
                suffix = "jpg" if kind == "JPEGImages" else "png"
                path = root / kind / f"video{video}" / f"{frame:05d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = Image.new("RGB" if suffix == "jpg" else "L", (48, 40), empty)
                ImageDraw.Draw(picture).ellipse((x - 8, y - 8, x + 8, y + 8), fill=full)
                picture.save(path)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of the tiny network whose masks are neither empty nor full."""
    torch.manual_seed(0)
    network = TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8))
    network.decoder.predict.weight.data.mul_(10)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def _threads_and_determinism():
    """Configs set both for the whole process: put them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    set_determinism(None)


def config_files(names, folder, **options):
    """Configs of this repository with a tiny one over them that holds ``options`` too."""
    path = folder / "tiny.json"
    path.write_text(json.dumps(TINY | options))
    return [*(str(CONFIGS / name) for name in names), str(path)]


def make_workflow(names, folder, **options):
    return ConfigWorkflow(
        config_file=config_files(names, folder, **options),
        meta_file=str(CONFIGS / "metadata.json"),
        workflow_type="train",
        logging_file=False,
    )


def run_alone(names, run_id, folder, **options):
    """One process: this one."""
    workflow = make_workflow(names, folder, **options)
    workflow.run_id = run_id
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def run_two(names, run_id, folder, torchrun=False, **options):
    """Two processes, by torchrun or started as it does; gives what they logged."""
    (folder / "terminate.py").write_text(TERMINATE)
    command = ["-m", "monai.bundle", "run", run_id]
    command += ["--config_file", config_files(names, folder, **options)]
    environment = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "SLURM_JOB_ID": "1",  # as if in a job of Slurm, whose other variables are not torchrun's
        "SLURM_LOCALID": "0",
    }
    if torchrun:
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        started = [processes.Command([*start, *command], folder, **environment)]
    else:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
        started = [
            processes.Command(command, folder, **environment, RANK=rank, LOCAL_RANK=rank)
            for rank in "01"
        ]
    done = [each.wait() for each in started]
    for each in done:
        assert each.returncode == 0, each.stderr[-5000:]
    return "".join(each.stdout + each.stderr for each in done)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture(scope="module")
def alone(data, weights, tmp_path_factory):
    """What one process with batches of four clips leaves."""
    folder = tmp_path_factory.mktemp("alone")
    run_alone(
        ["train.yaml"],
        "training",
        folder,
        dataset_dir=str(data),
        output_dir=str(folder / "out"),
        initial_weights=weights,
        batch_size=CLIPS,
        workers=0,
    )
    return folder / "out"


@pytest.fixture(scope="module")
def stopped(data, weights, tmp_path_factory):
    """What two processes with batches of two clips leave and log, one told to stop in epoch 2."""
    folder = tmp_path_factory.mktemp("stopped")
    log = run_two(
        ["train.yaml", "multi_gpu_train.yaml"],
        "training",
        folder,
        dataset_dir=str(data),
        output_dir=str(folder / "out"),
        initial_weights=weights,
        batch_size=CLIPS // 2,
        workers=1,
        torchrun=True,
        # The handler comes after the one that looks whether to stop.
        **{"+train#handlers": [{"_target_": "terminate.Terminate", "after": STOP_AT - 1}]},
    )
    return folder / "out", log


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def losses(folder):
    """Rows of the table; without those terms that are means over only some objects."""
    rows = read_table(folder / "losses.csv")
    assert [int(row["iteration"]) for row in rows] == list(range(1, len(rows) + 1))
    return [[float(row[name]) for name in ("loss", "cross_entropy", "dice")] for row in rows]


def read_weights(folder):
    """All weights in a row: the newest, their running average, and the best one kept."""
    last, best = (torch.load(folder / name, weights_only=True) for name in ("last.pt", "best.pt"))
    states = (last["network"], last["ema"], best)
    return [torch.cat([x.double().flatten() for x in state.values()]) for state in states]


# Training


@pytest.mark.heavy
def test_two_processes_train_as_one_with_both_batches(alone, stopped):
    folder, _ = stopped
    rows = losses(folder)
    torch.testing.assert_close(rows, losses(alone)[: len(rows)], atol=ROUNDING, rtol=0)
    assert len({tuple(row) for row in rows}) == STOP_AT  # the losses do change


@pytest.mark.heavy
def test_sigterm_to_one_process_stops_all_after_the_same_iteration(stopped):
    folder, log = stopped
    assert log.count(f"SIGTERM: stopped after iteration {STOP_AT}, run the same") == 1
    assert len(losses(folder)) == STOP_AT
    assert sorted(path.name for path in folder.glob("*.pt*")) == ["best.pt", "last.pt"]
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["trainer"]["iteration"] == STOP_AT
    assert set(state["network"]) == set(TCMN("resnet18").state_dict())


@pytest.mark.heavy
@pytest.mark.parametrize("processes", [2, 1])
def test_the_rest_is_the_same_by_as_many_processes_or_one(
    processes, alone, stopped, data, weights, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(stopped[0], out)
    options = {"dataset_dir": str(data), "output_dir": str(out), "initial_weights": weights}
    options |= {"batch_size": CLIPS // processes, "workers": 0}
    if processes == 2:
        log = run_two(["train.yaml", "multi_gpu_train.yaml"], "training", tmp_path, **options)
        assert log.count(f"after epoch 1, iteration {STOP_AT}\n") == 1
    else:
        run_alone(["train.yaml"], "training", tmp_path, **options)
    torch.testing.assert_close(losses(out), losses(alone), atol=ROUNDING, rtol=0)
    # Adam takes full steps where a gradient is nothing but rounding, so weights differ a little.
    newest, average, _ = read_weights(alone)
    for one, other in zip(read_weights(out), read_weights(alone), strict=True):
        assert (one - other).norm() < 0.01 * (newest - average).norm()
    for one, other in zip(
        read_table(out / "metrics.csv"), read_table(alone / "metrics.csv"), strict=True
    ):
        assert 0.01 < float(one["jaccard"]) < 0.99
        assert float(one["jaccard"]) == pytest.approx(float(other["jaccard"]), abs=2e-3)


def test_processes_that_find_different_checkpoints_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(idist, "all_gather", lambda iteration: [iteration + 4, iteration])
    engine = Engine(lambda engine, batch: None)
    with pytest.raises(ValueError, match=r"last.pt: \[4, 0\] by rank. output_dir must be a folder"):
        ResumableCheckpoint({"network": torch.nn.Linear(1, 1)}, tmp_path).attach(engine)


def test_a_gradient_scaler_goes_on_where_it_was(tmp_path):
    def train(epochs, scale):
        engine = Engine(lambda engine, batch: scales.append(engine.scaler.get_scale()))
        engine.state.max_epochs, engine.state.epoch_length = epochs, 1
        ResumableCheckpoint({"network": torch.nn.Linear(1, 1)}, tmp_path).attach(engine)
        engine.scaler = torch.amp.GradScaler(
            "cpu", init_scale=scale
        )  # by MONAI's run(), after attach
        engine.run([0], max_epochs=epochs)

    scales = []
    train(1, 8.0)
    train(2, 2.0)
    assert scales == [8.0, 8.0]


# Evaluation


@pytest.mark.heavy
def test_the_table_of_two_processes_is_that_of_one(data, weights, tmp_path):
    options = {"dataset_dir": str(data), "weights": weights, "protocol": "davis"}
    options |= {"inference_size": 32, "perturb": "shift:3"}
    folders = []
    for run, more in ((run_alone, []), (run_two, ["multi_gpu_evaluate.yaml"])):
        folder = tmp_path / run.__name__
        folder.mkdir()
        names = ["train.yaml", "evaluate.yaml", *more]
        folders.append(folder / "out")
        run(names, "evaluating", folder, output_dir=str(folders[-1]), **options)
    written = [sorted(p.relative_to(f) for p in f.rglob("*.*")) for f in folders]
    assert written[0] == written[1]
    for name in written[0]:
        if name.name != "summary.json":  # it has the time that each took
            one, two = ((folder / name).read_bytes() for folder in folders)
            assert one == two, name
    rows = read_table(folders[0] / "metrics.csv")
    rows = [row for row in rows if (row["method"], row["perturbation"]) == ("network", "none")]
    assert [row["video"] for row in rows] == [f"video{i}" for i in range(5)]
    assert len({row["jaccard"] for row in rows}) > 1  # the network's masks are worth comparing


# Shares


@pytest.mark.parametrize("begin", [0, 12])
def test_processes_share_an_epoch_without_overlap(begin, monkeypatch):
    video = Video("v", (Path("0.png"),), {0: Path("0.png")}, {1: "x"}, "v")
    monkeypatch.setattr(idist, "get_world_size", lambda: 3)
    batches = []
    for rank in range(3):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        dataset = ClipDataset({"a": [video]}, transform=dict, length=24)
        loader = DataLoader(dataset, batch_size=2, sampler=ShardSampler(dataset))
        dataset.set_epoch(2, begin)  # of an epoch that goes on, fewer clips are left
        assert len(loader) == (24 - begin) // 6
        batches.append(list(loader.batch_sampler))
    # Each iteration takes the clips that a single process with batches of six would.
    for i, parts in enumerate(zip(*batches, strict=True)):
        assert sorted(itertools.chain(*parts)) == list(range(6 * i, 6 * i + 6))


@pytest.mark.parametrize("count", [3, 5, 6])
def test_results_come_back_in_the_order_of_the_data_set(count, monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 3)
    shards = []
    for rank in range(3):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        shards.append(list(ShardSampler(range(count))))
    monkeypatch.setattr(idist, "all_gather", lambda mine: shards)
    assert gather_shards(shards[0]) == list(range(count))


def test_a_single_process_has_it_all():
    assert list(ShardSampler("abc")) == [0, 1, 2]
    assert gather_shards([[1], []]) == [[1], []]
    assert mean_over_processes({"loss": 0.1}) == {"loss": 0.1}


def test_a_term_is_averaged_over_the_processes_that_have_it(monkeypatch):
    shares = [{"loss": 1.0}, {"loss": 3.0, "contrastive": 5.0}]
    monkeypatch.setattr(idist, "all_gather", lambda mine: shares)
    assert mean_over_processes(shares[0]) == {"loss": 2.0, "contrastive": 5.0}


def test_more_processes_than_videos_are_reported(monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 4)
    with pytest.raises(
        ValueError, match=r"a data set of 3 .* by 4 processes: .* --nproc_per_node=3 or fewer"
    ):
        ShardSampler(range(3))


# Starting


def test_a_process_that_torchrun_did_not_start_is_reported(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK is not set: start with torchrun --nproc_per_node=N"):
        start(torch.device("cpu"))


def test_each_process_takes_the_gpu_of_its_place(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert process_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert process_device() == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        ValueError, match=r"process 2 of this node has no GPU .* there are 1: start"
    ):
        process_device()


@pytest.mark.parametrize("name", [None, "pretrain.yaml", "paper.yaml"])
def test_monai_finds_every_property(name, data, weights, tmp_path, monkeypatch):
    group = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}
    for key, value in {**group, "MASTER_PORT": 0, "SLURM_JOB_ID": 1}.items():
        monkeypatch.setenv(key, str(value))
    options = {"dataset_dir": str(data), "output_dir": str(tmp_path), "initial_weights": weights}
    options |= {
        f"network_def#{backbone}_weights": None for backbone in ("backbone", "mask_backbone")
    }
    names = ["train.yaml", *([name] if name else []), "multi_gpu_train.yaml"]
    workflow = make_workflow(names, tmp_path, **options)
    workflow.initialize()
    try:
        assert os.environ["SLURM_JOB_ID"] == "1"
        assert workflow.check_properties() == []
        network = workflow.parser.get_parsed_content("train#trainer").network
        assert isinstance(network, DistributedDataParallel)
        frozen = [p for p in network.module.parameters() if not p.requires_grad]
        assert bool(frozen) == (name != "paper.yaml")
    finally:
        workflow.finalize()
    assert not torch.distributed.is_initialized()
