"""Headers that ask for more memory than there is, and frames that are large indeed.

All are read in one process of its own, which may not take more than ``LIMIT_BYTES`` of memory.
"""

import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RLELossless,
)

from bundle.io.reading.limits import MAX_FRAME_PIXELS
from tests.dicom_files import new_cine, put_pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

ROOT = Path(__file__).resolve().parents[2]
LIMIT_BYTES = 2 * 2**30
"""Of address space, above that of the imported libraries; without the limits the files below ask for
up to 29 TB."""
REFUSED_BYTES = 64 * 2**20
"""Of resident memory, above that of the imported libraries, to refuse all of them."""
LARGE_SIDE = 8000
BYTES_PER_PIXEL = 14
"""Resident memory that a frame of a given size takes at most while it is read."""

READ = """
import json, resource, sys
from pathlib import Path

from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

taken = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]),) * 2)
found, begin = {}, peak()
for path in sys.argv[2:]:
    try:
        shapes = [frame.shape for frame in open_video(path)]
        said = f"{len(shapes)} frames of {shapes[0]}"
    except (ValueError, OSError) as error:
        said = str(error)
    found[Path(path).name] = [said, peak() - begin]
print(json.dumps(found))
"""


def tiny(path, kind):
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(path, kind)
    return bytearray(path.read_bytes())


def as_folder(path, name, data):
    path.mkdir()
    (path / name).write_bytes(data)


def png(path):
    data = tiny(path.with_suffix(".bytes"), "png")
    declare_png(data, 60_000, 90_000)
    as_folder(path, "0.png", data)


def declare_png(data, width, height):
    """Its checksum is right."""
    at = data.index(b"IHDR")
    struct.pack_into(">II", data, at + 4, width, height)
    struct.pack_into(">I", data, at + 17, zlib.crc32(data[at : at + 17]))


def less_png(path):
    """Pillow itself would only warn of it."""
    data = tiny(path.with_suffix(".bytes"), "png")
    declare_png(data, 10_000, 8_500)
    as_folder(path, "0.png", data)


def bmp(path):
    data = tiny(path.with_suffix(".bytes"), "bmp")
    struct.pack_into("<ii", data, 18, 60_000, 90_000)
    as_folder(path, "0.bmp", data)


def jpg(path):
    data = tiny(path.with_suffix(".bytes"), "jpeg")
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 65_000, 65_000)
    as_folder(path, "0.jpg", data)


def nrrd(path, sizes="90000 90000 3", fields=""):
    header = f"NRRD0004\ntype: double\ndimension: {len(sizes.split())}\nsizes: {sizes}\n{fields}"
    path.write_bytes(
        f"{header}endian: little\nencoding: gzip\n\n".encode() + zlib.compress(bytes(1000))
    )


def long_nrrd(path):
    nrrd(path, "2 2 3000000000")


def many_nrrd(path):
    """The list comes first, so that all its places lie side by side."""
    nrrd(path, "3000000000 2 2 1", "kinds: list domain domain domain\n")


def layers_nrrd(path):
    nrrd(path, "3000000000 2 2 2", "kinds: list domain domain domain\n")


