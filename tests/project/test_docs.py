"""The page about projects works as written."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from bundle.apps.annotate import launch
from bundle.cli import main
from bundle.project.opening import holds_project

PAGE = Path(__file__).resolve().parents[2] / "docs" / "projects.md"


def test_the_page_about_projects_works_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("cines/first").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((24, 32, 3), 40 * i, np.uint8)).save(f"cines/first/{i}.png")
    Path("structures.json").write_text(json.dumps({"1": "left ventricle"}))
    mask = np.zeros((24, 32), np.uint8)
    mask[5:15, 6:20] = 1
    names = {"mask": mask, "propagated": {1: mask, 2: mask * 0, 3: mask}}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert capsys.readouterr().out == "new first None None\n2 ['vanished']\n"
    assert names["project"].state("first").stage() == "done"
    assert len(list(Path("data_set/Annotations/first").iterdir())) == 2
    assert len(list(Path("measurements").iterdir())) == 3

    commands = re.findall(r"^    tcmn (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    names = [command.split()[0] for command in commands]
    assert names == ["annotate", "export-project", "finetune"]
    opened = []
    monkeypatch.setattr(launch, "open_page", lambda *given, **named: opened.append((given, named)))
    for command in commands[:2]:
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
    ((video, _), named), *_ = opened
    assert holds_project(video)[0]
    assert (named["who"], named["structures"]) == ("Anna", Path("structures.json"))
    assert Path("data_set_coco/annotations/instances_train.json").is_file()
    assert main(shlex.split(commands[2])) == 1
    assert "1 of 1 videos are done, and fine-tuning needs 2" in capsys.readouterr().err
