"""The annotation behind the page: painting, propagation, undo, sessions, export; no browser."""

import csv
import threading
import zipfile
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import tifffile
from matplotlib.path import Path as Outline
from PIL import Image
from scipy import ndimage

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.drawing import close_holes, fill_polygon, flood_fill, paint
from bundle.apps.annotate.given_masks import MarkedObject
from bundle.apps.annotate.launch import make_address, open_page
from bundle.apps.annotate.pictures import FramePictures
from bundle.apps.annotate.results import export
from bundle.apps.annotate.session_file import open_session, save_session
from bundle.apps.annotate.workspace import Workspace, pick_upload
from bundle.cli import main as run_command
from bundle.inference.frame_stream import FrameList
from bundle.inference.inferers import VideoInferer
from bundle.inference.settings import InferenceSettings
from bundle.io.reading.labels import MAX_OBJECTS
from bundle.io.reading.video import open_video
from bundle.io.writing.formats import FORMATS
from bundle.segmenter import VideoSegmenter
from tests.tiny import OWN_SIZE

HEIGHT, WIDTH, COUNT = 32, 48, 12
SQUARE = [(8, 8), (24, 8), (24, 24), (8, 24)]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "polyp"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(COUNT):
        picture = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def model(network):
    return VideoSegmenter(network, InferenceSettings(**OWN_SIZE, precision="float32"))


@pytest.fixture
def annotation(folder, model):
    annotation = Annotation(open_video(folder), model)
    yield annotation
    annotation.close()


def draw_square(annotation, index=0, object_id=1):
    return annotation.draw(index, "polygon", SQUARE, 1, object_id)


def propagate(annotation, direction="both"):
    annotation.propagate(direction)
    assert annotation.worker.wait(60)
    assert annotation.worker.problem is None


def all_labels(annotation):
    return np.stack([annotation.labels(i) for i in range(annotation.frame_count)])


def expected(annotation, annotations, **settings):
    """What the Python API finds for the same masks."""
    inferer = VideoInferer(**(OWN_SIZE | {"precision": "float32"} | settings))
    stream = inferer.stream(annotation.video, annotations, annotation.model.network)
    return np.stack([found.labels for found in stream])


def stop_after(annotation, count, monkeypatch):
    """Cancel when so many frames have been found."""
    found, summary = annotation._found, []

    def count_and_stop(index):
        found(index)
        summary.append(index)
        if len(summary) == count:
            annotation.worker.cancel()

    monkeypatch.setattr(annotation, "_found", count_and_stop)


