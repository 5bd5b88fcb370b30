"""Masks from any frames to all others: which way, what a correction changes, what happens then."""

import itertools
import threading

import numpy as np
import pytest
import torch

from bundle.inference.confidence import choose_class, expected_jaccard, margin, suggest_frame
from bundle.inference.frame_stream import FrameList, read_ahead, read_range
from bundle.inference.inferers import VideoInferer
from bundle.inference.session import count_that_fits
from bundle.inference.settings import parse_settings
from bundle.inference.streaming import stream_results
from bundle.inference.stretches import Stretch, find_start, plan_stretches
from bundle.io.reading.video import open_video
from bundle.networks import TCMN
from bundle.networks.tcmn import aggregate
from tests.tiny import OWN_SIZE, Blinded

HEIGHT, WIDTH, COUNT = 32, 48, 12


@pytest.fixture(scope="module")
def frames():
    return list(
        np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    )


def make_labels(ids=(1,), seed=0):
    """A label map of large blocks, every id in it."""
    owners = np.random.default_rng(seed).permutation(np.resize([0, *ids], 8)).reshape(2, 4)
    return np.kron(owners, np.ones((HEIGHT // 2, WIDTH // 4))).astype(np.uint8)


def propagate(frames, annotations, network, **settings):
    inferer = VideoInferer(**(OWN_SIZE | {"precision": "float32"} | settings))
    return [found.labels for found in inferer.stream(frames, annotations, network)]


class TestPlan:
    @pytest.mark.parametrize("direction", ["both", "forward", "backward"])
    @pytest.mark.parametrize("prompts", [[0], [5], [9], [0, 9], [2, 3], [1, 4, 8], list(range(10))])
    def test_every_frame_is_propagated_once(self, prompts, direction):
        plan = plan_stretches(prompts, 10, direction)
        visited = [i for stretch in plan for i in stretch.frames]
        assert sorted(visited + prompts) == list(range(10))

    @pytest.mark.parametrize("direction", ["both", "forward", "backward"])
    @pytest.mark.parametrize("prompts", [[0], [5], [0, 9], [2, 3], [1, 3, 8], list(range(10))])
    def test_the_prompt_that_a_frame_comes_from(self, prompts, direction):
        expected = dict(zip(prompts, prompts, strict=True))
        for stretch in plan_stretches(prompts, 10, direction):
            expected |= dict.fromkeys(stretch.frames, stretch.prompt)
        assert {i: find_start(prompts, i, direction) for i in range(10)} == expected

    def test_each_stretch_starts_beside_its_prompt(self):
        for direction, prompts in itertools.product(
            ("both", "forward", "backward"), ([3], [0, 9], [1, 4, 8])
        ):
            for stretch in plan_stretches(prompts, 10, direction):
                if stretch.prompt is not None:
                    assert abs(stretch.frames[0] - stretch.prompt) == 1

    def test_one_direction_leaves_the_other_side_alone(self):
        assert plan_stretches([3], 6, "forward") == [
            Stretch(None, range(2, -1, -1)),
            Stretch(3, range(4, 6)),
        ]
        assert plan_stretches([3], 6, "backward") == [
            Stretch(3, range(2, -1, -1)),
            Stretch(None, range(4, 6)),
        ]


def test_backward_is_forward_through_the_reversed_video(network, frames):
    labels = make_labels((1, 2))
    backward = propagate(frames, {COUNT - 1: labels}, network)
    forward = propagate(frames[::-1], {0: labels}, network)
    np.testing.assert_array_equal(backward[::-1], forward)
    assert len(np.unique(backward[0])) > 1


def test_a_prompt_in_the_middle_reaches_both_ends(network, frames):
    labels = make_labels((1, 2))
    found = propagate(frames, {5: labels}, network)
    np.testing.assert_array_equal(found[5:], propagate(frames[5:], {0: labels}, network))
    np.testing.assert_array_equal(found[5::-1], propagate(frames[5::-1], {0: labels}, network))


@pytest.mark.parametrize("inference_size", [None, 16])
def test_masks_that_were_given_come_back_to_the_pixel(network, frames, inference_size):
    annotations = {2: make_labels((3, 7)), 9: make_labels((3, 7), seed=1)}
    found = propagate(frames, annotations, network, inference_size=inference_size)
    for index, labels in annotations.items():
        np.testing.assert_array_equal(found[index], labels)


def test_both_prompts_inform_the_frames_between(network, frames):
    first, last = make_labels(), make_labels(seed=1)
    both = propagate(frames, {0: first, COUNT - 1: last}, network)
    from_first = propagate(frames, {0: first}, network)
    from_last = propagate(frames, {COUNT - 1: last}, network)
    for i in range(1, COUNT - 1):
        assert not np.array_equal(both[i], from_first[i])
        assert not np.array_equal(both[i], from_last[i])


def test_directions_leave_empty_what_they_do_not_reach(network, frames):
    labels = make_labels()
    forward = propagate(frames, {4: labels}, network, direction="forward")
    backward = propagate(frames, {4: labels}, network, direction="backward")
    both = propagate(frames, {4: labels}, network)
    assert not np.any(forward[:4])
    assert not np.any(backward[5:])
    np.testing.assert_array_equal(forward[4:], both[4:])
    np.testing.assert_array_equal(backward[:5], both[:5])


def test_forward_does_not_look_for_an_object_before_its_first_mask(network, frames):
    annotations = {0: make_labels((3,)), 6: make_labels((3, 5))}
    forward = propagate(frames, annotations, network, direction="forward")
    assert 5 not in np.unique(forward[:6])
    assert 5 in np.unique(forward[7:])
    assert 5 in np.unique(propagate(frames, annotations, network)[:6])


def test_an_iterator_gives_what_forward_gives(network, frames):
    annotations = {2: make_labels((3,)), 6: make_labels((3, 5))}
    live = propagate(iter(frames), annotations, network)
    # Live, the memory of the first stretch stays at a later mask; before it nothing differs.
    np.testing.assert_array_equal(
        live[:7], propagate(frames, annotations, network, direction="forward")[:7]
    )
    assert 5 in np.unique(live[7:])


def test_a_video_source_gives_what_its_frames_give(network, frames, tmp_path):
    from PIL import Image

    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    annotations = {4: make_labels((1, 2))}
    np.testing.assert_array_equal(
        propagate(open_video(tmp_path), annotations, network),
        propagate(frames, annotations, network),
    )


class TestCorrection:
    def run(self, frames, annotations, network, corrections=(), **settings):
        inferer = VideoInferer(**(OWN_SIZE | {"precision": "float32"} | settings))
        work = inferer.open(frames, annotations, network)
        ran = [list(work.run())]
        for index, labels in corrections:
            work.annotate(index, labels)
            ran.append(list(work.run()))
        return work, ran

    def test_only_what_lies_between_its_neighbours_is_run_again(self, network, frames):
        annotations = {0: make_labels(), 8: make_labels(seed=1)}
        _, (first, second) = self.run(frames, annotations, network, [(4, make_labels(seed=2))])
        assert sorted(first) == [i for i in range(COUNT) if i not in (0, 8)]
        assert sorted(second) == [1, 2, 3, 5, 6, 7]

    def test_after_a_correction_all_is_as_if_it_had_been_there(self, network, frames):
        corrected = make_labels(seed=2)
        work, _ = self.run(frames, {0: make_labels()}, network, [(4, corrected)])
        expected = propagate(frames, {0: make_labels(), 4: corrected}, network)
        found = [work.result(i).labels for i in range(COUNT)]
        np.testing.assert_array_equal(found, expected)

    def test_frames_beyond_keep_what_they_had(self, network, frames):
        annotations = {0: make_labels(), 8: make_labels(seed=1)}
        work, _ = self.run(frames, annotations, network)
        before = [work.result(i).labels for i in range(8, COUNT)]
        work.annotate(4, make_labels(seed=2))
        list(work.run())
        np.testing.assert_array_equal([work.result(i).labels for i in range(8, COUNT)], before)

    def test_a_mask_can_be_replaced(self, network, frames):
        work, (_, second) = self.run(
            frames, {4: make_labels()}, network, [(4, make_labels(seed=1))]
        )
        assert len(second) == COUNT - 1
        expected = propagate(frames, {4: make_labels(seed=1)}, network)
        np.testing.assert_array_equal([work.result(i).labels for i in range(COUNT)], expected)

    def test_a_mask_can_be_removed(self, network, frames):
        annotations = {0: make_labels(), 4: make_labels(seed=2), 8: make_labels(seed=1)}
        work, _ = self.run(frames, annotations, network)
        work.adopt({i: annotations[i] for i in (0, 8)})
        assert sorted(work.run()) == [1, 2, 3, 4, 5, 6, 7]
        expected = propagate(frames, {0: make_labels(), 8: make_labels(seed=1)}, network)
        found = [work.result(i).labels for i in range(8)]
        np.testing.assert_array_equal(found, expected[:8])

    def test_a_new_object_runs_everything_again(self, network, frames):
        annotations = {0: make_labels((1,)), 8: make_labels((1,))}
        work, (_, second) = self.run(frames, annotations, network, [(4, make_labels((1, 2)))])
        assert len(second) == COUNT - 3
        assert set(work.result(10).confidence) == {1, 2}

    def test_an_interrupted_run_continues(self, network, frames):
        inferer = VideoInferer(**OWN_SIZE, precision="float32")
        work = inferer.open(frames, {5: make_labels()}, network)
        list(itertools.islice(work.run(), 7))
        list(work.run())
        expected = propagate(frames, {5: make_labels()}, network)
        np.testing.assert_array_equal([work.result(i).labels for i in range(COUNT)], expected)

    def test_an_interrupted_run_leaves_gradients_enabled(self, network, frames):
        work = VideoInferer(**OWN_SIZE).open(frames, {5: make_labels()}, network)
        run = work.run()
        next(run)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()

    def test_a_correction_while_the_run_is_interrupted(self, network, frames):
        inferer = VideoInferer(**OWN_SIZE, precision="float32")
        work = inferer.open(frames, {0: make_labels()}, network)
        list(itertools.islice(work.run(), 7))
        work.annotate(3, make_labels(seed=1))
        list(work.run())
        expected = propagate(frames, {0: make_labels(), 3: make_labels(seed=1)}, network)
        np.testing.assert_array_equal([work.result(i).labels for i in range(COUNT)], expected)

    @pytest.mark.parametrize("wanted", [[0, 4], [0, 8], [4], [0, 4, 8]])
    def test_masks_can_be_adopted(self, network, frames, wanted):
        given = {i: make_labels(seed=i) for i in wanted}
        work, _ = self.run(frames, {0: make_labels(), 8: make_labels(seed=3)}, network)
        work.adopt(given)
        left = work.remaining
        assert len(list(work.run())) == left
        assert work.remaining == 0
        found = [work.result(i).labels for i in range(COUNT)]
        np.testing.assert_array_equal(found, propagate(frames, given, network))
        work.adopt({i: labels.copy() for i, labels in given.items()})
        assert work.remaining == 0  # equal masks change nothing

    def test_no_mask_can_be_adopted(self, network, frames):
        work = VideoInferer(**OWN_SIZE).open(frames, {5: make_labels()}, network)
        with pytest.raises(ValueError, match="no mask shows an object"):
            work.adopt({})

    def test_results_of_an_earlier_run_are_restored(self, network, frames):
        annotations = {0: make_labels((1, 2)), 8: make_labels((1, 2), seed=1)}
        before, _ = self.run(frames, annotations, network)
        work = VideoInferer(**OWN_SIZE, precision="float32").open(frames, annotations, network)
        assert work.remaining == COUNT - 2
        restored = work.restore(before.result(i) for i in (*range(1, 8), 9))
        assert restored == [*range(1, 8), 9]
        assert sorted(work.run()) == [9, 10, 11]  # an unfinished stretch starts again
        for i in range(COUNT):
            np.testing.assert_array_equal(work.result(i).labels, before.result(i).labels)
            assert work.result(i).confidence == pytest.approx(before.result(i).confidence)


class TestVanished:
    """An object that a mask shows and a frame does not, however sure the network is."""

    def results(self, network, frames, annotations, objects=None, **settings):
        settings = parse_settings(**OWN_SIZE, precision="float32", review_below=0, **settings)
        return list(stream_results(settings, network, frames, annotations, objects=objects))

    def test_each_empty_frame_is_flagged(self, network, frames):
        first, *others = self.results(Blinded(network, 0), frames, {0: make_labels((3, 7))})
        assert not first.review
        for result in others:
            assert result.confidence[3] > 0.99
            assert (result.vanished, result.review) == ({3}, True)

    def test_frames_are_not_flagged_where_a_mask_shows_that_the_object_is_gone(
        self, network, frames
    ):
        masks = {0: make_labels((3, 7)), 8: make_labels((7,))}
        found = self.results(Blinded(network, 0), frames, masks)
        # Frames from 4 on come from the mask of frame 8.
        assert [r.frame for r in found if r.review] == [1, 2, 3]
        found = self.results(Blinded(network, 0), frames, masks, direction="forward")
        assert [r.frame for r in found if r.review] == list(range(1, 8))
        found = self.results(Blinded(network, 0), frames, masks, direction="backward")
        assert not any(r.review for r in found)

    def test_a_mask_that_does_not_cover_the_object_does_not_end_the_flag(self, network, frames):
        masks = {0: make_labels((3, 7)), 8: make_labels((7,))}
        found = self.results(Blinded(network, 0), frames, masks, {8: [7]})
        assert [r.frame for r in found if r.review] == list(range(1, COUNT))

    def test_a_camera_gives_what_forward_gives(self, network, frames):
        masks = {2: make_labels((3, 7)), 6: make_labels((7,)), 9: make_labels((3,))}
        live = self.results(Blinded(network, 0, 1), iter(frames), masks)
        forward = self.results(Blinded(network, 0, 1), frames, masks, direction="forward")
        expected = {3: {3, 7}, 4: {3, 7}, 5: {3, 7}, 7: {7}, 8: {7}, 10: {3}, 11: {3}}
        for found in (live, forward):
            assert {r.frame: r.vanished for r in found if r.vanished} == expected

    def test_a_frame_where_an_object_vanished_is_suggested(self, network, frames):
        masks = {0: make_labels((3, 7)), 6: make_labels((7,))}
        work = VideoInferer(**OWN_SIZE).open(frames, masks, Blinded(network, 0))
        list(work.run())
        assert work.suggest() in (1, 2)  # from frame 3 on they come from the mask of frame 6


class TestConfidence:
    def test_expected_jaccard_by_hand(self):
        # Inside 0.9 and 0.8, outside 0.3 and 0: overlap 1.7 of a union of 2.3.
        p = torch.tensor([0.9, 0.8, 0.3, 0.0]).view(1, 1, 2, 2)
        found = expected_jaccard(torch.log(torch.cat([1 - p, p], 1).clamp(1e-9)))
        assert found.item() == pytest.approx(1.7 / 2.3, abs=1e-5)

    def test_an_empty_mask_is_as_sure_as_its_likeliest_pixel(self):
        p = torch.tensor([0.4, 0.1, 0.0, 0.0]).view(1, 1, 2, 2)
        found = expected_jaccard(torch.log(torch.cat([1 - p, p], 1).clamp(1e-9)))
        assert found.item() == pytest.approx(0.6, abs=1e-5)

    def test_a_mask_beyond_doubt_is_sure(self):
        mask = torch.zeros(1, 2, 8, 8)
        mask[:, 0, :4], mask[:, 1, 5:] = 1, 1
        torch.testing.assert_close(
            expected_jaccard(aggregate(mask)), torch.ones(1, 2), rtol=0, atol=1e-4
        )

    def test_margin_is_the_difference_of_the_two_best_probabilities(self):
        p = torch.tensor([0.9, 0.5]).view(1, 1, 1, 2)
        found = margin(torch.log(torch.cat([1 - p, p], 1)))
        torch.testing.assert_close(found, torch.tensor([[[0.8, 0.0]]]))

    def test_results_have_a_confidence(self, network, frames):
        inferer = VideoInferer(**OWN_SIZE, precision="float32", review_below=0.99)
        found = list(inferer.stream(frames, {0: make_labels((3, 7))}, network))
        assert found[0].confidence == {3: 1.0, 7: 1.0}
        assert not found[0].review
        assert [r.frame for r in found] == list(range(COUNT))
        for result in found[1:]:
            assert set(result.confidence) == {3, 7}
            assert all(0 <= value <= 1 for value in result.confidence.values())
            assert not result.vanished
            assert result.review == (min(result.confidence.values()) < 0.99)

    def test_the_frame_to_annotate_next(self):
        sure = {i: {1: 0.9} for i in range(10)}
        assert suggest_frame({**sure, 6: {1: 0.9, 2: 0.2}}, [0]) in range(4, 9)
        # One blurred frame counts for less than a stretch that drifted.
        drifted = {**sure, 1: {1: 0.2}, 6: {1: 0.4}, 7: {1: 0.4}, 8: {1: 0.4}, 9: {1: 0.4}}
        assert suggest_frame(drifted, [0]) in (7, 8, 9)
        assert suggest_frame(drifted, range(10)) is None

    def test_only_frames_without_a_mask_are_suggested(self, network, frames):
        work = VideoInferer(**OWN_SIZE).open(frames, {0: make_labels()}, network)
        assert work.suggest() is None
        list(work.run())
        suggested = []
        for _ in range(3):
            suggested.append(work.suggest())
            work.annotate(suggested[-1], make_labels())
            list(work.run())
        assert len({0, *suggested}) == 4


class Ahead:
    """A network whose next frame is encoded ahead, with maps that the second next one overwrites.

    Args:
        network: What computes.
        damaged: Number of the call of ``encode`` that fails, from 1; None for none.
    """

    encodes_ahead = True

    def __init__(self, network, damaged=None):
        self.network, self.damaged = network, damaged
        self.threads, self._kept = [], threading.local()

    def __getattr__(self, name):
        return getattr(self.network, name)

    def encode(self, image):
        self.threads.append(threading.current_thread())
        if len(self.threads) == self.damaged:
            raise RuntimeError("frame cannot be encoded: out of luck")
        found = self.network.encode(image)
        for old in getattr(self._kept, "before", ())[1:]:
            old.zero_()
        self._kept.before, self._kept.last = getattr(self._kept, "last", ()), found
        return found


class TestEncodingAhead:
    """The next frame is encoded in another thread; nothing but the time it takes may change."""

    @pytest.mark.parametrize("settings", [{}, {"inference_size": 16}, {"direction": "backward"}])
    def test_masks_are_the_same(self, network, frames, settings):
        annotations = {3: make_labels((1, 2)), 9: make_labels((1, 2), seed=1)}
        ahead = Ahead(network)
        found = propagate(frames, annotations, ahead, **settings)
        np.testing.assert_array_equal(found, propagate(frames, annotations, network, **settings))
        elsewhere = [each for each in ahead.threads if each is not threading.current_thread()]
        stretches = plan_stretches([3, 9], COUNT, settings.get("direction", "both"))
        assert len(elsewhere) == sum(len(s.frames) for s in stretches if s.prompt is not None)

    def test_only_the_next_frame_is_encoded(self, network, frames):
        ahead = Ahead(network)
        run = VideoInferer(**OWN_SIZE).open(frames, {0: make_labels()}, ahead).run()
        for done in range(1, 5):
            next(run)
            assert done <= len(ahead.threads) - 1 <= done + 1  # less the given one
        run.close()
        assert not any(each.is_alive() for each in ahead.threads[1:])

    @pytest.mark.parametrize("next_one", [False, True])
    def test_an_error_in_it_is_raised_after_the_frames_before(self, network, frames, next_one):
        """Frame 4 fails; with the encoding in the same thread and ahead."""
        network = Ahead(network, damaged=5)
        network.encodes_ahead = next_one
        work = VideoInferer(**OWN_SIZE).open(frames, {0: make_labels()}, network)
        done = []
        with pytest.raises(RuntimeError, match=r"^frame cannot be encoded: out of luck$"):
            done.extend(work.run())
        assert done == [1, 2, 3]
        assert not any(each.is_alive() for each in network.threads if each.name != "MainThread")
        assert list(work.run()) == list(range(1, COUNT))  # the next call may succeed

    def test_a_correction_uses_nothing_that_was_encoded_before(self, network, frames):
        work = VideoInferer(**OWN_SIZE, precision="float32").open(
            frames, {0: make_labels()}, Ahead(network)
        )
        list(itertools.islice(work.run(), 5))
        corrected = {0: make_labels(), 3: make_labels(seed=2)}
        work.annotate(3, corrected[3])
        list(work.run())
        found = [work.result(i).labels for i in range(COUNT)]
        np.testing.assert_array_equal(found, propagate(frames, corrected, network))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(("done", "corrected"), [(5, 0), (5, 3), (5, 8)])
def test_a_correction_between_two_frames_of_a_run(network, frames, ahead, done, corrected):
    """The same run goes on, with what the correction says."""
    inferer = VideoInferer(**OWN_SIZE, precision="float32")
    work = inferer.open(frames, {0: make_labels()}, Ahead(network) if ahead else network)
    run = work.run()
    list(itertools.islice(run, done))
    work.annotate(corrected, make_labels(seed=2))
    left = work.remaining
    assert len(list(run)) == left
    masks = {0: make_labels()} | {corrected: make_labels(seed=2)}
    found = [work.result(i).labels for i in range(COUNT)]
    np.testing.assert_array_equal(found, propagate(frames, masks, network))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_class_chosen_is_argmax_also_among_equals(classes):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 3, (2, classes, 20, 30), generator=draw).float()
    torch.testing.assert_close(choose_class(logits), logits.argmax(1).byte())


class TestDevices:
    def test_out_of_memory_goes_on_with_smaller_frames(self, network, caplog):
        frames = list(np.random.default_rng(0).integers(0, 256, (6, 200, 300, 3), dtype=np.uint8))
        labels = np.zeros((200, 300), np.uint8)
        labels[50:120, 60:200] = 1
        seen = []

        def encode(image):
            seen.append(tuple(image.shape[-2:]))
            if len(seen) == 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return TCMN.encode(network, image)

        network.encode = encode
        try:
            found = propagate(frames, {0: labels}, network)
        finally:
            del network.encode
        assert [x.shape for x in found] == [(200, 300)] * 6
        assert seen[0] == (208, 304)
        assert seen[-1] == (160, 240)
        assert "continuing with frames of 150 pixels" in caplog.text

    def test_lasting_lack_of_memory_is_an_error(self, network, frames, monkeypatch):
        def encode(image):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(network, "encode", encode)
        with pytest.raises(torch.OutOfMemoryError):
            propagate(frames, {0: make_labels()}, network)

    def test_automatic_max_memory_frames_fills_half_of_the_free_memory(self, monkeypatch):
        key, value = torch.zeros(1, 64, 4, 4), torch.zeros(1, 2, 256, 4, 4)
        frame_bytes = 4 * 16 * (64 + 512)
        monkeypatch.setattr(
            "bundle.inference.session.free_bytes", lambda device: 20 * frame_bytes + 7
        )
        assert count_that_fits(key, value) == 10
        monkeypatch.setattr("bundle.inference.session.free_bytes", lambda device: 0)
        assert count_that_fits(key, value) == 2

    def test_automatic_max_memory_frames_changes_nothing_if_memory_is_ample(self, network, frames):
        labels = make_labels()
        expected = propagate(frames, {0: labels}, network, memory_every=1)
        found = propagate(frames, {0: labels}, network, memory_every=1, max_memory_frames="auto")
        np.testing.assert_array_equal(found, expected)


class TestReading:
    def test_a_falling_range_is_read_in_rising_chunks(self, monkeypatch):
        monkeypatch.setattr("bundle.inference.frame_stream.CHUNK_BYTES", 9)
        asked = []

        class Recorder(FrameList):
            def frames(self, indices):
                asked.append(list(indices))
                return super().frames(indices)

        video = Recorder([np.full((1, 1, 3), i, np.uint8) for i in range(9)])
        found = [int(x[0, 0, 0]) for x in read_range(video, range(7, -1, -1))]
        assert found == [7, 6, 5, 4, 3, 2, 1, 0]
        assert asked == [[5, 6, 7], [2, 3, 4], [0, 1]]

    def test_an_error_while_reading_ahead_is_raised_at_its_frame(self):
        def broken():
            yield 1
            yield 2
            raise ValueError("frame 2 is damaged")

        found = read_ahead(broken())
        assert [next(found), next(found)] == [1, 2]
        with pytest.raises(ValueError, match="frame 2 is damaged"):
            next(found)

    def test_only_a_few_items_are_made_ahead(self):
        made = []

        def count():
            for i in range(100):
                made.append(i)
                yield i

        found = read_ahead(count(), 4)
        for _ in range(10):
            next(found)
        found.close()
        assert 10 <= len(made) <= 15


class TestErrors:
    def test_masks_without_any_object_are_refused(self, network, frames):
        with pytest.raises(ValueError, match="no mask shows an object"):
            propagate(frames, {0: np.zeros((HEIGHT, WIDTH), np.uint8)}, network)
        with pytest.raises(ValueError, match="no mask shows an object"):
            propagate(iter(frames), {}, network)

    def test_a_frame_that_does_not_exist_is_refused(self, network, frames):
        with pytest.raises(ValueError, match=r"mask was given for frame 12, but .* frames 0 to 11"):
            propagate(frames, {COUNT: make_labels()}, network)

    def test_a_mask_of_another_size_is_refused(self, network, frames):
        with pytest.raises(ValueError, match=r"mask of frame 3 is \(16, 48\) but the frame is"):
            propagate(frames, {3: np.ones((16, 48), np.uint8)}, network)

    def test_a_step_before_any_mask_is_refused(self, network):
        session = VideoInferer(**OWN_SIZE).start(network)
        with pytest.raises(RuntimeError, match="give the mask of a frame before the next"):
            session.step(torch.zeros(1, 3, 32, 32))
