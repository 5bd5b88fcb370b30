"""What values of masks mean: a file's own ids stay, soft edges become hard, colours become ids."""

import io
import logging

import nibabel as nib
import numpy as np
import pytest
from PIL import Image, ImageDraw

from bundle.io.reading.labels import StoredMask, settle_labels, whole_numbers
from bundle.io.reading.mask_pictures import read_labels


def squares(*values):
    """Squares of 5x5 with these values in a row."""
    picture = np.zeros((16, 26), dtype=np.uint8)
    for i, value in enumerate(values):
        picture[4:9, 3 + 6 * i : 8 + 6 * i] = value
    return picture


def settle(*pictures, kind="grey"):
    return settle_labels([StoredMask(each, kind, "mask.png") for each in pictures])


def save(path, picture, mode=None, **options):
    image = Image.fromarray(picture)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def disk(radius=9, size=32, scale=1):
    y, x = np.mgrid[:size, :size] * scale
    centre = (size - 1) * scale / 2
    return (y - centre) ** 2 + (x - centre) ** 2 <= (radius * scale) ** 2


def soft_disk(value=255, radius=9, size=32):
    """An anti-aliased disk: drawn eight times as large, and averaged."""
    large = Image.new("L", (size * 8, size * 8))
    middle, reach = size * 4, radius * 8
    ImageDraw.Draw(large).ellipse([middle - reach] * 2 + [middle + reach] * 2, fill=value)
    return np.asarray(large.resize((size, size), Image.Resampling.BOX))


# Ids stay


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "LA", "RGBA"])
def test_ids_survive_every_kind_of_picture(tmp_path, mode):
    labels = squares(3, 7)
    picture = Image.fromarray(labels)
    if mode == "P":
        picture.putpalette([0, 0, 0] + [200, 30, 60] * 255)
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


def test_white_is_object_one(tmp_path):
    save(tmp_path / "a.png", squares(255))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(1))
    save(tmp_path / "b.png", squares(255) > 0)  # 1 bit
    np.testing.assert_array_equal(read_labels(tmp_path / "b.png"), squares(1))
    save(tmp_path / "c.png", squares(255).astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_labels(tmp_path / "c.png"), squares(1))


def test_white_stays_where_another_mask_has_another_id():
    first, second = settle(squares(128, 255), squares(255))
    np.testing.assert_array_equal(first, squares(128, 255))
    np.testing.assert_array_equal(second, squares(255))


@pytest.mark.parametrize("kind", ["exact", "grey"])
@pytest.mark.parametrize(
    ("big", "thin", "width"), [(1, 3, 2), (10, 20, 2), (2, 5, 1), (200, 7, 2), (255, 128, 1)]
)
def test_a_thin_label_stays_beside_a_big_one(kind, big, thin, width):
    labels = np.where(disk(), big, 0).astype(np.uint8)
    labels[14 : 14 + width, 2:30] = thin
    np.testing.assert_array_equal(settle(labels, kind=kind)[0], labels)


@pytest.mark.parametrize("kind", ["exact", "grey"])
def test_a_wall_around_an_object_stays(kind):
    labels = np.where(disk(11), 20, 0).astype(np.uint8)
    labels[disk(9)] = 10
    np.testing.assert_array_equal(settle(labels, kind=kind)[0], labels)


@pytest.mark.parametrize("kind", ["exact", "grey"])
def test_a_tiny_label_of_one_frame_is_what_it_is_in_the_others(kind):
    first, second = squares(1, 2, 3), squares(1)
    second[1:3, 20:22] = 3
    np.testing.assert_array_equal(settle(first, second, kind=kind)[1], second)


def test_many_thin_labels_of_a_volume_stay():
    labels = np.zeros((40, 40), np.uint8)
    for row, value in enumerate((10, 40, 70, 100, 130, 160)):
        labels[2 + row, :] = value  # one pixel each, between a lower and a higher one
    np.testing.assert_array_equal(settle(labels, kind="exact")[0], labels)


def test_an_empty_mask_is_all_zero():
    assert not settle(squares(0))[0].any()


# Soft edges


