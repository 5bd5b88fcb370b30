"""The check of a data set: right counts for a sound one, every fault of another in one run."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bundle.cli import main as run_command
from bundle.datasets.check import check_videos, describe
from bundle.datasets.contact_sheet import draw_cell, write_contact_sheet
from bundle.datasets.records import Video
from bundle.datasets.registry import READERS
from bundle.io.reading.frame_refs import FrameOf
from bundle.visualization.overlay import PALETTE

LABELS = {1: "polyp", 3: "tool"}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_frame(height=12, width=20):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def make_mask(*ids, height=12, width=20):
    """Blocks of 4x4 side by side."""
    mask = np.zeros((height, width), np.uint8)
    for place, label in enumerate(ids):
        mask[4:8, 4 * place : 4 * place + 4] = label
    return mask


def make_video(root, name, labels=LABELS):
    """Three frames of 20x12, masks on the first (both objects) and the last (the first object)."""
    frames = tuple(root / name / f"{i}.png" for i in range(3))
    masks = {i: root / name / f"mask{i}.png" for i in (0, 2)}
    for path in frames:
        save(path, make_frame())
    save(masks[0], make_mask(1, 3))
    save(masks[2], make_mask(1))
    return Video(name, frames, masks, labels, name)


def run(monkeypatch, capsys, videos, reported=()):
    """Exit code and lines of a run on these records, with ``reported`` told by the reader."""

    def read(root, report):
        for problem in reported:
            report(problem)
        return videos

    monkeypatch.setitem(READERS, "made_up", read)
    options = "--dataset made_up --dataset_dir d --output_dir out"
    code = run_command(["check-data", *options.split()])
    printed, errors = capsys.readouterr()
    assert errors == ""
    return code, printed.splitlines()


def problems(lines):
    """What is listed below the line that counts the problems."""
    begin = next(i for i, line in enumerate(lines) if line.startswith("problems: "))
    listed = [line[2:] for line in lines[begin + 1 :] if line.startswith("  ")]
    assert lines[begin] == f"problems: {len(listed) or 'none'}"
    return listed


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, where the contact sheet goes by default."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# A sound set


def test_a_sound_set_in_the_davis_layout(folder, capsys):
    for i in range(3):
        save(folder / f"set/JPEGImages/bear/{i:05d}.png", make_frame())
    save(folder / "set/JPEGImages/ant/00000.png", make_frame(16, 16))
    save(folder / "set/Annotations/bear/00000.png", make_mask(2, 10))
    save(folder / "set/Annotations/bear/00002.png", make_mask())
    save(folder / "set/Annotations/ant/00000.png", make_mask(2, height=16, width=16))
    assert run_command(["check-data", "--dataset", "davis", "--dataset_dir", "set"]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert printed.splitlines() == [
        "davis in set",
        "  videos            2",
        "  patients          2",
        "  frames            4",
        "  annotated frames  3 (1 of them empty)",
        "  sizes             20x12: 3, 16x16: 1",
        "  labels            object 2: 2, object 10: 1",
        "warnings: none",
        "problems: none",
        "look at output/check_data/davis.png: 2 of the videos with their masks",
    ]
    assert [path.name for path in (folder / "output/check_data").iterdir()] == ["davis.png"]
    with Image.open(folder / "output/check_data/davis.png") as sheet:
        colours = {colour for _, colour in sheet.getcolors(2**24)}
    assert {tuple(PALETTE[2]), tuple(PALETTE[10])} <= colours


def test_camus_is_read_whole(folder, capsys):
    """ED and ES are files beside the half sequence: all of them are gone over."""
    stem = folder / "database_nifti/patient0001/patient0001_2CH"
    stem.parent.mkdir(parents=True)
    (stem.parent / "Info_2CH.cfg").write_text("ED: 1\nES: 3\nNbFrame: 3\nEF: 56\nFrameRate: 52.5\n")
    mask = make_mask(1, 2, 3).T
    for name, shape in (("ED", (20, 12)), ("ES", (20, 12)), ("half_sequence", (20, 12, 3))):
        labels = np.broadcast_to(mask if len(shape) == 2 else mask[..., None], shape)
        nib.save(nib.Nifti1Image(np.full(shape, 9, np.uint8), np.eye(4)), f"{stem}_{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels.copy(), np.eye(4)), f"{stem}_{name}_gt.nii.gz")
    assert run_command(["check-data", "--dataset", "camus", "--dataset_dir", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:5] == [
        "  videos            2",
        "  patients          1",
        "  frames            5",
        "  annotated frames  5 (0 of them empty)",
    ]
    assert "  labels            left atrium: 5, LV cavity: 5, LV wall: 5" in lines
    assert "  frames a second   52.5 (1 videos)" in lines


def test_rates_spacings_and_many_sizes_are_summed_up(folder):
    videos = []
    for i in range(10):
        save(folder / f"{i}.png", make_frame(10 + i, 20))
        save(folder / f"m{i}.png", make_mask(1, height=10 + i))
        paths = (folder / f"{i}.png",), {0: folder / f"m{i}.png"}
        videos.append(Video(str(i), *paths, LABELS, f"patient{i % 3}"))
    videos[0] = replace(videos[0], fps=25, spacing_mm=(0.154, 0.308))
    videos[1] = replace(videos[1], fps=50, spacing_mm=(0.2, 0.308))
    text = describe(check_videos(lambda _: videos, "x"))
    assert "patients          3\n" in text
    assert "20x17: 1, and 2 other sizes\n" in text
    assert "frames a second   25 to 50 (2 videos)\n" in text
    assert "0.154 to 0.2 mm between rows, 0.308 mm between columns (2 videos)" in text


def test_soft_edges_are_a_warning_only(folder, monkeypatch, capsys):
    video = make_video(folder, "a", {1: "object"})
    save(video.masks[0], make_mask(255))
    soft = make_mask(255)
    soft[8, :3] = 30, 90, 150
    save(video.masks[2], soft)
    code, lines = run(monkeypatch, capsys, [video])
    assert code == 0
    begin = lines.index("warnings: 1")
    assert "mask0.png has soft edges: 3 in-between values" in lines[begin + 1]


# Faults: name -> (what breaks a video, what is said of it)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {
    "truncated": (
        lambda video: truncate(video.frames[1]),
        "truncated, frame 1: cannot read {root}/truncated/1.png as an image",
    ),
    "gone": (
        lambda video: video.frames[0].unlink(),
        "gone, frame 0: no such file: {root}/gone/0.png",
    ),
    "mask_cut": (
        lambda video: truncate(video.masks[2]),
        "mask_cut, frame 2: cannot read {root}/mask_cut/mask2.png as an image",
    ),
    "mask_size": (
        lambda video: save(video.masks[2], make_mask(1, width=24)),
        "mask_size, frame 2: {root}/mask_size/mask2.png is 24x12 but its frame is 20x12: export "
        "the mask at the frame's size",
    ),
    "frame_size": (
        lambda video: save(video.frames[1], make_frame(14)),
        "frame_size, frame 1: {root}/frame_size/1.png is 20x14 but the frames before are 20x12: "
        "the frames of a video share one size",
    ),
    "label": (
        lambda video: save(video.masks[2], make_mask(1, 7)),
        "label, frame 2: {root}/label/mask2.png has the unknown label 7: expected 1 polyp, 3 tool",
    ),
    "empty": (
        lambda video: [save(path, make_mask()) for path in video.masks.values()],
        "empty: all its masks are empty (2): expected an object on at least one frame, the first "
        "is {root}/empty/mask0.png",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_one_line(folder, monkeypatch, capsys, fault):
    break_it, message = FAULTS[fault]
    video = make_video(folder, fault)
    break_it(video)
    code, lines = run(monkeypatch, capsys, [make_video(folder, "sound"), video])
    (line,) = problems(lines)
    assert code == 1
    assert line.startswith(message.format(root=folder))


def test_one_run_lists_all_faults(folder, monkeypatch, capsys):
    videos = [make_video(folder, name) for name in FAULTS]
    for video in videos:
        FAULTS[video.id][0](video)
    reported = [FileNotFoundError("no mask x.png"), FileNotFoundError("no mask x.png")]
    code, lines = run(monkeypatch, capsys, videos, reported)
    expected = ["no mask x.png", *(message for _, message in FAULTS.values())]
    assert code == 1
    for line, message in zip(problems(lines), expected, strict=True):
        assert line.startswith(message.format(root=folder))
    assert "  frames            21" in lines
    assert "  annotated frames  14 (2 of them empty)" in lines
    with Image.open(folder / "out/made_up.png") as sheet:
        assert sheet.width > sheet.height  # 6 of the 7 videos have a sound mask: one row


def test_names_must_differ(folder, monkeypatch, capsys):
    code, lines = run(monkeypatch, capsys, [make_video(folder, "a")] * 2)
    assert code == 1
    assert problems(lines) == ["2 videos are called a: expected different names"]


def test_nothing_to_read_is_a_problem(monkeypatch, capsys):
    code, lines = run(monkeypatch, capsys, [], [ValueError("no video x")])
    assert code == 1
    assert problems(lines) == [
        "no video x", "no video could be made of this data set: nothing was read"
    ]  # fmt: skip
    assert lines[-1] == "no contact sheet: no video has a readable mask with an object"


@pytest.fixture
def volume(folder):
    """40 frames in one file, more than are decoded at a time."""
    path = folder / "frames.nii"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 40), np.uint8)
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), path)
    save(folder / "m.png", make_mask(1))
    frames = tuple(FrameOf(path, i) for i in range(40))
    return Video("a", frames, {0: folder / "m.png"}, LABELS, "a")


def test_every_frame_that_a_file_lacks_is_named(volume):
    path = volume.frames[0].path
    path.write_bytes(path.read_bytes()[: -5 * 20 * 12])
    survey = check_videos(lambda _: [volume], "x")
    for line, i in zip(survey.problems, range(35, 40), strict=True):
        assert line.startswith(f"a, frame {i}: cannot read frame {i} of 40 of {path}")
    assert survey.sizes == {(12, 20): 35}


def test_a_file_that_does_not_open_is_named_once(volume):
    volume.frames[0].path.write_bytes(b"x" * 1000)
    survey = check_videos(lambda _: [volume], "x")
    (line,) = survey.problems
    assert line.startswith(f"a, frame 0: cannot open {volume.frames[0].path}")


# The contact sheet


def test_a_sheet_takes_24_videos_evenly(folder):
    video = make_video(folder, "a")
    seen = [(replace(video, id=f"{i}"), 0) for i in range(100)]
    assert write_contact_sheet(folder / "all.png", seen) == 24
    assert write_contact_sheet(folder / "two.png", seen[:2]) == 2
    with Image.open(folder / "all.png") as sheet, Image.open(folder / "two.png") as small:
        assert sheet.width == pytest.approx(3 * small.width, rel=0.05)
        assert sheet.height == pytest.approx(4 * small.height, rel=0.05)
        np.testing.assert_array_equal(  # the first cell's picture, without its name
            np.asarray(sheet)[:200, :240], np.asarray(small)[:200, :240]
        )


@pytest.mark.parametrize(
    ("spacing", "size"), [(None, (240, 144)), ((0.2, 0.2), (240, 144)), ((2.0, 1.0), (167, 200))]
)
def test_cells_keep_the_true_aspect(folder, spacing, size):
    video = replace(make_video(folder, "a"), spacing_mm=spacing)
    cell = draw_cell(video, 0)
    assert cell.size == size
    colours = {colour for _, colour in cell.getcolors(2**24)}
    assert {tuple(PALETTE[1]), tuple(PALETTE[3])} <= colours


def test_long_names_fit(folder):
    video = replace(make_video(folder, "a"), id="a very long name " * 20)
    write_contact_sheet(folder / "sheet.png", [(video, 0), (video, 0)])
    with Image.open(folder / "sheet.png") as sheet:
        gap = np.asarray(sheet)[:, 249:255]
    assert (gap == 255).all()  # the names of neighbours do not meet


def test_a_sheet_of_nothing_is_refused(folder):
    with pytest.raises(ValueError, match=r"nothing to draw in .*sheet.png: no video has a read"):
        write_contact_sheet(folder / "sheet.png", [])


# The command line


def test_a_wrong_name_gets_the_known_ones(capsys):
    assert run_command(["check-data", "--dataset", "cvc", "--dataset_dir", "d"]) == 1
    message = capsys.readouterr().err
    assert "unknown data set cvc: there are" in message
    assert all(name in message for name in READERS)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("there", [True, False], ids=["wrong root", "no folder"])
def test_a_wrong_root_is_one_line(folder, capsys, name, there):
    root = folder / "root"
    if there:
        root.mkdir()
    assert run_command(["check-data", "--dataset", name, "--dataset_dir", str(root)]) == 1
    printed, errors = capsys.readouterr()
    assert printed == ""
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert str(root) in line


def test_an_output_dir_that_is_a_file_is_one_line(folder, capsys):
    (folder / "out").touch()
    arguments = ["--dataset", "davis", "--dataset_dir", "set", "--output_dir", "out"]
    assert run_command(["check-data", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "out" in line
