"""A project in a real browser, served by ``tcmn annotate FOLDER`` in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nicegui", reason="needs the extra annotate")

from bundle.io.writing.mask_png import decode_mask
from bundle.project.locks import VideoLockedError
from bundle.project.store import Project, create_project
from tests.apps.browsing import wait_for
from tests.dicom_files import new_cine, put_pixels

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH, COUNT = 48, 64, 6
DESCRIPTION = {"backbone": "resnet18", "key_channels": 8, "value_channels": 16,
               "decoder_channels": [16, 8, 8]}  # fmt: skip
SERVER_S = 120
"""For a process to start, on a busy machine."""

pytestmark = [pytest.mark.heavy, pytest.mark.browser, pytest.mark.timeout(500)]


def pictures(seed):
    """A bright disc that moves over noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    frames = random.integers(0, 90, (COUNT, HEIGHT, WIDTH), np.uint8)
    for i, frame in enumerate(frames):
        frame[np.hypot(rows - 22, columns - 24 - 2 * i) < 9] += 120
    return frames


def make_videos(folder):
    """Of four formats: frames, GIF, DICOM, NIfTI."""
    frames = folder / "anna" / "frames"
    frames.mkdir(parents=True)
    for i, frame in enumerate(pictures(0)):
        Image.fromarray(frame).save(frames / f"{i}.png")
    images = [Image.fromarray(frame) for frame in pictures(1)]
    images[0].save(folder / "anna/colon.gif", save_all=True, append_images=images[1:], duration=100)
    cine = new_cine((COUNT, HEIGHT, WIDTH))
    put_pixels(cine, pictures(2))
    cine.PatientID, cine.FrameTime = "Berta", 40
    cine.save_as(folder / "echo.dcm", enforce_file_format=True)
    nib.save(nib.Nifti1Image(pictures(3).transpose(2, 1, 0), np.eye(4)), folder / "vessel.nii.gz")
    return folder


@pytest.fixture
def weights(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "tiny.pt")
    (tmp_path / "tiny.json").write_text(json.dumps({"network": DESCRIPTION, "version": "0"}))
    return tmp_path / "tiny.pt"


@pytest.fixture
def annotate(tmp_path, weights):
    """``tcmn annotate FOLDER``: the process and its address; killed in the end."""
    running = []

    def start(folder, who):
        command = [sys.executable, "-W", "ignore", "-m", "bundle.cli", "annotate", str(folder)]
        command += ["--who", who, "--no-browser", "--device", "cpu", "--backend", "torch"]
        command += ["--weights", str(weights), "--inference-size", "48"]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "TCMN_STATE_DIR": str(tmp_path / "state")},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        running.append(process)
        said = ""
        while "Ctrl-C ends it" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        return process, re.search(r"annotate at (\S+)", said)[1], said

    yield start
    for process in running:
        process.kill()
        process.wait(30)
        process.stdout.close()


@contextmanager
def open_tab(browser, address):
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(60_000)
    wrong = []
    context.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    try:
        page = context.new_page()
        page.goto(address)
        yield page
    finally:
        context.close()
    assert [text for text in wrong if "ERR_CONNECTION_REFUSED" not in text] == []


def rows(page):
    return [row.get_attribute("data-name") for row in page.get_by_test_id("video").all()]


def row(page, name):
    return page.locator(f"[data-testid=video][data-name='{name}']")


def picked(page):
    return page.locator("[data-testid=video].tcmn-on").get_attribute("data-name")


def wait_until_drawn(page):
    page.locator("[data-testid=view][data-ready=true]").wait_for()
    page.wait_for_timeout(300)


def shown_frame(page):
    wait_until_drawn(page)
    return int(page.get_by_test_id("count").text_content().split("/")[0])


def paint(page, *points):
    """A stroke in the middle of the video, points in pixels of it."""
    box = page.get_by_test_id("view").bounding_box()
    scale = 0.98 * min(box["width"] / WIDTH, box["height"] / HEIGHT)
    left = box["x"] + (box["width"] - WIDTH * scale) / 2
    top = box["y"] + (box["height"] - HEIGHT * scale) / 2
    at = [(left + x * scale, top + y * scale) for x, y in points]
    page.mouse.move(*at[0])
    with page.expect_response("**/draw/**"):
        page.mouse.down()
        for point in at:
            page.mouse.move(*point, steps=4)
        page.mouse.up()


