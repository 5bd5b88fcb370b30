"""Each reader against small folders in the official layout, and one test per error message."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, UnidentifiedImageError

from bundle.datasets.cvc_clinicdb import cvc_clinicdb
from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.generic import davis, image_pairs, mixed_pairs, single_frames
from bundle.datasets.records import Video
from bundle.datasets.salient import duts, ecssd, hrsod
from bundle.io.reading.decode import list_images

DATA = Path(__file__).parents[3] / "shared" / "data"


def touch(root, *names):
    """Empty files: readers look at names only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def relative(video, root):
    """Frames and masks of a record as paths below ``root``."""
    frames = [path.relative_to(root).as_posix() for path in video.frames]
    return frames, {i: path.relative_to(root).as_posix() for i, path in video.masks.items()}


# Records


def test_a_record_needs_a_mask():
    with pytest.raises(ValueError, match="video a has no mask: one annotated frame is the least"):
        Video("a", (Path("0.png"),), {}, {1: "x"}, "a")


@pytest.mark.parametrize("index", [1, -1])
def test_a_record_has_masks_of_its_frames_only(index):
    with pytest.raises(ValueError, match=f"video a has 1 frames but a mask for frame {index}"):
        Video("a", (Path("0.png"),), {index: Path("m.png")}, {1: "x"}, "a")


# CVC-ClinicDB


@pytest.fixture
def cvc(tmp_path):
    """Sequence 2 is frames 2, 9, 10 (of the train split), sequence 10 is frame 11 (valid)."""
    rows = [(10, 2, "train"), (11, 10, "valid"), (2, 2, "train"), (9, 2, "train")]
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame_id", "sequence_id", "split", "png_image_path", "png_mask_path"])
        for frame, sequence, split in rows:
            paths = f"PNG/Original/{frame}.png", f"PNG/Ground Truth/{frame}.png"
            writer.writerow((frame, sequence, split, *paths))
            touch(tmp_path, *paths)
    return tmp_path


def test_cvc_reads_sequences_in_the_order_of_frame_numbers(cvc):
    first, second = cvc_clinicdb(cvc)
    assert (first.id, first.patient, second.id) == ("sequence02", "2", "sequence10")
    assert relative(first, cvc) == (
        ["PNG/Original/2.png", "PNG/Original/9.png", "PNG/Original/10.png"],
        {0: "PNG/Ground Truth/2.png", 1: "PNG/Ground Truth/9.png", 2: "PNG/Ground Truth/10.png"},
    )
    assert first.labels == {1: "polyp"}
    assert first.binary


def test_cvc_splits(cvc):
    assert [video.id for video in cvc_clinicdb(cvc, "valid")] == ["sequence10"]
    with pytest.raises(ValueError, match=r"metadata.csv lists no frame of split 'test'"):
        cvc_clinicdb(cvc, "test")


def test_cvc_says_where_a_split_comes_from(cvc):
    (cvc / "metadata.csv").rename(cvc / "other.csv")
    with pytest.raises(
        ValueError, match=r"no .*metadata.csv, which lists the split 'valid': .*splits"
    ):
        cvc_clinicdb(cvc, "valid")
    text = (cvc / "other.csv").read_text().replace("split", "part")
    (cvc / "metadata.csv").write_text(text)
    with pytest.raises(
        ValueError, match=r"metadata.csv lacks the column split, .*bundle.datasets.splits"
    ):
        cvc_clinicdb(cvc, "valid")


