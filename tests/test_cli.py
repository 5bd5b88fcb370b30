"""The command line: one test per message, names that go on working, paths of any letters."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.apps.annotate.launch import open_page
from bundle.cli import main
from bundle.commands.prompt_options import read_prompt_options
from bundle.commands.serve import serve_label_app
from bundle.utils.bundle_files import bundle_root, program_version
from bundle.utils.options import parse_bool, parse_count


def said(capsys, *arguments):
    """Exit status and what was printed, without the frame and colours that a terminal gets."""
    status = main(list(arguments))
    printed = capsys.readouterr()
    words = (printed.out + printed.err).replace("│", " ").split()
    return status, " ".join(words)


def test_the_version(capsys):
    assert said(capsys, "--version") == (0, f"tcmn {program_version()}")


def test_commands_are_listed(capsys):
    status, text = said(capsys, "--help")
    assert status == 0
    for name in ("segment", "annotate", "evaluate", "train", "finetune", "check-data", "quantize"):
        assert f" {name} " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnt"], "Did you mean 'segment'?"),
        (["segment", "v.mp4", "--masks", "m.png"], "--mask"),
        (["segment", "v.mp4"], "no such folder or list"),
        (["segment", "nowhere.mp4", "--mask", "m.png"], "no such file or folder: nowhere.mp4"),
        (["segment", "v.mp4", "--mask", "m.png", "--inference-size", "8"], "at least 16 pixels"),
        (["config", "trian"], "unknown config trian: did you mean train?"),
        (["check-data", "--dataset", "camsu", "--dataset-dir", "d"], "did you mean camus?"),
    ],
)
def test_mistakes_are_named(capsys, arguments, message):
    status, text = said(capsys, *arguments)
    assert status > 0
    assert message in text


def test_a_video_without_a_mask_is_told_what_is_missing(capsys, tmp_path):
    (tmp_path / "v.mp4").touch()
    status, text = said(capsys, "segment", str(tmp_path / "v.mp4"))
    assert status == 1
    assert "no mask given" in text
    assert "add --mask PATH" in text
    assert "with --box LEFT,TOP,RIGHT,BOTTOM or --points X,Y,1" in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--box 4,3,20,11", [(0, 1, (4, 3, 20, 11), [])]),
        ("--box -4,3,20.5,11 --frame 7 --object 9", [(7, 9, (-4, 3, 20.5, 11), [])]),
        (
            "--box 4,3,20,11 --box 1,2,3,4 --frame 7",
            [(7, 1, (4, 3, 20, 11), []), (7, 2, (1, 2, 3, 4), [])],
        ),
        (
            "--points 6,7,1 --points 8,9,0 --object 3",
            [(0, 3, None, [(6, 7, True)]), (0, 3, None, [(8, 9, False)])],
        ),
        ("--points 6,7,1,8,9,0", [(0, 1, None, [(6, 7, True), (8, 9, False)])]),
        (
            "--box 4,3,20,11 --points 6,7,1 --points 8,9,0 --frame 2",
            [(2, 1, (4, 3, 20, 11), [(6, 7, True)]), (2, 1, None, [(8, 9, False)])],
        ),
        (
            "--frame 2 --object 5 --points 6,7,1 --points 8,9,1 --frame 4 --object 6",
            [(2, 5, None, [(6, 7, True)]), (4, 6, None, [(8, 9, True)])],
        ),
    ],
)
def test_boxes_and_points_become_prompts(calls, options, expected):
    assert main(["segment", "v", *options.split()]) == 0
    given = calls[0][1]
    entries = read_prompt_options(
        given["boxes"], given["points"], given["frames"], given["objects"]
    )
    found = [
        (
            entry.frame,
            entry.object_id,
            entry.prompt.box,
            [
                (*point, on)
                for point, on in zip(entry.prompt.points, entry.prompt.positive, strict=True)
            ],
        )
        for entry in entries
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--box 4,3,20", "--box '4,3,20' cannot be read: give LEFT,TOP,RIGHT,BOTTOM in pixels"),
        ("--box 4,3,20,nan", "--box '4,3,20,nan' cannot be read"),
        ("--points 4,3", "--points '4,3' cannot be read: give X,Y,1 (on the object) or X,Y,0"),
        ("--points 4,3,2", "the third number must be 1 (on the object) or 0 (beside it), got 2"),
        ("--frame 3", "--frame says where a --box or --points is: add one"),
        ("--object 3 -m m.png", "--object says where a --box or --points is: add one"),
        ("--box 1,2,3,4 --frame -1", "--frame must be a frame's number from 0 on, got -1"),
        ("--box 1,2,3,4 --object 0", "--object must be from 1 to 255, got 0"),
        ("--box 1,2,3,4 --object 1 --object 2", "2 --object do not fit 1 --box or --points"),
        (
            "--box 1,2,3,4 --box 1,2,3,4 --points 1,1,1",
            "it is not clear which of 2 --box the 1 --points belong to",
        ),
        ("--prompts nowhere.json", "no such file of prompts: nowhere.json"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(capsys, tmp_path, options, message):
    (tmp_path / "v.mp4").touch()
    status, text = said(capsys, "segment", str(tmp_path / "v.mp4"), *options.split())
    assert status == 1
    assert message in text


def test_a_missing_extra_says_what_to_install(monkeypatch, tmp_path):
    for module in ("bundle.commands.serve", "bundle.apps.annotate.launch"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tcmn\[label\]'"):
        serve_label_app(str(tmp_path), tmp_path / "app", "127.0.0.1", 8000)
    with pytest.raises(ImportError, match=r"pip install 'tcmn\[annotate\]'"):
        open_page()


def test_configs_are_found_from_anywhere(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("inference", "network/default"):
        status, text = said(capsys, "config", name)
        assert (status, text) == (0, str(bundle_root() / "configs" / f"{name}.yaml"))
    assert "network/paper" in said(capsys, "config")[1].split()


@pytest.fixture
def calls(monkeypatch):
    """What ``segment`` would be called with."""
    found = []
    segment = sys.modules.get("bundle.commands.segment") or __import__(
        "bundle.commands.segment", fromlist=["segment_videos"]
    )
    monkeypatch.setattr(
        segment, "segment_videos", lambda *paths, **options: found.append((paths, options))
    )
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("working_size", "inference_size"),
        ("capacity", "max_memory_frames"),
    ],
)
def test_old_names_still_work_with_a_warning(capsys, calls, old, new):
    status, text = said(capsys, "segment", "v", "--mask", "m", f"--{old}", "64")
    assert status == 0
    assert calls[0][1][new] == "64"
    shown = f"--{old} is called --{new} now".replace("_", "-")
    assert shown in text


@pytest.mark.parametrize("name", ["eviction", "policy"])
def test_a_removed_setting_gives_a_warning(capsys, calls, name):
    status, text = said(capsys, "segment", "v", "--mask", "m", f"--{name}", "latest")
    assert status == 0
    assert len(calls) == 1
    assert f"--{name} does nothing any more: the oldest remembered frame is dropped" in text


def test_dashes_and_underscores_are_the_same(calls):
    assert main(["segment", "v", "--mask", "m", "--output_dir", "a_b", "--review_below", "0"]) == 0
    paths, options = calls[0]
    assert str(paths[2]) == "a_b"
    assert options["review_below"] == "0"


NAMES = ["a #12", "50 %", "$x", "it's", 'say "x"', "a b", "%x", "@y", "[1, 2]", "ä ü", "~z"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_paths_may_have_any_letter(name, tmp_path, monkeypatch):
    """Relative, so that the name begins with the letter."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    random = np.random.default_rng(0)
    mask = np.zeros((32, 48), np.uint8)
    mask[5:20, 10:30] = 1
    (tmp_path / name / "v").mkdir()
    for i in range(2):
        pixels = random.integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "v" / f"{i}.png")
    Image.fromarray(mask).save(tmp_path / name / "m.png")
    options = ["--mask", f"{name}/m.png", "-o", f"{name}/out", "--formats", "nifti,png", "-q"]
    assert main(["segment", f"{name}/v", *options, "--inference-size", "64"]) == 0
    found = np.asarray(Image.open(tmp_path / name / "out" / "v" / "masks" / "00000.png"))
    np.testing.assert_array_equal(found, mask)


