"""Pages work as written: links, commands, Python blocks, and the page made from the command line."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import av
import jsonschema
import nibabel as nib
import numpy as np
import pydicom.data
import pytest
import torch
import torch.distributed.run
import typer
from monai.bundle import ConfigParser
from PIL import Image

from bundle.cli import app, main
from bundle.cli.options import EXTRA_VALUES, normalize
from bundle.inference.config import read_inference_config
from bundle.networks import TCMN
from bundle.networks.weights import WeightsDescription, describe_weights, file_digest
from scripts.dev import draw_architecture
from scripts.dev.make_cli_page import make_page
from tests import processes
from tests.dicom_files import new_cine, put_pixels
from tests.tiny import NETWORK

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
WIDTH = 100
RUN = {
    "README.md", "docs/deploy.md", "docs/evaluate.md", "docs/get_masks.md", "docs/monai_label.md",
    "docs/projects.md", "docs/prompts.md", "docs/python.md", "docs/studies/structure.md",
    "docs/studies/words.md", "docs/train.md",
}  # fmt: skip
"""Pages whose blocks of Python and bash a test runs: here, in tests/project, apps or backends."""
NOT_RUN = {
    "docs/distributed.md": "needs several GPUs or machines; test_distributed.py runs two processes",
}
"""Other pages with such blocks, and why no test runs them as they are."""
RUN_OPTIONS = {"config_file", "meta_file", "logging_file", "bundle_root"}
"""Options of ``monai.bundle run`` itself."""
OLD = "b397f30"
"""Commit of version 0.10.0, with which two studies compare. A shallow clone has no such commit."""


def name(page):
    return str(page.relative_to(ROOT))


def blocks(page, *languages):
    """The code of fenced blocks, in order, as (language, code)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(language, code) for language, code in found if language in languages]


def commands(page):
    """Command lines of the page, in blocks of bash and in indented ones."""
    text = page.read_text()
    fenced = "\n".join(code for _, code in blocks(page, "bash"))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = "\n".join(re.findall(r"^(?: {4}|\t)(.*)$", prose, re.MULTILINE))
    for line in f"{fenced}\n{indented}".replace("\\\n", " ").splitlines():
        yield re.sub(r"\s#.*", "", line).strip()


