"""Crop black borders of endoscopies and scale grey values of ultrasound, as MONAI transforms.

A clip is ``{"image": (3, H, W, T) in [0, 1], "label": (1, H, W, T)}`` and may have other keys. Nothing
is random, and all frames of a clip are treated alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor


class CropBorderd(MapTransform, InvertibleTransform):
    """Crop the black border around an endoscope's picture.

    A row or column belongs to the picture if enough of its pixels are lit in any frame; single bright
    pixels and a few burnt-in letters are not enough. Annotated pixels of any frame are always kept. A
    clip without a dark border, or one that is entirely dark, is not cropped.

    The clip gets ``crop_box``, (top, left, bottom, right) with the last two exclusive, and
    ``full_size``, (height, width), for ``inverse`` and ``uncrop``.

    Args:
        keys: Keys to crop. The box is found from ``image``, and from ``label`` if there is one.
        threshold: A pixel is lit if one of its channels is brighter than this, 0 to 1.
        share: Smallest share of lit pixels in a row or column, 0 to 1.
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
        """Put ``keys`` back into the full frame, with black or background around them.

        To put back a network's output, list only its key, or call ``uncrop``.
        """
        full = dict(data)
        box, size = full.pop("crop_box"), full.pop("full_size")
        for key in self.key_iterator(full):
            # A frame that is not annotated is filled with -1.
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
    """Put what ``CropBorderd`` cut out back into the full frame.

    Args:
        cropped: (..., h, w, T), such as a label map or logits.
        box: The clip's ``crop_box``.
        size: The clip's ``full_size``.
        outside: Value around the box, or a tensor that broadcasts to the result. Logits that are all 0
            mean background to ``argmax``, which takes the first of equals.

    Returns:
        (..., H, W, T).

    Raises:
        ValueError: ``cropped`` does not have the size of the box.
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
    """Scale the grey values of an ultrasound sector to [0, 1], and make grey clips RGB.

    One linear map, from the darkest and brightest values of the sector over all frames, is used for
    the whole clip, so that it does not flicker. Black pixels stay black. A sector with a single grey
    value is not changed.

    Args:
        keys: Keys to scale.
        lower: Percentile of the sector's grey values that becomes 0; lower values become 0 too.
        upper: Percentile that becomes 1; higher values become 1 too.
        threshold: Pixels brighter than this, 0 to 1, are the sector. Lossy compression leaves traces
            around the sector, which 0 would include.
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
