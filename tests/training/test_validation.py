"""The table of validation scores and the early stop, in real MONAI engines with scores made up."""

import csv
import logging

import ignite.distributed as idist
import pytest
import torch
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from bundle.training.handlers import EarlyStop, MetricTable, ResumableCheckpoint

NAN = float("nan")


class Scripted(Metric):
    """Gives one score after another."""

    def __init__(self, scores):
        self.scores = iter(scores)
        super().__init__()

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return next(self.scores)


def make_evaluator(handlers=(), **scores):
    """An evaluator whose first metric is the key metric."""
    metrics = {name: Scripted(values) for name, values in scores.items()}
    key = next(iter(metrics))
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.zeros(1, 1), "label": torch.zeros(1, 1)}],
        network=torch.nn.Identity(),
        key_val_metric={key: metrics.pop(key)},
        additional_metrics=metrics,
        val_handlers=list(handlers),
    )


# The table


def validate(path, epochs, **scores):
    evaluator = make_evaluator([MetricTable(path)], **scores)
    for epoch in epochs:
        evaluator.run(epoch)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_has_the_epoch_and_all_scores(tmp_path):
    rows = validate(tmp_path / "new" / "m.csv", [3, 6], jaccard=[0.5, 0.625], dice=[0.75, NAN])
    assert rows == [
        {"epoch": "3", "jaccard": "0.50000", "dice": "0.75000"},
        {"epoch": "6", "jaccard": "0.62500", "dice": ""},
    ]


def test_epochs_done_again_are_not_in_the_table_twice(tmp_path):
    path = tmp_path / "metrics.csv"
    validate(path, [3, 6, 9], jaccard=[0.1, 0.2, 0.3])
    rows = validate(path, [6], jaccard=[0.4])  # from the checkpoint of epoch 4, say
    assert [(row["epoch"], row["jaccard"]) for row in rows] == [("3", "0.10000"), ("6", "0.40000")]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_score_may_be_new_in_a_resumed_training(tmp_path):
    path = tmp_path / "metrics.csv"
    validate(path, [3], jaccard=[0.1])
    rows = validate(path, [6], jaccard=[0.2], boundary=[0.3])
    assert [row["boundary"] for row in rows] == ["", "0.30000"]


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    evaluator = make_evaluator([MetricTable(tmp_path / "metrics.csv")], jaccard=[0.5])
    monkeypatch.undo()
    evaluator.run(1)
    assert list(tmp_path.iterdir()) == []


# The early stop


def train(folder, scores, patience, epochs=6):
    """Train a linear network, validated each epoch; gives the epochs that were run."""
    network = torch.nn.Linear(1, 1)
    evaluator = make_evaluator(jaccard=scores)
    stop = EarlyStop(evaluator, patience)
    seen = []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=[{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=lambda prediction, target: seen.append(trainer.state.epoch) or prediction,
        decollate=False,
        train_handlers=[
            ValidationHandler(interval=1, validator=evaluator),
            ResumableCheckpoint({"network": network, "early_stop": stop}, folder),
            stop,
        ],
    )
    trainer.run()
    return seen


def test_training_stops_when_the_score_does_not_get_better(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="bundle.training.handlers"):
        assert train(tmp_path, [0.5, 0.4, 0.6, 0.6, 0.5, 0.9], patience=2) == [1, 2, 3, 4, 5]
    assert (
        "stopped after epoch 5: 2 validations without a better jaccard than 0.60000; a larger "
        "patience goes on" in caplog.text
    )


def test_patience_0_never_stops(tmp_path):
    assert train(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], patience=0) == [1, 2, 3, 4, 5, 6]


def test_a_resumed_training_counts_on(tmp_path):
    assert train(tmp_path, [0.5, 0.4], patience=2, epochs=2) == [1, 2]
    assert train(tmp_path, [0.45, 0.9], patience=2) == [3]


def test_a_stopped_training_stays_stopped_until_patience_grows(tmp_path, caplog):
    assert train(tmp_path, [0.5, 0.4], patience=1) == [1, 2]
    with caplog.at_level(logging.WARNING, logger="bundle.training.handlers"):
        assert train(tmp_path, [], patience=1) == []
    assert "nothing to train: 1 validations without a better jaccard than 0.5" in caplog.text
    assert train(tmp_path, [0.4, 0.9], patience=2) == [3]


def test_validations_without_a_score_count_as_not_better(tmp_path):
    assert train(tmp_path, [NAN, NAN, 0.1, NAN, NAN, 0.9], patience=2) == [1, 2, 3, 4, 5]


def test_a_negative_patience_is_reported():
    with pytest.raises(ValueError, match=r"patience must be 0 \(never stop\) or .*, got -1"):
        EarlyStop(make_evaluator(jaccard=[]), -1)