def has_commit(revision):
    command = ["git", "cat-file", "-e", f"{revision}^{{commit}}"]
    return shutil.which("git") and not subprocess.run(command, cwd=ROOT, check=False).returncode


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.fixture
def folder(tmp_path):
    """A cine of eight frames, a mask of its first, and a folder of two videos with masks."""
    rows, columns = np.mgrid[:64, :80]
    disks = [(rows - 30) ** 2 + (columns - 30 - t) ** 2 < 15**2 for t in range(8)]
    noise = np.random.default_rng(0).integers(0, 90, (8, 64, 80))
    frames = (noise + 120 * np.stack(disks)).astype(np.uint8)
    cine = new_cine(frames.shape)
    cine.StudyInstanceUID, cine.SeriesInstanceUID = "1.2.4", "1.2.5"
    put_pixels(cine, frames)
    cine.save_as(tmp_path / "echo.dcm", enforce_file_format=True)
    mask = Image.fromarray(255 * disks[0].astype(np.uint8))
    mask.save(tmp_path / "first.png")
    for video in ("a", "b"):
        (tmp_path / "my_videos" / video).mkdir(parents=True)
        mask.save(tmp_path / "my_videos" / f"{video}_mask.png")
        for t, frame in enumerate(frames[:3]):
            Image.fromarray(frame).save(tmp_path / "my_videos" / video / f"{t}.png")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, section = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)}: {target}"
        if section:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert section in map(slug, headings), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_prose_is_narrow(page):
    """Tables, commands and pictures cannot be broken."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    wide = [line for line in text.splitlines() if len(line) > WIDTH]
    assert not [line for line in wide if not re.match(r"\s*\||    |!\[|- ?\*?\[", line)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_of_tcmn_exist(page):
    group = typer.main.get_command(app)
    for line in commands(page):
        words = shlex.split(line) if line.startswith("tcmn ") else []
        if not words or words[1].startswith("-"):
            continue
        command = group.get_command(typer.Context(group), words[1])
        assert command is not None, line
        known = {option for each in command.params for option in each.opts}
        open_ended = command.context_settings == EXTRA_VALUES
        used = {normalize(word) for word in words[2:] if word.startswith("--")}
        assert open_ended or used <= known, f"{line}: {used - known}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_configs_of_commands_exist(page):
    for line in commands(page):
        for config in re.findall(r"configs/[\w/.-]+", line):
            assert (ROOT / config).exists(), f"{name(page)}: {config}"
        if "monai.bundle run" in line and "--config_file" in line:
            words = shlex.split(line.replace("$(tcmn config inference)", "configs/inference.yaml"))
            files = words[words.index("--config_file") + 1]
            paths = [ROOT / file for file in re.findall(r"configs/[\w/.-]+", files)]
            known = set(read_inference_config().config)
            if "configs/inference.yaml" not in files:
                known = set(ConfigParser.load_config_files(list(map(str, paths))))
            used = words[words.index("monai.bundle") :]
            for option in (word[2:].split("#")[0] for word in used if word.startswith("--")):
                assert option in known | RUN_OPTIONS, f"{name(page)}: --{option}"


def test_torchrun_takes_its_options_of_the_page():
    lines = [line for line in commands(ROOT / "docs/distributed.md") if "torchrun " in line]
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line)
        options = torch.distributed.run.parse_args(words[words.index("torchrun") + 1 :])
        assert options.module, line
        assert options.training_script == "monai.bundle", line
        assert options.training_script_args[0] == "run", line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_exist(page):
    for script in re.findall(r"scripts/[\w/-]+\.(?:py|json)", page.read_text()):
        assert (ROOT / script).exists(), f"{name(page)}: {script}"


def test_every_page_with_code_is_run_or_says_why_not():
    with_code = {name(page) for page in PAGES if blocks(page, "python", "bash")}
    assert with_code | {"README.md"} == RUN | set(NOT_RUN)
    assert not RUN & set(NOT_RUN)


@pytest.mark.slow
def test_the_readme_works_as_written(tmp_path, monkeypatch, capsys):
    """With smaller frames; the page in the browser has tests of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    disk = np.hypot(*np.ogrid[-60:60, -80:80]) < 40
    with av.open("colonoscopy.mp4", "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=160, height=120)
        for _ in range(3):
            picture = np.repeat((60 + 120 * disk)[..., None].astype(np.uint8), 3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    Image.fromarray(255 * disk.astype(np.uint8)).save("first_frame.png")

    lines = [line for line in commands(ROOT / "README.md") if "colonoscopy.mp4" in line]
    mask, box, annotate, monai = map(shlex.split, lines)
    assert main([*mask[1:], "--inference-size", "64", "-q"]) == 0, capsys.readouterr().err
    first = nib.load("output/colonoscopy/masks.nii.gz").get_fdata()
    np.testing.assert_array_equal(first[..., 0].T, disk)
    assert first[..., 2].any()
    for file in ("overlay.mp4", "summary.png", "masks/00002.png"):
        assert Path("output/colonoscopy", file).exists()
    box += ["--overwrite", "--inference-size", "64", "-q"]
    assert main(box[1:]) == 0, capsys.readouterr().err
    assert nib.load("output/colonoscopy/masks.nii.gz").get_fdata()[..., 0].any()
    assert annotate == ["tcmn", "annotate", "colonoscopy.mp4"]

    ((_, code),) = blocks(ROOT / "README.md", "python")
    exec(code.replace("from_pretrained()", "from_pretrained(inference_size=64)"), {})
    python = nib.load("results/colonoscopy/masks.nii.gz").get_fdata()
    np.testing.assert_array_equal(python, first)
    shutil.rmtree("results")
    done = processes.run([*monai[1:], "--inference_size", "64"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    config = nib.load("results/colonoscopy/masks.nii.gz").get_fdata()
    np.testing.assert_array_equal(config, first)


def test_the_page_of_the_command_line_is_what_it_says():
    """After a change of an option: python scripts/dev/make_cli_page.py."""
    assert (ROOT / "docs/cli.md").read_text() == make_page()


def test_the_pictures_of_the_architecture_are_up_to_date():
    """After a change of the layers in pyproject.toml: python scripts/dev/draw_architecture.py."""
    assert draw_architecture.FRAME.read_text() == draw_architecture.draw_frame()
    assert draw_architecture.ROOMS.read_text() == draw_architecture.draw_rooms()


@pytest.mark.heavy
def test_the_study_of_the_structure_works_as_written(tmp_path):
    if not has_commit(OLD):
        pytest.skip("this clone has no history")
    for line in commands(ROOT / "docs/studies/structure.md"):
        if line:
            script, picture, *options = shlex.split(line)[1:]
            done = processes.run([ROOT / script, tmp_path / picture, *options])
            assert done.returncode == 0, done.stderr[-2000:]
    drawn = {path.name: Image.open(path).width for path in tmp_path.iterdir()}
    assert drawn == {"structure_0.10.png": 1300, "structure_now.png": 1300}


@pytest.mark.slow
def test_the_study_of_the_words_works_as_written(capsys, monkeypatch):
    if not has_commit(OLD):
        pytest.skip("this clone has no history")
    monkeypatch.chdir(ROOT)
    [(_, code)] = blocks(ROOT / "docs/studies/words.md", "python")
    exec(code, {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    [readme] = [row[2:] for row in rows if row[:2] == [OLD, "README.md"]]
    assert readme == ["1003", "24", "2", "7"]  # as in the table
    assert [row for row in rows if row[0] == "HEAD"]


@pytest.mark.slow
def test_the_page_about_python_works_as_written(folder):
    code = "\n".join(code for _, code in blocks(ROOT / "docs/python.md", "python"))
    (folder / "page.py").write_text(code)
    done = processes.run(["page.py"], folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "results/echo/manifest.json").exists()
    assert (folder / "corrected/echo/manifest.json").exists()


@pytest.mark.slow
def test_the_page_for_annotators_works_as_written(folder):
    lines = [code for _, code in blocks(ROOT / "docs/get_masks.md", "bash")]
    assert len(lines) == 2
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "tcmn"
        done = processes.run(["-m", "bundle.cli", *arguments], folder)
        assert done.returncode == 0, done.stderr[-2000:]
    table = (ROOT / "docs/get_masks.md").read_text().split("| file | content |")[1]
    files = re.findall(r"^\| `([^`]+)`", table.split("\n\n")[0], re.MULTILINE)
    assert len(files) == 7
    for file in files:
        assert (folder / "output/echo" / file).exists(), file
    assert (folder / "output/b/masks.nii.gz").exists()


@pytest.mark.slow
def test_the_page_about_evaluating_works_as_written(tmp_path):
    rows, columns = np.mgrid[:48, :64]
    for video in "ab":
        for end in ("", "_mask"):
            (tmp_path / f"my_videos/{video}{end}").mkdir(parents=True)
        for t in range(3):
            disk = (rows - 24) ** 2 + (columns - 24 - 4 * t) ** 2 < 10**2
            for end, picture in (("", 60 + 120 * disk), ("_mask", 255 * disk)):
                path = tmp_path / f"my_videos/{video}{end}/{t}.png"
                Image.fromarray(picture.astype(np.uint8)).save(path)
    [(_, line)] = blocks(ROOT / "docs/evaluate.md", "bash")
    program, *arguments = shlex.split(line)
    assert program == "tcmn"
    done = processes.run(["-m", "bundle.cli", *arguments, "--inference_size", "64"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    table = (ROOT / "docs/evaluate.md").read_text().split("| file | content |")[1]
    files = re.findall(r"`([\w./]+\.\w+)`", table.split("| `clinical.csv`")[0])
    assert len(files) == 9
    for file in files:
        written = file.replace("VIDEO", "a").replace("FRAME", "1")
        assert (tmp_path / "scores" / written).exists(), file


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    notebook = json.loads((ROOT / "docs/notebooks/echocardiogram.ipynb").read_text())
    cells = ["".join(each["source"]) for each in notebook["cells"] if each["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n".join(cells))
    done = processes.run(["cells.py"], tmp_path, MPLBACKEND="agg")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "results/examples_ybr_color/masks.dcm").exists()
    assert not any(each.get("outputs") for each in notebook["cells"]), "strip the outputs"
    before, after = (
        float(re.search(rf"Dice of frame 20 {when}: ([\d.]+)", done.stdout)[1])
        for when in ("before", "after")
    )
    assert 0.85 < before < after
    assert re.search(r"[1-9]\d* frames found again", done.stdout)


@pytest.mark.heavy
def test_the_page_about_fine_tuning_works_as_written(tmp_path):
    for folder in ("configs", "scripts"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    page = ROOT / "docs/train.md"
    walk = page.read_text().split("## Fine-tune")[1].split("## Train the network")[0]
    found = re.findall(r"```(python|bash)\n(.*?)```", walk, re.DOTALL)
    assert [language for language, _ in found] == ["python", "bash", "bash", "bash"]
    (tmp_path / "block.py").write_text(found[0][1])
    lines = "".join(code for _, code in found[1:]).replace("\\\n", " ").splitlines()
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


CINE = pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False)


@pytest.mark.slow
@pytest.mark.skipif(CINE is None, reason="this pydicom has no examples_ybr_color.dcm")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_page_on_prompts_works_as_written(tmp_path, monkeypatch, capsys):
    """But for the weights: tiny ones, which were made for prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(CINE, tmp_path / "echo.dcm")
    mask = np.zeros((240, 320), np.uint8)
    mask[60:160, 130:200], mask[:, 200:240] = 1, 255
    Image.fromarray(mask).save(tmp_path / "rough.png")
    torch.manual_seed(2)
    network = TCMN(**NETWORK | {"previous_mask": True, "partial_masks": True})
    torch.nn.init.kaiming_normal_(network.mask_encoder.trunk.conv1.weight)
    torch.nn.init.normal_(network.decoder.predict.weight, std=0.5)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    digest = file_digest(tmp_path / "model.pt")
    describe_weights(tmp_path / "model.pt", WeightsDescription(network.definition, "1.0.0", digest))
    parts = blocks(ROOT / "docs/prompts.md", "json", "bash", "python")
    assert [language for language, _ in parts] == ["bash", "json", "bash", "python"]
    line_by_line, prompts, config, python = (code.replace("\\\n", " ") for _, code in parts)
    (tmp_path / "prompts.json").write_text(prompts)
    schema = json.loads((ROOT / "docs/prompts.schema.json").read_text())
    jsonschema.validate(json.loads(prompts), schema)
    others = ["--weights", "model.pt", "--backend", "torch", "--inference_size", "64"]
    others += ["--formats", "png"]  # the others take longer than all else
    lines = line_by_line.splitlines()
    assert len(lines) == 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "tcmn"
        assert main([*arguments, *others, "-q"]) == 0, capsys.readouterr().err
    found = [np.asarray(Image.open(p)) for p in sorted(Path("output").glob("*/masks/*.png"))]
    assert len(found) == 30
    assert (found[0][110, 170], found[29][100, 150]) == (1, 1)
    assert found[0][60, 130] != 1
    done = processes.run([*shlex.split(config)[1:], *others], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    again = [np.asarray(Image.open(p)) for p in sorted(Path("results").glob("*/masks/*.png"))]
    # Several threads add in another order, which moves a few pixels of these weights' noisy masks.
    assert np.mean(np.not_equal(again, found)) < 1e-4
    tiny = 'from_pretrained("model.pt", backend="torch", inference_size=64)'
    exec(python.replace("from_pretrained()", tiny), values := {})
    assert values["labels"].shape == (240, 320)
    assert values["changed"]
    assert (tmp_path / "corrected").is_dir()
