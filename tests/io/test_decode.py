"""Single pictures and masks: every file kind, soft edges, scaling, one test per error message."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from bundle.io.reading.decode import (
    explained,
    read_image,
    read_pixels,
    to_rgb,
    to_uint8,
    value_range,
)
from bundle.io.reading.scaling import Window


@pytest.fixture
def colour():
    """(H, W, 3) uint8, neither square nor symmetric."""
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def squares(*labels, size=(20, 40)):
    """(H, W) with one 7x7 square per label."""
    mask = np.zeros(size, np.uint8)
    for place, label in enumerate(labels):
        mask[3:10, 12 * place + 2 : 12 * place + 9] = label
    return mask


# Pictures


@pytest.mark.parametrize("suffix", [".png", ".BMP", ".tif", ".tiff"])
def test_colour_pictures(tmp_path, colour, suffix):
    Image.fromarray(colour).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), colour)


def test_grey_palette_transparent_and_bilevel_pictures(tmp_path, colour):
    grey = Image.fromarray(colour[..., 0])
    expected = np.repeat(colour[..., :1], 3, axis=2)
    for mode in ("L", "LA", "RGBA", "P"):
        grey.convert(mode).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected, err_msg=mode)
    Image.fromarray(colour[..., 0] > 127).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), (expected > 127) * np.uint8(255))


def test_jpeg_is_close(tmp_path):
    smooth = to_rgb(np.tile(np.arange(0, 128, 2, dtype=np.uint8), (32, 1)))
    Image.fromarray(smooth).save(tmp_path / "a.jpg")
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() < 8


def test_a_tiff_that_pillow_cannot_read(tmp_path, colour):
    tifffile.imwrite(tmp_path / "a.tif", colour.astype(np.float64) / 255, photometric="rgb")
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").shape == colour.shape


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha"])
@pytest.mark.parametrize("slices", [False, True])
def test_medical_images_are_upright(tmp_path, colour, name, slices):
    grey = colour[..., 0]
    if name == "a.mha":
        image = sitk.GetImageFromArray(grey[None] if slices else grey)
        sitk.WriteImage(image, str(tmp_path / name))
    else:
        array = grey.T[..., None] if slices else grey.T
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name), to_rgb(grey))
    np.testing.assert_array_equal(read_pixels(tmp_path / name), grey)


def test_sixteen_bits_are_scaled_by_their_range(tmp_path):
    Image.fromarray(np.array([[500, 1000, 1500]], np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([3, 200], np.uint8), (0, 255)),
        (np.array([3.0, 200.0]), (0, 255)),  # fits 8 bits: as is
        (np.array([0.0, 1.0]), (0, 1)),
        (np.array([-5, 200]), (-5, 200)),
        (np.array([np.nan, 10.0, 900.0]), (10, 900)),
    ],
)
def test_value_range(values, expected):
    assert value_range(values) == expected


def picture(seed=0):
    """(H, W) float, a smooth picture from 100 to about 900 with noise."""
    rows, columns = np.mgrid[:64, :80]
    noise = np.random.default_rng(seed).normal(0, 20, (64, 80))
    return np.clip(500 + 400 * np.sin(rows / 9) * np.cos(columns / 13) + noise, 100, 900).round()


def spoil(kind):
    """A picture with something on it that is none of it."""
    spoiled = picture()
    if kind == "hot pixel":
        spoiled[5, 5] = 32000
    elif kind == "dead pixels":
        spoiled[::20, ::20] = -32768
    elif kind == "marker":
        spoiled[2:10, 2:16] = 32000
    elif kind == "padding":
        spoiled[:, :50] = -2000
    elif kind == "padding and marker":
        spoiled[:, :30], spoiled[2:10, 40:50] = -2000, 30000
    elif kind == "hot pixels of all levels":
        spoiled[::16, ::40] = np.linspace(3000, 32000, 8).reshape(4, 2)
    return spoiled


@pytest.mark.parametrize(
    "kind",
    [
        "hot pixel",
        "dead pixels",
        "marker",
        "padding",
        "padding and marker",
        "hot pixels of all levels",
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_a_few_pixels_do_not_decide_what_is_black_and_white(kind, dtype):
    low, high = value_range(spoil(kind).astype(dtype))
    assert 90 <= low <= 130
    assert 870 <= high <= 1800


@pytest.mark.parametrize(
    "values",
    [
        np.repeat([0, 1000], [900, 100]),  # two levels
        np.repeat([0, 1000], [9999, 1]),
        np.repeat([0, 500, 1000], [5, 5, 5]),
        picture(),
        np.concatenate([np.zeros(5000), np.arange(100, 4000)]),
        np.concatenate([np.arange(1000), np.arange(5000, 6000)]),
    ],
)
def test_the_range_of_ordinary_pictures_is_that_of_their_values(values):
    low, high = value_range(values.reshape(1, -1))
    assert (low, high) == (values.min(), values.max())


def test_a_large_picture_is_sampled_and_keeps_its_ends():
    large = np.tile(picture(), (20, 20))
    large[1, 1], large[3, 3] = 60, 950
    assert value_range(large) == (60, 950)
    large[5, 5] = 32000
    assert value_range(large)[1] < 1400


def test_a_window_shows_what_it_says():
    values = np.array([-5.0, 0, 60, 100, np.nan])
    assert Window(0, 100).show(values).tolist() == [0, 0, 153, 255, 0]
    table = np.array([9, 8, 7], np.uint8)
    assert Window(1, 3, table=table).show(np.array([0, 1, 2, 3, 99])).tolist() == [9, 9, 8, 7, 7]
    curve = Window(0, 100, sigmoid=True).show(np.array([50.0, 1e6, -1e6]))
    assert curve.tolist() == [128, 255, 0]


def test_to_uint8_clips_rounds_and_survives_constants_and_nan():
    values = np.array([-10.0, 0, 1, 2, 30, np.nan])
    np.testing.assert_array_equal(to_uint8(values, 0, 2), [0, 0, 128, 255, 255, 0])
    np.testing.assert_array_equal(to_uint8(np.array([7.0, 7.0]), 7, 7), [0, 0])


# What is refused


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone.png"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii", "a.nii.gz", "a.mha", "a.txt"])
def test_a_file_that_is_not_a_picture(tmp_path, name):
    (tmp_path / name).write_bytes(b"no picture at all" * 100)
    with pytest.raises(ValueError, match=f"^cannot read .*{name} as an image: [^\n]*$"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii", "a.nii.gz", "a.mha"])
def test_a_truncated_picture_is_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (90, 80), dtype=np.uint8)
    path = tmp_path / name
    if ".nii" in name:
        nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
    elif name == "a.mha":
        sitk.WriteImage(sitk.GetImageFromArray(noise), str(path))
    else:
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"^cannot read .*{name} as an image: [^\n]*truncated"):
        read_image(path)


def test_a_volume_is_not_an_image(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a.nii has shape \(6, 5, 4\): expected a single 2D"):
        read_image(tmp_path / "a.nii")


def test_explained_keeps_one_line_and_the_cause():
    one_line = pytest.raises(ValueError, match=r"^cannot open a.mha: ITK ERROR: bad \(a[^\n]*$")
    with one_line as caught, explained("cannot open a.mha"):
        raise RuntimeError("Exception thrown in x.cxx:112:\nITK ERROR: bad\nmore")
    assert isinstance(caught.value.__cause__, RuntimeError)