class TestDrawing:
    empty = np.zeros((40, 60), np.uint8)

    @pytest.mark.parametrize("size", [1, 6, 15])
    def test_a_stroke_covers_what_lies_near_its_line(self, size):
        points = [(12.3, 9.8), (40.1, 14.2), (33.7, 31.5), (-9.0, 50.0), (5.0, -3.0)]
        rows, columns = np.mgrid[:40, :60] + 0.5
        distance = np.full((40, 60), np.inf)
        for (ax, ay), (bx, by) in pairwise(points):
            for along in np.linspace(0, 1, 500):
                x, y = ax + along * (bx - ax), ay + along * (by - ay)
                distance = np.minimum(distance, np.hypot(columns - x, rows - y))
        drawn = paint(self.empty, points, size, 3)
        assert set(np.unique(drawn)) == {0, 3}
        sure = np.abs(distance - size / 2) > 0.02  # the line above is made of points
        np.testing.assert_array_equal((drawn == 3)[sure], (distance < size / 2)[sure])

    def test_a_click_makes_a_dot(self):
        dot = paint(self.empty, [(20.5, 10.5)], 7, 1)
        rows, columns = np.nonzero(dot)
        assert (rows.mean(), columns.mean()) == (10, 20)
        assert dot.sum() == 37  # pixels whose centres lie in a circle of radius 3.5

    def test_a_polygon_holds_the_pixels_whose_centres_it_holds(self):
        random = np.random.default_rng(1)
        angles = np.sort(random.uniform(0, 2 * np.pi, 9))
        reach = random.uniform(6, 17, 9)
        corners = np.stack([30 + reach * np.cos(angles), 20 + reach * np.sin(angles)], 1)
        rows, columns = np.mgrid[:40, :60] + 0.5
        centres = np.stack([columns.ravel(), rows.ravel()], 1)
        inside = Outline(corners).contains_points(centres).reshape(40, 60)
        drawn = fill_polygon(self.empty, corners.tolist(), 5)
        np.testing.assert_array_equal(drawn == 5, inside)

    def test_a_fill_covers_the_connected_region(self):
        labels = np.kron(np.random.default_rng(2).integers(0, 3, (8, 12)), np.ones((5, 5)))
        labels = np.pad(labels.astype(np.uint8), 1, constant_values=1)
        components, _ = ndimage.label(labels == labels[21, 31])
        filled = flood_fill(labels, [(31.9, 21.1)], 9)
        np.testing.assert_array_equal(filled == 9, components == components[21, 31])

    def test_holes_are_closed_with_their_object_alone(self):
        labels = fill_polygon(self.empty, [(5, 5), (30, 5), (30, 30), (5, 30)], 1)
        labels[10:20, 10:20] = 0
        labels[14:16, 14:16] = 2
        closed = close_holes(labels, 1)
        assert (closed[5:30, 5:30] > 0).all()
        np.testing.assert_array_equal(closed == 2, labels == 2)

    def test_drawing_leaves_its_input_unchanged(self):
        before = self.empty.copy()
        for after in (paint(before, [(9, 9)], 5, 1), fill_polygon(before, SQUARE, 1)):
            assert after is not before
        assert not before.any()

    def test_open_outlines_are_not_filled(self):
        with pytest.raises(ValueError, match="the outline is open"):
            flood_fill(self.empty, [(9, 9)], 1)

    @pytest.mark.parametrize(
        ("draw", "message"),
        [
            (
                lambda m: paint(m, [(-50, -50), (99, -40)], 5, 1),
                "the stroke lies outside of the frame",
            ),
            (lambda m: paint(m, [], 5, 1), "the stroke has no points"),
            (lambda m: fill_polygon(m, [(70, 5), (80, 5), (80, 9)], 1), "the polygon lies outside"),
            (lambda m: fill_polygon(m, [(1, 1), (9, 9)], 1), "2 corners: set at least 3"),
            (lambda m: flood_fill(m, [(60, 3)], 1), "the fill lies outside of the frame"),
            (lambda m: flood_fill(m, [], 1), "the fill lies outside of the frame"),
        ],
    )
    def test_a_shape_outside_of_the_frame_is_refused(self, draw, message):
        with pytest.raises(ValueError, match=message):
            draw(self.empty)


