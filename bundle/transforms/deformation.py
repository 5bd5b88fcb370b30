"""Random deformation, illumination and colour of clips, as MONAI transforms for configs.

A clip is ``{"image": (3, H, W, T), "label": (1, H, W, T), "kind": str}``. Image and label are always
deformed alike, since one sampling grid serves both.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import RandomizableTransform
from monai.utils import ensure_tuple_rep
from scipy.interpolate import RBFInterpolator
from torch import Tensor
from torchvision.transforms.v2 import functional as colour

SMALLEST_PX = 16
"""An object of fewer pixels in the first frame does not count as shown."""


class RandDeformClipd(RandomizableTransform):
    """Cut a random window out of a clip, with a little random motion in each frame.

    Once per clip: position, zoom, rotation, flip. Per frame: rotation, zoom, shear, shift and a
    smooth thin-plate-spline warp, each multiplied by the strength for the clip's kind: static pictures
    need synthetic motion, videos have their own. The window is drawn up to ten times until the first
    frame shows an object. It has the output's aspect, so that nothing is stretched.

    Args:
        size: (height, width) of the output in pixels, or the side of a square.
        strength: Kind of clip -> strength of the per-frame motion.
        zoom: Range of the window's zoom; at 1 it is the largest upright window within the frame.
        rotate: Largest rotation of the clip in degrees, either way.
        flip: Probability of a left-right flip.
        frame_rotate: Largest rotation per frame in degrees.
        frame_scale: Largest relative change of scale per frame.
        frame_shear: Largest shear per frame in degrees.
        frame_shift: Largest shift per frame, as a share of the window's shorter side.
        spline: Probability of the spline warp per frame.
        spline_sigma: Standard deviation of its control points' shifts, as a share of that side.
        radial_warp: Largest relative swelling or shrinking of an object per frame, which fades with
            the distance from its middle, like a chamber that fills and empties. In half of the clips.
        small: Probability that the clip is zoomed out to 0.35 to 0.7, with black around it.

    Source:
        Values: STCN, arXiv:2106.05210, appendix; the radial warp is ours.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        strength: Mapping[str, float],
        zoom: tuple[float, float] = (0.8, 1.5),
        rotate: float = 15.0,
        flip: float = 0.5,
        frame_rotate: float = 20.0,
        frame_scale: float = 0.1,
        frame_shear: float = 10.0,
        frame_shift: float = 0.1,
        spline: float = 0.33,
        spline_sigma: float = 0.02,
        radial_warp: float = 0.0,
        small: float = 0.0,
    ) -> None:
        super().__init__()
        self.size: tuple[int, int] = ensure_tuple_rep(size, 2)
        # (x, y) of the window's corner in the window's own unit, half of its shorter side.
        self.corner = np.array(self.size[::-1]) / min(self.size)
        self.strength, self.zoom = dict(strength), zoom
        self.rotate, self.flip = rotate, flip
        self.frame_rotate, self.frame_scale = frame_rotate, frame_scale
        self.frame_shear, self.frame_shift = frame_shear, frame_shift
        self.spline, self.spline_sigma = spline, spline_sigma
        self.radial_warp, self.small = radial_warp, small

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image, label = data["image"], data["label"]
        strength = self.strength[data["kind"]]
        for _ in range(10):
            window = self._draw_window(label[0, ..., 0])
            centre, radius = self._draw_radial_warp(label[0, ..., 0])
            grids = [
                self._frame_grid(window, label.shape[1:3], strength, centre, radius)
                for _ in range(image.shape[-1])
            ]
            moved = self._sample(label.float(), grids, "nearest").long()
            if (moved[..., 0] > 0).sum() >= SMALLEST_PX:
                break
        return {**data, "image": self._sample(image, grids, "bilinear"), "label": moved}

    def _draw_window(self, label: Tensor) -> Tensor:
        """Draw the window, as a (2, 3) affine to pixels (x, y), around a pixel of an object."""
        frame = np.array(label.shape[::-1])
        zoom = self.zoom
        if self.small and self.R.rand() < self.small:
            zoom = (0.35, 0.7)
        half = (frame / self.corner).min() / self.R.uniform(*zoom) / 2
        objects = (label > 0).nonzero()
        if len(objects):
            target = objects[self.R.randint(len(objects))].flip(0).numpy() + 0.5
        else:
            target = self.R.uniform(0, frame)
        # The pixel is off centre by up to 0.7 of half a window, more at the edges of the frame.
        low, high = half * self.corner, frame - half * self.corner
        middle = np.clip(
            target + self.R.uniform(-0.7, 0.7, 2) * half * self.corner,
            np.minimum(low, high),
            np.maximum(low, high),
        )
        affine = rotation(self.R.uniform(-self.rotate, self.rotate)) * half
        if self.R.rand() < self.flip:
            affine[:, 0] *= -1
        return torch.tensor(np.column_stack([affine, middle]), dtype=torch.float32)

    def _draw_radial_warp(self, label: Tensor) -> tuple[Tensor, float]:
        """Draw the object to swell or shrink: middle (x, y) and radius in pixels; radius 0 for none."""
        objects = label.unique()
        objects = objects[objects > 0]
        if not self.radial_warp or not len(objects) or self.R.rand() < 0.5:
            return torch.zeros(2), 0.0
        pixels = (label == objects[self.R.randint(len(objects))]).nonzero().float() + 0.5
        return pixels.mean(0).flip(0), math.sqrt(len(pixels) / math.pi)

    def _frame_grid(
        self,
        window: Tensor,
        shape: tuple[int, int],
        strength: float,
        centre: Tensor,
        radius: float,
    ) -> Tensor:
        """(height, width, 2) sampling grid in ``grid_sample``'s coordinates."""
        x, y = (
            ((torch.arange(side) + 0.5) / side * 2 - 1) * float(reach)
            for side, reach in zip(self.size[::-1], self.corner, strict=True)
        )
        unit = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        turn = rotation(strength * self.R.uniform(-self.frame_rotate, self.frame_rotate))
        shear = np.tan(np.radians(strength * self.R.uniform(-self.frame_shear, self.frame_shear)))
        scale = 1 + strength * self.R.uniform(-self.frame_scale, self.frame_scale)
        matrix = torch.tensor(scale * turn @ np.array([[1, shear], [0, 1]]), dtype=torch.float32)
        shift = 2 * strength * self.R.uniform(-self.frame_shift, self.frame_shift, 2)
        unit = unit @ matrix.T + torch.tensor(shift, dtype=torch.float32)
        if self.R.rand() < self.spline:
            unit = unit + self._spline_offsets(2 * strength * self.spline_sigma)
        pixels = unit @ window[:, :2].T + window[:, 2]
        if radius:
            swelling = strength * self.R.uniform(-self.radial_warp, self.radial_warp)
            offset = pixels - centre
            # The warp never folds: for a swelling within -1 to 1, the order of distances is kept.
            fade = torch.exp(-offset.square().sum(-1, keepdim=True) / (2 * (1.2 * radius) ** 2))
            pixels = centre + offset * (1 - swelling * fade)
        return pixels / torch.tensor([shape[1], shape[0]]) * 2 - 1

    def _spline_offsets(self, sigma: float) -> Tensor:
        """(height, width, 2) smooth offsets through 12 random control points."""
        points = self.R.uniform(-1, 1, (12, 2)) * self.corner
        warp = RBFInterpolator(points, self.R.normal(0, sigma, (12, 2)), kernel="thin_plate_spline")
        # The warp is smooth, so it is evaluated on a coarse grid and enlarged, which is cheaper.
        x, y = (np.linspace(-reach, reach, 17) for reach in self.corner)
        coarse = warp(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)).reshape(1, 17, 17, 2)
        offsets = torch.tensor(coarse, dtype=torch.float32).movedim(-1, 1)
        return F.interpolate(offsets, self.size, mode="bilinear", align_corners=True)[0].movedim(
            0, -1
        )

    @staticmethod
    def _sample(clip: Tensor, grids: list[Tensor], mode: str) -> Tensor:
        frames = F.grid_sample(clip.movedim(-1, 0), torch.stack(grids), mode, align_corners=False)
        return frames.movedim(0, -1)


