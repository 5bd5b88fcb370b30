"""Videos in NRRD files, TIFF stacks and MetaImages with time, against their own libraries."""

import gzip
import os

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from bundle.datasets.video_folder import video_folder
from bundle.io.reading.decode import read_image
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.nrrd import read_nrrd
from bundle.io.reading.video import open_video

COUNT, HEIGHT, WIDTH = 5, 6, 9
NONE = [np.nan] * 3
STEPS = [[0.5, 0, 0], [0, 0.25, 0], [0, 0, 2]]
LPS = {"space": "left-posterior-superior", "space origin": [1, 2, 3]}
PLACE = [[-0.5, 0, 0, -1], [0, -0.25, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]


@pytest.fixture
def grey():
    """(T, H, W) uint8."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), np.uint8)


def shown(video):
    return np.stack(list(video))[..., 0]


# NRRD


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bz2", "ascii", "hex"])
def test_nrrd_over_its_third_axis(tmp_path, grey, encoding):
    header = {**LPS, "space directions": STEPS, "kinds": ["domain"] * 3}
    path = tmp_path / "a.nrrd"
    nrrd.write(str(path), grey.T, {**header, "encoding": "raw" if encoding == "hex" else encoding})
    if encoding == "hex":
        head, _, data = path.read_bytes().partition(b"\n\n")
        path.write_bytes(head.replace(b"raw", b"hex") + b"\n\n" + data.hex().encode())
    video = open_video(path)
    np.testing.assert_array_equal(shown(video), grey)
    np.testing.assert_array_equal(video[3][..., 0], grey[3])
    assert (video.spacing_mm, video.fps) == ((0.25, 0.5), None)
    assert video.geometry.shape == (WIDTH, HEIGHT, COUNT)
    np.testing.assert_allclose(video.geometry.affine, PLACE)


@pytest.mark.parametrize("list_axis", [0, 3])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("block", [1, 10**6])
def test_a_sequence_of_3d_slicer(tmp_path, grey, list_axis, encoding, block, monkeypatch):
    monkeypatch.setattr("bundle.io.reading.nrrd.BLOCK_BYTES", block)
    volume = np.moveaxis(grey.transpose(2, 1, 0)[:, :, None, :], 3, list_axis)
    kinds, directions, units = ["domain"] * 3, list(STEPS), ["mm"] * 3
    kinds.insert(list_axis, "list")
    directions.insert(list_axis, NONE)
    units.insert(list_axis, "ms")
    header = {
        **LPS,
        "space directions": directions,
        "kinds": kinds,
        "units": units,
        "encoding": encoding,
        f"axis {list_axis} index type": "numeric",
        f"axis {list_axis} index values": "0 40 80 200 240",
    }
    nrrd.write(str(tmp_path / "a.seq.nrrd"), volume, header)
    video = open_video(tmp_path / "a.seq.nrrd")
    np.testing.assert_array_equal(shown(video), grey)
    np.testing.assert_array_equal(video[3][..., 0], grey[3])
    assert video.name == "a"
    np.testing.assert_allclose(video.times, [0, 0.04, 0.08, 0.2, 0.24])
    assert video.geometry.shape == (WIDTH, HEIGHT, 1, COUNT)
    np.testing.assert_allclose(video.geometry.affine, PLACE)


def test_colours_and_other_axes_of_space(tmp_path, grey):
    colours = np.stack([grey, 255 - grey, grey // 2])
    header = {"kinds": ["RGB-color", "domain", "domain", "domain"], "encoding": "raw"}
    nrrd.write(str(tmp_path / "a.nrrd"), colours.transpose(0, 3, 2, 1), header)
    np.testing.assert_array_equal(
        np.stack(list(open_video(tmp_path / "a.nrrd"))), colours.transpose(1, 2, 3, 0)
    )
    header = {"space": "right-anterior-superior", "space directions": STEPS}
    nrrd.write(str(tmp_path / "b.nrrd"), grey.T, {**header, "space origin": [1, 2, 3]})
    expected = np.array(STEPS)
    np.testing.assert_allclose(open_video(tmp_path / "b.nrrd").geometry.affine[:3, :3], expected)


@pytest.mark.parametrize("compressed", [True, False])
def test_nrrd_as_itk_writes_it(tmp_path, grey, compressed):
    image = sitk.GetImageFromArray(grey.astype(np.int16))
    image.SetSpacing((0.5, 0.25, 2))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"), compressed)
    video = open_video(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(np.stack(list(video.pixels(range(COUNT)))), grey)
    np.testing.assert_allclose(video.geometry.affine, PLACE)


def test_a_detached_header(tmp_path, grey):
    nrrd.write(str(tmp_path / "a.nhdr"), grey.T, {"encoding": "gzip"}, detached_header=True)
    np.testing.assert_array_equal(shown(open_video(tmp_path / "a.nhdr")), grey)
    header = (tmp_path / "a.nhdr").read_text()
    for name, message in (("/etc/hostname", "in the folder of"), ("b.raw", "is not there")):
        (tmp_path / "a.nhdr").write_text(header.replace("a.raw.gz", name))
        with pytest.raises(ValueError, match=rf"cannot open .*a.nhdr as NRRD: .*{message}"):
            open_video(tmp_path / "a.nhdr")


def test_several_slices_over_time_are_refused(tmp_path):
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((9, 6, 3, 5), np.uint8), {})
    with pytest.raises(ValueError, match=r"a.nrrd has sizes \[9, 6, 3, 5\].*expected one slice"):
        open_video(tmp_path / "a.nrrd")


def test_an_nrrd_that_ends_early(tmp_path, grey):
    nrrd.write(str(tmp_path / "a.nrrd"), grey.T, {"encoding": "gzip"})
    head, _, data = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    short = gzip.compress(gzip.decompress(data)[:-10])
    (tmp_path / "a.nrrd").write_bytes(head + b"\n\n" + short)
    with pytest.raises(ValueError, match=r"cannot read frame 4 of 5 of .*a.nrrd: it has fewer"):
        list(open_video(tmp_path / "a.nrrd"))


def test_an_nrrd_mask(tmp_path, grey):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[1:5, 2:7] = 3
    nrrd.write(str(tmp_path / "a.nrrd"), grey.T, {})
    nrrd.write(str(tmp_path / "mask.nrrd"), labels.T, {})
    video = open_video(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read_annotations(tmp_path / "mask.nrrd", video)[0], labels)
    assert read_nrrd(tmp_path / "a.nrrd").sizes == (WIDTH, HEIGHT, COUNT)


# TIFF


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"imagej": True, "metadata": {"axes": "TYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "TYX"}},
        {"compression": "zlib"},
        {"byteorder": ">"},
        {"photometric": "minisblack", "rowsperstrip": 2},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_stack(tmp_path, grey, options, dtype):
    frames = grey.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", frames, **{"photometric": "minisblack", **options})
    video = open_video(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.stack(list(video.pixels(range(COUNT)))), frames)
    np.testing.assert_array_equal(video[3][..., 0], grey[3])


def test_colours_of_a_stack_and_pillows_codecs(tmp_path, grey):
    colours = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    np.testing.assert_array_equal(np.stack(list(open_video(tmp_path / "a.tif"))), colours)
    first, *rest = [Image.fromarray(frame) for frame in grey]
    first.save(tmp_path / "b.tif", save_all=True, append_images=rest, compression="tiff_lzw")
    np.testing.assert_array_equal(shown(open_video(tmp_path / "b.tif")), grey)


def test_times_and_spacing_of_stacks(tmp_path, grey):
    about = {"axes": "TYX", "finterval": 0.04, "unit": "um"}
    options = {"metadata": about, "resolution": (2, 4)}
    tifffile.imwrite(tmp_path / "a.tif", grey, imagej=True, **options)
    video = open_video(tmp_path / "a.tif")
    assert video.fps == pytest.approx(25)
    assert video.spacing_mm == pytest.approx((0.25e-3, 0.5e-3))
    about = {"axes": "TYX", "TimeIncrement": 40, "TimeIncrementUnit": "ms"}
    about |= {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "mm"}
    about |= {"PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "mm"}
    tifffile.imwrite(tmp_path / "b.ome.tif", grey, metadata=about)
    video = open_video(tmp_path / "b.ome.tif")
    assert (video.name, video.fps) == ("b", pytest.approx(25))
    assert video.spacing_mm == pytest.approx((0.25, 0.5))


def test_a_stack_in_a_folder(tmp_path, grey):
    folder = tmp_path / "frames"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", grey, photometric="minisblack")
    video = open_video(folder)
    assert (video.name, video.frame_count) == ("frames", COUNT)
    np.testing.assert_array_equal(shown(video), grey)
    tifffile.imwrite(folder / "b.tif", grey[0])
    with pytest.raises(ValueError, match=r"frames holds 2 pictures, but a.tif is a stack"):
        open_video(folder)
    with pytest.raises(ValueError, match=r"a.tif is a stack of several pictures, expected one"):
        read_image(folder / "a.tif")


def test_a_stack_with_slices_and_times_is_refused(tmp_path):
    pixels = np.zeros((3, 2, 6, 9), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match=r"a.tif has the axes TZYX of \(3, 2, 6, 9\): expected"):
        open_video(tmp_path / "a.tif")


def test_a_stack_of_masks(tmp_path, grey):
    labels = np.zeros(grey.shape, np.uint8)
    labels[2, 1:5, 2:7] = 3
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack")
    tifffile.imwrite(tmp_path / "mask.tif", labels, photometric="minisblack")
    found = read_annotations(tmp_path / "mask.tif", open_video(tmp_path / "a.tif"))
    assert list(found) == [2]
    np.testing.assert_array_equal(found[2], labels[2])


def test_a_stack_of_masks_of_another_size_is_refused(tmp_path, grey):
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack")
    tifffile.imwrite(tmp_path / "mask.tif", grey[:, ::2, ::2], photometric="minisblack")
    with pytest.raises(ValueError, match=r"mask.tif is 5x3 but .*a.tif is 9x6: export"):
        read_annotations(tmp_path / "mask.tif", open_video(tmp_path / "a.tif"))


# MetaImage


def meta_file(path, grey, fields, ndims="3", size=f"{WIDTH} {HEIGHT} {COUNT}"):
    lines = ["ObjectType = Image", f"NDims = {ndims}", f"DimSize = {size}", *fields]
    lines += ["ElementType = MET_UCHAR", "ElementDataFile = LOCAL"]
    path.write_bytes("\n".join([*lines, ""]).encode() + grey.tobytes())
    return path


def test_the_time_step_of_a_meta_image(tmp_path, grey):
    size = f"{WIDTH} {HEIGHT} 1 {COUNT}"
    path = meta_file(tmp_path / "a.mha", grey, ["ElementSpacing = 0.5 0.25 1 0.04"], "4", size)
    assert open_video(path).fps == pytest.approx(25)
    path = meta_file(tmp_path / "b.mha", grey, ["ElementSpacing = 1 1 1 1"], "4", size)
    assert open_video(path).fps is None


def test_a_tracked_recording_with_a_long_header(tmp_path, grey):
    fields = ["ElementSpacing = 0.5 0.25 1"]
    times = [0, 0.04, 0.08, 0.2, 0.24]
    for index in range(COUNT):
        fields += [f"Seq_Frame{index:04d}_Tool{k}ToTrackerTransform = 1 0 0 0" for k in range(900)]
        fields += [f"Seq_Frame{index:04d}_Timestamp = {100 + times[index]}"]
    video = open_video(meta_file(tmp_path / "a.mha", grey, fields))
    np.testing.assert_allclose(video.times, times, atol=1e-9)
    np.testing.assert_array_equal(shown(video), grey)


# Batches


@pytest.mark.parametrize("suffix", ["ts", "mxf", "dv", "m2ts", "webm", "nut", "odd"])
def test_what_opens_alone_opens_in_a_batch(tmp_path, suffix):
    import av

    kind = {"m2ts": "mpegts", "odd": "matroska", "ts": "mpegts"}.get(suffix, suffix)
    codec = {"mxf": "mpeg2video", "dv": "dvvideo", "webm": "libvpx"}.get(suffix, "mpeg4")
    height, width = (576, 720) if suffix == "dv" else (64, 96)
    with av.open(str(tmp_path / f"a.{suffix}"), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for level in range(30):
            frame = np.full((height, width, 3), 8 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "a.txt").write_text("of no concern")
    mask = np.zeros((height, width), np.uint8)
    mask[5:30, 5:30] = 1
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    (video,) = video_folder(tmp_path)
    assert (video.id, len(video.frames)) == ("a", 30)
    assert open_video(tmp_path / f"a.{suffix}").fps == pytest.approx(25)


def test_a_series_and_a_stack_in_a_batch(tmp_path, grey):
    os.mkdir(tmp_path / "a")
    tifffile.imwrite(tmp_path / "a" / "a.tif", grey, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", grey, photometric="minisblack")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:5, 1:5] = 1
    for name in "ab":
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
    assert [(video.id, len(video.frames)) for video in video_folder(tmp_path)] == [
        ("a", 5),
        ("b", 5),
    ]