class TestCarrying:
    def test_masks_are_what_the_python_api_finds(self, annotation):
        mask = draw_square(annotation, 3)
        propagate(annotation)
        np.testing.assert_array_equal(all_labels(annotation), expected(annotation, {3: mask}))
        assert annotation.states()[3] == "g"
        assert "." not in annotation.states()

    def test_a_correction_runs_what_it_touches_and_nothing_else(self, annotation):
        draw_square(annotation, 0)
        draw_square(annotation, 8)
        propagate(annotation)
        before = all_labels(annotation)
        corrected = annotation.draw(10, "brush", [(40, 25)], 9, 1)
        assert annotation.changed
        propagate(annotation)
        assert annotation.worker.total == 2  # frames 9 and 11
        assert not annotation.changed
        python = VideoInferer(**OWN_SIZE, precision="float32").open(
            annotation.video, {i: annotation.prompts[i] for i in (0, 8)}, annotation.model.network
        )
        list(python.run())
        python.annotate(10, corrected)
        assert set(python.run()) == {9, 11}
        found = np.stack([python.result(i).labels for i in range(COUNT)])
        np.testing.assert_array_equal(all_labels(annotation), found)
        np.testing.assert_array_equal(all_labels(annotation)[:9], before[:9])

    def test_a_correction_starts_from_the_result_of_propagation(self, annotation):
        draw_square(annotation, 0)
        propagate(annotation)
        found = annotation.labels(6)
        assert found.any()
        corrected = annotation.draw(6, "eraser", [(20, 16)], 8, 1)
        assert (corrected != found).any()
        assert (corrected[found == 0] == 0).all()
        assert annotation.states()[6] == "g"
        assert annotation.undo() == 6
        np.testing.assert_array_equal(annotation.labels(6), found)
        assert annotation.states()[6] in "dr"
        assert not annotation.changed

    def test_a_stroke_that_changes_nothing_leaves_a_result_a_result(self, annotation):
        draw_square(annotation, 0)
        propagate(annotation)
        rows, columns = np.nonzero(annotation.labels(5) == 0)
        annotation.draw(5, "eraser", [(columns[0] + 0.5, rows[0] + 0.5)], 1, 1)
        assert 5 not in annotation.prompts

    def test_an_empty_mask_counts_as_given(self, annotation):
        draw_square(annotation, 0)
        annotation.draw(7, "clear", [], 1, 1)
        propagate(annotation)
        assert not annotation.labels(7).any()
        empty = np.zeros((HEIGHT, WIDTH), np.uint8)
        found = expected(annotation, {0: annotation.prompts[0], 7: empty})
        np.testing.assert_array_equal(all_labels(annotation), found)

    def test_a_mask_that_is_taken_back_is_found_again(self, annotation):
        mask = draw_square(annotation, 0)
        annotation.draw(6, "clear", [], 1, 1)
        propagate(annotation)
        annotation.take_back(6)
        assert annotation.states()[6] == "."
        assert not annotation.labels(6).any()
        propagate(annotation)
        np.testing.assert_array_equal(all_labels(annotation), expected(annotation, {0: mask}))

    def test_cancel_keeps_what_is_done_and_the_rest_follows(self, annotation, monkeypatch):
        mask = draw_square(annotation, 0)
        stop_after(annotation, 4, monkeypatch)
        propagate(annotation)
        assert annotation.states() == "g" + annotation.states()[1:5] + "." * 7
        assert "." not in annotation.states()[1:5]
        half = all_labels(annotation)
        monkeypatch.undo()
        propagate(annotation)
        whole = expected(annotation, {0: mask})
        np.testing.assert_array_equal(all_labels(annotation), whole)
        np.testing.assert_array_equal(half[:5], whole[:5])

    @pytest.mark.parametrize("direction", ["forward", "backward"])
    def test_another_direction_begins_anew(self, annotation, direction):
        mask = draw_square(annotation, 5)
        propagate(annotation)
        propagate(annotation, direction)
        assert annotation.worker.total == COUNT - 1
        found = expected(annotation, {5: mask}, direction=direction)
        np.testing.assert_array_equal(all_labels(annotation), found)

    def test_one_propagation_runs_at_a_time_and_painting_goes_on(self, annotation, monkeypatch):
        gate, found = threading.Event(), annotation._found
        monkeypatch.setattr(annotation, "_found", lambda index: (gate.wait(30), found(index)))
        draw_square(annotation, 0)
        annotation.propagate()
        with pytest.raises(ValueError, match="masks are being propagated already: wait, or cancel"):
            annotation.propagate()
        with pytest.raises(ValueError, match="masks are being propagated: wait for the end"):
            export(annotation, annotation.video.path.parent / "out")
        draw_square(annotation, 4)  # painted meanwhile: propagated the next time
        gate.set()
        assert annotation.worker.wait(60)
        assert annotation.changed
        propagate(annotation)
        both = {i: annotation.prompts[i] for i in (0, 4)}
        np.testing.assert_array_equal(all_labels(annotation), expected(annotation, both))

    def test_a_video_that_breaks_off_is_reported_and_what_is_done_stays(self, folder, model):
        video = open_video(folder)

        def read(indices):
            for index, pixels in zip(indices, video.read(indices), strict=True):
                if index == 9:
                    raise OSError("the disk is gone")
                yield pixels

        annotation = Annotation(replace(video, read=read), model)
        draw_square(annotation, 0)
        annotation.propagate()
        assert annotation.worker.wait(60)
        assert isinstance(annotation.worker.problem, ValueError)
        assert "frame 9 of 12" in str(annotation.worker.problem)
        assert annotation.states()[1:5].count(".") == 0
        assert annotation.states()[9:] == "..."

    def test_the_next_frame_is_the_one_that_propagation_suggests(self, annotation):
        assert annotation.suggest() is None
        draw_square(annotation, 0)
        propagate(annotation)
        assert annotation.suggest() == annotation.propagation.suggest()
        first = annotation.suggest()
        annotation.give({first: annotation.labels(first)})  # not yet propagated, yet annotated
        assert annotation.suggest() != first

    def test_propagation_without_a_mask_is_refused(self, annotation):
        with pytest.raises(ValueError, match="no mask shows an object: paint it"):
            annotation.propagate()
        annotation.draw(0, "clear", [], 1, 1)
        with pytest.raises(ValueError, match="no mask shows an object: paint it"):
            annotation.propagate()

    def test_unknown_directions_are_refused(self, annotation):
        draw_square(annotation)
        with pytest.raises(ValueError, match="direction must be one of"):
            annotation.propagate("sideways")