class RandIlluminationClipd(RandomizableTransform):
    """Brighten and darken parts of each frame smoothly, mainly an object, in half of the clips.

    In an echocardiogram a chamber may be dark in one frame and full of haze in another, while its
    neighbour does the opposite. So the network must not match structures by their brightness.

    Args:
        strength: Kind of clip -> strength of the change.
        illumination: Largest absolute natural logarithm of the factor at the middle of a bump. Each
            frame has one bump on an object, about as wide as it, and two elsewhere.
    """

    def __init__(self, strength: Mapping[str, float], illumination: float = 1.2) -> None:
        super().__init__()
        self.strength, self.illumination = dict(strength), illumination

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image, label = data["image"], data["label"]
        most = self.illumination * self.strength[data["kind"]]
        objects = label[..., 0].unique()
        objects = objects[objects > 0]
        if not most or self.R.rand() < 0.5 or not len(objects):
            return dict(data)
        chosen = objects[self.R.randint(len(objects))]
        frames = [
            (frame * self._draw_factor(labels[0] == chosen, most)).clamp(0, 1)
            for frame, labels in zip(image.unbind(-1), label.unbind(-1), strict=True)
        ]
        return {**data, "image": torch.stack(frames, dim=-1)}

    def _draw_factor(self, mask: Tensor, most: float) -> Tensor:
        """Draw the factors (H, W) of a frame in which the chosen object is ``mask``."""
        side = min(mask.shape)
        bumps = [(self.R.uniform(0, mask.shape), side * self.R.uniform(0.1, 0.4)) for _ in range(2)]
        pixels = mask.nonzero().double()
        width = math.sqrt(len(pixels) / math.pi) * self.R.uniform(0.7, 1.5)
        if len(pixels):
            bumps.append((pixels.mean(0).numpy(), width))
        rows, columns = (torch.arange(length) for length in mask.shape)
        exponent = torch.zeros(mask.shape)
        for (row, column), sigma in bumps:
            squared = (rows[:, None] - row) ** 2 + (columns - column) ** 2
            exponent += self.R.uniform(-most, most) * torch.exp(-squared / (2 * sigma**2)).float()
        return exponent.exp()


