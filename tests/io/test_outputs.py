"""Every output read back with another library than wrote it, and nothing left of a failed run."""

import csv
import gzip
import os
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from contextlib import closing
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import bundle.io.writing.pictures
from bundle.io.reading.video import Geometry, VideoSource
from bundle.io.writing import ResultWriter, blend
from bundle.io.writing.nifti_header import label_header
from bundle.io.writing.table import TableWriter
from bundle.io.writing.writer import BEHIND, Segmented, WriteBehind
from bundle.visualization.overlay import PALETTE, pick_frames

HEIGHT, WIDTH, FRAMES = 35, 53, 11
ROOT = Path(__file__).resolve().parents[2]


def make_source(**changes):
    """A video on no disk: the writer never reads it."""
    size = {"height": HEIGHT, "width": WIDTH, "frame_count": FRAMES} | changes
    shape = (size["width"], size["height"], size["frame_count"])
    options = {
        "path": Path("cine.avi"),
        "name": "cine",
        "fps": 30.0,
        "spacing_mm": (0.5, 0.25),
        "geometry": Geometry(shape, np.eye(4)),
        "read": lambda indices: iter(()),
    }
    return VideoSource(**options | size)


def make_clip(source):
    """Random grey frames; in the labels object 7 moves right and object 2 comes at frame 3."""
    draw = np.random.default_rng(0)
    for index in range(source.frame_count):
        grey = draw.integers(60, 120, (source.height, source.width, 1), dtype=np.uint8)
        labels = np.zeros((source.height, source.width), dtype=np.uint8)
        labels[4:14, 5 + index : 25 + index] = 7
        if index >= 3:
            labels[20:30, 2:9] = 2
        yield grey.repeat(3, axis=2), labels


def write(output_dir, source, **options):
    with ResultWriter(output_dir, source, **options) as writer:
        for frame, labels in make_clip(source):
            writer.write(frame, labels)
    return writer.folder


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def no_picture(monkeypatch):
    """Drawing takes most of the time: left out where it is beside the point."""
    monkeypatch.setattr(bundle.io.writing.pictures, "draw_summary", lambda *args, **options: None)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write(tmp_path_factory.mktemp("results"), make_source())


def test_the_folder_holds_the_promised_files_and_no_others(results):
    masks = [f"masks/{index:05d}.png" for index in range(FRAMES)]
    named = ["frames.csv", "manifest.json", "masks", "masks.nii.gz", "overlay.mp4", "summary.png"]
    assert everything(results) == sorted(named + masks)
    assert [path.name for path in results.parent.iterdir()] == ["cine"]


def test_a_results_folder_has_ordinary_permissions(results):
    (results.parent.parent / "ordinary").mkdir()
    assert results.stat().st_mode == (results.parent.parent / "ordinary").stat().st_mode


# The label volume


def test_volume_is_the_transposed_labels(results):
    volume = nib.load(results / "masks.nii.gz")
    assert volume.shape == (WIDTH, HEIGHT, FRAMES)
    assert volume.get_data_dtype() == np.uint8
    values = np.asarray(volume.dataobj)
    assert values.dtype == np.uint8  # no scaling on reading
    for index, (_, labels) in enumerate(make_clip(make_source())):
        np.testing.assert_array_equal(values[:, :, index], labels.T)
    assert values[34, 13, 10] == 7
    assert values[13, 34, 10] == 0