def stack_tif(path):
    """Two pages of a size that the file cannot hold."""
    tifffile.imwrite(path, np.zeros((2, 2, 2), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in file.pages:
            for tag in ("ImageWidth", "ImageLength"):
                page.tags[tag].overwrite(8_000)


def wide_tif(path):
    stack_tif(path)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageWidth"].overwrite(65_000)


def declare_tif(path, old, new, **options):
    """A text about the stack says more than there is; its length stays."""
    about = {"axes": "TYX", **{options.pop("key", "pad"): 40 * "p"}}
    tifffile.imwrite(path, np.zeros((3, 2, 2), np.uint8), metadata=about, **options)
    data = path.read_bytes()
    spare = 40 - (len(new) - len(old))
    changed = data.replace(old, new, 1).replace(40 * b"p", spare * b"p", 1)
    assert len(changed) == len(data)
    path.write_bytes(changed)


def ome_tif(path):
    declare_tif(path, b'SizeT="3"', b'SizeT="3000000000"', key="Name", ome=True)


def tif(path, dtype=np.uint8):
    path.mkdir()
    tifffile.imwrite(path / "0.tif", np.zeros((2, 2), dtype))
    with tifffile.TiffFile(path / "0.tif", mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(65_000)


def double_tif(path):
    """Not of Pillow's kinds."""
    tif(path, np.float64)


def write_video(path, codec, pixel_format, size=(32, 32), count=3):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format
        picture = av.VideoFrame.from_ndarray(np.zeros(size, np.uint8), format="gray")
        for _ in range(count):
            container.mux(stream.encode(picture.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return bytearray(path.read_bytes())


def avi(path):
    data = write_video(path, "ffv1", "bgr0")
    struct.pack_into("<ii", data, data.index(b"strf") + 12, 16_000, 16_000)
    path.write_bytes(data)


def mov(path):
    """The container says 32x32, its frames something else."""
    data = write_video(path, "png", "rgb24")
    declare_png(data, 20_000, 13_000)
    path.write_bytes(data)


def mp4(path):
    """A table of four billion samples."""
    data = write_video(path, "mpeg4", "yuv420p")
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 1, 2**32 - 1)
    path.write_bytes(data)


def gif(path):
    frames = [Image.fromarray(np.full((2, 2), level, np.uint8)) for level in (0, 255)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, 6, 65_535, 65_535)
    path.write_bytes(data)


def nii(path, dims=(3, 32_767, 32_767, 9, 1)):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.float64), None)
    nib.save(image, path.with_suffix(".nii"))
    data = bytearray(path.with_suffix(".nii").read_bytes())
    struct.pack_into("<5h", data, 40, *dims)
    path.write_bytes(data)


def sparse_nii(path):
    """A file of the size that it declares."""
    nii(path, (3, 16_000, 16_000, 2, 1))
    with path.open("r+b") as file:
        file.truncate(352 + 8 * 2 * 16_000**2)


def bomb_nii(path):
    """Sound, and a thousandth of its pixels' size."""
    nib.save(nib.Nifti1Image(np.zeros((9000, 9000, 2), np.uint8), None), path)


def long_nii(path):
    nii(path, (3, 2000, 2000, 32_767, 1))


def mha(path, size="90000 90000 3"):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 2, 2), np.uint8)), str(path))
    path.write_bytes(path.read_bytes().replace(b"DimSize = 2 2 3", b"DimSize = " + size.encode()))


def long_mhd(path):
    mha(path, "2 2 2000000000")


def dcm(path, count=2, side=65_535, syntax=ExplicitVRLittleEndian):
    dataset = new_cine((2, 8, 8))
    put_pixels(dataset, np.zeros((2, 8, 8), np.uint8))
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = count, side, side
    dataset.save_as(path)


def long_dcm(path):
    dcm(path, 2**31 - 1, 8)


def long_rle_dcm(path):
    dcm(path, 2**31 - 1, 8, RLELossless)


