"""Pictures of a training: sizes, what is drawn where, names of files."""

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from bundle.training.handlers import CurvesPicture, SampleOverlays
from bundle.training.handlers.pictures import GAP_PX, file_name
from bundle.visualization.curves import (
    DPI,
    FIGURE_WIDTH_IN,
    PANEL_HEIGHT_IN,
    draw_curves,
    read_table,
)
from bundle.visualization.overlay import PALETTE
from tests.scripts import load_script

ORANGE = (255, 127, 14)  # of the second curve in a panel
WHITE = (255, 255, 255)


def write_losses(path, dice="0.4"):
    lines = ["iteration,loss,cross_entropy,dice,contrastive,value_distance,collapsed,seconds"]
    lines += [f"{20 * i},1.{9 - i},0.{9 - i},{dice},,0.1,0.0,4.0" for i in range(1, 6)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_metrics(path):
    path.write_text("epoch,jaccard,dice\n3,0.61,0.70\n6,0.65,0.74\n")
    return path


def panels(path):
    """How many panels a picture of curves has, by its height; its width must be right."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == FIGURE_WIDTH_IN * DPI
        return picture.height / (PANEL_HEIGHT_IN * DPI)


def count(path, colour):
    with Image.open(path) as picture:
        return int((np.asarray(picture.convert("RGB")) == colour).all(-1).sum())


# Curves


def test_cells_that_are_empty_make_no_point(tmp_path):
    table = read_table(write_losses(tmp_path / "losses.csv"), "iteration")
    assert table["loss"] == [(20, 1.8), (40, 1.7), (60, 1.6), (80, 1.5), (100, 1.4)]
    assert "contrastive" not in table


def test_an_empty_column_draws_no_curve(tmp_path):
    filled, empty = tmp_path / "filled.png", tmp_path / "empty.png"
    draw_curves(filled, [write_losses(tmp_path / "filled.csv")])
    draw_curves(empty, [write_losses(tmp_path / "empty.csv", dice="")])
    assert panels(filled) == panels(empty) == 3  # none for the contrastive loss, which has no rows
    assert count(filled, ORANGE) > count(empty, ORANGE) + 500  # the legend has a bit of it


def test_a_stage_without_rows_and_one_with(tmp_path):
    first, second = write_losses(tmp_path / "a.csv"), write_losses(tmp_path / "b.csv")
    first.write_text(first.read_text().splitlines()[0] + "\n")
    draw_curves(tmp_path / "curves.png", [first, second], write_metrics(tmp_path / "m.csv"))
    assert panels(tmp_path / "curves.png") == 4


def test_hours_are_drawn_beside_the_aim(tmp_path):
    script = load_script("studies/plot_hours")
    blue, red = (31, 119, 180), (214, 39, 40)
    row = {"version": "0.1.0", "hours": "2.5", **dict.fromkeys(script.AIMS, "80")}
    script.draw_hours(tmp_path / "all.png", [row])
    script.draw_hours(tmp_path / "polyps.png", [row | dict.fromkeys(list(script.AIMS)[1:], "")])
    assert 3 < count(tmp_path / "all.png", blue) / count(tmp_path / "polyps.png", blue) < 5
    aims = [count(tmp_path / f"{name}.png", red) for name in ("all", "polyps")]
    assert aims[0] == pytest.approx(aims[1], rel=0.1)  # drawn without scores too
    assert aims[0] > 500


def test_a_table_of_something_else_is_reported(tmp_path):
    path = write_metrics(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match=r"metrics.csv has no column iteration: .*'epoch', 'jac"):
        read_table(path, "iteration")


def test_a_cell_that_is_not_a_number_is_reported(tmp_path):
    path = write_metrics(tmp_path / "metrics.csv")
    path.write_text(path.read_text() + "9,0.6x,0.7\n")
    with pytest.raises(ValueError, match=r"metrics.csv, line 4: column jaccard holds '0.6x'"):
        read_table(path, "epoch")


def test_nothing_to_draw_is_reported(tmp_path):
    with pytest.raises(ValueError, match=r"no table of losses or scores to draw .*curves.png from"):
        draw_curves(tmp_path / "curves.png", [])


def test_curves_are_drawn_after_each_epoch_from_what_is_there(tmp_path):
    losses, metrics = tmp_path / "losses.csv", tmp_path / "metrics.csv"
    target = tmp_path / "curves.png"

    def update(engine, batch):
        if engine.state.epoch == 2:
            assert not target.exists()  # no table yet, and no error
            write_losses(losses)
        if engine.state.epoch == 3:
            assert panels(target) == 3
            write_metrics(metrics)

    engine = Engine(update)
    CurvesPicture(target, losses, metrics).attach(engine)
    engine.run([0], max_epochs=3)
    assert panels(target) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"losses.csv", "metrics.csv", "curves.png"}


def test_a_training_that_is_stopped_draws_its_last_rows(tmp_path):
    def update(engine, batch):
        write_losses(tmp_path / "losses.csv")
        engine.terminate(skip_completed=True)

    engine = Engine(update)
    CurvesPicture(tmp_path / "a.png", tmp_path / "losses.csv", tmp_path / "none.csv").attach(engine)
    engine.run([0, 0], max_epochs=1)
    assert panels(tmp_path / "a.png") == 3


# Samples


def clip(name="a", height=40, width=48, frames=8):
    """A grey video with a truth of 16x12, moving 2 px a frame; the prediction lies 3 px lower."""
    truth = torch.zeros(1, height, width, frames, dtype=torch.long)
    for t in range(frames):
        truth[0, 8:24, 4 + 2 * t : 16 + 2 * t, t] = 1
    prediction = truth.roll(3, dims=1)
    image = torch.full((3, height, width, frames), 0.2)
    return {"image": image, "label": truth, "name": name}, {"pred": prediction, "label": truth}


def validate(handler, clips, epoch=3):
    """What an evaluator does: one video an iteration, with the trainer's epoch."""

    def update(engine, batch):
        engine.state.batch = [batch[0]]
        return [batch[1]]

    engine = Engine(update)
    handler.attach(engine)
    engine.load_state_dict(
        {"epoch_length": len(clips), "max_epochs": epoch, "iteration": (epoch - 1) * len(clips)}
    )
    engine.run(clips)


def read_tiles(path, height=40, width=48):
    with Image.open(path) as picture:
        sheet = np.asarray(picture)
    assert sheet.shape == (2 * (height + GAP_PX) + GAP_PX, 3 * (width + GAP_PX) + GAP_PX, 3)
    return [
        sheet[y : y + height, x : x + width]
        for y in (GAP_PX, height + 2 * GAP_PX)
        for x in range(GAP_PX, sheet.shape[1], width + GAP_PX)
    ]


def test_the_truth_is_a_white_contour_on_the_coloured_prediction(tmp_path):
    batch, output = clip()
    output["label"][..., 7] = -1  # not annotated
    validate(SampleOverlays(tmp_path), [(batch, output)])
    tiles = read_tiles(tmp_path / "epoch_0003" / "a.png")
    for t, tile in zip([0, 1, 3, 4, 6, 7], tiles, strict=True):
        expected = np.full((40, 48, 3), 51, np.uint8)
        rows, columns = slice(11, 27), slice(4 + 2 * t, 16 + 2 * t)
        expected[rows, columns] = PALETTE[1]
        expected[12:26, 5 + 2 * t : 15 + 2 * t] = 51 // 2 + PALETTE[1] // 2
        if t != 7:
            border = np.zeros((40, 48), bool)
            border[8:24, columns] = True
            border[9:23, 5 + 2 * t : 15 + 2 * t] = False
            expected[border] = WHITE
        np.testing.assert_array_equal(tile, expected)


def test_large_frames_are_shrunk_and_keep_the_contour(tmp_path):
    validate(SampleOverlays(tmp_path), [clip(height=480, width=640)])
    tiles = read_tiles(tmp_path / "epoch_0003" / "a.png", 240, 320)
    assert all((tile == WHITE).all(-1).sum() > 20 for tile in tiles)


def test_a_short_video_has_fewer_frames(tmp_path):
    validate(SampleOverlays(tmp_path), [clip(frames=2)])
    with Image.open(tmp_path / "epoch_0003" / "a.png") as picture:
        assert picture.size == (2 * 48 + 3 * GAP_PX, 40 + 2 * GAP_PX)


def test_each_validation_draws_its_first_videos_anew(tmp_path):
    clips = [clip("b/1"), clip("b:1"), clip("c")]
    handler = SampleOverlays(tmp_path, videos=2)
    for epoch in (3, 6, 6):
        validate(handler, clips, epoch)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert found == [f"epoch_000{e}/{name}.png" for e in (3, 6) for name in ("b_1", "b_1_2")]


def test_no_videos_leave_no_folder(tmp_path):
    validate(SampleOverlays(tmp_path / "samples", videos=0), [clip()])
    assert not (tmp_path / "samples").exists()


def test_only_the_first_of_several_processes_draws(tmp_path, monkeypatch):
    losses = write_losses(tmp_path / "losses.csv")
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    validate(SampleOverlays(tmp_path / "samples"), [clip()])
    validate(CurvesPicture(tmp_path / "a.png", losses, tmp_path / "none.csv"), [clip()])
    assert list(tmp_path.iterdir()) == [losses]


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [
        ("blackswan", [], "blackswan"),
        ("../../etc/passwd", [], "_.._etc_passwd"),
        ("ES0001 _4CH_1.avi", [], "ES0001__4CH_1.avi"),
        ("心エコー 1", [], "心エコー_1"),
        ("...", [], "video"),
        ("A", ["a", "a_2"], "A_3"),
        ("x" * 300, [], "x" * 60),
    ],
)
def test_names_of_videos_become_names_of_files(name, taken, expected):
    assert file_name(name, taken) == expected