def test_cvc_names_a_column_that_the_table_lacks(cvc):
    text = (cvc / "metadata.csv").read_text().replace("png_mask_path", "mask")
    (cvc / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metadata.csv lacks the column png_mask_path"):
        cvc_clinicdb(cvc)


def test_cvc_refuses_an_empty_table(cvc):
    table = cvc / "metadata.csv"
    table.write_text(table.read_text().splitlines()[0])
    with pytest.raises(ValueError, match=r"metadata.csv lists no frame$"):
        cvc_clinicdb(cvc)


@pytest.mark.parametrize("given", ["", "CVC/PNG/Original", "CVC/Original"])
def test_cvc_suggests_the_right_root(cvc, tmp_path_factory, given):
    parent = tmp_path_factory.mktemp("data")
    cvc.rename(parent / "CVC")
    (parent / "CVC/Original").mkdir()
    suggested = {"CVC/PNG/Original": "CVC/PNG"}.get(given, "CVC")
    with pytest.raises(
        FileNotFoundError,
        match=rf"no metadata.csv or .* in .*expected the root of CVC-.*mean {parent}/{suggested}\?",
    ):
        cvc_clinicdb(parent / given)


@pytest.mark.parametrize("folder", ["Original", "Ground Truth"])
def test_cvc_half_a_pair_says_which(cvc, folder):
    (cvc / "PNG" / folder / "9.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no .*{folder}/9.png, which .* for sequence 2"):
        cvc_clinicdb(cvc)


def test_cvc_reports_what_a_table_names_in_vain_and_goes_on(cvc):
    for name in ("Original/2.png", "Ground Truth/9.png", "Ground Truth/11.png"):
        (cvc / "PNG" / name).unlink()
    problems = []
    (video,) = cvc_clinicdb(cvc, report=problems.append)
    # Frame 2 is gone, frame 9 not annotated, sequence 10 without any mask.
    assert relative(video, cvc) == (
        ["PNG/Original/9.png", "PNG/Original/10.png"],
        {1: "PNG/Ground Truth/10.png"},
    )
    named = [str(problem).split(",")[0] for problem in problems]
    assert named == [
        f"no {cvc}/PNG/{name}"
        for name in ("Original/2.png", "Ground Truth/9.png", "Ground Truth/11.png")
    ]


def touch_cvc(folder, numbers, suffix=".tif", truth="Ground Truth"):
    """Frames and masks of these numbers as empty files."""
    for i in numbers:
        touch(folder, f"Original/{i}{suffix}", f"{truth}/{i}{suffix}")


def test_cvc_knows_the_owners_29_sequences(tmp_path):
    touch_cvc(tmp_path, range(1, 613))
    videos = cvc_clinicdb(tmp_path)
    ranges = [f"{video.frames[0].stem}-{video.frames[-1].stem}" for video in videos]
    assert " ".join(ranges) == (
        "1-25 26-50 51-67 68-78 79-103 104-126 127-151 152-177 178-199 200-205 206-227 228-252 "
        "253-277 278-297 298-317 318-342 343-363 364-383 384-408 409-428 429-447 448-466 467-478 "
        "479-503 504-528 529-546 547-571 572-591 592-612"
    )
    assert [video.id for video in videos] == [f"sequence{i:02d}" for i in range(1, 30)]
    assert sum(len(video.frames) for video in videos) == 612
    for video in videos:
        assert [int(path.stem) for path in video.frames] == [
            int(path.stem) for path in video.masks.values()
        ]


@pytest.mark.parametrize("truth", ["Ground Truth", "GroundTruth", "Ground_Truth", "ground truth"])
@pytest.mark.parametrize("suffix", [".tif", ".TIF", ".tiff"])
def test_cvc_reads_a_part_of_the_owners_layout(tmp_path, truth, suffix):
    touch_cvc(tmp_path, [*range(200, 206), *range(68, 79)], suffix, truth)
    touch(tmp_path, "Original/Thumbs.db", "Original/._200.tif", f"{truth}/notes.txt")
    fourth, tenth = cvc_clinicdb(tmp_path)
    assert (fourth.id, fourth.labels, len(fourth.frames)) == ("sequence04", {1: "polyp"}, 11)
    assert (tenth.id, tenth.patient, tenth.binary) == ("sequence10", "10", True)
    assert relative(tenth, tmp_path) == (
        [f"Original/{200 + i}{suffix}" for i in range(6)],
        {i: f"{truth}/{200 + i}{suffix}" for i in range(6)},
    )


@pytest.mark.parametrize("gone", ["Original/9.tif", "Ground Truth/9.tif"])
def test_cvc_in_the_owners_layout_names_half_a_pair(tmp_path, gone):
    touch_cvc(tmp_path, range(1, 26))
    (tmp_path / gone).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"no {tmp_path}/{gone}, which the owner's list has for sequence 1"
    ):
        cvc_clinicdb(tmp_path)
    problems = []
    (video,) = cvc_clinicdb(tmp_path, report=problems.append)
    assert len(problems) == 1
    assert len(video.frames) == (24 if "Original" in gone else 25)
    assert [video.frames[i].name for i in video.masks] == [
        path.name for path in video.masks.values()
    ]
    assert "9.tif" not in [path.name for path in video.masks.values()]


