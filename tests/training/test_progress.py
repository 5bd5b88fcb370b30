"""The bar of a training, on a made-up terminal."""

import io
import logging
from contextlib import redirect_stderr

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine

from bundle.training.handlers import TrainingBar
from bundle.training.losses import TCMNLoss

CLIPS = 2  # of an iteration
ITERATIONS = 3  # of an epoch


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    # Wide enough for any speed: a narrow one cuts the loss terms off.
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
    return Terminal()


def train(stderr, act=lambda iteration: None, begin=0, epochs=2):
    """Train nothing; ``act`` happens in each iteration."""
    loss = TCMNLoss()

    def update(engine, batch):
        act(engine.state.iteration)
        loss.terms = {"cross_entropy": 0.25, "contrastive": 1.5}
        return {"loss": torch.tensor(0.75)}

    engine = Engine(update)
    TrainingBar(loss, CLIPS).attach(engine)
    state = {"epoch_length": ITERATIONS, "max_epochs": epochs, "iteration": begin}
    engine.load_state_dict(state)
    with redirect_stderr(stderr):
        engine.run(range(ITERATIONS), max_epochs=epochs)


def test_each_epoch_has_a_bar_in_clips_with_the_loss_terms(terminal):
    train(terminal)
    lines = [line.rsplit("\r", 1)[-1] for line in terminal.getvalue().strip().split("\n")]
    assert len(lines) == 2
    for epoch, line in enumerate(lines, start=1):
        assert line.startswith(f"epoch {epoch}/2: 100%|")
        assert " 6/6 [" in line
        assert "clip/s" in line
        assert "loss=0.75, cross_entropy=0.25, contrastive=1.5]" in line


def test_a_resumed_epoch_begins_where_it_was_interrupted(terminal):
    train(terminal, begin=ITERATIONS + 2)
    first, *_, last = terminal.getvalue().strip().split("\r")
    assert first.startswith("epoch 2/2:  67%|")
    assert " 4/6 [" in first
    assert " 6/6 [" in last


def test_the_bar_is_silent_without_a_terminal():
    file = io.StringIO()
    train(file)
    assert file.getvalue() == ""


def test_only_the_first_of_several_processes_shows_a_bar(terminal, monkeypatch):
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    train(terminal)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(idist, "get_rank", lambda: 0)
    train(terminal)
    assert "epoch 1/2" in terminal.getvalue()


@pytest.fixture
def console(terminal, monkeypatch):
    """A root logger that writes to the terminal."""
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(terminal)])
    return logging.root.handlers


def test_log_messages_stand_on_lines_of_their_own(terminal, console):
    train(terminal, lambda iteration: logging.warning("in iteration %d", iteration))
    for iteration in range(1, 2 * ITERATIONS + 1):
        assert f"\rin iteration {iteration}\n" in terminal.getvalue()
    assert logging.root.handlers is console


def test_an_error_is_passed_on_and_ends_the_line(terminal, console):
    def fail(iteration):
        if iteration == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train(terminal, fail)
    # Blanks: the rest of a longer bar before it.
    assert terminal.getvalue().rsplit("]", 1)[1].lstrip(" ").startswith("\n")
    assert logging.root.handlers is console