class TestMarks:
    def test_objects_get_the_lowest_free_id(self, annotation):
        assert [annotation.add_object(), annotation.add_object("polyp")] == [2, 3]
        annotation.remove_object(2)
        assert annotation.add_object() == 2
        assert annotation.objects[3].name == "polyp"

    def test_removing_an_object_takes_its_pixels_and_undo_brings_them_back(self, annotation):
        second = annotation.add_object()
        draw_square(annotation, 0, 1)
        annotation.draw(0, "brush", [(40, 20)], 6, second)
        draw_square(annotation, 5, second)
        propagate(annotation)
        before = all_labels(annotation)
        assert (before == second).any(axis=(1, 2)).all()
        annotation.remove_object(second)
        assert 5 not in annotation.prompts  # it showed nothing else
        assert not (all_labels(annotation) == second).any()  # nor do older results
        annotation.undo()
        np.testing.assert_array_equal(all_labels(annotation)[[0, 5]], before[[0, 5]])

    def test_undo_leaves_the_names_of_objects(self, annotation):
        draw_square(annotation)
        annotation.change_object(1, name=" left ventricle ", colour="#112233")
        annotation.undo()
        assert annotation.objects[1] == MarkedObject("left ventricle", "#112233")
        assert not annotation.prompts

    def test_undo_goes_back_step_by_step(self, annotation):
        states = [annotation.labels(2)]
        for x in (10, 20, 30):
            states.append(annotation.draw(2, "brush", [(x, 16)], 5, 1))
        for state in states[-2::-1]:
            assert annotation.undo() == 2
            np.testing.assert_array_equal(annotation.labels(2), state)
        with pytest.raises(ValueError, match="there is nothing to undo"):
            annotation.undo()

    def test_redo_goes_forward_step_by_step(self, annotation):
        states = [annotation.draw(2, "brush", [(x, 16)], 5, 1) for x in (10, 20, 30)]
        for _ in states:
            annotation.undo()
        assert not annotation.prompts
        for state in states:
            assert annotation.redo() == 2
            np.testing.assert_array_equal(annotation.labels(2), state)
        with pytest.raises(ValueError, match="there is nothing to redo"):
            annotation.redo()

    def test_undo_and_redo_in_turn_change_nothing(self, annotation):
        annotation.add_object("tool", 3)
        draw_square(annotation, 0, 3)
        draw_square(annotation, 4)
        annotation.remove_object(3)
        after = dict(annotation.objects), all_labels(annotation)
        for count in range(1, 5):
            for take in (annotation.undo, annotation.redo):
                for _ in range(count):
                    take()
            assert annotation.objects == after[0]
            np.testing.assert_array_equal(all_labels(annotation), after[1])

    def test_another_edit_ends_what_could_be_redone(self, annotation):
        draw_square(annotation, 0)
        annotation.undo()
        draw_square(annotation, 1)
        with pytest.raises(ValueError, match="there is nothing to redo"):
            annotation.redo()
        assert list(annotation.prompts) == [1]

    def test_a_mask_that_is_undone_and_redone_is_propagated_as_before(self, annotation):
        draw_square(annotation, 0)
        draw_square(annotation, 6)
        propagate(annotation)
        before = all_labels(annotation)
        annotation.undo()
        assert annotation.changed
        annotation.redo()
        assert not annotation.changed
        np.testing.assert_array_equal(all_labels(annotation), before)

    def test_areas_are_counted(self, annotation):
        mask = draw_square(annotation, 3)
        assert annotation.areas(1) == [None] * 3 + [int((mask == 1).sum())] + [None] * 8
        propagate(annotation)
        assert annotation.areas(1) == [
            int((labels == 1).sum()) for labels in all_labels(annotation)
        ]

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda w: w.draw(0, "spray", [], 1, 1), "unknown tool 'spray'"),
            (lambda w: w.draw(0, "brush", [(1, 1)], 1, 7), "there is no object 7 any more"),
            (lambda w: w.remove_object(1), "this is the only object"),
            (lambda w: w.take_back(4), "frame 4 has no mask of yours"),
            (lambda w: w.add_object(object_id=1), "object id 1 is taken"),
            (lambda w: w.add_object(object_id=256), "object id 256 is taken or not from 1 to 255"),
            (lambda w: w.give({0: np.zeros((4, 4), np.uint8)}), r"mask of frame 0 is \(4, 4\)"),
        ],
    )
    def test_impossible_actions_are_refused(self, annotation, act, message):
        revision = annotation.revision
        with pytest.raises(ValueError, match=message):
            act(annotation)
        assert annotation.revision == revision

    def test_frames_that_are_not_there_are_refused(self, annotation):
        for act in (lambda: annotation.labels(COUNT), lambda: draw_square(annotation, -1)):
            with pytest.raises(IndexError, match=r"the video has frames 0 to 11, not"):
                act()

    def test_too_many_objects_are_refused(self, annotation):
        for _ in range(MAX_OBJECTS - 1):
            annotation.add_object()
        with pytest.raises(ValueError, match=f"there are {MAX_OBJECTS} objects"):
            annotation.add_object()
        with pytest.raises(ValueError, match=f"more than {MAX_OBJECTS} objects"):
            annotation.give({0: np.full((HEIGHT, WIDTH), 200, np.uint8)})


