"""The measuring scripts run, and count what they say they count."""

import importlib
import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

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


def test_ablation_pairs_seeds_and_videos(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts/studies")
    study = importlib.import_module("ablation")

    def scores(**videos):
        return {("polyp", name): dict.fromkeys(study.SCORES, j) for name, j in videos.items()}

    found = {
        "with": [scores(a=80.0, b=60.0), scores(a=82.0, b=70.0)],
        "without": [scores(a=78.0, b=62.0), scores(a=78.0, b=62.0)],
    }
    row = study.compare(found)["polyp"]["jaccard"]
    assert row["with"] == [70.0, 76.0]
    assert row["without"] == [70.0, 70.0]
    assert row["difference_of_each_seed"] == [0.0, 6.0]
    assert row["difference"]["mean"] == 3.0  # of a: 3, of b: 3
    assert row["difference"]["interval_95"] == [3.0, 3.0]

    lines = ["iteration,cross_entropy,dice,value_distance,collapsed", "20,9,9,9,9"]
    lines += [f"{20 * i},0.5,0.25,{i / 10},0" for i in range(2, 7)]
    (tmp_path / "losses.csv").write_text("\n".join(lines))
    assert study.read_values(tmp_path) == {
        "cross_entropy": 0.5, "dice": 0.25, "value_distance": 0.4, "collapsed": 0.0
    }  # fmt: skip


def test_the_recipe_changes_what_the_config_has(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts/studies")
    study = importlib.import_module("recipe")
    config = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs/train.yaml")))
    for name, changes in study.CHANGES.items():
        assert all(setting in config for setting in changes), name
