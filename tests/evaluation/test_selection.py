"""Scores over domains, objects that are gone or lost, and two evaluations compared."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bundle.evaluation.comparison import compare, read_scores
from bundle.evaluation.presence import presence
from bundle.evaluation.records import VideoScores
from bundle.evaluation.statistics import estimate_over_domains, gains, leads, summarise
from bundle.evaluation.tables import (
    frame_rows,
    gain_lines,
    make_markdown,
    make_summary,
    to_json,
    write_csv,
    write_text,
)
from tests.scripts import load_script


def make_scores(video, values, domain="", **options):
    count = len(values)
    known = {
        "class_name": "polyp", "object_id": 1, "method": "network", "perturbation": "none",
        "shown": (True,) * count, "answered": (True,) * count, "together": 1,
        "confidence": (0.9,) * count, "frames_per_second": None,
    }  # fmt: skip
    return VideoScores(
        video=video,
        frame_names=tuple(f"{i:05d}" for i in range(1, count + 1)),
        distance=tuple(range(1, count + 1)),
        jaccard=tuple(values),
        boundary=tuple(values),
        dice=tuple(values),
        domain=domain,
        **known | options,
    )


# Means over domains


def test_domains_weigh_the_same_and_videos_are_drawn_within_them():
    """The interval is that of a loop over draws, written out."""
    random = np.random.default_rng(3)
    domains = [random.uniform(size=(videos, 2)).tolist() for videos in (6, 20, 1)]
    found = estimate_over_domains(domains)
    means = [np.mean(domain, axis=1) for domain in domains]
    assert found["mean"] == pytest.approx(100 * np.mean([domain.mean() for domain in means]))
    drawn = [
        100 * np.mean([random.choice(domain, len(domain)).mean() for domain in means])
        for _ in range(4000)
    ]
    assert found["low"] == pytest.approx(np.percentile(drawn, 2.5), abs=0.6)
    assert found["high"] == pytest.approx(np.percentile(drawn, 97.5), abs=0.6)


def test_a_domain_does_not_count_more_for_having_more_videos_or_objects():
    few = [[[0.2], [0.4]], [[1.0, 0.8]]]
    assert estimate_over_domains(few)["mean"] == pytest.approx(60)
    assert estimate_over_domains([few[0] * 5, few[1]])["mean"] == pytest.approx(60)
    assert estimate_over_domains([few[0], [[1.0, 0.8, 1.0, 0.8]]])["mean"] == pytest.approx(60)
    assert estimate_over_domains([[[0.2, math.nan]], [[math.nan]]])["mean"] == pytest.approx(20)


def test_single_videos_have_no_interval():
    none = {"low": None, "high": None}
    assert estimate_over_domains([[[0.5]], [[0.7]]]) == {"mean": 60.0, **none}
    assert estimate_over_domains([[[math.nan]]]) == {"mean": None, **none}


def test_the_mean_of_a_protocol_with_domains_is_over_them():
    scores = [make_scores(f"a{i}", [0.1 * i], "polyps") for i in range(1, 5)]
    scores += [make_scores("b", [0.9], "larynx"), make_scores("b", [0.7], "larynx", object_id=2)]
    found = summarise(scores)
    assert found["domains"]["polyps"]["jaccard"]["mean"] == pytest.approx(25)
    assert found["domains"]["larynx"]["jaccard"]["mean"] == pytest.approx(80)
    assert found["mean"]["jaccard"]["mean"] == pytest.approx(52.5)
    assert (found["mean"]["videos"], found["mean"]["objects"]) == (5, 6)
    page = make_markdown(make_summary(scores, "selection", {}), "selection")
    assert "| polyps J | polyps F | polyps Dice | larynx J |" in page
    assert "the videos of each domain, and the domains" in page
    plain = summarise([replace(one, domain="") for one in scores])
    assert plain["domains"] == {}
    assert plain["mean"]["jaccard"]["mean"] == pytest.approx(100 * (1.0 + 1.6) / 6)


def test_gains_are_paired_within_domains():
    """The videos differ by far more than the runs, which a paired interval leaves out."""
    before = [make_scores(f"a{i}", [0.1 * i, 0.1 * i], "polyps") for i in range(1, 8)]
    before += [make_scores(f"b{i}", [0.1 * i], "hearts") for i in range(1, 5)]
    step = {"polyps": 0.05, "hearts": -0.01}
    after = [
        replace(one, jaccard=tuple(j + step[one.domain] for j in one.jaccard)) for one in before
    ]
    rows = {row["class"]: row["jaccard"] for row in gains(before, after)}
    assert list(rows) == ["polyps", "hearts", "mean over domains"]
    for name, points in (("polyps", 5), ("hearts", -1), ("mean over domains", 2)):
        for end in ("mean", "low", "high"):
            assert rows[name][end] == pytest.approx(points)
    others = [replace(one, method="copy") for one in before]
    assert leads([*after, *others]) == [{"method": "copy", **row} for row in gains(before, after)]


# Objects that are gone or lost


def test_presence_counts_as_a_loop_does():
    random = np.random.default_rng(0)
    scores = []
    for video in "abc":
        for number in (1, 2):
            shown, answered = random.random((2, 30)) < 0.6
            overlap = np.where(answered & shown, random.random(30), 0.0) * (random.random(30) < 0.8)
            scores.append(
                make_scores(
                    video, np.where(shown | answered, overlap, 1.0).tolist(), object_id=number,
                    shown=tuple(shown.tolist()), answered=tuple(answered.tolist()),
                    confidence=tuple(random.random(30).tolist()),
                )
            )  # fmt: skip
    counts = {"absent": 0, "answered": 0, "answered, flagged": 0}
    counts |= {"shown": 0, "lost": 0, "lost, flagged": 0}
    for one in scores:
        both = [other for other in scores if other.video == one.video]
        for t in range(30):
            flag = any(other.confidence[t] < 0.4 or not other.answered[t] for other in both)
            if not one.shown[t]:
                counts["absent"] += 1
                counts["answered"] += one.answered[t]
                counts["answered, flagged"] += one.answered[t] and flag
            else:
                counts["shown"] += 1
                counts["lost"] += one.jaccard[t] == 0
                counts["lost, flagged"] += one.jaccard[t] == 0 and flag
    found = presence(scores, 0.4)
    for kind, wrong in (("absent", "answered"), ("shown", "lost")):
        assert found[kind]["frames"] == counts[kind]
        share = 100 * counts[wrong] / counts[kind]
        assert found[kind][wrong]["mean"] == pytest.approx(share)
        flagged = 100 * counts[f"{wrong}, flagged"] / counts[wrong]
        assert found[kind]["flagged"] == pytest.approx(flagged)


def test_an_empty_mask_is_right_where_the_object_is_gone_and_a_loss_where_it_is_not():
    scores = [
        make_scores("a", [1.0, 0.0, 0.5], shown=(False, True, True), answered=(False, False, True))
    ]
    found = presence(scores, 0.5)  # of a mask that is empty no confidence is low enough
    assert found["absent"] == {
        "frames": 1, "answered": {"mean": 0.0, "low": None, "high": None}, "flagged": None
    }  # fmt: skip
    assert found["shown"]["lost"]["mean"] == 50
    assert found["shown"]["flagged"] == 100
    silent = presence([replace(scores[0], confidence=None)], 0.95)
    assert silent["shown"]["lost"]["mean"] == 50
    assert silent["shown"]["flagged"] is None  # baselines do not say how sure they are


def test_the_page_tells_of_lost_objects_only_where_there_are_any():
    lost = make_scores("a", [0.0, 0.8], answered=(False, True), confidence=(0.95, 0.9))
    page = make_markdown(make_summary([lost], "x", {"review_below": 0.7}), "davis")
    assert "## Objects that are gone or lost" in page
    assert "| network | - | - | 50.00 | 100.0 |" in page  # an empty mask is flagged
    sound = make_scores("a", [0.7, 0.8])
    page = make_markdown(make_summary([sound], "x", {"review_below": 0.7}), "davis")
    assert "gone" not in page


# Two evaluations


def write(folder, scores, **settings):
    folder.mkdir()
    write_csv(folder / "frames.csv", frame_rows(scores))
    summary = {"settings": {"protocol": "selection", "memory_every": 5, **settings}}
    write_text(folder / "summary.json", to_json(summary))
    return folder


SCORES = [
    make_scores("a", [0.25, 0.5], "polyps", shown=(True, False), answered=(False, True)),
    make_scores("b", [0.75], "larynx", object_id=1, class_name="glottis", together=2),
    make_scores("b", [1.0], "larynx", object_id=4, class_name="tool", together=2),
    make_scores("a", [0.5, 0.5], "polyps", method="copy", confidence=None),
]


def test_scores_come_back_as_they_were_written(tmp_path):
    assert read_scores(write(tmp_path / "one", SCORES)) == SCORES


def test_two_evaluations_are_compared_on_the_network_alone(tmp_path, capsys):
    before = write(tmp_path / "before", SCORES, weights_sha256="1")
    better = [replace(one, jaccard=tuple(0.9 * j + 0.1 for j in one.jaccard)) for one in SCORES]
    after = write(tmp_path / "after", better, weights_sha256="2")
    found = compare(before, after)
    assert found["before"] == {"folder": str(before), "weights_sha256": "1"}
    rows = {row["class"]: row["jaccard"]["mean"] for row in found["gains"]}
    polyps, larynx = 10 * (0.75 + 0.5) / 2, 10 * (0.25 + 0) / 2
    expected = {
        "polyps": polyps, "larynx": larynx, "mean over domains": (polyps + larynx) / 2
    }  # fmt: skip
    assert rows == pytest.approx(expected)
    script = load_script("studies/compare_evaluations")
    assert script.main([str(before), str(after)]) == 0
    page = capsys.readouterr().out
    assert page == "\n".join(gain_lines(found)) + "\n"
    assert "| mean over domains | +3.75 | " in page
    assert script.main([str(before), str(after), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_evaluations_of_two_protocols_are_not_compared(tmp_path, capsys):
    before = write(tmp_path / "before", SCORES)
    after = write(tmp_path / "after", SCORES, protocol="davis")
    with pytest.raises(ValueError, match=r"scored the protocol selection but .*after scored davis"):
        compare(before, after)
    assert load_script("studies/compare_evaluations").main([str(before), str(after)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("turn", [1, -1])
def test_evaluations_of_other_objects_or_frames_are_not_compared(tmp_path, turn):
    whole = write(tmp_path / "whole", SCORES)
    fewer = write(tmp_path / "fewer", [one for one in SCORES if one.object_id == 1])
    message = "object 4 of video b was scored in one evaluation only: expected two of the same"
    with pytest.raises(ValueError, match=message):
        compare(*[whole, fewer][::turn])
    fields = ("frame_names", "distance", "shown", "answered", "jaccard", "boundary", "dice")
    cut = {name: getattr(SCORES[0], name)[:1] for name in fields}
    shorter = replace(SCORES[0], confidence=(0.9,), **cut)
    short = write(tmp_path / "short", [shorter, *SCORES[1:]])
    with pytest.raises(ValueError, match="frame 00002 of video a was scored in one evaluation"):
        compare(*[whole, short][::turn])


def test_a_folder_that_is_not_an_evaluation_is_reported(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no .*summary.json: expected the output_dir of an"
    ):
        compare(tmp_path, tmp_path)