LEAVING = """
import atexit, sys, threading, time
from bundle.utils.processes import leave
def work():
    time.sleep(0.3)
    print("thread")
class Noisy:
    def __del__(self): print("taken apart", flush=True)
noisy = Noisy()
atexit.register(lambda: print("atexit"))
threading.Thread(target=work).start()
print("main")
leave(3)
"""


def test_leaving_waits_for_threads_runs_exit_functions_and_writes_out_but_frees_nothing():
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (3, ["main", "thread", "atexit"]), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_leaving_fails_where_output_cannot_be_written():
    code = "from bundle.utils.processes import leave; print('x'); leave(0)"
    with open("/dev/full", "w") as full:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run([sys.executable, "-c", code], stdout=full, env=buffered)
    assert done.returncode == 120


OF_OTHER_PROGRAMS = {"config_file", "logging_file", "nproc_per_node"}
"""Options of monai.bundle and torchrun, spelled as these spell them."""


def test_messages_spell_options_as_the_help_does():
    """``--mask-frame`` everywhere; ``--mask_frame`` is understood, but not what anybody is told."""
    for path in (bundle_root() / "bundle").rglob("*.py"):
        found = set(re.findall(r"--([a-z]+(?:_[a-z0-9]+)+)", path.read_text(encoding="utf-8")))
        assert found <= OF_OTHER_PROGRAMS, f"{path} says --{', --'.join(sorted(found))}"


def test_a_value_that_is_refused_names_its_option_as_the_help_does():
    with pytest.raises(ValueError, match="--mask-frame must be a whole number or null, got 'one'"):
        parse_count("one", "mask_frame")
    with pytest.raises(ValueError, match="--save-masks must be true or false, got 'maybe'"):
        parse_bool("maybe", "save_masks")
