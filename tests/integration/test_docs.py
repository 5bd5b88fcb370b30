"""Pages that promise to work as written do."""

import re
import shlex
from pathlib import Path

import pytest

from tests import processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.heavy
def test_the_fine_tuning_page_works_as_written(tmp_path):
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = (ROOT / "docs/fine_tuning.md").read_text()
    blocks = re.findall(r"```(python|bash)\n(.*?)```", page, re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "bash", "bash", "bash"]
    (tmp_path / "block.py").write_text(blocks[0][1])
    lines = "".join(code for _, code in blocks[1:]).replace("\\\n", " ").splitlines()
    for line in ["python block.py", *lines]:
        program, *arguments = shlex.split(line)
        if program == "tcmn":
            arguments = ["-m", "bundle.cli", *arguments]
        else:
            assert program == "python"
        done = processes.run(arguments, tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "finetuned/splits/video_folder.json").exists()
    assert (tmp_path / "results/case4/masks.nii.gz").exists()
    assert (tmp_path / "check/video_folder.png").exists()
