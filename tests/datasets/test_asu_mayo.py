"""ASU-Mayo from small files in the official layout, through to the pixels; one test per message."""

import av
import numpy as np
import pytest
from PIL import Image

from bundle.datasets.asu_mayo import asu_mayo
from bundle.datasets.frames import read_frames, read_masks
from bundle.io.reading.frame_refs import FrameOf

COUNT, HEIGHT, WIDTH = 8, 48, 64
NAME = "ShortVD_wp_66"


def write_wmv(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="asf") as container:
        stream = container.add_stream("wmv2", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_masks(folder, name, masks):
    """Masks by number of the frame, from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in masks.items():
        Image.fromarray(mask).save(folder / f"{name}_frame_{number}_GT.tiff")


@pytest.fixture
def frames():
    """(T, H, W, 3) uint8: two levels a frame that change in time."""
    level = 20 * np.arange(COUNT, dtype=np.uint8)[:, None, None, None] + 20
    frames = np.broadcast_to(level, (COUNT, HEIGHT, WIDTH, 3)).copy()
    frames[:, :, WIDTH // 2 :] = 220 - level
    return frames


@pytest.fixture
def masks():
    """By number of the frame; no polyp in the first two, and soft edges."""
    values = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)
    values[:2] = 0
    return dict(enumerate(values, start=1))


@pytest.fixture
def root(tmp_path, frames, masks):
    """One sound video with polyp, 66, and one without, which is not used."""
    folder = tmp_path / "TrainingSet_NewGT" / NAME
    write_wmv(folder / f"{NAME}.wmv", frames)
    write_masks(folder / "GT", NAME, masks)
    without = tmp_path / "TrainingSet_NewGT/ShortVD_np_5/ShortVD_np_5.wmv"
    without.parent.mkdir()
    without.touch()
    return tmp_path


@pytest.fixture
def folder(root):
    return root / "TrainingSet_NewGT" / NAME


# Pixels


@pytest.mark.parametrize("below", [".", "TrainingSet_NewGT"])
def test_pixels_of_a_video(root, folder, below, frames, masks):
    (video,) = asu_mayo(root / below)
    recording = folder / f"{NAME}.wmv"
    assert (video.id, video.patient, video.labels) == (NAME, NAME, {1: "polyp"})
    assert video.frames == tuple(FrameOf(recording, i) for i in range(COUNT))
    assert video.masks == {i: folder / f"GT/{NAME}_frame_{i + 1}_GT.tiff" for i in range(COUNT)}
    assert (video.binary, video.size, video.fps) == (True, None, pytest.approx(25))
    read = read_masks(video, range(COUNT))
    np.testing.assert_array_equal(read, [mask > 127 for mask in masks.values()])
    assert [bool(mask.any()) for mask in read] == [False] * 2 + [True] * (COUNT - 2)
    pixels = np.array(read_frames(video, range(COUNT)), dtype=float)
    error = np.abs(pixels[:, None] - frames[None]).mean(axis=(2, 3, 4))
    assert error.argmin(axis=1).tolist() == list(range(COUNT))
    assert error.min(axis=1).max() < 4


# Names


def test_letter_case_varies(tmp_path, frames, masks):
    folder = tmp_path / "trainingset_NewGT/shortVD_WP_4"
    write_wmv(folder / "ShortVD_wp_4.WMV", frames)
    (folder / "Gt").mkdir()
    Image.fromarray(masks[3]).save(folder / "Gt/SHORTVD_wp_4_Frame_3_gt.TIF")
    (folder / "Gt/Thumbs.db").touch()
    (folder / "._ShortVD_wp_4.wmv").touch()
    (video,) = asu_mayo(tmp_path)
    assert (video.id, list(video.masks)) == ("shortVD_WP_4", [2])
    np.testing.assert_array_equal(read_masks(video, [2])[0], masks[3] > 127)


def test_videos_of_all_parts_in_natural_order(tmp_path, frames, masks):
    for part, name in [("Part1of3", "ShortVD_wp_24"), ("Part2of3", "ShortVD_wp_4")]:
        folder = tmp_path / f"TrainingSet_NewGT{part}" / name
        write_wmv(folder / f"{name}.wmv", frames)
        write_masks(folder / "GT", name, masks)
    assert [video.id for video in asu_mayo(tmp_path)] == ["ShortVD_wp_4", "ShortVD_wp_24"]


def test_masks_are_in_the_order_of_frames(root, folder):
    (video,) = asu_mayo(root)
    assert list(video.masks) == list(range(COUNT))
    (folder / f"GT/{NAME}_frame_2_GT.tiff").unlink()
    (video,) = asu_mayo(root)
    assert list(video.masks) == [0, 2, 3, 4, 5, 6, 7]
    assert len(video.frames) == COUNT


# Messages


def test_the_root_of_something_else_is_refused_with_a_hint(root, folder):
    with pytest.raises(FileNotFoundError, match=r"the root of ASU-Mayo; did you mean .*NewGT\?"):
        asu_mayo(folder, report=[].append)


def test_a_video_without_masks_says_where_they_should_be(root, folder):
    (folder / "GT").rename(folder / "truth")
    with pytest.raises(
        FileNotFoundError, match=rf"no folder .*{NAME}/GT: expected masks like {NAME}_frame_1_GT"
    ):
        asu_mayo(root)


def test_a_folder_without_any_mask_is_named(root, folder):
    for path in (folder / "GT").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"no mask in .*{NAME}/GT: expected files like"):
        asu_mayo(root)


def test_masks_without_video_say_which(root, folder, frames):
    write_wmv(folder.with_name("ShortVD_wp_2") / "ShortVD_wp_2.wmv", frames)
    (folder / f"{NAME}.wmv").unlink()
    problems = []
    asu_mayo(root, problems.append)
    assert "ShortVD_wp_2/GT" in str(problems[0])
    with pytest.raises(FileNotFoundError, match=rf"no .*{NAME}/{NAME}.wmv: expected it beside"):
        raise problems[1]


def test_a_second_video_in_a_folder_is_refused(root, folder, frames):
    write_wmv(folder / "ShortVD_wp_2.wmv", frames)
    with pytest.raises(ValueError, match=rf"{NAME} holds both ShortVD_wp_2.wmv and {NAME}.wmv"):
        asu_mayo(root)


def test_a_mask_beyond_the_end_names_both_counts(root, folder, masks):
    write_masks(folder / "GT", NAME, {COUNT + 1: masks[3], COUNT + 4: masks[3]})
    message = rf"_frame_12_GT.tiff is a mask of frame 12 but .*{NAME}.wmv has 8 frames: is the"
    with pytest.raises(ValueError, match=message):
        asu_mayo(root)
    problems = []
    (video,) = asu_mayo(root, problems.append)
    assert (list(video.masks), len(problems)) == (list(range(COUNT)), 1)


def test_only_masks_beyond_the_end_make_no_record(root, folder, masks):
    for path in (folder / "GT").iterdir():
        path.unlink()
    write_masks(folder / "GT", NAME, {COUNT + 1: masks[3]})
    problems = []
    assert asu_mayo(root, problems.append) == []
    assert len(problems) == 1


@pytest.mark.parametrize("name", [f"{NAME}_GT.tiff", f"{NAME}_frame_0_GT.tiff"])
def test_a_mask_without_frame_number_is_named(root, folder, name):
    (folder / "GT" / name).touch()
    with pytest.raises(ValueError, match=rf"{name} names no frame from 1 on: expected a name like"):
        asu_mayo(root)
    problems = []
    (video,) = asu_mayo(root, problems.append)
    assert (len(video.masks), len(problems)) == (COUNT, 1)


def test_two_masks_of_a_frame_are_refused(root, folder):
    (folder / f"GT/{NAME}_frame_03_GT.tif").touch()
    with pytest.raises(ValueError, match=r"_frame_0?3_GT.tiff? and .*_frame_0?3_.* of one frame"):
        asu_mayo(root)


def test_two_folders_of_one_name_are_refused(root, folder, frames, masks):
    other = root / "TrainingSet_NewGTPart2" / NAME.lower()
    write_wmv(other / f"{NAME}.wmv", frames)
    write_masks(other / "GT", NAME, masks)
    with pytest.raises(ValueError, match=rf"(?i){NAME} is the second folder of that name: remove"):
        asu_mayo(root)


def test_an_unreadable_video_is_reported_and_passed_over(root, folder, frames, masks):
    good = folder.with_name("ShortVD_wp_70")
    write_wmv(good / "ShortVD_wp_70.wmv", frames)
    write_masks(good / "GT", "ShortVD_wp_70", masks)
    recording = folder / f"{NAME}.wmv"
    recording.write_bytes(recording.read_bytes()[:300])
    with pytest.raises(ValueError, match=rf"cannot open .*{NAME}.wmv as a video"):
        asu_mayo(root)
    problems = []
    assert [video.id for video in asu_mayo(root, problems.append)] == ["ShortVD_wp_70"]
    assert len(problems) == 1


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_truncated_video_is_noticed(root, folder, share):
    """Its container may simply end early, but then masks lie beyond the end."""
    noise = np.random.default_rng(1).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    recording = folder / f"{NAME}.wmv"
    write_wmv(recording, noise)
    content = recording.read_bytes()
    recording.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"breaks off at frame|is the video cut short"):
        asu_mayo(root)
