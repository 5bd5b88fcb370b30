"""HMC-QU from small files in the official layout, through to the pixels; one test per message."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from openpyxl import Workbook
from PIL import Image
from scipy import io

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.hmc_qu import WITH_MASKS, cycle_frames, hmc_qu, read_sheet
from bundle.io.reading.frame_refs import FrameOf
from bundle.io.reading.mat_masks import mat_masks_shape

REAL = Path(__file__).parents[3] / "shared" / "data" / "HMC-QU"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="no real sheets of HMC-QU at hand")

MASKS = "LV Ground-truth Segmentation Masks"
SEGMENTS = ["SEG3", "SEG9", "SEG14", "SEG16", "SEG12", "SEG6"]
HEADERS = [
    ["ECHO", "LABEL", *[None] * 5, "One cardiac-cycle frames", None, f"LV Wall {MASKS[3:]}"],
    [None, *SEGMENTS, "Reference Frame", "End of Cycle", "Available: ü Not Available: û"],
]
COUNT, HEIGHT, WIDTH = 8, 48, 64


def row(name, first=1, last=3, mark="ü"):
    return [name, *["MI"] * 6, first, last, mark]


def write_sheet(path, rows, order=range(10), headers=HEADERS):
    book = Workbook()
    for cells in [*headers, *rows]:
        book.active.append([cells[i] for i in order])
    book.save(path)


def write_masks(path, masks, key="predicted"):
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, {key: masks}, do_compression=True)


def files_of(root, name, count=3):
    """An empty file as recording and empty masks: all that a reader of names looks at."""
    recording = root / "HMC-QU/A4C" / f"{name}.avi"
    recording.parent.mkdir(parents=True, exist_ok=True)
    recording.touch()
    write_masks(root / MASKS / f"Mask_{name}.mat", np.zeros((count, 224, 224), np.uint8))


@pytest.fixture
def root(tmp_path):
    """One sound recording, ES0001, of 3 frames."""
    files_of(tmp_path, "ES0001 _4CH_1")
    write_sheet(tmp_path / "A4C.xlsx", [row("ES0001 _4CH_1")])
    return tmp_path


def ids(videos):
    return [video.id for video in videos]


# Pixels


@pytest.mark.parametrize(("codec", "pixel_format"), [("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p")])
@pytest.mark.parametrize(
    ("sheet", "folder"),
    [("A4C.xlsx", "HMC-QU/A4C"), ("HMC_QU.xlsx", "HMC-QU Echos/HMC-QU Echos")],
    ids=["now", "older"],
)
def test_pixels_of_a_cycle_in_the_middle_of_a_recording(
    tmp_path, sheet, folder, codec, pixel_format
):
    level = 20 * np.arange(COUNT, dtype=np.uint8)[:, None, None, None] + 20
    frames = np.broadcast_to(level, (COUNT, HEIGHT, WIDTH, 3)).copy()
    frames[:, :, WIDTH // 2 :] = 220 - level  # left and right, and not one level twice in a frame
    (tmp_path / folder).mkdir(parents=True)
    recording = tmp_path / folder / "ES0001 _4CH_1.avi"
    with av.open(str(recording), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    masks = np.random.default_rng(0).integers(0, 2, (4, 224, 224), dtype=np.uint8)
    mask_file = tmp_path / MASKS / "Mask_ES0001 _4CH_1.mat"
    write_masks(mask_file, masks)
    write_sheet(tmp_path / sheet, [row("ES0001 _4CH_1", 3, 6)])

    (video,) = hmc_qu(tmp_path)
    assert video.frames == tuple(FrameOf(recording, i) for i in (2, 3, 4, 5))
    assert video.masks == {i: FrameOf(mask_file, i) for i in range(4)}
    assert (video.id, video.labels) == ("ES0001_4CH_1", {1: "LV wall"})
    assert (video.size, video.binary, video.fps) == ((224, 224), False, None)
    np.testing.assert_array_equal(read_masks(video, [3, 0, 1, 2]), masks[[3, 0, 1, 2]])
    read = np.array(read_frames(video, range(4)), dtype=float)
    assert read.shape == (4, 224, 224, 3)
    wanted = np.array([Image.fromarray(frame).resize((224, 224)) for frame in frames], dtype=float)
    error = np.abs(read[:, None] - wanted[None]).mean(axis=(2, 3, 4))
    assert error.argmin(axis=1).tolist() == [2, 3, 4, 5]
    assert error.min(axis=1).max() < 4


# Names, rows and columns


def test_names_match_whatever_the_blanks_asterisks_and_letter_case(tmp_path):
    (tmp_path / "HMC-QU/A4C").mkdir(parents=True)
    recording = tmp_path / "HMC-QU/A4C/ES0002 n _4CH_1.AVI"
    recording.touch()
    (tmp_path / "HMC-QU/A4C/._ES0002 N_4CH_1.avi").touch()
    mask_file = tmp_path / MASKS / "mask_ES0002N_4ch_1.mat"
    write_masks(mask_file, np.zeros((3, 224, 224)))
    write_sheet(tmp_path / "A4C.xlsx", [row("ES0002  N_4CH_1*")])
    (video,) = hmc_qu(tmp_path)
    assert (video.id, video.patient) == ("ES0002N_4CH_1", "ES0002")
    assert (video.frames[0].path, video.masks[0].path) == (recording, mask_file)


def test_patients_are_told_apart_by_the_whole_number(tmp_path):
    names = ["ES0001 _4CH_1", "ES00010 _4CH_1", "es0001_CH2_1*", "ES000155 n_4CH_1", "X1_4CH_1"]
    for name in names:
        files_of(tmp_path, name.replace("*", ""))
    write_sheet(tmp_path / "A4C.xlsx", [row(name) for name in names])
    patients = [video.patient for video in hmc_qu(tmp_path)]
    assert patients == ["ES0001", "ES00010", "ES0001", "ES000155", "X1_4CH_1"]


def test_columns_are_found_by_their_headers(root):
    expected = hmc_qu(root)
    headers = [["Recordings", *[None] * 9], *HEADERS]
    headers[1] = [f" {text} " if text else text for text in HEADERS[0]]
    headers[2] = [text and text.upper() for text in HEADERS[1]]
    rows = [row("ES0001 _4CH_1")]
    write_sheet(root / "A4C.xlsx", rows, order=[9, 3, 8, 1, 0, 2, 7, 4, 5, 6], headers=headers)
    assert hmc_qu(root) == expected
    assert [entry.number for entry in read_sheet(root / "A4C.xlsx")] == [4]


def test_rows_without_masks_and_remarks_need_no_files(root):
    rows = [
        row("ES0009 _4CH_1", None, None, "û"),
        row("ES0001 _4CH_1"),
        [None] * 10,
        ["* indicates something", *[None] * 9],
        *[[None] * 8 + [" ", None]] * 40,
    ]
    write_sheet(root / "A4C.xlsx", rows)
    assert ids(hmc_qu(root)) == ["ES0001_4CH_1"]
    assert [entry.number for entry in read_sheet(root / "A4C.xlsx")] == [3, 4, 6]


@pytest.mark.parametrize(("first", "last"), [("1", " 3 "), (1.0, "3.0")])
def test_numbers_stored_as_text_or_with_a_point_count(root, first, last):
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1", first, last)])
    assert [frame.index for frame in hmc_qu(root)[0].frames] == [0, 1, 2]


def test_a_tick_written_as_two_unicode_characters_counts(root):
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1", mark=" u\u0308")])
    assert ids(hmc_qu(root)) == ["ES0001_4CH_1"]


# Messages


def test_the_root_of_something_else_is_refused_with_a_hint(root):
    with pytest.raises(FileNotFoundError, match=rf"the root of HMC-QU; did you mean {root}\?"):
        hmc_qu(root / "HMC-QU", report=[].append)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("HMC-QU", "no folder HMC-QU/A4C or HMC-QU Echos/HMC-QU Echos in .*: expected .avi files"),
        (MASKS, f"no folder {MASKS} in .*: expected .mat files"),
    ],
)
def test_a_missing_folder_is_named(root, folder, message):
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=message):
        hmc_qu(root)
    problems = []
    assert hmc_qu(root, problems.append) == []
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("HMC-QU/A4C/ES0001 _4CH_1.avi", "no .*A4C/ES0001_4CH_1.avi for row 3 of .*A4C.xlsx "),
        (f"{MASKS}/Mask_ES0001 _4CH_1.mat", "no .*/Mask_ES0001_4CH_1.mat for row 3 of .*A4C.xlsx "),
    ],
)
def test_half_a_pair_says_which(root, file, message):
    (root / file).unlink()
    with pytest.raises(FileNotFoundError, match=message + r"\(ES0001 _4CH_1\)"):
        hmc_qu(root)


@pytest.mark.parametrize(
    ("file", "other"),
    [
        ("HMC-QU/A4C/ES0001 _4CH_1.avi", "ES0001_4CH_1.avi"),
        (f"{MASKS}/Mask_ES0001 _4CH_1.mat", "mask_ES0001 _4CH_1.mat"),
    ],
)
def test_two_files_of_one_name_are_refused(root, file, other):
    (root / file).with_name(other).write_bytes((root / file).read_bytes())
    with pytest.raises(ValueError, match=rf"row 3 of .* fits both .*{other[-9:]} and .*: remove"):
        hmc_qu(root)


@pytest.mark.parametrize(
    ("first", "last"), [(None, 3), (1, None), ("one", 3), (1, 2.5), (0, 2), (3, 2)]
)
def test_a_cycle_that_is_not_a_range_is_refused(root, first, last):
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1", first, last)])
    with pytest.raises(ValueError, match=rf"row 3 of .* gives the cycle \[{first}, {last}\]: exp"):
        hmc_qu(root)


def test_as_many_masks_as_frames_in_the_cycle(root):
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1", 2, 5)])
    message = r"cycle \[2, 5\] of 4 frames but .*4CH_1.mat holds 3 masks of 224x224: expected 4 of"
    with pytest.raises(ValueError, match=message):
        hmc_qu(root)


def test_masks_have_the_size_that_frames_are_resized_to(root):
    write_masks(root / MASKS / "Mask_ES0001 _4CH_1.mat", np.zeros((3, 224, 256)))
    with pytest.raises(ValueError, match=r"holds 3 masks of 224x256: expected 3 of 224x224"):
        hmc_qu(root)


@pytest.mark.parametrize(("key", "shape"), [("other", (3, 224, 224)), ("predicted", (224, 224))])
def test_masks_of_another_kind_say_what_they_hold(root, key, shape):
    write_masks(root / MASKS / "Mask_ES0001 _4CH_1.mat", np.zeros(shape), key)
    with pytest.raises(ValueError, match=rf"row 3 of .*mat holds .*{key}.*: expected 'predicted'"):
        hmc_qu(root)


def test_an_unreadable_mask_file_is_named(root):
    (root / MASKS / "Mask_ES0001 _4CH_1.mat").write_bytes(b"no masks")
    with pytest.raises(ValueError, match=r"row 3 of .*: cannot read .*4CH_1.mat as a MATLAB file"):
        hmc_qu(root)


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "echo"), (7, "reference frame"), (8, "end of cycle"), (9, "lv wall ground-truth")],
)
def test_a_sheet_without_a_column_says_which(root, column, header):
    order = [i for i in range(10) if i != column]
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1")], order)
    with pytest.raises(ValueError, match=f"A4C.xlsx lacks the column '{header}': exp.*SEG14"):
        hmc_qu(root)


def test_an_unreadable_sheet_is_named(root):
    (root / "A4C.xlsx").write_bytes(b"no sheet")
    with pytest.raises(ValueError, match=r"cannot read .*A4C.xlsx as an Excel sheet"):
        hmc_qu(root)


def test_a_mark_that_is_neither_tick_nor_cross_is_refused(root):
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1", mark="yes")])
    with pytest.raises(ValueError, match=r"row 3 of .* is marked 'yes': expected ü where"):
        hmc_qu(root)


def test_a_recording_is_named_once(root):
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1"), row("ES0001_4CH_1*")])
    with pytest.raises(ValueError, match=r"row 4 of .* \(ES0001_4CH_1\*\) names a recording that"):
        hmc_qu(root)


def test_a_sheet_that_marks_nothing_is_refused(root):
    write_sheet(root / "A4C.xlsx", [row("ES0001 _4CH_1", mark="û")])
    with pytest.raises(ValueError, match=r"A4C.xlsx leads to no recording with masks: expected"):
        hmc_qu(root)


def test_all_problems_of_a_data_set_in_one_run(root):
    files_of(root, "ES0003_4CH_1", count=5)
    files_of(root, "ES0004_4CH_1")
    rows = [
        row("ES0002_4CH_1", 9, 8),  # three problems: no recording, no masks, no cycle
        row("ES0001 _4CH_1"),
        row("ES0003_4CH_1"),
        row("ES0004_4CH_1"),
    ]
    write_sheet(root / "A4C.xlsx", rows)
    problems = []
    assert ids(hmc_qu(root, problems.append)) == ["ES0001_4CH_1", "ES0004_4CH_1"]
    assert [type(problem) for problem in problems] == [
        FileNotFoundError, FileNotFoundError, ValueError, ValueError
    ]  # fmt: skip
    assert [re.search(r"row (\d)", str(problem))[1] for problem in problems] == list("3335")


def test_the_shape_of_masks_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*a.mat"):
        mat_masks_shape(tmp_path / "a.mat")


# The real sheets


@needs_real
def test_the_real_sheet():
    rows = read_sheet(REAL / "A4C.xlsx")
    lengths = [len(cycle_frames(entry) or ()) for entry in rows if entry.mark == WITH_MASKS]
    assert (len(rows), len(lengths), sum(lengths)) == (162, 109, 2349)
    assert (min(lengths), max(lengths)) == (13, 32)


@needs_real
def test_a_data_set_after_the_real_sheet(tmp_path):
    (tmp_path / "A4C.xlsx").write_bytes((REAL / "A4C.xlsx").read_bytes())
    for entry in read_sheet(REAL / "A4C.xlsx"):
        if entry.mark == WITH_MASKS:
            files_of(tmp_path, entry.name, len(cycle_frames(entry) or ()))
    videos = hmc_qu(tmp_path)
    assert len({video.id for video in videos}) == len({video.patient for video in videos}) == 109
    assert sum(len(video.frames) for video in videos) == 2349


@needs_real
def test_the_real_sheet_of_the_other_view_has_no_masks():
    with pytest.raises(ValueError, match=r"A2C.xlsx lacks the column 'lv wall ground-truth'"):
        read_sheet(REAL / "A2C.xlsx")