class TestSession:
    def save(self, annotation, tmp_path):
        path = tmp_path / "s.tcmn.zip"
        save_session(annotation, path)
        return path

    def test_a_session_restores_everything(self, annotation, model, tmp_path):
        annotation.change_object(1, name="polyp", colour="#010203")
        annotation.add_object("tool", 7)
        draw_square(annotation, 2)
        annotation.draw(2, "brush", [(40, 20)], 6, 7)
        propagate(annotation, "forward")
        draw_square(annotation, 9)  # not propagated yet
        annotation.take_back(2)
        annotation.place = 5
        again = open_session(self.save(annotation, tmp_path), model)
        np.testing.assert_array_equal(all_labels(again), all_labels(annotation))
        assert again.states() == annotation.states()
        assert again.objects == annotation.objects
        assert (again.place, again.direction) == (5, "forward")
        assert [again.summary(i) for i in range(COUNT)] == [
            annotation.summary(i) for i in range(COUNT)
        ]
        assert not again.unsaved
        assert not annotation.unsaved
        propagate(annotation, "forward")
        propagate(again, "forward")
        assert again.worker.total == annotation.worker.total
        np.testing.assert_array_equal(all_labels(again), all_labels(annotation))

    def test_a_session_propagates_only_what_was_pending(
        self, annotation, model, tmp_path, monkeypatch
    ):
        mask = draw_square(annotation, 6)
        stop_after(annotation, 8, monkeypatch)  # six frames backwards, two of five forwards
        propagate(annotation)
        again = open_session(self.save(annotation, tmp_path), model)
        propagate(again)
        assert again.worker.total == 5
        np.testing.assert_array_equal(all_labels(again), expected(annotation, {6: mask}))
        whole = open_session(self.save(again, tmp_path), model)
        propagate(whole)
        assert whole.worker.total == 0

    def test_a_session_finds_its_video_beside_it_or_takes_the_open_one(
        self, annotation, model, tmp_path
    ):
        draw_square(annotation)
        path = self.save(annotation, tmp_path)
        video = annotation.video.path
        moved = tmp_path / "elsewhere"
        moved.mkdir()
        video.rename(moved / video.name)
        with pytest.raises(FileNotFoundError, match="the session's video is not at"):
            open_session(path, model)
        current = open_video(moved / video.name)
        assert open_session(path, model, current).video is current
        path.rename(moved / path.name)
        assert open_session(moved / path.name, model).prompts.keys() == {0}

    def test_another_video_is_refused(self, annotation, model, tmp_path):
        path = self.save(annotation, tmp_path)
        (annotation.video.path / "11.png").unlink()
        with pytest.raises(ValueError, match=r"of 12 frames of 48x32, but .* has 11 of 48x32"):
            open_session(path, model)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (
                lambda files: files.pop("session.json"),
                "is not a session of this page, or is damaged",
            ),
            (lambda files: files.update({"session.json": b"[1"}), "session.json is not valid JSON"),
            (lambda files: files.update({"session.json": b"[]"}), "is not a session of this page"),
            (lambda files: files.pop("prompts/00000.png"), "is not a session of this page"),
            (lambda files: files.update({"prompts/00000.png": b"no"}), "00000.png is unreadable"),
            (
                lambda files: files.update({"prompts/00000.png": bytes(2 * 48 * 32 + 2**16 + 1)}),
                "00000.png is too large",
            ),
            (lambda files: files.pop("results/00003.png"), "is not a session of this page"),
            (
                lambda files: files.update(
                    {
                        "session.json": files["session.json"].replace(
                            b'"version": 1', b'"version": 9'
                        )
                    }
                ),
                "the session is of version 9, this program reads 1",
            ),
            (
                lambda files: files.update(
                    {"session.json": files["session.json"].replace(b'{"1": {"n', b'{"2": {"n')}
                ),
                r"masks show objects \[1\] that are not listed",
            ),
        ],
    )
    def test_damaged_files_are_refused(self, annotation, model, tmp_path, damage, message):
        draw_square(annotation)
        propagate(annotation)
        path = self.save(annotation, tmp_path)
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        damage(files)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        with pytest.raises(ValueError, match=message):
            open_session(path, model)

    def test_a_file_that_is_cut_short_is_refused(self, annotation, model, tmp_path):
        path = self.save(annotation, tmp_path)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ValueError, match="is not a session of this page, or is damaged"):
            open_session(path, model)

    def test_what_was_saved_stays_when_saving_fails(self, annotation, tmp_path, monkeypatch):
        path = self.save(annotation, tmp_path)
        before = path.read_bytes()
        draw_square(annotation)
        monkeypatch.setattr("json.dumps", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_session(annotation, path)
        assert path.read_bytes() == before
        assert annotation.unsaved
        assert {file.name for file in tmp_path.iterdir()} == {path.name, "polyp"}


class TestExport:
    def test_every_format_has_the_masks(self, annotation, tmp_path):
        second = annotation.add_object("tool, bent", 40)
        mask = draw_square(annotation, 4)
        mask = annotation.draw(4, "brush", [(40, 20)], 6, second)
        propagate(annotation)
        formats = [name for name in FORMATS if name != "dicom_seg"]
        shares = []
        folder = export(annotation, tmp_path / "out", formats, progress=shares.append)
        names = {FORMATS[name].file for name in formats}
        assert {file.name for file in folder.iterdir()} == {*names, "manifest.json"}
        assert shares[-1] == 1
        read = [np.array(Image.open(file)) for file in sorted((folder / "masks").iterdir())]
        np.testing.assert_array_equal(read, all_labels(annotation))
        np.testing.assert_array_equal(read[4], mask)
        with open(folder / "frames.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["object"] == "40"]
        assert [int(row["area_px"]) for row in rows] == annotation.areas(40)
        assert rows[4]["confidence"] == "1.0000"
        with open(tmp_path / "out/polyp_objects.csv", newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == ["object 1", "tool, bent"]

    def test_frames_without_a_mask_are_written_on_demand_alone(self, annotation, tmp_path):
        with pytest.raises(ValueError, match="there is nothing to export"):
            export(annotation, tmp_path / "out")
        draw_square(annotation, 4)
        with pytest.raises(
            ValueError, match="11 of 12 frames have no mask yet, the first is frame 0"
        ):
            export(annotation, tmp_path / "out", ["csv"])
        folder = export(annotation, tmp_path / "out", ["csv"], pending_empty=True)
        with open(folder / "frames.csv", newline="") as file:
            review = [row["review"] for row in csv.DictReader(file)]
        assert review == ["true"] * 4 + ["false"] + ["true"] * 7

    def test_earlier_results_are_replaced_on_demand_alone(self, annotation, tmp_path):
        draw_square(annotation)
        propagate(annotation)
        out = tmp_path / "out"
        for _ in range(2):
            export(annotation, out, ["nifti"], overwrite=True)
            with pytest.raises(FileExistsError, match="already holds results"):
                export(annotation, out, ["nifti"])
        (out / "polyp" / "notes.txt").write_text("mine")
        (out / "polyp_objects.csv").write_text("mine")
        with pytest.raises(FileExistsError, match=r"polyp_objects.csv exists and was not written"):
            export(annotation, out, ["nifti"], overwrite=True)
        (out / "polyp_objects.csv").unlink()
        export(annotation, out, ["nifti"], overwrite=True)
        assert (out / "polyp" / "notes.txt").read_text() == "mine"


class TestPictures:
    def test_small_frames_come_as_they_are(self, folder):
        video = open_video(folder)
        pictures = FramePictures(video)
        for index in (11, 0, 7):
            data = np.frombuffer(pictures.jpeg(index), np.uint8)
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
            (frame,) = video.frames([index])
            assert picture.shape == frame.shape
            # JPEG halves the resolution of colour, so noise is compared by its brightness.
            brightness = [image.astype(float) @ (0.299, 0.587, 0.114) for image in (picture, frame)]
            assert np.corrcoef(*[each.ravel() for each in brightness])[0, 1] > 0.97

    def test_large_frames_come_smaller_and_few_are_kept(self, monkeypatch):
        monkeypatch.setattr("bundle.apps.annotate.pictures.CACHE_BYTES", 10_000)
        frame = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        pictures = FramePictures(FrameList([frame] * 40), longer_side=45)
        assert pictures.size == (45, 30)
        for index in range(40):
            picture = cv2.imdecode(np.frombuffer(pictures.jpeg(index), np.uint8), 1)
            assert picture.shape == (30, 45, 3)
        assert len(pictures._kept) == 8
        assert pictures._bytes == sum(map(len, pictures._kept.values()))

    def test_a_frame_that_does_not_exist_is_refused(self, folder):
        with pytest.raises(IndexError, match="the video has frames 0 to 11, not 12"):
            FramePictures(open_video(folder)).jpeg(12)


class TestDesk:
    @pytest.fixture
    def workspace(self, model):
        workspace = Workspace(model)
        yield workspace
        workspace.close()

    def test_a_video_opens_with_masks_and_again_from_its_session(self, workspace, folder, tmp_path):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[5:20, 5:20] = 4
        Image.fromarray(mask).save(tmp_path / "first.png")
        annotation = workspace.open(folder, tmp_path / "first.png")
        assert set(annotation.objects) == {1, 4}
        np.testing.assert_array_equal(annotation.labels(0), mask)
        assert annotation.unsaved
        save_session(annotation, tmp_path / "s.zip")
        again = workspace.open(tmp_path / "s.zip")
        np.testing.assert_array_equal(again.labels(0), mask)
        assert (workspace.annotation, workspace.number) == (again, 2)

    def test_what_cannot_be_opened_leaves_what_is_open(self, workspace, folder, tmp_path):
        annotation = workspace.open(folder)
        (tmp_path / "notes.txt").write_text("no video")
        with pytest.raises(ValueError, match=r"is a text file, not a video|cannot open"):
            workspace.open(tmp_path / "notes.txt")
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            workspace.open(tmp_path / "nothing.mp4")
        assert (workspace.annotation, workspace.number) == (annotation, 1)

    def test_opening_another_video_ends_the_propagation(self, workspace, folder):
        annotation = workspace.open(folder)
        draw_square(annotation)
        annotation.propagate()
        workspace.open(folder)
        assert not annotation.worker.running

    def test_uploads_go_when_the_process_ends(self, model):
        workspace = Workspace(model)
        folder = workspace.new_folder()
        assert workspace.holds(folder / "video.mp4")
        assert not workspace.holds(folder.parent.parent)
        (folder / "video.mp4").write_bytes(b"secret")
        workspace.close()
        workspace.close()  # a second call does nothing
        assert not folder.exists()

    @pytest.mark.parametrize(
        ("names", "picked"),
        [
            (["a.mp4"], ("a.mp4", None)),
            (["a.mhd", "a.raw"], ("a.mhd", None)),
            (["2.png", "10.png"], ("", None)),
            (["v.mp4", "mask0.png"], ("v.mp4", "mask0.png")),
            (["v.nii.gz", "v_mask.nii.gz"], ("v.nii.gz", "v_mask.nii.gz")),
            (["v.mhd", "v.raw", "seg.mhd", "seg.raw"], ("v.mhd", "seg.mhd")),
            (["v.mp4", "0.png", "5.png"], ("v.mp4", "masks")),
            (["0.png", "0_mask.png"], ("", "")),
            (["v.dcm", "v.seg.nrrd"], ("v.dcm", "v.seg.nrrd")),
            (["v.nhdr", "v.raw.gz", "v_mask.nrrd"], ("v.nhdr", "v_mask.nrrd")),
            (["stack.tif", "0.png"], ("stack.tif", "0.png")),
            (["stack.tif", "stack_mask.tif"], ("stack.tif", "stack_mask.tif")),
            (["0.tif", "1.tif"], ("", None)),
        ],
    )
    def test_what_was_uploaded_together_belongs_together(self, tmp_path, names, picked):
        for name in names:
            (tmp_path / name).touch()
            if name.startswith("stack"):
                tifffile.imwrite(tmp_path / name, np.zeros((2, 8, 8), np.uint8))
        video, mask = picked
        expected = (tmp_path / video, None if mask is None else tmp_path / mask)
        assert pick_upload(tmp_path) == expected

    def test_several_videos_at_once_are_refused(self, tmp_path):
        for name in ("a.mp4", "b.avi"):
            (tmp_path / name).touch()
        with pytest.raises(ValueError, match=r"expected one video, found 2 in a.mp4, b.avi"):
            pick_upload(tmp_path)

    def test_a_file_that_is_not_a_session_is_not_overwritten(self, annotation, tmp_path):
        (tmp_path / "thesis.zip").write_bytes(b"mine")
        with pytest.raises(FileExistsError, match="exists and is not a session of this page"):
            save_session(annotation, tmp_path / "thesis.zip")
        assert (tmp_path / "thesis.zip").read_bytes() == b"mine"


class TestModel:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"weights": "nowhere.pt"}, FileNotFoundError, "nowhere.pt"),
            ({"device": "abacus"}, ValueError, "unknown device 'abacus'"),
            ({"inference_size": "large"}, ValueError, "inference_size must be a whole number"),
        ],
    )
    def test_bad_options_are_reported_in_one_line(self, options, error, message):
        with pytest.raises(error, match=message):
            VideoSegmenter.from_pretrained(**{"device": "cpu", **options})


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere.mp4"], "error: no such file or folder: nowhere.mp4"),
            (["--mask", "mask.png"], "error: --mask goes with a video"),
            (["--inference_size", "huge"], "error: inference_size must be a whole number or null"),
        ],
    )
    def test_errors_take_one_line(self, arguments, message, capsys):
        pytest.importorskip("nicegui")
        assert run_command(["annotate", "--device", "cpu", *arguments]) == 1
        found = capsys.readouterr().err.strip()
        assert found.startswith(message)
        assert "\n" not in found

    def test_a_missing_file_or_package_is_reported(self, monkeypatch):
        monkeypatch.setattr("bundle.apps.annotate.launch.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"pip install 'tcmn\[annotate\]'"):
            open_page()

    def test_the_address_has_brackets_for_ipv6_and_the_token(self):
        assert make_address("::1", 80, None) == "http://[::1]:80/"
        assert make_address("10.0.0.7", 80, "abc") == "http://10.0.0.7:80/?token=abc"