def nifti_source(shape, affine, codes):
    """A source header full of what must stay and of what must not."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_zooms((0.3, 0.2, 1.0, 0.04)[: len(shape)])
    header.set_xyzt_units("mm", "sec")
    header.set_qform(affine, code=codes[0])
    header.set_sform(affine, code=codes[1])
    header.set_slope_inter(2.0, 5.0)
    header["intent_code"], header["cal_max"] = 1002, 255
    return header


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("codes", [(1, 2), (0, 2), (1, 0), (0, 0)])
@pytest.mark.parametrize("shape", [(WIDTH, HEIGHT, FRAMES), (WIDTH, HEIGHT, 1, FRAMES)])
def test_volume_lies_where_its_nifti_source_lies(tmp_path, shape, codes):
    # Axes turned about z, y pointing back, anisotropic, off the origin.
    affine = np.array([[0, 0.2, 0, 5], [-0.3, 0, 0, 7], [0, 0, 1.0, -9], [0, 0, 0, 1]])
    header = nifti_source(shape, affine, codes)
    best = header.get_best_affine()
    source = make_source(geometry=Geometry(shape=shape, affine=best, header=header))
    volume = nib.load(write(tmp_path, source) / "masks.nii.gz")
    assert volume.shape == shape
    np.testing.assert_allclose(volume.affine, best, atol=1e-6)
    assert volume.header.get_zooms() == header.get_zooms()
    assert volume.header.get_xyzt_units() == ("mm", "sec")
    assert (volume.header["qform_code"], volume.header["sform_code"]) == codes
    assert (volume.header["intent_code"], volume.header["cal_max"]) == (0, 0)
    *_, (_, last) = make_clip(source)
    np.testing.assert_array_equal(np.asarray(volume.dataobj)[..., -1].squeeze(), last.T)


@pytest.mark.usefixtures("no_picture")
def test_channels_of_an_rgb_nifti_source_leave_no_trace(tmp_path):
    header = nifti_source((WIDTH, HEIGHT, FRAMES), np.eye(4), (1, 1))
    header.set_data_shape((WIDTH, HEIGHT, 1, FRAMES, 3))
    header["pixdim"][1:6] = 0.3, 0.2, 1, 0.04, 9
    geometry = Geometry(shape=(WIDTH, HEIGHT, 1, FRAMES), affine=np.eye(4), header=header)
    volume = nib.load(write(tmp_path, make_source(geometry=geometry)) / "masks.nii.gz")
    assert volume.shape == (WIDTH, HEIGHT, 1, FRAMES)
    np.testing.assert_allclose(volume.header["pixdim"][1:6], [0.3, 0.2, 1, 0.04, 1])


@pytest.mark.usefixtures("no_picture")
def test_volume_without_a_source_header_takes_affine_and_frame_rate(tmp_path):
    affine = np.diag([-0.25, -0.5, 1, 1])
    shape = (WIDTH, HEIGHT, 1, FRAMES)
    source = make_source(geometry=Geometry(shape=shape, affine=affine))
    volume = nib.load(write(tmp_path, source) / "masks.nii.gz")
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    np.testing.assert_allclose(volume.get_qform(), affine, atol=1e-6)
    np.testing.assert_allclose(volume.header.get_zooms(), (0.25, 0.5, 1, 1 / 30), rtol=1e-6)
    assert volume.header.get_xyzt_units() == ("mm", "sec")


@pytest.mark.usefixtures("no_picture")
def test_volume_of_unknown_spacing_does_not_claim_millimetres(tmp_path):
    volume = nib.load(write(tmp_path, make_source(spacing_mm=None)) / "masks.nii.gz")
    assert volume.header.get_xyzt_units() == ("unknown", "unknown")


def test_a_video_too_long_for_nifti1_becomes_nifti2(tmp_path):
    header = label_header(make_source(width=2, height=3, frame_count=40_000))
    path = tmp_path / "long.nii.gz"
    with gzip.open(path, "wb") as file:
        header.write_to(file)
        file.write(bytes(2 * 3 * 40_000))
    volume = nib.load(path)
    assert isinstance(volume, nib.Nifti2Image)
    assert np.asarray(volume.dataobj).shape == (2, 3, 40_000)


@pytest.mark.usefixtures("no_picture")
def test_equal_masks_give_equal_volumes(tmp_path, results):
    again = write(tmp_path, make_source()) / "masks.nii.gz"
    assert again.read_bytes() == (results / "masks.nii.gz").read_bytes()


# PNG masks


def test_pngs_hold_ids_in_davis_colours(results):
    for index, (_, labels) in enumerate(make_clip(make_source())):
        with Image.open(results / "masks" / f"{index:05d}.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), labels)
            colours = np.asarray(picture.convert("RGB"))
    assert colours[22, 3].tolist() == [0, 128, 0]
    assert colours[5, 20].tolist() == [128, 128, 128]


def test_palette_equals_the_bit_shuffle_of_the_voc_kit():
    for object_id in range(256):
        red = green = blue = 0
        rest = object_id
        for shift in range(7, -1, -1):
            red |= (rest & 1) << shift
            green |= (rest >> 1 & 1) << shift
            blue |= (rest >> 2 & 1) << shift
            rest >>= 3
        assert PALETTE[object_id].tolist() == [red, green, blue]


# Overlay


def test_blend_fills_by_half_outlines_solidly_and_leaves_the_rest():
    frame = np.full((20, 20, 3), 100, dtype=np.uint8)
    labels = np.zeros((20, 20), dtype=np.uint8)
    labels[5:12, 0:8] = 1  # touches the left side, where it has no outline
    shown = blend(frame, labels)
    assert (shown[labels == 0] == 100).all()
    assert shown[8, 0].tolist() == shown[8, 4].tolist() == [114, 50, 50]
    assert shown[5, 3].tolist() == shown[11, 3].tolist() == shown[8, 7].tolist() == [128, 0, 0]
    assert (frame == 100).all()


def test_overlay_plays_with_all_frames_padded_to_even_sides(results):
    with av.open(str(results / "overlay.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 30
        assert stream.sample_aspect_ratio == 0.5  # pixels half as wide as high
        pictures = [picture.to_ndarray(format="rgb24") for picture in file.decode(stream)]
    assert len(pictures) == FRAMES
    for picture, (frame, labels) in zip(pictures, make_clip(make_source()), strict=True):
        assert picture.shape == (36, 54, 3)
        shown, inner = picture[:HEIGHT, :WIDTH].astype(int), blend(frame, labels)[22:28, 4:7]
        assert np.abs(shown[22:28, 4:7].mean((0, 1)) - inner.mean((0, 1))).max() < 12


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(("fps", "played"), [(None, 25), (0.002, 1), (29.97, 29.97)])
def test_overlay_rate_where_the_source_has_none_or_an_odd_one(tmp_path, fps, played):
    with av.open(str(write(tmp_path, make_source(fps=fps)) / "overlay.mp4")) as file:
        assert float(file.streams.video[0].average_rate) == pytest.approx(played)


# Some widths at which x264's AVX-512 code reads past what it wrote if there are B-frames.
DRAW_OVERLAYS = """
import hashlib, sys
from pathlib import Path
import numpy as np
from bundle.visualization.overlay import OverlayVideo
path, digest = Path(sys.argv[1]), hashlib.sha256()
for height, width in [(118, 70), (60, 72), (48, 62), (224, 224)]:
    draw = np.random.default_rng(height)
    with OverlayVideo(path, (height, width), fps=25, spacing_mm=None) as overlay:
        for t in range(6):
            frame = draw.integers(0, 80, (height, width, 3), dtype=np.uint8)
            frame[height // 4 : height // 2, width // 4 + 2 * t : width // 2 + 2 * t] += 150
            overlay.write(frame)
        overlay.flush()
    digest.update(path.read_bytes())
print(digest.hexdigest())
"""


def test_overlays_do_not_depend_on_what_memory_held_before(tmp_path):
    command = [sys.executable, "-c", DRAW_OVERLAYS, str(tmp_path / "overlay.mp4")]
    digests = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_PERTURB_": filling},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for filling in ("0", "85", "255")
    }
    assert len(digests) == 1


# Table


def read_table(folder):
    with open(folder / "frames.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_has_exact_areas_for_each_frame_and_object(results):
    rows = read_table(results)
    assert len(rows) == FRAMES * 2
    assert rows[0] == {
        "frame": "0", "time_s": "0.000000", "object": "2", "area_px": "0", "area_mm2": "0",
        "centroid_x_px": "", "centroid_y_px": "", "confidence": "", "review": "false",
    }  # fmt: skip
    assert (rows[1]["centroid_x_px"], rows[1]["centroid_y_px"]) == ("14.50", "8.50")
    for row, (index, object_id) in zip(
        rows, [(i, o) for i in range(FRAMES) for o in (2, 7)], strict=True
    ):
        area = {7: 200, 2: 70 if index >= 3 else 0}[object_id]
        assert (int(row["frame"]), int(row["object"]), int(row["area_px"])) == (
            index, object_id, area,
        )  # fmt: skip
        assert float(row["area_mm2"]) == area * 0.5 * 0.25
        assert float(row["time_s"]) == pytest.approx(index / 30, abs=1e-6)


@pytest.mark.usefixtures("no_picture")
def test_table_leaves_unknown_times_and_sizes_empty(tmp_path):
    rows = read_table(write(tmp_path, make_source(fps=None, spacing_mm=None)))
    assert {(row["time_s"], row["area_mm2"]) for row in rows} == {("", "")}
    assert rows[-1]["area_px"] == "200"


@pytest.mark.usefixtures("no_picture")
def test_table_has_confidences_and_frames_to_review_where_given(tmp_path):
    with ResultWriter(tmp_path, make_source()) as writer:
        for index, (frame, labels) in enumerate(make_clip(make_source())):
            given = {7: 0.9, 2: index / 10, 9: float("nan")} if index in (1, 4) else None
            writer.write(frame, labels, given, review=index == 4)
    rows = {(row["frame"], row["object"]): row for row in read_table(writer.folder)}
    assert rows["4", "2"]["confidence"] == "0.4000"
    assert rows["1", "2"]["confidence"] == "0.1000"  # asked about, if not to be seen
    assert (rows["1", "7"]["confidence"], rows["2", "7"]["confidence"]) == ("0.9000", "")
    assert (rows["1", "9"]["confidence"], rows["1", "9"]["area_px"]) == ("", "0")
    assert [key for key, row in rows.items() if row["review"] == "true"] == [
        ("4", "2"), ("4", "7"), ("4", "9"),
    ]  # fmt: skip


# Picture


def test_summary_opens_at_a_legible_size(results):
    with Image.open(results / "summary.png") as picture:
        picture.load()
        assert picture.width == 1440
        assert 600 < picture.height < 2500
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


@pytest.mark.parametrize(
    "options",
    [
        {"frame_count": 1},
        {"frame_count": 3, "fps": None, "spacing_mm": None},
        {"name": "costs $5 and $6_" + "long " * 40},
        {"name": "心エコー"},
    ],
)
def test_summary_of_unusual_videos(tmp_path, options):
    assert (write(tmp_path, make_source(**options)) / "summary.png").stat().st_size > 10_000


def test_a_video_without_objects_has_results_too(tmp_path):
    with ResultWriter(tmp_path, make_source()) as writer:
        for frame, labels in make_clip(make_source()):
            writer.write(frame, np.zeros_like(labels))
    assert read_table(writer.folder) == []
    assert (writer.folder / "summary.png").is_file()


@pytest.mark.parametrize(
    ("frame_count", "given", "picks"),
    [
        (1, 0, [0]),
        (3, 1, [0, 1, 2]),
        (8, 7, [0, 1, 2, 3, 4, 5, 6, 7]),
        (71, 22, [0, 10, 22, 30, 40, 50, 60, 70]),
    ],
)
def test_shown_frames_are_even_and_include_the_given_one(frame_count, given, picks):
    assert pick_frames(frame_count, given) == picks


# All or nothing


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [0, 2])
def test_an_exception_leaves_nothing(tmp_path, error, written):
    with pytest.raises(error), ResultWriter(tmp_path, make_source()) as writer:  # noqa: PT012
        for _, (frame, labels) in zip(range(written), make_clip(make_source()), strict=False):
            writer.write(frame, labels)
        assert not writer.folder.exists()
        raise error
    assert everything(tmp_path) == []


def test_a_failed_run_takes_back_the_folders_that_it_made_and_no_others(tmp_path):
    def fail(output_dir):
        with pytest.raises(RuntimeError), ResultWriter(output_dir, make_source()):
            raise RuntimeError

    mine = tmp_path / "mine"
    mine.mkdir()
    fail(mine)
    fail(mine / "new" / "deep")
    assert everything(tmp_path) == ["mine"]
    writer = ResultWriter(mine / "new", make_source())
    (mine / "new" / "note.txt").touch()  # by somebody else, meanwhile
    with pytest.raises(RuntimeError), writer:
        raise RuntimeError
    assert everything(tmp_path) == ["mine", "mine/new", "mine/new/note.txt"]


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("step", [(TableWriter, "finish"), (ResultWriter, "_move_into_place")])
def test_a_full_disk_at_the_end_leaves_nothing(tmp_path, monkeypatch, step):
    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*step, fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, make_source())
    assert everything(tmp_path) == []


def test_a_failing_encoder_at_the_start_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("no encoder")

    monkeypatch.setattr(bundle.io.writing.pictures, "OverlayVideo", fail)
    with pytest.raises(OSError, match="no encoder"), ResultWriter(tmp_path, make_source()):
        pass
    assert everything(tmp_path) == []


@pytest.mark.usefixtures("no_picture")
def test_overwriting_replaces_all_of_the_old_results(tmp_path):
    folder = write(tmp_path, make_source())
    write(tmp_path, make_source(frame_count=4), overwrite=True)
    assert len(list((folder / "masks").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["cine"]


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("moment", ["in the block", "while renaming"])
def test_old_results_survive_a_failing_overwrite(tmp_path, monkeypatch, moment):
    folder = write(tmp_path, make_source())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise OSError("rename failed")
        return rename(path, target)

    with pytest.raises(OSError, match="failed"):  # noqa: PT012
        if moment == "in the block":
            with ResultWriter(tmp_path, make_source(), overwrite=True):
                raise OSError("failed")
        monkeypatch.setattr(Path, "rename", fail)
        write(tmp_path, make_source(frame_count=4), overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["cine"]


@pytest.mark.usefixtures("no_picture")
def test_leftovers_of_a_killed_run_are_no_results(tmp_path):
    (tmp_path / ".cine.abc.partial" / "new" / "masks").mkdir(parents=True)
    assert write(tmp_path, make_source()) == tmp_path / "cine"


@pytest.mark.usefixtures("no_picture")
def test_a_video_may_have_the_longest_name(tmp_path):
    name = 125 * "ä" + "abcde"
    folder = write(tmp_path, make_source(name=name))
    assert folder == write(tmp_path, make_source(name=name), overwrite=True) == tmp_path / name
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("no_picture")
def test_memory_does_not_grow_with_the_video(tmp_path):
    def peak(frame_count):
        source = make_source(height=64, width=64, frame_count=frame_count)
        writer = ResultWriter(tmp_path / str(frame_count), source)
        with writer:
            tracemalloc.start()
            for frame, labels in make_clip(source):
                writer.write(frame, labels)
            held = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return held

    # 180 more frames are 2.9 MB of pixels; one number for each frame and object is 3 KB.
    assert peak(200) - peak(20) < 100_000


# Writing behind


def segmented(index):
    pixel = np.zeros((1, 1), np.uint8)
    return Segmented(index, pixel[..., None].repeat(3, axis=2), pixel)


class Slow:
    """Writes a frame for each permit that it is given."""

    def __init__(self):
        self.written, self.permits = [], threading.Semaphore(0)

    def write(self, result):
        assert self.permits.acquire(timeout=60)
        self.written.append(result.index)

    def permit(self, frames, after_s=0.05):
        threading.Timer(after_s, self.permits.release, [frames]).start()


def running():
    return [thread for thread in threading.enumerate() if "write-behind" in thread.name]


def test_frames_are_written_in_order():
    written = []
    with closing(WriteBehind(lambda result: written.append(result.index))) as behind:
        for index in range(50):
            behind.put(segmented(index))
        behind.wait()
        assert written == list(range(50))
    assert not running()


def test_only_a_few_frames_are_in_hand():
    slow = Slow()
    with closing(WriteBehind(slow.write, count=3)) as behind:
        for index in range(3):
            behind.put(segmented(index))
        assert slow.written == []  # the writer holds nobody up
        slow.permit(1)
        behind.put(segmented(3))  # waits until the first is written
        assert slow.written == [0]
        slow.permit(3)
        behind.wait()
    assert slow.written == [0, 1, 2, 3]


def test_an_early_stop_drops_what_waits():
    slow = Slow()
    with closing(WriteBehind(slow.write)) as behind:
        for index in range(4):
            behind.put(segmented(index))
        slow.permit(4)
    assert slow.written == [0]
    assert not running()


@pytest.fixture
def interrupts():
    """As in a terminal; a shell has what runs in its background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_a_wait_for_the_writer():
    slow = Slow()
    main = threading.main_thread().ident
    interrupt = threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGINT])
    with pytest.raises(KeyboardInterrupt), closing(WriteBehind(slow.write)) as behind:  # noqa: PT012
        interrupt.start()
        slow.permit(1, after_s=0.2)
        for index in range(1000):
            behind.put(segmented(index))
    assert len(slow.written) <= 1
    assert not running()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    "error", [OSError("the disk is gone"), ValueError("frame 2 is damaged"), MemoryError("no room")]
)
def test_an_error_of_a_writer_comes_as_it_is_and_soon(tmp_path, monkeypatch, error, last):
    broken, after, given = FRAMES - 1 if last else 2, [], []

    def fail(self, result):
        after.append(result.index)
        if result.index == broken:
            raise error

    monkeypatch.setattr(bundle.io.writing.pictures.PngWriter, "write", fail)
    with pytest.raises(type(error)) as raised, ResultWriter(tmp_path, make_source()) as writer:  # noqa: PT012
        for frame, labels in make_clip(make_source()):
            writer.write(frame, labels)
            given.append(frame)
    assert raised.value is error
    assert after == list(range(broken + 1))  # no frame after it
    assert len(given) <= broken + BEHIND
    assert everything(tmp_path) == []
    assert not running()