FRAMES = "declares frames of {}, {} pixels: expected at most 67108864; shrink or crop the frames"
PILLOW = "declares too many pixels: expected at most 67108864; shrink.*Image size .{} pixels"
FFMPEG = "cannot read the first frame of .*{}, which may have 67108864 pixels at most: "
STORED = "declares {} bytes of pixels, but its [0-9]+ bytes hold .* truncated or damaged"
REFUSED = {
    "png": (png, "0.png " + PILLOW.format(5_400_000_000)),
    "less_png": (less_png, "0.png " + FRAMES.format("10000x8500", 85_000_000)),
    "bmp": (bmp, "0.bmp " + PILLOW.format(5_400_000_000)),
    "jpg": (jpg, "0.jpg " + PILLOW.format(4_225_000_000)),
    "tif": (tif, "0.tif " + PILLOW.format(4_225_000_000)),
    "double_tif": (double_tif, "0.tif " + FRAMES.format("65000x65000", 4_225_000_000)),
    "a.nrrd": (nrrd, "a.nrrd " + STORED.format(8 * 24_300_000_000)),
    "long.nrrd": (long_nrrd, "long.nrrd " + STORED.format(96_000_000_000)),
    "many.seq.nrrd": (many_nrrd, "many.seq.nrrd " + STORED.format(96_000_000_000)),
    "layers.seg.nrrd": (layers_nrrd, "layers.seg.nrrd " + STORED.format(192_000_000_000)),
    "stack.tif": (stack_tif, "stack.tif " + STORED.format(128_000_000)),
    "wide.tif": (wide_tif, "wide.tif declares frames of 65000x8000|pages differ in size"),
    "ome.tif": (ome_tif, "ome.tif declares 3000000000 pictures along one axis and has 3: expected"),
    "a.avi": (avi, FFMPEG.format("a.avi")),
    "a.mov": (mov, FFMPEG.format("a.mov")),
    "a.mp4": (mp4, "a.mp4 holds no frames: the file is empty or truncated"),
    "a.gif": (gif, FFMPEG.format("a.gif")),
    "a.nii": (nii, "a.nii " + STORED.format(9 * 8 * 32_767**2)),
    "sparse.nii": (sparse_nii, "sparse.nii " + FRAMES.format("16000x16000", 256_000_000)),
    "bomb.nii.gz": (bomb_nii, "bomb.nii.gz " + FRAMES.format("9000x9000", 81_000_000)),
    "long.nii": (long_nii, "long.nii " + STORED.format(8 * 32_767 * 2000**2)),
    "a.mha": (mha, "a.mha " + STORED.format(24_300_000_000)),
    "long.mhd": (long_mhd, "long.mhd " + STORED.format(8_000_000_000)),
    "a.dcm": (dcm, "a.dcm " + STORED.format(2 * 65_535**2)),
    "long.dcm": (long_dcm, "long.dcm " + STORED.format((2**31 - 1) * 64)),
    "long_rle.dcm": (long_rle_dcm, "long_rle.dcm " + STORED.format((2**31 - 1) * 8)),
}


def large_folder(path):
    path.mkdir()
    for index in range(2):
        picture = Image.new("L", (LARGE_SIDE, LARGE_SIDE), 90 * index)
        picture.save(path / f"{index}.png", compress_level=1)


def large_mov(path):
    write_video(path, "png", "gray", (LARGE_SIDE, LARGE_SIDE), 2)


def large_nii(path):
    pixels = np.zeros((LARGE_SIDE, LARGE_SIDE, 2), np.int16)
    pixels[0, 0] = -3000, 4000
    nib.save(nib.Nifti1Image(pixels, None), path)


LARGE = {"large": large_folder, "large.mov": large_mov, "large.nii": large_nii}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is said of each file, and how much memory all took up to then."""
    folder = tmp_path_factory.mktemp("declared")
    paths = [folder / name for name in (*REFUSED, *LARGE)]
    for path in paths:
        (REFUSED[path.name][0] if path.name in REFUSED else LARGE[path.name])(path)
    command = [sys.executable, "-W", "ignore", "-c", READ, str(LIMIT_BYTES), *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.heavy
@pytest.mark.parametrize("name", REFUSED)
def test_files_that_declare_too_large_sizes_are_refused_before_memory_is_taken(found, name):
    said, taken_bytes = found[name]
    assert re.search(REFUSED[name][1], said), said
    assert taken_bytes < REFUSED_BYTES


@pytest.mark.heavy
@pytest.mark.parametrize("name", LARGE)
def test_large_frames_take_bounded_memory(found, name):
    said, taken_bytes = found[name]
    assert said == f"2 frames of ({LARGE_SIDE}, {LARGE_SIDE}, 3)"
    assert taken_bytes < BYTES_PER_PIXEL * LARGE_SIDE**2


def test_the_limit_is_above_the_largest_frames_in_use():
    assert LARGE_SIDE**2 < MAX_FRAME_PIXELS
    assert MAX_FRAME_PIXELS > 7680 * 4320