@pytest.mark.parametrize("value", [255, 200])
def test_an_anti_aliased_disk_is_cut_at_half(caplog, value):
    soft = soft_disk(value)
    assert len(np.unique(soft)) > 10
    with caplog.at_level(logging.WARNING):
        labels = settle(soft)[0]
    expected = 1 if value == 255 else value
    np.testing.assert_array_equal(labels, np.where(soft > value // 2, expected, 0))
    assert "mask.png has soft edges" in caplog.text


def test_soft_edges_of_several_objects_go_to_the_nearest(caplog):
    soft = squares(60, 200)
    soft[3, 2:9], soft[9, 9:15] = 31, 120
    soft[10, 9:15] = 30  # at half or below: background
    with caplog.at_level(logging.WARNING):
        labels = settle(soft)[0]
    expected = squares(60, 200)
    expected[3, 2:9], expected[9, 9:15] = 60, 200
    np.testing.assert_array_equal(labels[3, 3:8], 60)
    assert set(np.unique(labels)) == {0, 60, 200}
    assert "3 in-between values cut at half of the nearest of the labels [60, 200]" in caplog.text


def test_a_thin_anti_aliased_line_alone_is_one_object():
    large = Image.new("L", (256, 256))
    ImageDraw.Draw(large).line([20, 30, 230, 210], fill=255, width=12)
    soft = np.asarray(large.resize((32, 32), Image.Resampling.BOX))
    labels = settle(soft)[0]
    assert len(np.unique(labels)) == 2
    np.testing.assert_array_equal(labels > 0, soft > soft.max() // 2)


@pytest.mark.parametrize("quality", [30, 60, 75, 90])
@pytest.mark.parametrize("levels", [(255,), (128, 255), (85, 170, 255)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_jpeg_masks_keep_their_levels(tmp_path, quality, levels, suffix):
    picture = np.zeros((96, 128), np.uint8)
    for i, level in enumerate(levels):
        picture[10:40, 10 + 40 * i : 40 + 40 * i][disk(14, 30)] = level
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    path = tmp_path / f"a.{suffix}"
    Image.open(buffer).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    labels = read_labels(path)
    found = np.unique(labels[labels > 0])
    expected = [1] if levels == (255,) else levels
    assert len(found) == len(expected)
    assert np.abs(found.astype(int) - expected).max() <= 3
    for level, value in zip(levels, found, strict=True):
        both = (labels == value) & (picture == level)
        assert both.sum() > 0.95 * max((labels == value).sum(), (picture == level).sum())


def test_a_jpeg_of_ids_one_and_two_is_refused(tmp_path):
    save(tmp_path / "a.jpg", squares(1, 2), quality=100, subsampling=0)
    with pytest.raises(ValueError, match=r"a.jpg holds values up to .*: save masks as PNG"):
        read_labels(tmp_path / "a.jpg")


# One object in data sets of pairs


@pytest.mark.parametrize("value", [1, 2, 100, 255])
def test_the_one_value_of_a_pair_is_the_object(tmp_path, value):
    save(tmp_path / "a.png", squares(value))
    labels = read_labels(tmp_path / "a.png", binary=True)
    np.testing.assert_array_equal(labels, squares(1))


def test_faint_noise_in_a_pair_is_no_object(tmp_path):
    noise = squares(0)
    noise[1, 1], noise[9, 20], noise[14, 3] = 1, 2, 3
    save(tmp_path / "a.png", noise)
    assert not read_labels(tmp_path / "a.png", binary=True).any()


def test_soft_edges_of_a_pair_are_cut_in_the_middle(tmp_path):
    save(tmp_path / "a.png", soft_disk())
    labels = read_labels(tmp_path / "a.png", binary=True)
    np.testing.assert_array_equal(labels, soft_disk() > 127)


# Transparency and colours


@pytest.mark.parametrize("colour", [255, 0, 90])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_over_one_colour_is_the_mask(tmp_path, colour, mode):
    grey = np.full((32, 32), colour, np.uint8)
    alpha = Image.fromarray(np.where(disk(), 255, 0).astype(np.uint8))
    picture = Image.fromarray(grey).convert(mode)
    picture.putalpha(alpha)
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), disk().astype(np.uint8))


def test_a_soft_alpha_channel_is_cut_at_half(tmp_path):
    picture = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    picture.putalpha(Image.fromarray(soft_disk()))
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), soft_disk() > 127)


def test_ids_over_transparency_stay(tmp_path):
    grey = np.where(squares(3, 7), squares(3, 7), 255).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGBA")
    picture.putalpha(Image.fromarray(squares(255, 255)))
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(3, 7))


def test_a_palette_whose_background_is_not_its_first_entry(tmp_path):
    picture = Image.fromarray(np.where(disk(), 0, 1).astype(np.uint8))
    picture.putpalette([255, 255, 255] * 2)
    picture.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), disk().astype(np.uint8))


RED, GREEN = (255, 0, 0), (0, 255, 0)


