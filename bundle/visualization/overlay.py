"""Draw results: a frame with its labels, an overlay video, a summary picture; the palette.

Frames are (H, W, 3) uint8 RGB, labels (H, W) uint8 ids; ``bundle.types`` has the legend.
"""

import functools
from collections.abc import Collection, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, ImageDraw, ImageFont

from bundle.types import Frame, LabelMap

DEFAULT_FPS = 25.0
"""Frame rate of the overlay video if the source has none; tables then have no times."""
MIN_FPS = 1.0
"""Lowest frame rate of the overlay video: a time-lapse series would seem to stand still."""
UNEVEN_TIME_BASE = Fraction(1, 90_000)
"""Time base in seconds of an overlay video with uneven frame times."""
PANELS = 8
DPI = 120
WIDTH_PX = 1440
"""Width of the summary picture, and below other parts of it."""
MAX_PANEL_PX = 600
TITLE_PX = 36
GAP_PX = 10
CURVES_IN = 3.3
DRAWN_WITH = ("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.ticker")
"""What ``draw_summary`` imports, which takes half a second."""
MAX_NAME = 90


def davis_palette() -> npt.NDArray[np.uint8]:
    """The palette of the DAVIS and PASCAL VOC masks, (256, 3) RGB, row = object id.

    Bits 0, 1, 2 of the id are the top bits of red, green, blue; bits 3, 4, 5 the next; and so on.

    Example:
        >>> davis_palette()[:4].tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((ids >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette


PALETTE = davis_palette()


def blend(frame: Frame, labels: LabelMap) -> Frame:
    """Draw each object on the frame: half transparent in its palette colour, with a solid outline.

    The outline is inside the object and one pixel wide, or wider on frames of 540 lines and more. The
    background is not changed.

    Args:
        frame: (H, W, 3).
        labels: (H, W).

    Returns:
        (H, W, 3), a new array.
    """
    inside = labels > 0
    edge = np.zeros_like(inside)
    for step in range(1, max(1, round(min(labels.shape) / 360)) + 1):
        across = labels[step:] != labels[:-step]
        edge[step:] |= across
        edge[:-step] |= across
        along = labels[:, step:] != labels[:, :-step]
        edge[:, step:] |= along
        edge[:, :-step] |= along
    edge &= inside
    shown = frame.copy()
    colour = PALETTE[labels[inside]]
    shown[inside] = frame[inside] // 2 + colour // 2
    shown[edge] = PALETTE[labels[edge]]
    return shown


class OverlayVideo:
    """An H.264 MP4 file that ordinary players play, written frame by frame.

    Call ``flush`` after the last frame; leaving the with-block closes the file.

    Args:
        path: The file to write.
        size: (H, W) of the frames; an odd side is padded by one pixel.
        fps: Frames per second; ``DEFAULT_FPS`` if None, at least ``MIN_FPS``.
        spacing_mm: Distance between rows and between columns, so that players show the true aspect.
        times: (T,) rising seconds at which frames are shown, if they are uneven; ``fps`` is then their
            mean rate.

    Raises:
        OSError: The file cannot be written; ``write`` and ``flush`` raise it too.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        *,
        fps: float | None,
        spacing_mm: tuple[float, float] | None,
        times: npt.NDArray[np.float64] | None = None,
    ) -> None:
        rate = Fraction(max(fps or DEFAULT_FPS, MIN_FPS)).limit_denominator(1001)
        # faststart: browsers can play before the whole file is there.
        self._file = av.open(str(path), "w", options={"movflags": "faststart"})
        self._stream = self._file.add_stream("libx264", rate=rate)
        # 4:2:0 has one colour sample for 2x2 pixels, so both sides must be even.
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        # No B-frames: with them, x264's AVX-512 code reads uninitialised memory if frames are narrow,
        # so that the same frames sometimes give another file.
        self._stream.options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        codec = self._stream.codec_context
        # With several threads, x264 sometimes gives another file for the same frames.
        codec.thread_count = 1
        # Untagged, players guess the colours from the size.
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if spacing_mm is not None:
            aspect = Fraction(spacing_mm[1] / spacing_mm[0]).limit_denominator(255)
            codec.sample_aspect_ratio = aspect
        self._time_base = 1 / rate
        self._ticks: npt.NDArray[np.int64] | None = None
        if times is not None:
            self._time_base = codec.time_base = UNEVEN_TIME_BASE
            slower = min((fps or MIN_FPS) / MIN_FPS, 1.0)  # keeps the rate at MIN_FPS or more
            ticks = np.rint(times * slower / float(UNEVEN_TIME_BASE)).astype(np.int64)
            self._ticks = ticks + np.arange(len(ticks)) * (np.diff(ticks, prepend=-1).min() < 1)
        self._written = 0

    def __enter__(self) -> "OverlayVideo":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, frame: Frame) -> None:
        """Append one frame, (H, W, 3)."""
        height, width = frame.shape[:2]
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(padded, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        ticks = self._written if self._ticks is None else int(self._ticks[self._written])
        picture.pts, picture.time_base = ticks, self._time_base
        self._file.mux(self._stream.encode(picture))
        self._written += 1

    def flush(self) -> None:
        """Write what the encoder still holds."""
        self._file.mux(self._stream.encode(None))


def pick_frames(frame_count: int, given: int) -> list[int]:
    """Indices of up to 8 frames to show: ``given``, and others evenly spread over the video.

    Example:
        >>> pick_frames(30, given=0)
        [0, 4, 8, 12, 17, 21, 25, 29]
    """
    picks = np.linspace(0, frame_count - 1, min(PANELS, frame_count)).round().astype(int)
    picks[np.abs(picks - given).argmin()] = given
    return [int(pick) for pick in picks]


def draw_summary(
    path: Path,
    name: str,
    panels: Mapping[int, Frame],
    areas_px: Mapping[int, npt.NDArray[np.int64]],
    *,
    times: npt.NDArray[np.float64] | None,
    spacing_mm: tuple[float, float] | None,
    given: Collection[int],
) -> None:
    """Write the summary picture of one video: overlays in time order, and area curves below.

    Args:
        path: The PNG file to write.
        name: The title.
        panels: Frame index -> overlay (h, w, 3); at most ``PANELS``.
        areas_px: Object id -> its area in pixels in each frame, (T,).
        times: (T,) seconds at which frames are shown; None for frame numbers.
        spacing_mm: Distance between rows and between columns; None for areas in pixels.
        given: Indices of the frames whose mask was given.
    """
    top = _draw_panels(name, panels, times, spacing_mm, given)
    bottom = _draw_curves(areas_px, times, spacing_mm)
    picture = Image.new("RGB", (WIDTH_PX, top.height + bottom.height))
    picture.paste(top, (0, 0))
    picture.paste(bottom, (0, top.height))
    picture.save(path, format="png", dpi=(DPI, DPI))


def _draw_panels(
    name: str,
    panels: Mapping[int, Frame],
    times: npt.NDArray[np.float64] | None,
    spacing_mm: tuple[float, float] | None,
    given: Collection[int],
) -> Image.Image:
    """The upper part of the summary. Not by Matplotlib, which takes a second for eight axes."""
    aspect = 1.0 if spacing_mm is None else spacing_mm[0] / spacing_mm[1]
    height, width = next(iter(panels.values())).shape[:2]
    rows = 1 if len(panels) <= 4 else 2
    columns = -(-len(panels) // rows)
    room = WIDTH_PX // columns
    scale = min((room - GAP_PX) / width, MAX_PANEL_PX / (height * aspect))
    size = max(1, round(scale * width)), max(1, round(scale * height * aspect))
    step = TITLE_PX + size[1] + GAP_PX
    picture = Image.new("RGB", (WIDTH_PX, TITLE_PX + rows * step), "white")
    draw = ImageDraw.Draw(picture)
    title = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2]}…{name[-MAX_NAME // 2 :]}"
    draw.text((WIDTH_PX / 2, TITLE_PX / 2), title, "black", _font(13), anchor="mm")
    for place, (index, overlay) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        middle, y = room * column + room // 2, TITLE_PX + row * step
        text = _panel_title(index, times, index in given)
        draw.text((middle, y + TITLE_PX / 2), text, "black", _font(10), anchor="mm")
        shown = Image.fromarray(overlay).resize(size, Image.Resampling.BICUBIC)
        picture.paste(shown, (middle - size[0] // 2, y + TITLE_PX))
    return picture


@functools.cache
def _font(points: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's font, so that all parts of the picture have the same."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, points * DPI / 72)


def _panel_title(index: int, times: npt.NDArray[np.float64] | None, given: bool) -> str:
    if given:
        return "first frame, given mask" if index == 0 else f"frame {index}, given mask"
    return f"frame {index}" if times is None else f"frame {index}, {times[index]:.2f} s"


def _draw_curves(
    areas_px: Mapping[int, npt.NDArray[np.int64]],
    times: npt.NDArray[np.float64] | None,
    spacing_mm: tuple[float, float] | None,
) -> Image.Image:
    # Imported here, since not all formats need it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH_PX / DPI, CURVES_IN), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # no pyplot: its global state would keep every figure alive
    axes = figure.add_subplot()
    unit = 1.0 if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    for object_id, area in sorted(areas_px.items()):
        time = np.arange(len(area)) if times is None else times
        marker = "." if len(area) <= 100 else ""
        colour = tuple(PALETTE[object_id] / 255)
        axes.plot(time, area * unit, color=colour, marker=marker, label=f"object {object_id}")
    axes.set_xlabel("frame" if times is None else "time (s)")
    axes.set_ylabel("area (px)" if spacing_mm is None else "area (mm²)")
    if times is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.margins(x=0.01)
    if areas_px:
        axes.set_ylim(bottom=0)
        columns = -(-len(areas_px) // 16)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=columns, fontsize=8)
    else:
        axes.text(0.5, 0.5, "no object in any frame", ha="center", transform=axes.transAxes)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
