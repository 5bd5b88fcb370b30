"""Pages that promise to work as written do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_fine_tuning_page_works_as_written(tmp_path):
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = (ROOT / "docs/fine_tuning.md").read_text()
    blocks = re.findall(r"```(python|bash)\n(.*?)```", page, re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "bash", "bash", "bash"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, code in blocks:
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "finetuned/splits/video_folder.json").exists()
    assert (tmp_path / "results/case4/masks.nii.gz").exists()
    assert (tmp_path / "check/video_folder.png").exists()