def test_cvc_names_every_gap_of_a_sequence(tmp_path):
    touch_cvc(tmp_path, [200, 203, 204, 205])
    problems = []
    cvc_clinicdb(tmp_path, report=problems.append)
    assert [str(problem).split(",")[0] for problem in problems] == [
        f"no {tmp_path}/{folder}/{i}.tif"
        for i in (201, 202)
        for folder in ("Original", "Ground Truth")
    ]


@pytest.mark.parametrize("number", [0, 613])
def test_cvc_names_a_number_that_the_set_lacks(tmp_path, number):
    touch_cvc(tmp_path, [*range(200, 206), number])
    with pytest.raises(
        ValueError, match=rf"Original/{number}.tif is none of CVC-ClinicDB's 1 to 612"
    ):
        cvc_clinicdb(tmp_path)
    problems = []
    assert len(cvc_clinicdb(tmp_path, report=problems.append)) == 1
    assert len(problems) == 2  # the mask's too


def test_cvc_without_frames_says_where_it_looked(tmp_path):
    (tmp_path / "Original").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder .*Ground Truth: expected the masks"):
        cvc_clinicdb(tmp_path)
    (tmp_path / "Ground Truth").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no frame of CVC-ClinicDB in .*: looked for .*/1\."
    ):
        cvc_clinicdb(tmp_path)


def test_cvc_from_kaggle_without_table_goes_by_the_numbers(tmp_path):
    touch_cvc(tmp_path / "PNG", range(200, 206), ".png")
    touch_cvc(tmp_path / "TIF", range(68, 79))
    for files, first in (("auto", "PNG/Original/200.png"), ("tif", "TIF/Original/68.tif")):
        (video,) = cvc_clinicdb(tmp_path, files=files)
        assert video.frames[0] == tmp_path / first
    (tmp_path / "PNG").rename(tmp_path / "else")
    assert cvc_clinicdb(tmp_path)[0].frames[0].name == "68.tif"
    with pytest.raises(FileNotFoundError, match=r"no metadata.csv or PNG/Original or Original in"):
        cvc_clinicdb(tmp_path, files="png")


@pytest.mark.parametrize("names_tif", [True, False])
def test_cvc_finds_tif_files_by_a_table(cvc, names_tif):
    """With the columns that Kaggle's table has, and without: then by the numbers."""
    folder = "elsewhere" if names_tif else "TIF"
    touch_cvc(cvc / folder, [2, 9, 10], ".TIF")
    if names_tif:
        text = (cvc / "metadata.csv").read_text().replace("PNG", folder).replace(".png", ".TIF")
        (cvc / "metadata.csv").write_text(text.replace("png_", "tif_"))
    (video,) = cvc_clinicdb(cvc, "train", files="tif")
    assert relative(video, cvc) == (
        [f"{folder}/Original/{i}.TIF" for i in (2, 9, 10)],
        {k: f"{folder}/Ground Truth/{i}.TIF" for k, i in enumerate((2, 9, 10))},
    )
    with pytest.raises(FileNotFoundError, match=r"no frame .*: looked for .*/Original/11.TIF"):
        cvc_clinicdb(cvc, "valid", files="tif")


def test_cvc_tif_after_a_table_without_the_folder(cvc):
    with pytest.raises(FileNotFoundError, match=r"no folder .*TIF/Original: expected CVC"):
        cvc_clinicdb(cvc, files="tif")


def test_cvc_knows_its_kinds_of_files(cvc):
    with pytest.raises(ValueError, match="files is 'jpg': expected auto, png, tif"):
        cvc_clinicdb(cvc, files="jpg")


def write_rgb_called_grey(path, pixels):
    """As the owner's frames are: three samples a pixel, but not declared as RGB."""
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)


TIF_WRITERS = {
    "RGB called grey": write_rgb_called_grey,
    "RGB": lambda path, pixels: tifffile.imwrite(path, pixels, photometric="rgb"),
    "planes": lambda path, pixels: tifffile.imwrite(
        path, np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate"
    ),
    "LZW": lambda path, pixels: Image.fromarray(pixels).save(path, compression="tiff_lzw"),
    "deflate": lambda path, pixels: tifffile.imwrite(
        path, pixels, photometric="rgb", compression="zlib"
    ),
}


@pytest.mark.parametrize("kind", TIF_WRITERS)
def test_cvc_tif_pixels(tmp_path, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 14, 3), dtype=np.uint8)
    truths = pixels[..., 0]  # every grey there is: cut above 127
    touch_cvc(tmp_path, range(200, 206))
    for i in range(6):
        TIF_WRITERS[kind](tmp_path / f"Original/{200 + i}.tif", pixels[i])
        tifffile.imwrite(tmp_path / f"Ground Truth/{200 + i}.tif", truths[i])
    (video,) = cvc_clinicdb(tmp_path)
    np.testing.assert_array_equal(read_frames(video, range(6)), pixels)
    np.testing.assert_array_equal(read_masks(video, range(6)), truths > 127)


