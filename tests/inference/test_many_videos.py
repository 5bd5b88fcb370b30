"""A folder or a list of videos: what is run, what goes on after a failure, what is told of it."""

import csv
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from bundle.inference import result_saver as results_module
from bundle.inference.inputs import OpenPromptedVideod, PromptedVideo, list_inputs
from bundle.networks import TCMN
from bundle.utils.processes import wait_for_others
from tests import processes
from tests.tiny import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "inference.yaml"
TINY = {
    **OPTIONS,
    "progress": False,
    "device": "cpu",
    "backend": "torch",  # or each test would convert weights of its own, for some ten seconds
    "formats": "nifti,csv",
}
HEIGHT, WIDTH, COUNT = 24, 40, 6


def write_frames():
    return np.random.default_rng(0).integers(0, 255, (COUNT, HEIGHT, WIDTH, 3), np.uint8)


def write_avi(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for frame in write_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def damage(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


@pytest.fixture
def videos(tmp_path):
    """A volume, a video file and a folder of frames, each with a mask of another kind; weights."""
    folder = tmp_path / "videos"
    folder.mkdir()
    nib.save(nib.Nifti1Image(write_frames()[..., 0].T, np.eye(4)), folder / "a.nii.gz")
    write_avi(folder / "b.avi")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:18, 10:30] = 255
    Image.fromarray(mask).save(folder / "a_mask.png")
    volume = np.zeros((WIDTH, HEIGHT, COUNT), np.uint8)
    volume[..., 3] = mask.T > 0
    nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / "b_mask.nii.gz")
    for name in ("c", "c_mask"):
        (folder / name).mkdir()
    for index, frame in enumerate(write_frames()):
        Image.fromarray(frame).save(folder / "c" / f"{index}.png")
    Image.fromarray(mask).save(folder / "c_mask" / "2.png")
    torch.save(TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8)).state_dict(), tmp_path / "tiny.pt")
    return folder


def run(videos, **options):
    """The config in this process; gives the message of its error, or none."""
    out = videos.parent / "out"
    options = TINY | {
        "input_dir": str(videos), "output_dir": str(out), "weights": str(videos.parent / "tiny.pt")
    } | options  # fmt: skip
    workflow = ConfigWorkflow(
        config_file=str(CONFIG),
        workflow_type="infer",
        logging_file=False,
        meta_file=None,
        **options,
    )
    workflow.initialize()
    try:
        workflow.run()
    except Exception as wrapped:
        error: BaseException = wrapped
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        return str(error)
    return None


def command(videos):
    """The arguments of Python."""
    options = TINY | {
        "input_dir": videos, "output_dir": videos.parent / "out",
        "weights": videos.parent / "tiny.pt",
    }  # fmt: skip
    texts = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["-m", "monai.bundle", "run", "--config_file", str(CONFIG), *texts]


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def written(out):
    return sorted(str(path.relative_to(out)) for path in out.iterdir())


# The list


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def names(items):
    return [(item["image"].name, item["label"].name) for item in items]


def test_a_folder_is_paired_by_name_in_natural_order_and_nothing_opened(tmp_path):
    folder = touch(
        tmp_path / "in",
        "v10.mp4",
        "v10_mask.png",
        "v2.avi",
        "v2_mask.nii.gz",
        ".x.mp4",
        "notes.txt",
    )
    items = list_inputs(None, "null", folder)
    assert names(items) == [("v2.avi", "v2_mask.nii.gz"), ("v10.mp4", "v10_mask.png")]


def test_a_missing_video_or_mask_is_reported_when_its_turn_comes(tmp_path):
    folder = touch(tmp_path / "in", "a.mp4", "b_mask.png", "c.mp4", "c_mask.png")
    opened = [OpenPromptedVideod()(item)["image"] for item in list_inputs(None, None, folder)]
    assert [video.path.name for video in opened] == ["a.mp4", "b", "c.mp4"]
    with pytest.raises(FileNotFoundError, match=r"no mask for .*a.mp4: looked for .*a_mask\.\*"):
        _ = opened[0].annotations
    with pytest.raises(FileNotFoundError, match=r"no video for .*b_mask.png: looked for .*b\.\*"):
        _ = opened[1].source


