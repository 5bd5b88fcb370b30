"""Preprocessing of endoscopy and echocardiography, as MONAI transforms that a config can list.

A clip is ``{"image": (3, H, W, T) in [0, 1], "label": (1, H, W, T)}``, which may hold more. Nothing
here is random, and all frames of a clip are treated alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor


class CropBorderd(MapTransform, InvertibleTransform):
    """Cut off the black frame around an endoscope's picture.

    A row or column belongs to the picture if enough of its pixels are lit in any frame; single
    bright pixels and a few burnt-in letters are not enough. What is annotated in any frame is kept
    with it. A clip that has no dark border, or is dark all over, stays whole.

    The clip gains ``crop_box``, (top, left, bottom, right) with the last two exclusive, and
    ``full_size``, (height, width), for ``inverse`` and ``uncrop``.

    Args:
        keys: What is cropped. The box is found from ``image``, and ``label`` if there is one.
        threshold: A pixel is lit if a channel of it is brighter.
        share: Least share of lit pixels, of a row's or a column's length.
        allow_missing_keys: Whether a clip may lack some of ``keys``.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        threshold: float = 0.1,
        share: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.threshold, self.share = threshold, share

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image = data["image"]
        top, left, bottom, right = self._find_box(image, data.get("label"))
        cropped = dict(data)
        for key in self.key_iterator(cropped):
            cropped[key] = cropped[key][..., top:bottom, left:right, :].contiguous()
        cropped["crop_box"] = torch.tensor([top, left, bottom, right])
        cropped["full_size"] = torch.tensor(image.shape[1:3])
        return cropped

    def inverse(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Put ``keys`` back in their place; around them is black, or background.

        To put back what a network made of the clip, list its key alone, or call ``uncrop``.
        """
        full = dict(data)
        box, size = full.pop("crop_box"), full.pop("full_size")
        for key in self.key_iterator(full):
            # A frame that is not annotated is -1 all over.
            outside = full[key].amax((-3, -2), keepdim=True).clamp(max=0)
            full[key] = uncrop(full[key], box, size, outside)
        return full

    def _find_box(self, image: Tensor, label: Tensor | None) -> tuple[int, int, int, int]:
        height, width = image.shape[1:3]
        lit = (image.amax(0) > self.threshold).any(-1).float()
        rows, columns = lit.mean(1) >= self.share, lit.mean(0) >= self.share
        if not (rows.any() and columns.any()):
            return 0, 0, height, width
        if label is not None:
            annotated = (label > 0).any(0).any(-1)
            rows, columns = rows | annotated.any(1), columns | annotated.any(0)
        (top, bottom), (left, right) = (
            (int(where[0]), int(where[-1]) + 1)
            for where in (rows.nonzero()[:, 0], columns.nonzero()[:, 0])
        )
        return top, left, bottom, right


def uncrop(
    cropped: Tensor,
    box: Tensor | Sequence[int],
    size: Tensor | Sequence[int],
    outside: Tensor | float = 0.0,
) -> Tensor:
    """Put back what ``CropBorderd`` has cut out.

    Args:
        cropped: (..., h, w, T), such as a label map or logits.
        box: The clip's ``crop_box``.
        size: Its ``full_size``.
        outside: Value around the box, or a tensor that broadcasts to the result. Logits of 0 all
            over are background to ``argmax``, which takes the first of equals.

    Returns:
        (..., H, W, T).

    Raises:
        ValueError: ``cropped`` is not as large as the box.
    """
    top, left, bottom, right = (int(edge) for edge in box)
    height, width = (int(side) for side in size)
    *leading, h, w, frames = cropped.shape
    if (h, w) != (bottom - top, right - left):
        raise ValueError(
            f"expected {right - left}x{bottom - top}, the size of the box that was cut out, got "
            f"{w}x{h}: resize it first"
        )
    around = torch.as_tensor(outside, dtype=cropped.dtype, device=cropped.device)
    full = around.expand(*leading, height, width, frames).clone()
    full[..., top:bottom, left:right, :] = cropped
    return full


class ScaleSectord(MapTransform):
    """Spread the grey values of an ultrasound sector over [0, 1], and make grey clips RGB.

    The darkest and brightest values of the sector, over all frames, give one linear map for the
    whole clip, so no flicker comes in. What is black stays black. A sector of one grey only stays
    as it is.

    Args:
        keys: What is scaled.
        lower: Percentile of the sector's grey values that becomes 0; what is below is cut off.
        upper: Percentile that becomes 1, likewise.
        threshold: Brighter pixels are the sector. Lossy compression leaves traces around it, which
            0 would count in.
        allow_missing_keys: Whether a clip may lack some of ``keys``.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image",),
        lower: float = 1.0,
        upper: float = 99.0,
        threshold: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.lower, self.upper, self.threshold = lower, upper, threshold

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            scaled[key] = self._scale(scaled[key])
        return scaled

    def _scale(self, image: Tensor) -> Tensor:
        if len(image) == 1:
            image = image.repeat(3, 1, 1, 1)
        grey = image.mean(0)
        sector = grey[grey > self.threshold]
        if not len(sector):
            return image
        low, high = (float(percentile(sector, q)) for q in (self.lower, self.upper))
        return ((image - low) / (high - low)).clamp(0, 1) if high > low else image
