"""Inputs that once failed, one folder each in ``../shared/cases``: what is right for each of them.

Tests beside the modules make inputs of these kinds themselves; these here are run where the folder
is. ``README`` in each says what is in it.
"""

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile

from bundle.apps.annotate.workspace import pick_upload
from bundle.cli import main
from bundle.datasets.check import check_videos
from bundle.datasets.generic import image_pairs
from bundle.datasets.video_folder import video_folder
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.io.writing import ResultWriter
from bundle.segmenter import VideoSegmenter

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
DISK = 797
"""Pixels of the object in most cases."""
RIGHT = {}

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the folder of shared cases")


def right(check):
    """What must hold of the case of this name."""
    RIGHT[check.__name__] = check
    return check


@dataclass(frozen=True)
class Case:
    """A folder of inputs, and one to write to."""

    folder: Path
    out: Path

    def video(self, name):
        """Opened, and every frame read."""
        video = open_video(self.folder / name)
        assert len(list(video)) == video.frame_count
        return video

    def areas(self, name, video, mask_frame=None):
        """Frame -> id -> pixels."""
        found = read_annotations(self.folder / name, video, mask_frame)
        return {
            i: {int(k): int((m == k).sum()) for k in np.unique(m) if k} for i, m in found.items()
        }

    def write(self, video, labels, formats="csv", **options):
        with ResultWriter(self.out, video, formats=formats, **options) as writer:
            for frame in video:
                writer.write(frame, labels)
        return writer.folder


def frames_of_disks():
    return open_video(CASES / "thin_label_swallowed" / "frames")


@right
def alpha_mask_covers_all(case):
    assert case.areas("white_alpha.png", frames_of_disks()) == {0: {1: DISK}}


@right
def batch_suffixes(case):
    (video,) = video_folder(case.folder)
    assert (video.id, len(video.frames), sorted(video.masks)) == ("clip1", 60, [0])


@right
def cover_art_stream_first(case):
    video = case.video("cover.mkv")
    assert (video.frame_count, video.fps) == (60, 25)
    clip = open_video(CASES / "batch_suffixes" / "clip1.ts")
    assert np.abs(video[0].astype(int) - clip[0]).mean() < 3


@right
def dicom_codec_missing_called_damaged(case):
    for name in ("jll.dcm", "htj2k.dcm"):
        try:
            assert case.video(name).frame_count == 12
        except ValueError as error:
            assert 'pip install "tcmn[dicom]"' in str(error)  # noqa: PT017
            assert "damaged" not in str(error)  # noqa: PT017


@right
def dicom_series_folder(case):
    video = case.video("series")
    assert (video.frame_count, video.fps, video.spacing_mm) == (12, 25, (1.2, 1.2))
    means = [frame.mean() for frame in video]
    assert means == sorted(means)  # the disk grows with time, file names are in another order


@right
def dicom_video_transfer_syntaxes(case):
    assert (case.video("h264.dcm").frame_count, case.video("h264.dcm").fps) == (12, 25)


@right
def dv_rate_60000(case):
    assert case.video("a.dv").fps == 25


@right
def enhanced_mr_spacing_order_lost(case):
    video = case.video("emr.dcm")
    assert (video.spacing_mm, video.fps) == ((1.25, 1.25), 25)
    assert [video.stored_index(i) for i in range(12)] == list(range(11, -1, -1))
    place = video.geometry.affine[:3, 3]
    np.testing.assert_allclose(np.abs(place), (10, 20, 30))


@right
def hash_in_path(case):
    video, mask = case.folder / "patient #12" / "v.mp4", case.folder / "mask0.png"
    options = [str(video), "--mask", str(mask), "--output-dir", str(case.out)]
    assert main(["segment", *options, "--formats", "csv", "--quiet"]) == 0
    assert (case.out / "v" / "frames.csv").is_file()


@right
def id_255_becomes_1_on_one_frame(case):
    found = case.areas("folder255", frames_of_disks())
    assert {frame: set(ids) for frame, ids in found.items()} == {0: {128, 255}, 6: {255}}


@right
def many_objects_vanish_unflagged(case):
    """Whichever objects are lost: from there on somebody is asked to look."""
    video = case.video("frames")
    masks = read_annotations(case.folder / "mask.png", video)
    for result in VideoSegmenter.from_pretrained().segment(video, masks):
        lost = {*np.unique(masks[0])} - {*np.unique(result.labels)}
        assert result.review or not lost, f"{len(lost)} objects gone in frame {result.frame}"


@right
def mask_in_other_orientation_flipped(case):
    video = case.video("vid_las.nii.gz")
    turned, same = (
        read_annotations(case.folder / name, video)
        for name in ("mask_ras.nii.gz", "mask_same.nii.gz")
    )
    assert turned.keys() == same.keys()
    for index, labels in same.items():
        np.testing.assert_array_equal(turned[index], labels)


@right
def masks_among_frames(case):
    video = case.video("mixed")
    assert video.frame_count == 4
    assert case.areas("mixed", video) == {i: {1: DISK} for i in range(4)}


@right
def mha_4d_time_spacing_lost(case):
    video = case.video("j4.mha")
    assert video.fps == pytest.approx(25)
    labels = np.zeros((video.height, video.width), np.uint8)
    folder = case.write(video, labels, "nifti")
    assert open_video(folder / "masks.nii.gz").fps == pytest.approx(25)