def test_paths_of_a_list_are_relative_to_it(tmp_path):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "all.CSV"
    rows = f"note,video,mask\nx, ../a.mp4 ,m.png\n\ny,{tmp_path}/b,m.png\n"
    path.write_text(rows, encoding="utf-8-sig")
    assert [item["image"].resolve() for item in list_inputs(None, None, path)] == [
        tmp_path.resolve() / "a.mp4", tmp_path.resolve() / "b"
    ]  # fmt: skip
    assert names(list_inputs(None, None, path))[0] == ("a.mp4", "m.png")


def test_a_single_video_is_treated_as_a_list_of_one():
    assert list_inputs("a.mp4", "m.png", "null") == [{"image": "a.mp4", "label": "m.png"}]


def test_processes_share_all_videos(tmp_path, monkeypatch):
    folder = touch(
        tmp_path / "in", *(f"{i}{end}" for i in range(7) for end in (".mp4", "_mask.png"))
    )
    shares = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(names(list_inputs(None, None, folder)))
    assert [len(share) for share in shares] == [3, 2, 2]
    assert len({video for share in shares for video in share}) == 7


def test_nothing_is_opened_before_it_is_used_and_then_once(videos):
    assert PromptedVideo(Path("nothing.mp4"), Path("nothing.png")).name == "nothing"
    video = PromptedVideo(videos / "c", videos / "c_mask")
    assert video.source is video.source
    assert video.annotations is video.annotations
    assert list(video.annotations) == [2]


@pytest.mark.parametrize("given", [("a.mp4", None), (None, "m.png")])
def test_input_dir_with_a_single_video_is_refused(tmp_path, given):
    with pytest.raises(ValueError, match="--input-dir is for many videos: leave it out, or --vid"):
        list_inputs(*given, tmp_path)


def test_results_beside_the_videos_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--output-dir is the --input-dir .*: choose another"):
        list_inputs(None, None, touch(tmp_path / "in", "a_mask.png"), tmp_path / "in" / ".")


def test_a_path_that_is_neither_a_folder_nor_a_list_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder or list: --input-dir .*nothing"):
        list_inputs(None, None, tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"a.xlsx is neither a folder nor a .csv list"):
        list_inputs(None, None, touch(tmp_path, "a.xlsx") / "a.xlsx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the columns of an empty file: expected video,mask in its first line"),
        (b"video;mask\na;b\n", "the columns video;mask: expected video,mask"),
        (b"video,mask\n", "lists no video: expected a line for each below video,mask"),
        (b"video,mask\na.mp4,m.png\nb.mp4,\n", "line 3: the mask is missing"),
        (b"video,mask\n ,m.png\n", "line 2: the video is missing"),
        (b"video,mask\nb\xf6se.mp4,m.png\n", "is not a table in UTF-8 .*: save it as CSV UTF-8"),
        (
            b"video,mask\np1/echo.avi,m.png\nx.avi,m.png\np2/Echo.mp4,m.png\n",
            r"results of .*p1/echo.avi and .*p2/Echo.mp4 would go to the same folder echo: rename",
        ),
    ],
    ids=str,
)
def test_an_impossible_list_is_refused(tmp_path, content, message):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list_inputs(None, None, path)


def test_two_videos_of_one_name_in_a_folder(tmp_path):
    folder = touch(tmp_path / "in", "a.avi", "a.mp4", "a_mask.png", "b.mp4", "b_mask.png")
    with pytest.raises(ValueError, match=r"a.avi and a.mp4 are both the video a: rename or remove"):
        list_inputs(None, None, folder)


# The run


def test_videos_of_all_kinds_then_nothing_left_to_do(videos, caplog):
    assert run(videos) is None
    out = videos.parent / "out"
    assert written(out) == ["a", "b", "c"]
    shown = nib.load(out / "c" / "masks.nii.gz").dataobj[..., 2]
    assert shown.sum() == 12 * 20  # the mask as it was given
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    caplog.clear()
    with caplog.at_level("INFO"):
        assert run(videos) is None
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert "3 videos: 0 segmented, 3 skipped, 0 failed" in caplog.text
    assert run(videos, overwrite="true") is None
    assert (out / "a").stat().st_mtime_ns != before[out / "a"]


def test_results_in_other_formats_are_not_taken_for_done(videos):
    assert run(videos) is None
    said = run(videos, formats="nifti,rle")
    assert said.startswith("3 of 3 videos failed")
    failures = table(videos.parent / "out" / "failures.csv")
    assert "a already holds results" in failures[0]["error"]