def coloured(first=RED, second=GREEN, background=(0, 0, 0)):
    lookup = np.array([background, first, second], np.uint8)
    return lookup[squares(1, 2)]


def test_colours_become_ids_and_a_warning_says_which(tmp_path, caplog):
    save(tmp_path / "a.png", coloured())
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(2, 1))
    assert "a.png is a colour picture, read in the order of red, green and blue" in caplog.text
    assert "#00ff00 is 1, #ff0000 is 2" in caplog.text


def test_colours_mean_the_same_in_all_masks():
    masks = [coloured(), coloured(RED, RED)[:, :9], coloured(GREEN, GREEN)[:, :9]]
    both, red, green = settle_labels([StoredMask(each, "colour", "a") for each in masks])
    assert (both.max(), red.max(), green.max()) == (2, 2, 1)


def test_a_grey_object_among_coloured_masks_is_a_colour():
    grey = StoredMask(squares(128), "grey", "b")
    first, second = settle_labels([StoredMask(coloured(), "colour", "a"), grey])
    assert set(np.unique(first)) == {0, 1, 3}
    assert set(np.unique(second)) == {0, 2}


def test_colours_of_davis_are_its_ids(tmp_path):
    picture = Image.fromarray(squares(1, 2))
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.convert("RGB").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(1, 2))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwall:255,0,0::\n"
         "atrium:0,255,0::\n"),
        ("palette.csv", "id,colour\n1,#ff0000\n2,#00ff00\n"),
    ],
)  # fmt: skip
def test_a_list_of_colours_beside_the_mask_or_above_it(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    for folder in (tmp_path, tmp_path / "masks"):
        folder.mkdir(exist_ok=True)
        save(folder / "a.png", coloured())
        np.testing.assert_array_equal(read_labels(folder / "a.png"), squares(1, 2))


def test_a_colour_that_the_list_lacks(tmp_path):
    (tmp_path / "palette.csv").write_text("id,colour\n1,#ff0000\n")
    save(tmp_path / "a.png", coloured())
    with pytest.raises(ValueError, match="has the colour #00ff00, which the list of colours"):
        read_labels(tmp_path / "a.png")


def test_without_black_the_colour_of_the_border_is_background(tmp_path):
    save(tmp_path / "a.png", coloured(background=(255, 255, 255)))
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), squares(2, 1))


def test_soft_edges_between_colours(tmp_path):
    picture = np.stack([soft_disk(), soft_disk() // 2, soft_disk() * 0], axis=-1)
    save(tmp_path / "a.png", picture)
    labels = read_labels(tmp_path / "a.png")
    assert set(np.unique(labels)) == {0, 1}
    # Pixels in between go to the nearer side, not by their value: one on the edge may differ.
    assert np.abs((labels > 0).sum() - (soft_disk() > 127).sum()) < 30


def test_a_photograph_is_not_a_mask(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    save(tmp_path / "a.png", noise)
    with pytest.raises(ValueError, match=r"a.png is a colour picture with .* areas"):
        read_labels(tmp_path / "a.png")
    save(tmp_path / "a.jpg", noise)
    with pytest.raises(ValueError, match="lost its exact colours to compression"):
        read_labels(tmp_path / "a.jpg")


# Numbers of volumes


@pytest.mark.parametrize(("slope", "offset"), [(1 / 255, 0), (0.1, 0), (1 / 3, -1)])
def test_slope_and_offset_round_to_whole_labels(tmp_path, slope, offset):
    labels = squares(1, 2)
    image = nib.Nifti1Image(
        np.rint((labels.T.astype(float) - offset) / slope).astype(np.uint16), np.eye(4)
    )
    image.header.set_slope_inter(np.float32(slope), np.float32(offset))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz"), labels)


@pytest.mark.parametrize("value", [0.5, 1.01, np.nan])
def test_fractional_labels_are_refused(value):
    with pytest.raises(ValueError, match=r"mask.nii holds fractional values: expected whole"):
        whole_numbers(np.array([[0, value]]), "mask.nii")


@pytest.mark.parametrize("value", [-1, 256])
def test_labels_out_of_range_are_refused(value):
    with pytest.raises(
        ValueError, match=r"mask.nii holds values from .*: expected labels 0 to 255"
    ):
        whole_numbers(np.array([[0, value]]), "mask.nii")


def test_too_many_labels_are_refused():
    labels = np.arange(34, dtype=np.uint8).reshape(1, -1)
    with pytest.raises(ValueError, match="holds 33 different labels: expected at most 32 objects"):
        settle(labels, kind="exact")


def test_a_missing_mask_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone.png"):
        read_labels(tmp_path / "gone.png")