def rotation(degrees: float) -> np.ndarray:
    """(2, 2) rotation matrix."""
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


class RandColourClipd(RandomizableTransform):
    """Change brightness, contrast, saturation and hue per clip and per frame, and add grain.

    Args:
        brightness: Largest relative change of brightness per clip.
        contrast: Largest relative change of contrast per clip.
        saturation: Largest relative change of saturation per clip.
        hue: Largest shift of hue per clip, in turns of the colour circle.
        grey: Probability that the whole clip becomes grey.
        frame_jitter: Largest relative change of brightness, contrast and saturation per frame.
        grain: Largest standard deviation of the noise before it is smoothed. Each frame has its own,
            so that copies of one picture cannot be matched by their grain.
    """

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
        grey: float = 0.05,
        frame_jitter: float = 0.05,
        grain: float = 0.05,
    ) -> None:
        super().__init__()
        self.ranges = (brightness, contrast, saturation)
        self.hue, self.grey, self.frame_jitter, self.grain = hue, grey, frame_jitter, grain

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        frames: Tensor = data["image"].movedim(-1, 0)
        frames = self._jitter(frames, self.ranges)
        turn = self.R.uniform(-self.hue, self.hue)
        if turn:  # even without a shift, the conversion to HSV and back rounds
            frames = colour.adjust_hue(frames, turn)
        if self.R.rand() < self.grey:
            frames = colour.rgb_to_grayscale(frames, num_output_channels=3)
        jittered = [self._jitter(frame, (self.frame_jitter,) * 3) for frame in frames]
        sigma = self.R.uniform(0, self.grain)
        grainy = [(frame + self._noise(frame, sigma)).clamp(0, 1) for frame in jittered]
        return {**data, "image": torch.stack(grainy, dim=-1)}

    def _noise(self, frame: Tensor, sigma: float) -> Tensor:
        """Draw Gaussian noise (1, H, W) whose grains are about two pixels wide."""
        height, width = frame.shape[-2:]
        fine = self.R.normal(0, sigma, (1, 1, (height + 1) // 2, (width + 1) // 2))
        noise = torch.tensor(fine, dtype=frame.dtype)
        return F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)[0]

    def _jitter(self, x: Tensor, ranges: tuple[float, ...]) -> Tensor:
        brightness, contrast, saturation = (1 + self.R.uniform(-r, r) for r in ranges)
        x = colour.adjust_brightness(x, brightness)
        x = colour.adjust_contrast(x, contrast)
        return colour.adjust_saturation(x, saturation)