def test_confidence_and_flags_reach_the_table(videos):
    assert run(videos, review_below=1, direction="forward", max_memory_frames="auto") is None
    rows = table(videos.parent / "out" / "b" / "frames.csv")
    assert rows[3]["confidence"] == "1.0000"  # given
    assert all(0 <= float(row["confidence"]) < 1 for row in rows[4:])
    assert [row["review"] for row in rows] == ["false"] * 4 + ["true"] * 2  # nothing reaches back


def test_an_unexpected_error_keeps_its_traceback_and_the_rest_goes_on(videos, monkeypatch, caplog):
    class Failing(results_module.ResultWriter):
        def write(self, *arguments):
            if self.folder.name == "b":
                raise KeyError("slot\n7")
            super().write(*arguments)

    monkeypatch.setattr(results_module, "ResultWriter", Failing)
    said = run(videos)
    out = videos.parent / "out"
    assert said == (
        f"1 of 3 videos failed, they are listed in {out / 'failures.csv'}: fix them and run the "
        "same command again"
    )
    assert written(out) == ["a", "c", "failures.csv"]
    assert table(out / "failures.csv") == [
        {"video": str(videos / "b.avi"), "error": "KeyError: 'slot\\n7'"}
    ]
    assert "Traceback" in caplog.text
    assert f"failed: {videos / 'b.avi'}: KeyError: 'slot" in caplog.text


def test_lists_of_failures_of_a_run_before_are_removed_by_one_process_each(videos, monkeypatch):
    out = touch(videos.parent / "out", *(f"failures_{i}.csv" for i in range(5)), "failures.csv")
    for path in out.iterdir():
        path.write_text("video,error\n")
    (out / "failures_notes.csv").touch()
    (out / "failures_7.csv").write_text("mine")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")  # no video is left for it
    assert run(videos) is None
    assert "failures_3.csv" not in written(out)
    assert len(written(out)) == 7
    monkeypatch.setenv("RANK", "0")
    assert run(videos) is None
    left = ["a", "failures_1.csv", "failures_2.csv", "failures_7.csv", "failures_notes.csv"]
    assert written(out) == left


def test_a_process_alone_waits_for_none(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    wait_for_others()


def test_a_failure_in_a_list_of_one_video_is_counted(videos):
    (videos / "list.csv").write_text("video,mask\nb.avi,b_mask.nii.gz\n")
    damage(videos / "b.avi")
    assert run(videos, input_dir=str(videos / "list.csv")).startswith("1 of 1 videos failed")


@pytest.mark.heavy
def test_the_command_goes_on_after_a_damaged_video_and_ends_with_1(videos):
    sound = (videos / "b.avi").read_bytes()
    damage(videos / "b.avi")
    done = processes.run(command(videos), videos.parent)
    said = done.stdout + done.stderr
    out = videos.parent / "out"
    assert done.returncode == 1, said
    assert "error: 1 of 3 videos failed" in said
    assert f"failed: {videos / 'b.avi'}: {videos / 'b.avi'} breaks off at frame" in said
    assert "Traceback" not in said
    assert written(out) == ["a", "c", "failures.csv"]
    assert [row["video"] for row in table(out / "failures.csv")] == [str(videos / "b.avi")]

    before = (out / "a").stat().st_mtime_ns
    (videos / "b.avi").write_bytes(sound)
    done = processes.run(command(videos), videos.parent)
    assert done.returncode == 0, done.stderr
    assert written(out) == ["a", "b", "c"]
    assert (out / "a").stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_processes_share_the_videos_by_their_environment(videos):
    damage(videos / "b.avi")
    started = [
        processes.Command(command(videos), videos.parent, RANK=str(number), WORLD_SIZE="2")
        for number in range(2)
    ]
    done = [each.wait() for each in started]
    assert [each.returncode for each in done] == [0, 1], [each.stderr for each in done]
    out = videos.parent / "out"
    assert written(out) == ["a", "c", "failures_1.csv"]
    assert "results are in" in done[0].stdout + done[0].stderr
    assert "results are in" not in done[1].stdout + done[1].stderr


@pytest.mark.heavy
def test_torchrun_does_not_end_the_others_when_one_has_failures(videos):
    damage(videos / "b.avi")  # the second process has nothing else to do
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = processes.run([*torchrun, *command(videos)], videos.parent)
    assert done.returncode == 1, done.stdout + done.stderr
    assert written(videos.parent / "out") == ["a", "c", "failures_1.csv"]