@pytest.mark.skipif(not (DATA / "CVC-ClinicDB").exists(), reason="no real CVC-ClinicDB at hand")
def test_the_real_cvc():
    root = DATA / "CVC-ClinicDB"
    videos = cvc_clinicdb(root)
    assert (len(videos), sum(len(video.frames) for video in videos)) == (24, 490)
    assert [len(cvc_clinicdb(root, s)) for s in ("train", "valid")] == [18, 6]
    # The table's sequences are the owner's.
    assert cvc_clinicdb(root / "PNG") == videos


@pytest.mark.skipif(not (DATA / "CVC-ClinicDB/TIF").exists(), reason="no real TIF at hand")
def test_the_real_cvc_in_tif():
    root = DATA / "CVC-ClinicDB"
    (video,) = cvc_clinicdb(root, files="tif")
    assert cvc_clinicdb(root / "TIF") == [video]
    assert (video.id, len(video.frames)) == ("sequence10", 6)
    assert {path.suffix for path in video.frames} == {".tif"}
    frames, masks = read_frames(video, range(6)), read_masks(video, range(6))
    assert {frame.shape for frame in frames} == {(288, 384, 3)}
    assert {frozenset(np.unique(mask)) for mask in masks} == {frozenset({0, 1})}
    same = {video.id: video for video in cvc_clinicdb(root)}.get(video.id)
    if same is not None:
        np.testing.assert_array_equal(frames, read_frames(same, range(6)))
        np.testing.assert_array_equal(masks, read_masks(same, range(6)))


# DAVIS


@pytest.fixture(params=["", "480p/"], ids=["plain", "with resolution"])
def davis_root(request, tmp_path):
    """Video ``bear`` with masks on frames 0 and 2 of 3, video ``ant`` on its only frame."""
    for name in ("bear/00000", "bear/00001", "bear/00002", "ant/00000"):
        touch(tmp_path, f"JPEGImages/{request.param}{name}.jpg")
    for name in ("bear/00000", "bear/00002", "ant/00000"):
        touch(tmp_path, f"Annotations/{request.param}{name}.png")
    touch(tmp_path, f"JPEGImages/{request.param}.DS_Store", "JPEGImages/.DS_Store")
    touch(tmp_path, f"JPEGImages/{request.param}.cache/0.db", "JPEGImages/.cache/0.db")
    return tmp_path


def test_davis_reads_sparse_annotations(davis_root):
    ant, bear = davis(davis_root)
    assert (ant.id, bear.id, bear.patient, bear.binary) == ("ant", "bear", "bear", False)
    frames, masks = relative(bear, davis_root)
    assert [name[-14:] for name in frames] == [f"bear/0000{i}.jpg" for i in range(3)]
    assert {i: name[-14:] for i, name in masks.items()} == {
        0: "bear/00000.png",
        2: "bear/00002.png",
    }
    assert set(bear.labels) == set(range(1, 256))


