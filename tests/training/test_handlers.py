"""Handlers inside real MONAI engines; golden: a killed and resumed training is the same."""

import csv
import logging
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, LrScheduleHandler, ValidationHandler
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose
from monai.utils import set_determinism
from PIL import Image

from bundle.datasets.records import Video
from bundle.datasets.whole_videos import VideoDataset
from bundle.inference.inferers import ClipInferer, VideoInferer
from bundle.networks import TCMN
from bundle.training.clips import ClipDataset
from bundle.training.engines import PrepareClips, parameter_groups, to_label_volume
from bundle.training.handlers import (
    EpochHandler,
    GradientClipping,
    LossTable,
    ResumableCheckpoint,
    VideoScoreHandler,
)
from bundle.training.losses import TCMNLoss
from bundle.transforms.deformation import RandColourClipd, RandDeformClipd
from tests.tiny import OWN_SIZE

ITERATIONS = 3  # per epoch


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of five frames of 40x40: a bright box on noise, moving 2 px a frame."""
    random, root = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    made = []
    for name in "ab":
        folder = root / name
        folder.mkdir()
        for t in range(5):
            mask = np.zeros((40, 40), np.uint8)
            mask[10:26, 4 + 2 * t : 20 + 2 * t] = 1
            frame = random.integers(0, 100, (40, 40, 3)) + 120 * mask[..., None]
            Image.fromarray(frame.astype(np.uint8)).save(folder / f"{t}.png")
            Image.fromarray(mask).save(folder / f"{t}_gt.png")
        frames = tuple(folder / f"{t}.png" for t in range(5))
        masks = {t: folder / f"{t}_gt.png" for t in range(5)}
        made.append(Video(name, frames, masks, {1: "box"}, name))
    return made


@pytest.fixture(autouse=True)
def _reset_determinism():
    """``set_determinism`` leaves a global switch behind."""
    yield
    set_determinism(None)


class Losses:
    """Notes the loss of each iteration; may kill the training at one, or tell it to stop."""

    def __init__(self, kill_at=None, signal_at=None):
        self.seen, self.rates = {}, []
        self.kill_at, self.signal_at = kill_at, signal_at

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def _note(self, engine):
        self.seen[engine.state.iteration] = engine.state.output["loss"].item()
        self.rates.append(engine.optimizer.param_groups[1]["lr"])
        if engine.state.iteration == self.kill_at:
            raise KeyboardInterrupt
        if engine.state.iteration == self.signal_at:
            # Or it would be the end of pytest.
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, threading.enumerate()
            os.kill(os.getpid(), signal.SIGTERM)


def make_trainer(
    videos,
    folder,
    epochs=4,
    resume=True,
    kill_at=None,
    signal_at=None,
    iterations=ITERATIONS,
    channels=16,
    settings=None,
):
    """What ``configs/train.yaml`` makes, tiny; gives the trainer and its losses."""
    set_determinism(0)
    network = TCMN(
        "resnet18", key_channels=8, value_channels=channels, decoder_channels=(16, 16, 8)
    )
    loss = TCMNLoss(dice=1.0, beta=0.02, eta=0.5, warm_up=2)
    groups = parameter_groups(network, 1e-3, frozen=["query_encoder.trunk.conv1"])
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=epochs * iterations)
    ema = EMAHandler(network, momentum=0.1)
    deform = RandDeformClipd(32, {"static": 1.0, "pair": 0.3, "video": 0.1})
    dataset = ClipDataset(
        {"boxes": videos}, Compose([deform, RandColourClipd()]), length=2 * iterations
    )
    table = LossTable(loss, folder / "losses.csv", every=2)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(VideoDataset(videos, every=2), batch_size=1),
        network=ema.ema_model,
        inferer=VideoInferer(**OWN_SIZE, precision="float32"),
        prepare_batch=PrepareClips(training=False),
        postprocessing=to_label_volume,
        key_val_metric={"jaccard": VideoScoreHandler("jaccard")},
        val_handlers=[
            CheckpointSaver(
                str(folder),
                {"network": ema.ema_model},
                save_key_metric=True,
                key_metric_filename="best.pt",
            )
        ],
    )
    objects = {
        "network": network,
        "ema": ema.ema_model,
        "optimizer": optimizer,
        "lr_scheduler": schedule,
        "loss": loss,
        "loss_table": table,
    }
    losses = Losses(kill_at, signal_at)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(dataset, batch_size=2),
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        inferer=ClipInferer("float32"),
        prepare_batch=PrepareClips(training=True),
        decollate=False,
        train_handlers=[
            losses,
            LrScheduleHandler(schedule, print_lr=False, epoch_level=False),
            EpochHandler(dataset, batch_size=2),
            GradientClipping(network, 1.0),
            ema,
            table,
            ValidationHandler(interval=2, validator=evaluator),
            ResumableCheckpoint(objects, folder, resume, settings),
        ],
    )
    return trainer, losses


# Resuming


@pytest.fixture(scope="module")
def uninterrupted(videos, tmp_path_factory):
    """Folder and losses of a training of three epochs."""
    folder = tmp_path_factory.mktemp("whole")
    trainer, whole = make_trainer(videos, folder, epochs=3)
    trainer.run()
    assert len(whole.seen) == 3 * ITERATIONS
    return folder, whole


@pytest.fixture(scope="module")
def one_epoch(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    make_trainer(videos, folder, epochs=1)[0].run()
    return folder


@pytest.fixture
def trained(one_epoch, tmp_path):
    """``tmp_path`` holds what a training of one epoch wrote."""
    shutil.copytree(one_epoch, tmp_path, dirs_exist_ok=True)


def test_a_killed_and_resumed_training_gives_the_same_losses(videos, uninterrupted, tmp_path):
    folder, whole = uninterrupted
    trainer, first = make_trainer(videos, tmp_path, epochs=3, kill_at=2 * ITERATIONS + 2)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    trainer, second = make_trainer(videos, tmp_path, epochs=3)
    trainer.run()
    assert min(second.seen) == 2 * ITERATIONS + 1
    assert {**first.seen, **second.seen} == pytest.approx(whole.seen, abs=1e-6)
    for name in ("network", "ema"):
        states = [
            torch.load(run / "last.pt", weights_only=True)[name] for run in (folder, tmp_path)
        ]
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stop_at", [2, ITERATIONS + 1, 2 * ITERATIONS])
def test_sigterm_saves_in_mid_epoch_and_the_rest_is_the_same(
    videos, uninterrupted, tmp_path, stop_at, caplog
):
    folder, whole = uninterrupted
    before = signal.getsignal(signal.SIGTERM)
    trainer, first = make_trainer(videos, tmp_path, epochs=3, signal_at=stop_at)
    with caplog.at_level(logging.WARNING, logger="bundle.training.handlers"):
        trainer.run()  # ends without an exception
    assert max(first.seen) == stop_at
    assert f"SIGTERM: stopped after iteration {stop_at}, run the same" in caplog.text
    trainer, second = make_trainer(videos, tmp_path, epochs=3)
    trainer.run()
    assert min(second.seen) == stop_at + 1
    assert {**first.seen, **second.seen} == pytest.approx(whole.seen, abs=1e-6)
    whole_rows, rows = (
        list(csv.DictReader((run / "losses.csv").open())) for run in (folder, tmp_path)
    )
    for one, other in zip(whole_rows, rows, strict=True):
        assert {**one, "seconds": None} == {**other, "seconds": None}
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_settings_are_reported(videos, tmp_path):
    make_trainer(videos, tmp_path, epochs=1, settings={"size": 32, "seed": 0})[0].run()
    with pytest.raises(ValueError, match=r"last.pt was .*: size was 32, is 64; seed was 0, is 1\."):
        make_trainer(videos, tmp_path, settings={"size": 64, "seed": 1})


def test_a_checkpoint_of_another_network_is_reported(videos, trained, tmp_path):
    with pytest.raises(ValueError, match=r"last.pt does not fit this training \(.*size mismatch"):
        make_trainer(videos, tmp_path, epochs=2, channels=8)


def test_an_existing_checkpoint_is_not_lost(videos, trained, tmp_path):
    with pytest.raises(FileExistsError, match=r"last.pt exists: choose another .*--resume true"):
        make_trainer(videos, tmp_path, epochs=1, resume=False)


def test_without_a_checkpoint_resume_starts_anew(videos, tmp_path):
    trainer, losses = make_trainer(videos, tmp_path, epochs=1, resume=False)
    trainer.run()
    assert list(losses.seen) == [1, 2, 3]
    names = ["last.json", "last.pt", "losses.csv"]
    assert sorted(path.name for path in tmp_path.glob("*.*")) == names


def test_a_finished_training_stays_finished(videos, trained, tmp_path, caplog):
    before = (tmp_path / "last.pt").read_bytes()
    with caplog.at_level(logging.WARNING, logger="bundle.training.handlers"):
        trainer, losses = make_trainer(videos, tmp_path, epochs=1)
        trainer.run()
    assert "all 1 epochs are done" in caplog.text
    assert losses.seen == {}
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_finished_training_goes_on_for_longer_by_the_longer_schedule(videos, trained, tmp_path):
    trainer, losses = make_trainer(videos, tmp_path, epochs=3)
    trainer.run()
    assert list(losses.seen) == list(range(ITERATIONS + 1, 3 * ITERATIONS + 1))
    planned = WarmupCosineSchedule(torch.optim.SGD([torch.zeros(1)], 1e-3), 2, 3 * ITERATIONS)
    expected = [1e-3 * planned.lr_lambda(step) for step in range(3, 9)]
    # The first rate is the one that the shorter training ended on.
    assert losses.rates[1:] == pytest.approx(expected[1:])


def test_a_changed_number_of_epochs_is_not_resumed(videos, trained, tmp_path):
    with pytest.raises(
        ValueError, match=r"last.pt has 3 iterations per epoch, this training 2: go on"
    ):
        make_trainer(videos, tmp_path, epochs=2, iterations=2)


def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch):
    def epoch(value, fail):
        weights.weight.data.fill_(value)
        if fail:
            monkeypatch.setattr(torch, "save", broken)
        engine.run([0], max_epochs=int(value))

    def broken(checkpoint, file, **options):
        file.write(b"half")
        raise OSError("disk full")

    weights = torch.nn.Linear(1, 1)
    engine = Engine(lambda engine, batch: None)
    engine.state.max_epochs, engine.state.epoch_length = 1, 1
    ResumableCheckpoint({"network": weights}, tmp_path).attach(engine)
    epoch(1, fail=False)
    with pytest.raises(OSError, match=r"cannot save .*last.pt \(disk full\): .* is untouched"):
        epoch(2, fail=True)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert torch.load(tmp_path / "last.pt", weights_only=True)["network"]["weight"].item() == 1


# Epochs


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_an_epoch_see_that_epoch(videos, persistent):
    def dataset():
        return ClipDataset({"boxes": videos}, RandDeformClipd(8, {"video": 0.1}), length=4, seed=5)

    trained = dataset()
    loader = DataLoader(trained, batch_size=2, num_workers=2, persistent_workers=persistent)
    seen = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader,
        network=torch.nn.Identity(),
        optimizer=torch.optim.SGD([torch.zeros(1)]),
        loss_function=torch.nn.Identity(),
        iteration_update=lambda engine, batch: seen.append((engine.state.epoch, batch["image"])),
        decollate=False,
        train_handlers=[EpochHandler(trained, batch_size=2)],
    )
    trainer.run()
    assert [epoch for epoch, _ in seen] == [1, 1, 2, 2, 3, 3]
    for epoch in (1, 2, 3):
        expected = dataset()
        expected.set_epoch(epoch)
        images = torch.cat([image for e, image in seen if e == epoch])
        assert torch.equal(images, torch.stack([expected[i]["image"] for i in range(4)]))


# Gradients


def linear_trainer(images, max_norm):
    """A linear network without bias, SGD with rate 1, the mean output as loss."""
    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    batches = [
        {"image": torch.tensor([x]), "label": torch.zeros(1, 1), "name": [f"clip{i}"]}
        for i, x in enumerate(images)
    ]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda prediction, target: prediction.mean(),
        decollate=False,
        train_handlers=[GradientClipping(network, max_norm)],
    )
    return trainer, network


@pytest.mark.parametrize(("max_norm", "step"), [(1.0, [0.6, 0.8]), (9.0, [3.0, 4.0])])
def test_gradients_are_scaled_down_to_the_norm(max_norm, step):
    trainer, network = linear_trainer([[3.0, 4.0]], max_norm)
    trainer.run()
    torch.testing.assert_close(network.weight[0], -torch.tensor(step), atol=1e-5, rtol=0)


def test_a_loss_that_is_not_a_number_stops_before_it_does_harm():
    trainer, network = linear_trainer([[3.0, 4.0], [float("nan"), 0.0]], 1.0)
    with pytest.raises(
        FloatingPointError, match=r"iteration 2 is nan on clips \['clip1'\]; the last check"
    ):
        trainer.run()
    assert network.weight.isfinite().all()


# The table of losses


def run_table(path, values, resumed=False):
    loss = TCMNLoss()

    def update(engine, value):
        loss.terms = {"cross_entropy": 2 * value}
        if value > 2:
            loss.terms["contrastive"] = value
        return {"loss": torch.tensor(value)}

    engine = Engine(update)
    LossTable(loss, path, every=3).attach(engine)
    if resumed:
        engine.load_state_dict({"epoch_length": 3, "max_epochs": 2, "iteration": 3})
    engine.run(values, max_epochs=2 if resumed else 1)
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_row_is_the_mean_of_so_many_iterations(tmp_path):
    rows = run_table(tmp_path / "new" / "losses.csv", [1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 100.0])
    assert [int(row["iteration"]) for row in rows] == [3, 6]
    assert [float(row["loss"]) for row in rows] == [2, 6]
    assert [float(row["cross_entropy"]) for row in rows] == [4, 12]
    assert [float(row["contrastive"]) for row in rows] == [3, 6]  # where it was computed
    assert {row["dice"] for row in rows} == {""}
    assert all(float(row["seconds"]) >= 0 for row in rows)


def test_a_resumed_training_goes_on_in_the_same_table(tmp_path):
    run_table(tmp_path / "losses.csv", [1.0] * 3)
    rows = run_table(tmp_path / "losses.csv", [2.0] * 3, resumed=True)
    assert [row["iteration"] for row in rows] == ["3", "6"]
    assert [float(row["loss"]) for row in rows] == [1, 2]


# Scores


class Freeze(torch.nn.Module):
    """Says that the first frame's masks never move."""

    def forward(self, clip):
        masks = clip[:, 3:, ..., :1].expand(*clip[:, 3:].shape)
        return torch.cat([1 - masks.amax(1, keepdim=True), masks], dim=1)


