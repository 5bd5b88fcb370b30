"""Open TIFF stacks as videos: ImageJ, OME-TIFF, BigTIFF, or simply several pages."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from bundle.io.reading.decode import explained
from bundle.io.reading.headers import known, known_spacing
from bundle.io.reading.limits import DeclaredSizeError, check_size, check_stored
from bundle.io.reading.volumes import Geometry, VideoSource, source_name

MAX_FRAMES = 2**20
MILLIMETRES = {
    "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "inch": 25.4, "m": 1e3,
    "um": 1e-3, "µm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6,
}  # fmt: skip
SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0}


def open_tiff(path: Path) -> VideoSource:
    """Open a stack of grey or RGB pictures along one axis of any name as a video.

    Raises:
        ValueError: It cannot be read, or has several axes besides those of a picture.
    """
    with explained(f"cannot open {path} as TIFF"), tifffile.TiffFile(path) as file:
        _check_ome(path, file)
        series = file.series[0]
        if len(file.series) > 1 and math.prod(series.shape) == math.prod(series.keyframe.shape):
            raise ValueError("its pages differ in size or type: expected pictures of one kind")
        page = series.keyframe
        height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
        axes = _long_axes(path, series)
        count = math.prod(series.shape) // math.prod(page.shape) if series.shape else 1
        check_size(path, height, width, count)
        if page.compression == 1:
            declared = count * height * width * samples * int(page.bitspersample) // 8
            check_stored(path, declared, path.stat().st_size, ratio=1)
        spacing_mm, step_s = _read_scales(file)
    if len(axes) != 1:
        raise ValueError(
            f"{path} has the axes {series.axes} of {series.shape}: expected pictures over one axis, "
            "such as T; save one slice and one channel"
        )
    row_mm, column_mm = spacing_mm or (1.0, 1.0)
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=count,
        fps=1 / step_s if step_s else None,
        spacing_mm=spacing_mm,
        geometry=Geometry((width, height, count), np.diag([-column_mm, -row_mm, 1.0, 1.0])),
        read=partial(_read_pages, path),
    )


def _check_ome(path: Path, file: tifffile.TiffFile) -> None:
    """Refuse OME-XML that declares far too many pictures, since tifffile makes a list of all."""
    sizes = re.findall('Size[CTZ]="([0-9]+)"', file.ome_metadata or "")
    for axis in sizes:
        if int(axis) > MAX_FRAMES:
            raise DeclaredSizeError(
                f"{path} declares {axis} pictures along one axis and has {len(file.pages)}: expected "
                f"at most {MAX_FRAMES}, the file is truncated or damaged, copy or export it again"
            )


def _long_axes(path: Path, series: Any) -> list[str]:
    """List the axes that are longer than 1, except rows, columns and colours."""
    return [
        axis
        for axis, size in zip(series.axes, series.shape, strict=True)
        if size > 1 and axis not in "YXS"
    ]


def _read_scales(file: tifffile.TiffFile) -> tuple[tuple[float, float] | None, float | None]:
    """Read the pixel spacing (row, column) in mm and the frame interval in seconds, if declared.

    The resolution of a plain TIFF is not used, since it is meant for printing.
    """
    with suppress(KeyError, ValueError, TypeError, ZeroDivisionError, AttributeError):
        if file.is_imagej:
            return _imagej_scales(file)
        if file.is_ome:
            return _ome_scales(file)
    return None, None


def _imagej_scales(file: tifffile.TiffFile) -> tuple[tuple[float, float] | None, float | None]:
    about: dict[str, Any] = file.imagej_metadata or {}
    step = float(about.get("finterval", 0)) * SECONDS.get(str(about.get("tunit", "s")), 1.0)
    if not known(step) and known(float(about.get("fps", 0))):
        step = 1 / float(about["fps"])
    spacing = None
    unit = MILLIMETRES.get(str(about.get("unit", "")).strip())
    tags = file.pages[0].tags
    if unit and "XResolution" in tags and "YResolution" in tags:
        column, row = (
            unit * tags[name].value[1] / tags[name].value[0]
            for name in ("XResolution", "YResolution")
        )
        spacing = known_spacing(row, column)
    return spacing, known(step)


def _ome_scales(file: tifffile.TiffFile) -> tuple[tuple[float, float] | None, float | None]:
    images = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    pixels = (images[0] if isinstance(images, list) else images)["Pixels"]
    step = float(pixels.get("TimeIncrement", 0))
    step *= SECONDS.get(str(pixels.get("TimeIncrementUnit", "s")), 0.0)
    row, column = (
        float(pixels.get(f"PhysicalSize{axis}", 0))
        * MILLIMETRES.get(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")), 0.0)
        for axis in "YX"
    )
    return known_spacing(row, column), known(step)


def _read_pages(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        page = series.keyframe
        shape, dtype = page.shape, page.dtype
        whole = len(series.pages) == 1 and math.prod(series.shape) > math.prod(shape)
        if series.dataoffset is not None and (whole or page.compression == 1):
            # One run of pixels: ImageJ writes large stacks with one page for all of them.
            size = math.prod(shape) * dtype.itemsize
            for index in indices:
                file.filehandle.seek(series.dataoffset + index * size)
                data = file.filehandle.read(size)
                if len(data) < size:
                    raise EOFError("it has fewer pixels than it declares")
                values = np.frombuffer(data, dtype.newbyteorder(file.byteorder)).reshape(shape)
                yield _as_picture(values.astype(dtype), page)
            return
        for index in indices:
            each = series.pages[index]
            if each is None:
                raise ValueError("a picture is missing")
            try:
                values = each.asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                yield _read_with_pillow(path, index, error)
                continue
            yield _as_picture(values, page)


def _as_picture(values: np.ndarray, page: Any) -> np.ndarray:
    """Convert a page to (H, W) or (H, W, C) in which the highest value is white."""
    values = np.squeeze(values)
    if page.samplesperpixel > 1 and page.planarconfig == 2:
        values = np.moveaxis(values, 0, -1)
    if page.photometric == 0:  # white is zero
        values = ~values if values.dtype.kind in "ui" else values.max() - values
    if page.photometric == 3:  # palette
        values = (page.colormap[:, values] >> 8).astype(np.uint8)
        values = np.moveaxis(values, 0, -1)
    return values.reshape((page.imagelength, page.imagewidth, *values.shape[2:]))


def _read_with_pillow(path: Path, index: int, missing: ValueError) -> np.ndarray:
    """Read a page with Pillow, which has libtiff's codecs; tifffile needs another package for them."""
    try:
        with Image.open(path) as image:
            image.seek(index)
            if image.mode not in ("L", "RGB", "RGBA", "F", "I") and image.mode[:4] != "I;16":
                image = image.convert("RGB")  # type: ignore[assignment]
            return np.asarray(image)
    except OSError as error:
        raise ValueError(
            f"its compression needs a codec that is not installed ({missing}): "
            "pip install imagecodecs, or save it without compression"
        ) from error