def test_davis_takes_and_leaves_out_videos(davis_root):
    assert [video.id for video in davis(davis_root, include=["bear"])] == ["bear"]
    assert [video.id for video in davis(davis_root, exclude=["bear"])] == ["ant"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_davis_names_a_video_that_it_lacks(davis_root, option):
    with pytest.raises(FileNotFoundError, match=r"no video cat in .*; there are ant, bear"):
        davis(davis_root, **{option: ["cat"]})


def test_davis_needs_the_first_mask(davis_root):
    next(davis_root.glob("Annotations/**/bear/00000.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask .*00000.png for the first frame of bear"):
        davis(davis_root)


def test_davis_reports_and_goes_on(davis_root):
    next(davis_root.glob("Annotations/**/bear/00000.png")).unlink()
    problems = []
    (ant,) = davis(davis_root, exclude=(name for name in ["cow"]), report=problems.append)
    assert ant.id == "ant"
    next(davis_root.glob("JPEGImages/**/ant/00000.jpg")).unlink()
    assert davis(davis_root, include=["ant", "dog"], report=problems.append) == []
    starts = [" ".join(str(problem).split()[:3]) for problem in problems]
    assert [start.split(str(davis_root))[0].strip() for start in starts] == [
        "no video cow", "no mask", "no video dog", "no pictures (.png,"
    ]  # fmt: skip


def test_davis_excludes_by_any_iterable(davis_root):
    assert [video.id for video in davis(davis_root, exclude=iter(["ant"]))] == ["bear"]


def test_davis_needs_frames_in_every_video(davis_root):
    next(davis_root.glob("JPEGImages/**/ant/00000.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match=r"no pictures \(.png, .*\) in .*ant"):
        davis(davis_root)


def test_davis_without_videos_says_where_it_looked(tmp_path):
    (tmp_path / "JPEGImages/480p").mkdir(parents=True)
    (tmp_path / "Annotations/480p").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no folder of frames in .*480p"):
        davis(tmp_path)


def test_davis_needs_both_folders(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*Annotations: the DAVIS layout has it"
    ):
        davis(tmp_path)


@pytest.mark.parametrize("given", ["..", "JPEGImages"])
def test_davis_suggests_the_right_root(tmp_path, given):
    root = tmp_path / "data"
    touch(root, "JPEGImages/bear/0.jpg", "Annotations/bear/0.png")
    with pytest.raises(
        FileNotFoundError,
        match=rf"no JPEGImages in .*: expected the root of a set in the DAVIS .*mean {root}",
    ):
        davis(tmp_path if given == ".." else root / given)


# Pairs of pictures


def test_image_pairs_match_by_stem(tmp_path):
    touch(tmp_path, "images/b10.jpg", "images/b2.PNG", "images/notes.txt", "images/._b2.png")
    touch(tmp_path, "truth/b10.png", "truth/b2.png")
    first, second = image_pairs(tmp_path, masks="truth")
    assert relative(first, tmp_path) == (["images/b2.PNG"], {0: "truth/b2.png"})
    assert relative(second, tmp_path) == (["images/b10.jpg"], {0: "truth/b10.png"})
    assert (first.id, first.labels, first.binary) == ("b2", {1: "object"}, True)


def test_image_pairs_name_a_picture_without_mask(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png")
    with pytest.raises(FileNotFoundError, match=r"no mask for .*b.jpg: looked for .*masks/b\.\*"):
        image_pairs(tmp_path)


def test_image_pairs_name_a_mask_without_picture(tmp_path):
    touch(tmp_path, "images/a.jpg", "masks/a.png", "masks/b.png")
    with pytest.raises(
        FileNotFoundError, match=r"no picture for .*masks/b.png: looked for .*images/b\.\*"
    ):
        image_pairs(tmp_path)


def test_image_pairs_report_each_half_and_go_on(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg", "masks/b.png", "masks/d.png")
    problems = []
    (video,) = image_pairs(tmp_path, report=problems.append)
    assert video.id == "b"
    assert [str(problem).split(":")[0] for problem in problems] == [
        f"no picture for {tmp_path}/masks/d.png",
        f"no mask for {tmp_path}/images/a.jpg",
        f"no mask for {tmp_path}/images/c.jpg",
    ]


def test_image_pairs_say_which_folder_is_missing(tmp_path):
    touch(tmp_path, "set/images/a.jpg")
    with pytest.raises(FileNotFoundError, match=r"no folder .*set/masks"):
        image_pairs(tmp_path / "set")
    with pytest.raises(
        FileNotFoundError, match=r"no images in .*: expected the root of images with .*mean .*set\?"
    ):
        image_pairs(tmp_path)


# The paper's pretraining sets


@pytest.mark.parametrize(
    ("reader", "images", "masks"),
    [
        (duts, "DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask"),
        (ecssd, "images", "ground_truth_mask"),
        (hrsod, "HRSOD_train", "HRSOD_train_mask"),
        (hrsod, "HRSOD_train", "HRSOD_train_Masks"),
        (hrsod, "images", "masks"),
    ],
)
def test_salient_sets(tmp_path, reader, images, masks):
    root = tmp_path / "root"
    touch(root, f"{images}/a_1.jpg", f"{images}/b.jpg", f"{masks}/a_1.png", f"{masks}/b.png")
    touch(root, "HRSOD_train_edge/a_1.png")
    first, second = reader(root)
    assert relative(first, root) == ([f"{images}/a_1.jpg"], {0: f"{masks}/a_1.png"})
    assert (second.id, second.labels, second.binary) == ("b", {1: "object"}, True)
    (root / masks / "b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"no mask for .*b.jpg: looked for .*{masks}/b\.\*"
    ):
        reader(root)
    problems = []
    assert [video.id for video in reader(root, report=problems.append)] == ["a_1"]
    assert len(problems) == 1
    with pytest.raises(FileNotFoundError, match=rf"expected the root of .*; did you mean {root}\?"):
        reader(tmp_path)


def test_the_test_part_of_duts(tmp_path):
    touch(tmp_path, "DUTS-TE/DUTS-TE-Image/a.jpg", "DUTS-TE/DUTS-TE-Mask/a.png")
    assert [video.id for video in duts(tmp_path, "DUTS-TE")] == ["a"]
    with pytest.raises(FileNotFoundError, match=r"no DUTS-TR/DUTS-TR-Image in .* the root of DUTS"):
        duts(tmp_path)


def test_hrsod_without_masks_says_what_it_looked_for(tmp_path):
    touch(tmp_path, "HRSOD_train/a.jpg", "HRSOD_train_edge/a.png")
    with pytest.raises(
        FileNotFoundError,
        match=r"no folder HRSOD_train\*.* in .*: expected the masks of HRSOD_train",
    ):
        hrsod(tmp_path)


@pytest.mark.skipif(not (DATA / "ECSSD").exists(), reason="no real ECSSD at hand")
def test_the_real_ecssd():
    videos = ecssd(DATA / "ECSSD")
    assert len(videos) == 1000
    assert all(video.frames[0].stem == video.masks[0].stem for video in videos)


# Couples


@pytest.fixture
def pictures(tmp_path):
    touch(tmp_path, *(f"{folder}/{i}.png" for i in range(7) for folder in ("images", "masks")))
    return image_pairs(tmp_path)


@pytest.mark.parametrize(("count", "partners"), [(2, 1), (7, 1), (7, 3), (7, 6), (3, 8)])
@pytest.mark.parametrize("seed", range(5))
def test_mixed_pairs_join_each_picture_with_others(pictures, count, partners, seed):
    made = mixed_pairs(pictures[:count], partners, seed)
    stems = [tuple(path.stem for path in video.frames) for video in made]
    expected = sorted([video.id for video in pictures[:count]] * min(partners, count - 1))
    assert sorted(first for first, _ in stems) == expected
    assert sorted(second for _, second in stems) == expected
    assert len(set(stems)) == len(stems)
    assert all(first != second for first, second in stems)
    for video, (first, second) in zip(made, stems, strict=True):
        assert video.id == f"{first}+{second}"
        assert {i: path.stem for i, path in video.masks.items()} == {0: first, 1: second}
        assert all("images" in path.parts for path in video.frames)
        assert all("masks" in path.parts for path in video.masks.values())
        assert (video.labels, video.binary) == ({1: "object"}, True)


def test_mixed_pairs_are_seeded(pictures):
    assert mixed_pairs(pictures, seed=1) == mixed_pairs(pictures, seed=1)
    assert mixed_pairs(pictures, seed=1) != mixed_pairs(pictures, seed=2)


@pytest.mark.parametrize("count", [0, 1])
def test_one_picture_makes_no_mixed_pair(pictures, count):
    with pytest.raises(ValueError, match=f"expected at least 2 pictures to pair, got {count}"):
        mixed_pairs(pictures[:count])


def test_single_frames_are_the_annotated_ones():
    frames = tuple(Path(f"{i}.png") for i in range(4))
    video = Video("a", frames, {2: Path("2_mask.png"), 0: Path("0_mask.png")}, {1: "polyp"}, "p")
    made = single_frames([video])
    assert [still.id for still in made] == ["a_00000", "a_00002"]
    assert [still.frames for still in made] == [(frames[0],), (frames[2],)]
    assert [still.masks for still in made] == [{0: Path("0_mask.png")}, {0: Path("2_mask.png")}]
    assert {(still.patient, still.labels[1]) for still in made} == {("p", "polyp")}


# What all of them share


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pictures \(\.png, .*\) in"):
        list_images(tmp_path)


def test_readers_agree_with_the_pixels(tmp_path):
    """What a record names is what the decoder reads: one video through to its labels."""
    from bundle.datasets.whole_videos import read_clip

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "masks/a.png")
    image, label = read_clip(image_pairs(tmp_path)[0], [0])
    np.testing.assert_array_equal(image[..., 0].movedim(0, -1), pixels)
    np.testing.assert_array_equal(label[0, ..., 0], pixels[..., 0] > 127)