@right
def mirrored_display_matrix(case):
    clip = open_video(CASES / "batch_suffixes" / "clip1.ts")
    mirrored = case.video("hflip.mp4")[0].astype(int)
    assert np.abs(mirrored - clip[0][:, ::-1]).mean() < 3


@right
def native_ybr_full_422_scrambled(case):
    video = case.video("ybr422.dcm")
    for index in (0, 5, 11):
        assert np.abs(video[index].astype(int) - frames_of_disks()[index]).mean() < 1
    assert list(case.areas("mask0.png", video)) == [0]


@right
def nifti_mask_slope_fractional(case):
    assert case.areas("slope.nii.gz", frames_of_disks()) == {0: {1: DISK}}


@right
def nrrd_not_read(case):
    video = case.video("a.nrrd")
    assert video.frame_count == case.video("a.seq.nrrd").frame_count == 12
    assert case.areas("seg.nrrd", video) == {0: {1: DISK}}


@right
def numbered_picture_taken_for_frame_0(case):
    video = open_video(CASES / "upload_video_and_mask" / "v.mp4")
    for name, number in (("00007.png", 7), ("m1", 1)):
        with pytest.raises(ValueError, match=f"--mask-frame {number}"):
            case.areas(name, video)
    assert list(case.areas("m1", video, 0)) == [0]
    assert list(case.areas("00007.png", frames_of_disks())) == [7]  # called like that frame


@right
def overwrite_deletes_users_files(case):
    video = frames_of_disks()
    labels = read_annotations(case.folder / "mask0.png", video)[0]
    folder = case.write(video, labels, "csv,png")
    shutil.copy(case.folder / "mask0.png", folder / "my_correction.png")
    (folder / "notes.txt").write_text("mine")
    case.write(video, labels, "csv,png", overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "my_correction.png").is_file()


@right
def palette16_brightness(case):
    video = case.video("pal.dcm")
    red = video[0][..., 0]
    values, counts = np.unique(red[red > 0], return_counts=True)
    assert abs(int(values[counts.argmax()]) - 78) < 3 or 78 in values


@right
def results_not_taken_back_as_masks(case):
    video = frames_of_disks()
    rle, dicom = (case.areas(name, video) for name in ("masks.json", "masks.dcm"))
    assert rle == dicom
    assert len(rle) == 12


@right
def small_label_in_one_frame_swallowed(case):
    found = case.areas("vol.nii.gz", frames_of_disks())
    assert set(found[0]) == {1, 2, 3}
    assert found[5] == {1: found[5][1], 3: 4}


@right
def thin_label_swallowed(case):
    video = case.video("frames")
    for name in ("thin13.nii.gz", "thin13p.png"):
        assert case.areas(name, video) == {0: {1: 735, 3: 170}}
    assert case.areas("small.png", video)[0][5] == 3
    assert set(case.areas("touch2.png", video)[0]) == {10, 20}


@right
def tiff_stacks(case):
    for name in ("stack.tif", "big.tif", "tifdir"):
        assert case.video(name).frame_count == 12
    masks = np.zeros((12, 96, 96), np.uint8)
    masks[7, 20:40, 30:50] = 1
    case.out.mkdir()
    tifffile.imwrite(case.out / "masks.tif", masks, photometric="minisblack")
    assert case.areas(case.out / "masks.tif", case.video("stack.tif")) == {7: {1: 400}}


@right
def tiny_object_lost_unflagged(case):
    video = frames_of_disks()
    masks = read_annotations(case.folder / "only3.png", video)
    for result in VideoSegmenter.from_pretrained().segment(video, masks):
        assert result.review or result.labels.any(), f"gone in frame {result.frame}"


@right
def tracked_ultrasound_mha_long_header(case):
    video = case.video("plus3.mha")
    assert (video.frame_count, video.fps) == (120, pytest.approx(25))


@right
def upload_video_and_mask(case):
    folder = case.out / "upload"
    folder.mkdir(parents=True)
    for name in ("v.mp4", "mask0.png"):
        shutil.copy(case.folder / name, folder)
    assert pick_upload(folder) == (folder / "v.mp4", folder / "mask0.png")


@right
def variable_frame_rate_time(case):
    video = case.video("vfr.mkv")
    assert video.times[-1] == pytest.approx(5.84, abs=0.01)
    labels = read_annotations(case.folder / "vfr_mask.png", video)[0]
    folder = case.write(video, labels, "csv,overlay")
    with (folder / "frames.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["time_s"]) == pytest.approx(5.84, abs=0.01)
    with av.open(str(folder / "overlay.mp4")) as container:
        *_, frame = container.decode(video=0)
    assert frame.time == pytest.approx(5.84, abs=0.05)


@right
def window_and_outliers_ignored(case):
    for name in ("win.dcm", "i16hot.nii.gz", "pad.dcm"):
        frames = np.stack(list(case.video(name)))[..., 0]
        assert np.percentile(frames, 90) - np.percentile(frames, 50) > 10 or frames.std() > 20
        assert 15 < frames.mean() < 150


@right
def zero_one_masks_called_empty(case):
    survey = check_videos(lambda report: image_pairs(case.folder, report=report), "pairs")
    assert survey.problems == []
    assert survey.empty == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", RIGHT)
def test_each_case_gives_the_expected_results(name, tmp_path):
    if not (CASES / name).is_dir():
        pytest.skip(f"there is no {name} in {CASES}")
    RIGHT[name](Case(CASES / name, tmp_path / "out"))


def test_no_case_is_left_out():
    assert {entry.name for entry in os.scandir(CASES) if entry.is_dir()} <= RIGHT.keys()
