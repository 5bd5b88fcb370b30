"""The measuring scripts run, and count what they say they count."""

import importlib
import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from bundle.evaluation.records import NETWORK, UNCHANGED, VideoScores
from bundle.networks.definition import read_definition
from tests import processes

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data"


def run(script, *arguments):
    """What the script prints last, as JSON."""
    done = processes.run([ROOT / "scripts" / script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.heavy
def test_endurance_measures_each_frame(tmp_path):
    arguments = ["--frames", "12", "--size", "48", "--output_dir", tmp_path]
    result = json.loads(run("dev/endurance.py", *arguments))
    assert result["frames"] == 12
    assert result["rss_mb_end"] > 100
    assert (tmp_path / "endurance.png").stat().st_size > 1000
    assert json.loads((tmp_path / "endurance.json").read_text()) == result


@pytest.mark.heavy
def test_quantizing_refuses_a_folder_before_it_reads_anything(tmp_path):
    done = processes.run(
        ["-m", "bundle.cli", "quantize", "--dataset_dir", tmp_path, "--output_dir", tmp_path]
    )
    assert done.returncode == 1
    assert f"error: {tmp_path} exists: remove it or name another folder" in done.stderr


@pytest.mark.heavy
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data sets")
def test_confidence_is_compared_with_the_truth(tmp_path):
    arguments = ["--videos", "1", "--inference_size", "96", "--every", "10"]
    arguments += ["--dataset_dir", str(DATA), "--output_dir", str(tmp_path)]
    result = json.loads(run("studies/confidence.py", *arguments))
    assert sum(row["frames"] for row in result["by_tenths"]) == result["frames"]
    assert -1 <= result["spearman"] <= 1
    rising = [row["confidence"] for row in result["by_tenths"]]
    assert rising == sorted(rising)


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts/studies")
    return importlib.import_module("recipe")


def scored(**videos):
    """Scores of one object in each video; the domain is the name's first letter."""
    return [
        VideoScores(
            video=name,
            class_name="object",
            object_id=1,
            method=NETWORK,
            perturbation=UNCHANGED,
            domain=name[0],
            frame_names=("1", "2"),
            distance=(1, 2),
            shown=(True, True),
            frames_per_second=None,
            together=1,
            jaccard=(j, j),
            boundary=(0.0, 0.0),
            dice=(0.0, 0.0),
        )
        for name, j in videos.items()
    ]


def test_the_recipe_study_pairs_seeds_and_videos(recipe):
    before = [scored(a1=0.80, a2=0.60, b1=0.50)] * 2
    after = [scored(a1=0.80, a2=0.62, b1=0.60), scored(a1=0.84, a2=0.70, b1=0.50)]
    gains = recipe.gains(list(zip(before, after, strict=True)))
    assert gains["a"] == {"mean": 4.0, "low": 2.0, "high": 6.0}  # of a1: 0 and 4, of a2: 2 and 10
    assert gains["b"] == {"mean": 5.0, "low": None, "high": None}
    assert gains["mean over domains"] == {"mean": 4.5, "low": 3.5, "high": 5.5}
    assert recipe.mean_scores(before[0]) == {"a": 70.0, "b": 50.0, "mean over domains": 60.0}


def test_the_end_of_a_training_is_its_last_rows(recipe, tmp_path):
    lines = ["iteration,cross_entropy,dice,prompted,value_distance,collapsed", "20,9,9,9,9,9"]
    lines += [f"{20 * i},0.5,0.25,,{i / 10},0" for i in range(2, 5)]
    (tmp_path / "losses.csv").write_text("\n".join(lines))
    assert recipe.read_losses(tmp_path) == {
        "cross_entropy": 0.5, "dice": 0.25, "value_distance": 0.3, "collapsed": 0.0
    }  # fmt: skip


def test_the_recipe_changes_what_the_config_has(recipe):
    files = [str(ROOT / f"configs/{name}.yaml") for name in ("train", "more_data")]
    config = ConfigParser(ConfigParser.load_config_files(files))
    for name, changes in recipe.CHANGES.items():
        network = set(read_definition("default"))
        for setting in changes:
            part, _, argument = setting.partition("#")
            assert setting in config or (part == "network_def" and argument in network), name