@pytest.mark.parametrize("score", ["jaccard", "dice"])
def test_scores_are_means_over_frames_then_objects(score):
    # A 4x4 box that moves 1 column a frame; the second video has another that stands still.
    volumes = []
    for still in (False, True):
        label = torch.zeros(1, 12, 12, 4, dtype=torch.long)
        for t in range(4):
            label[0, 0:4, t : t + 4, t] = 1
            label[0, 8:10, 8:10, t] = 2 * still
        volumes.append(label)
    volumes[0][..., 1] = -1  # not annotated
    data = [{"image": torch.zeros(3, 12, 12, 4), "label": v, "name": "v"} for v in volumes]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=1),
        network=Freeze(),
        prepare_batch=PrepareClips(training=False),
        postprocessing=to_label_volume,
        key_val_metric={score: VideoScoreHandler(score)},
    )
    evaluator.run()
    overlap = np.array([12, 8, 4])
    frames = overlap / (32 - overlap) if score == "jaccard" else overlap / 16
    expected = np.mean([frames[1:].mean(), frames.mean(), 1.0])
    assert evaluator.state.metrics[score] == pytest.approx(expected, abs=1e-9)


def test_iterations_done_again_are_not_in_the_table_twice(tmp_path):
    path = tmp_path / "losses.csv"
    run_table(path, [1.0] * 6)
    assert len(path.read_text().splitlines()) == 3
    rows = run_table(path, [2.0] * 3, resumed=True)  # from the checkpoint of iteration 3
    assert [(int(row["iteration"]), float(row["loss"])) for row in rows] == [(3, 1), (6, 2)]
