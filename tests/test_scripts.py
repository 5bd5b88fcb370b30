"""The measuring scripts run, and count what they say they count."""

import json
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data"


def run(script, *arguments):
    """What the script prints last, as JSON."""
    done = processes.run([ROOT / "scripts" / script, *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_endurance_measures_each_frame(tmp_path):
    arguments = ["--frames", "12", "--working_size", "32", "--output_dir", tmp_path]
    result = json.loads(run("study_endurance.py", *arguments))
    assert result["frames"] == 12
    assert result["rss_mb_end"] > 100
    assert (tmp_path / "endurance.png").stat().st_size > 1000
    assert json.loads((tmp_path / "endurance.json").read_text()) == result


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data sets")
def test_confidence_is_compared_with_the_truth(tmp_path):
    arguments = ["--videos", "1", "--working_size", "96", "--every", "10"]
    arguments += ["--dataset_dir", str(DATA), "--output_dir", str(tmp_path)]
    result = json.loads(run("study_confidence.py", *arguments))
    assert sum(row["frames"] for row in result["by_tenths"]) == result["frames"]
    assert -1 <= result["spearman"] <= 1
    rising = [row["confidence"] for row in result["by_tenths"]]
    assert rising == sorted(rising)
