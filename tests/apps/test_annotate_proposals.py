"""Masks that are proposed from boxes, points and scribbles, without a browser."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.proposals import NOT_TRAINED, EncodedOnce, describe_prompts
from bundle.apps.annotate.results import export
from bundle.apps.annotate.session_file import open_session, save_session
from bundle.inference.prompts import ObjectPrompt, complete_frame
from bundle.inference.settings import InferenceSettings
from bundle.io.reading.video import open_video
from bundle.segmenter import VideoSegmenter
from tests.tiny import OWN_SIZE, make_prompted

HEIGHT, WIDTH, COUNT = 48, 64, 6
BOX = ObjectPrompt(box=(10.0, 8.0, 40.0, 36.0))
SQUARE = [(8, 8), (24, 8), (24, 24), (8, 24)]


def point(x, y, positive=True):
    return ObjectPrompt().with_points([(float(x), float(y))], [positive])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("polyp")
    random = np.random.default_rng(0)
    for index in range(COUNT):
        picture = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def model():
    """Takes partial masks; not trained."""
    return VideoSegmenter(make_prompted(1), InferenceSettings(**OWN_SIZE, precision="float32"))


@pytest.fixture
def annotation(folder, model):
    annotation = Annotation(open_video(folder), model)
    yield annotation
    annotation.close()


class TestProposing:
    def test_masks_are_those_of_the_python_interface(self, annotation, model):
        second = annotation.add_object()
        hints = [(1, BOX), (2, point(50, 40)), (1, point(20, 20)), (1, point(30, 30, False))]
        hints.append((second, ObjectPrompt().with_scribble([(45, 5), (60, 12)])))
        job = model.start(annotation.video)
        for object_id, hint in hints:
            expected = job.add_prompts(2, {object_id: hint})
            np.testing.assert_array_equal(annotation.propose(2, object_id, hint), expected)
        annotation.accept()
        np.testing.assert_array_equal(annotation.prompts[2], expected)

    def test_a_proposal_corrects_what_was_there(self, annotation, model):
        before = annotation.draw(3, "polygon", SQUARE, 1, 1)
        found = annotation.propose(3, 1, point(40, 40))
        (frame,) = annotation.video.frames([3])
        expected = complete_frame(model, frame, {1: point(40, 40)}, before)
        np.testing.assert_array_equal(found, expected)

    def test_a_proposal_is_not_a_mask_until_it_is_accepted(self, annotation):
        found = annotation.propose(1, 1, BOX)
        assert found.any()
        np.testing.assert_array_equal(annotation.shown(1), found)
        assert not annotation.labels(1).any()
        assert not annotation.prompts
        assert annotation.states() == ".o...."
        annotation.accept()
        np.testing.assert_array_equal(annotation.labels(1), found)
        assert annotation.states() == ".g...."
        annotation.propagate()
        assert annotation.worker.wait(60)

    def test_another_object_stays_as_it_is(self, annotation):
        second = annotation.add_object()
        before = annotation.draw(0, "polygon", SQUARE, 1, second)
        found = annotation.propose(0, 1, ObjectPrompt(box=(30.0, 20.0, 60.0, 44.0)))
        np.testing.assert_array_equal(found == second, before == second)
        assert (found == 1).any()

    def test_objects_that_would_count_as_gone_are_named(self, annotation):
        second = annotation.add_object()
        annotation.draw(0, "polygon", SQUARE, 1, second)
        annotation.propose(4, 1, BOX)
        assert annotation.accept() == 4
        assert (annotation.absent(4), annotation.absent(0), annotation.absent(2)) == (
            [second],
            [1],
            [],
        )
        annotation.undo()
        annotation.drop()
        annotation.propagate()
        assert annotation.worker.wait(60)
        annotation.propose(4, 1, BOX)
        annotation.accept()
        assert annotation.absent(4) == []  # what was found of the other stays

    def test_drop_leaves_what_was_there(self, annotation):
        before = annotation.draw(0, "polygon", SQUARE, 1, 1)
        annotation.propose(0, 1, BOX)
        annotation.drop()
        np.testing.assert_array_equal(annotation.shown(0), before)
        annotation.undo()  # of dropping
        assert annotation.proposal is not None

    def test_undo_takes_hint_after_hint_and_redo_brings_them_back(self, annotation):
        hints = [BOX, point(20, 20), point(30, 30, False)]
        shown = [annotation.shown(4), *(annotation.propose(4, 1, hint) for hint in hints)]
        annotation.accept()
        assert annotation.undo() == 4
        assert annotation.states() == "....o."
        for expected in shown[-2::-1]:
            assert annotation.undo() == 4
            np.testing.assert_array_equal(annotation.shown(4), expected)
        assert annotation.proposal is None
        for expected in shown[1:]:
            assert annotation.redo() == 4
            np.testing.assert_array_equal(annotation.shown(4), expected)
        assert annotation.states() == "....o."
        annotation.redo()
        assert annotation.states() == "....g."
        assert annotation.proposal is None

    def test_painting_on_it_accepts_it(self, annotation):
        found = annotation.propose(0, 1, BOX)
        painted = annotation.draw(0, "brush", [(55, 40)], 5, 1)
        assert annotation.proposal is None
        assert painted[40, 55] == 1
        outside = painted.copy()
        outside[36:45, 50:60] = found[36:45, 50:60]
        np.testing.assert_array_equal(outside, found)
        annotation.undo()
        np.testing.assert_array_equal(annotation.prompts[0], found)

    def test_a_stroke_beside_the_frame_accepts_nothing(self, annotation):
        annotation.propose(0, 1, BOX)
        with pytest.raises(ValueError, match="the stroke lies outside of the frame"):
            annotation.draw(0, "brush", [(500, 500)], 5, 1)
        assert annotation.proposal is not None

    def test_painting_elsewhere_leaves_it_alone(self, annotation):
        found = annotation.propose(0, 1, BOX)
        annotation.draw(2, "polygon", SQUARE, 1, 1)
        np.testing.assert_array_equal(annotation.shown(0), found)
        assert annotation.states() == "o.g..."

    @pytest.mark.parametrize(
        "act",
        [
            lambda w: w.propagate(),
            lambda w: w.propose(1, 1, BOX),
            lambda w: w.take_back(0),
            lambda w: w.remove_object(1),
            lambda w: export(w, w.video.path.parent / "out"),
        ],
    )
    def test_actions_that_an_open_proposal_forbids_are_refused(self, annotation, act):
        annotation.add_object()
        annotation.draw(0, "polygon", SQUARE, 1, 1)
        annotation.propose(0, 1, BOX)
        with pytest.raises(
            ValueError, match=r"frame 0 has a proposal: accept it \(Enter\) or drop it \(Escape\)"
        ):
            act(annotation)

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda w: w.accept(), "there is no proposal: point at an object"),
            (lambda w: w.drop(), "there is no proposal: point at an object"),
            (lambda w: w.propose(0, 7, BOX), "there is no object 7 any more"),
            (lambda w: w.propose(0, 1, point(5, 5, False)), "nothing says where object 1 is"),
            (lambda w: w.propose(0, 1, point(90, 5)), "lies outside of the frame"),
        ],
    )
    def test_a_bad_prompt_changes_nothing(self, annotation, act, message):
        revision = annotation.revision
        with pytest.raises(ValueError, match=message):
            act(annotation)
        assert (annotation.proposal, annotation.revision) == (None, revision)

    def test_a_hint_that_contradicts_leaves_the_proposal(self, annotation):
        found = annotation.propose(0, 1, point(20, 20))
        with pytest.raises(ValueError, match="is said to be on object 1 and beside it"):
            annotation.propose(0, 1, point(20, 20, False))
        np.testing.assert_array_equal(annotation.shown(0), found)

    def test_weights_without_prompts_are_reported(self, folder, network):
        settings = InferenceSettings(**OWN_SIZE, precision="float32")
        annotation = Annotation(open_video(folder), VideoSegmenter(network, settings))
        assert annotation.completer.problem == NOT_TRAINED
        with pytest.raises(ValueError, match="these weights were trained without"):
            annotation.propose(0, 1, BOX)
        annotation.completer.prepare(0)  # does nothing
        annotation.close()


class TestSession:
    @pytest.fixture
    def path(self, annotation, tmp_path):
        annotation.add_object()
        annotation.draw(0, "polygon", SQUARE, 1, 2)
        for hint in (BOX, point(20, 20), point(30, 30, False)):
            annotation.propose(4, 1, hint)
        annotation.propose(4, 2, ObjectPrompt().with_scribble([(45, 5), (60, 12)]))
        save_session(annotation, tmp_path / "s.tcmn.zip")
        return tmp_path / "s.tcmn.zip"

    def test_a_proposal_is_kept_and_can_be_corrected(self, annotation, model, path):
        again = open_session(path, model)
        np.testing.assert_array_equal(again.shown(4), annotation.shown(4))
        assert again.states() == annotation.states() == "g...o."
        hint = point(25, 12)
        np.testing.assert_array_equal(again.propose(4, 1, hint), annotation.propose(4, 1, hint))
        again.accept()
        np.testing.assert_array_equal(again.prompts[4], annotation.shown(4))
        again.close()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (b'"frame": 4', b'"frame": 99', "there is no frame 99"),
            (b'"object": 1', b'"object": 9', r"a proposal shows objects \[9\] that are not listed"),
            (b'"kind": "box"', b'"kind": "cat"', "unknown hint 'cat'"),
            (b'"positive": true', b'"p": true', "is not a session of this page, or is damaged"),
        ],
    )
    def test_a_damaged_proposal_is_refused(self, model, path, old, new, message):
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        assert old in files["session.json"]
        files["session.json"] = files["session.json"].replace(old, new)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        with pytest.raises(ValueError, match=message):
            open_session(path, model)


class TestEncodingOnce:
    def test_a_frame_is_encoded_once_for_all_its_hints(self, annotation, model, monkeypatch):
        encoded, encode = [], model.network.encode
        monkeypatch.setattr(
            model.network, "encode", lambda image: (encoded.append(1), encode(image))[1]
        )
        annotation.propose(0, 1, BOX)
        annotation.propose(0, 1, point(20, 20))
        assert len(encoded) == 1
        annotation.undo()
        annotation.drop()
        annotation.propose(1, 1, BOX)
        assert len(encoded) == 2

    def test_a_frame_that_was_prepared_waits_for_the_first_hint(
        self, annotation, model, monkeypatch
    ):
        for index in (0, 3):
            annotation.completer.prepare(index)
            annotation.completer._ahead.result()
        monkeypatch.setattr(model.network, "encode", None)
        assert annotation.propose(3, 1, BOX).any()

    def test_features_are_those_of_the_network(self, model):
        once, images = EncodedOnce(model.network), torch.rand(2, 1, 3, 32, 48)
        with torch.inference_mode():
            for i in (0, 0, 1, 0):
                expected = model.network.encode(images[i])
                found = once.encode(images[i])
                assert all(map(torch.equal, found, expected))


def test_the_page_is_told_what_was_pointed_at():
    prompt = BOX.with_points([(1.0, 2.0)], [False]).with_scribble([(3.0, 4.0), (5.0, 6.0)])
    found = describe_prompts({3: prompt, 1: point(7, 8)})
    assert [(each["kind"], each["object"], each["positive"]) for each in found] == [
        ("box", 3, True), ("scribble", 3, True), ("point", 3, False), ("point", 1, True),
    ]  # fmt: skip
    assert found[0]["points"] == [(10.0, 8.0), (40.0, 36.0)]