# Errors


@pytest.mark.usefixtures("no_picture")
def test_existing_results_are_refused_before_any_work(tmp_path):
    write(tmp_path, make_source())
    with pytest.raises(FileExistsError, match=r"cine already holds results: choose another output"):
        ResultWriter(tmp_path, make_source())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_result_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "cine").mkdir()
    (tmp_path / "cine" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"cine exists and is not a results folder: choose"):
        ResultWriter(tmp_path, make_source(), overwrite=overwrite)
    assert everything(tmp_path) == ["cine", "cine/thesis.tex"]


@pytest.mark.parametrize("inside", ["", "cine.avi"])
def test_the_video_itself_is_never_replaced(tmp_path, inside):
    (tmp_path / "cine").mkdir()
    (tmp_path / "cine" / "masks.nii.gz").touch()
    source = make_source(path=tmp_path / "cine" / inside)
    with pytest.raises(FileExistsError, match=r"cine holds the video itself: choose another"):
        ResultWriter(tmp_path, source, overwrite=True)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_place_of_the_output_folder(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"output_dir .*file.*: choose another output_dir"):
        ResultWriter(tmp_path / "file" / below, make_source())


def test_no_permission_to_write(tmp_path, monkeypatch):
    def deny(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", deny)
    message = rf"cannot write to the folder {tmp_path} \(Permission denied\): choose another"
    with pytest.raises(PermissionError, match=message):
        ResultWriter(tmp_path, make_source())


@pytest.mark.parametrize("name", ["../cine", "a/b", "..", ""])
def test_a_name_that_would_leave_the_output_folder(tmp_path, name):
    with pytest.raises(ValueError, match=f"'{name}' is not valid for a folder"):
        ResultWriter(tmp_path, make_source(name=name))


def test_geometry_of_another_size(tmp_path):
    geometry = Geometry(shape=(HEIGHT, WIDTH, FRAMES), affine=np.eye(4))
    with pytest.raises(ValueError, match=r"shape \(35, 53, 11\), expected .* \(53, 35, 11\)"):
        ResultWriter(tmp_path, make_source(geometry=geometry))


def test_labels_of_another_size_than_the_frame(tmp_path):
    frame, labels = next(make_clip(make_source()))
    message = r"cine, frame 0: expected .* labels \(35, 53\), found .* and \(53, 35\)"
    with pytest.raises(ValueError, match=message), ResultWriter(tmp_path, make_source()) as writer:
        writer.write(frame, labels.T)
    assert everything(tmp_path) == []


def test_labels_of_another_type(tmp_path):
    frame, labels = next(make_clip(make_source()))
    with pytest.raises(TypeError, match="uint8"), ResultWriter(tmp_path, make_source()) as writer:
        writer.write(frame, labels.astype(np.int64))


def test_too_few_frames(tmp_path):
    frame, labels = next(make_clip(make_source()))
    message = "cine: expected 11 frames, found 1"
    with pytest.raises(ValueError, match=message), ResultWriter(tmp_path, make_source()) as writer:
        writer.write(frame, labels)
    assert everything(tmp_path) == []


def test_too_many_frames(tmp_path):
    source = make_source(frame_count=1)
    frame, labels = next(make_clip(source))
    message = "cine: expected 1 frames, got one more"
    with pytest.raises(ValueError, match=message), ResultWriter(tmp_path, source) as writer:  # noqa: PT012
        writer.write(frame, labels)
        writer.write(frame, labels)