def says(page, name, text):
    page.wait_for_function(
        "([name, text]) => document.querySelector(`[data-testid=${name}]`)"
        "?.textContent.includes(text)",
        arg=[name, text],
    )


def test_from_a_folder_of_videos_to_a_data_set(browser, annotate, tmp_path):
    videos = make_videos(tmp_path / "cines")
    process, address, said = annotate(videos, "Ann")
    assert "holds 4 videos: new project in" in said
    assert "you work on it as Ann" in said
    project = Project(videos / "tcmn-project")
    with open_tab(browser, address) as page:
        row(page, "echo").wait_for()
        assert rows(page) == ["anna/colon", "anna/frames", "echo", "vessel"]
        page.wait_for_function("() => document.querySelectorAll('.tcmn-thumb img').length === 4")
        assert f"{COUNT} frames" in row(page, "anna/colon").text_content()

        page.keyboard.press("/")
        page.keyboard.type("ANNA fr")
        says(page, "found", "1 of 4")
        assert rows(page) == ["anna/frames"] == [picked(page)]
        page.keyboard.press("Escape")
        says(page, "found", "4 of 4")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        assert picked(page) == "anna/frames"
        page.keyboard.press("Enter")
        wait_until_drawn(page)
        paint(page, (18, 22), (30, 22), (30, 26), (18, 26))
        wait_for(lambda: project.state("anna/frames").given)
        says(page, "kept", "kept at")
        mask = project.read_mask("anna/frames", 0)
        assert mask[22, 24] == 1

        # In a second tab the same is open.
        other = page.context.new_page()
        other.goto(address)
        wait_until_drawn(other)
        other.close()
        process.send_signal(signal.SIGKILL)
        process.wait(30)

    with pytest.raises(VideoLockedError, match="echo is open by Ben"), hold(project, "echo"):
        Project(project.folder).open("echo")
    _, address, said = annotate(videos, "Ann")
    assert "project of 4 videos in" in said
    with open_tab(browser, address) as page:
        row(page, "anna/frames").wait_for()
        assert rows(page)[0] == "anna/frames"  # it was begun
        assert "begun" in row(page, "anna/frames").text_content()
        row(page, "anna/frames").click()
        wait_until_drawn(page)
        assert (project.read_mask("anna/frames", 0) == mask).all()
        says(page, "frame", "mask given")
        page.get_by_test_id("propagate").click()
        says(page, "status", "All frames have a mask")
        wait_for(lambda: len(project.state("anna/frames").masks) == COUNT)
        for _ in range(3 * COUNT):
            wait_for(lambda: page.get_by_test_id("item").text_content())
            queue = project.state("anna/frames").queue()
            if not queue:
                break
            page.keyboard.press("n")
            wait_for(lambda items=queue: any(shown_frame(page) in item.frames for item in items))
            reviewed = len(project.state("anna/frames").reviewed)
            page.keyboard.press("A")
            wait_for(lambda before=reviewed: len(project.state("anna/frames").reviewed) > before)
        assert not project.state("anna/frames").queue()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        says(page, "frame", "Frame 1:")
        wait_until_drawn(page)
        page.keyboard.press("a")
        wait_for(lambda: 1 in project.state("anna/frames").reviewed)
        page.keyboard.press("d")
        wait_for(lambda: project.state("anna/frames").signed_by == "Ann")
        says(page, "review", f" of {COUNT} frames reviewed")

        # Somebody else cannot open it, and sees who has it.
        _, elsewhere, _ = annotate(videos, "Ben")
        with open_tab(browser, elsewhere) as ben:
            row(ben, "anna/frames").wait_for()
            assert "open by Ann on" in row(ben, "anna/frames").text_content()
            row(ben, "anna/frames").click()
            ben.get_by_text("anna/frames is open by Ann").wait_for()
            assert rows(ben)
            row(ben, "vessel").click()
            wait_until_drawn(ben)

            page.get_by_test_id("videos").click()
            row(page, "vessel").wait_for()
            page.wait_for_function(
                "() => document.querySelector(\"[data-name='vessel']\").textContent.includes('by Ben')"
            )
            assert rows(page)[-1] == "anna/frames"
            assert "done" in row(page, "anna/frames").text_content()
            says(page, "progress", "1 of 4 videos done")
            ben.get_by_test_id("videos").click()
            row(ben, "vessel").wait_for()

        target = tmp_path / "data_set"
        page.get_by_test_id("export-data-set").click()
        page.get_by_test_id("data-set-path").fill(str(target))
        page.get_by_test_id("act").click()
        says(page, "message", "3 of 4 videos are not done")
        assert not target.exists()
        choose(page, "unfinished", "leave them out")
        choose(page, "layout", "DAVIS 2017")
        page.get_by_test_id("act").click()
        says(page, "message", "are of 1 patient: a split needs 2")
        page.get_by_test_id("valid-fraction").fill("0")
        page.get_by_test_id("act").click()
        page.get_by_text(f"written to {target}").wait_for()
    written = sorted((target / "Annotations/anna__frames").iterdir())
    assert len(written) == COUNT
    np.testing.assert_array_equal(decode_mask(written[0].read_bytes(), (HEIGHT, WIDTH)), mask)
    manifest = json.loads((target / "manifest.json").read_text())
    (video,) = manifest["videos"]
    assert (video["name"], video["signed_by"]) == ("anna__frames", "Ann")
    assert list(video["weights"]) == ["tiny.pt"]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.timeout(900)
def test_measure_a_video_and_fine_tune_on_those_that_are_done(browser, annotate, tmp_path):
    disk = (np.hypot(*np.mgrid[-22 : HEIGHT - 22, -24 : WIDTH - 24]) < 9).astype(np.uint8)
    for number, name in enumerate("abcd"):
        folder = tmp_path / "cines" / name / "cine"
        folder.mkdir(parents=True)
        for i, frame in enumerate(pictures(number)[:3]):
            Image.fromarray(frame).save(folder / f"{i}.png")
    project = Project(create_project(tmp_path / "cines"), who="Ann")
    for name in project.videos:
        with project.open(name) as video:
            video.give({i: np.roll(disk, 2 * i, 1) for i in range(3)})
            video.sign(name != "d/cine")
    _, address, _ = annotate(tmp_path / "cines", "Ann")
    with open_tab(browser, address) as page:
        row(page, "a/cine").wait_for()
        assert "weights: tiny.pt" in page.get_by_test_id("weights").text_content()
        page.get_by_test_id("fine-tune").click()
        page.get_by_test_id("options").fill("--epochs 1 --whatever 3")
        page.get_by_test_id("act").click()
        page.get_by_text("unknown option --whatever").wait_for()
        options = "--epochs 1 --iterations_per_epoch 1 --batch_size 1 --size 32 --workers 0 "
        options += "--sample_videos 0 --inference_size 48 --device cpu"
        page.get_by_test_id("options").fill(options)
        page.get_by_test_id("act").click()
        page.get_by_test_id("stop").wait_for()
        page.wait_for_function(
            "() => document.querySelector('[data-testid=outcome]')?.textContent.includes('Last')",
            timeout=600_000,
        )
        page.screenshot(path=tmp_path / "fine_tuned.png")
        assert "The project" in page.get_by_test_id("outcome").text_content()
        (trained,) = project.folder.glob("trainings/2*/model.pt")
        assert trained.stat().st_size > 1000
        plan = json.loads((trained.parent / "plan.json").read_text())
        assert plan["who"] == "Ann"

    with open_tab(browser, address) as page:
        row(page, "a/cine").click()
        wait_until_drawn(page)
        page.get_by_test_id("measure").click()
        says(page, "research-only", "research")
        says(page, "measured", "Largest diameter (px)")
        page.get_by_test_id("measured-picture").wait_for()
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path / "measured.png")
        target = tmp_path / "measurements"
        page.get_by_test_id("measurements-path").fill(str(target))
        page.get_by_test_id("act").click()
        page.get_by_text(f"written to {target}").wait_for()
    area = int(disk.sum())
    with next(target.glob("*areas*.csv"), next(target.glob("*.csv"))).open() as file:
        assert str(area) in file.read()


@contextmanager
def hold(project, name):
    with Project(project.folder, who="Ben").open(name):
        yield


def choose(page, name, option):
    page.get_by_test_id(name).click()
    page.locator(".q-menu").get_by_text(option).click()
