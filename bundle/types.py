"""Letters for axes in the whole package, and the array types that several modules use.

B clips; N objects; D = 3 + N channels of a clip; C = 1 + N classes; T frames; H x W frame size in
pixels; h x w feature grid (frame size / 16); K key channels; V value channels. Time is the last axis
of clips, as in a NIfTI 2D+t volume.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

Clip: TypeAlias = Float[Tensor, "B D H W T"]
"""RGB in [0, 1] and one mask channel in [0, 1] per object, read at the reference frame only."""

ClassLogits: TypeAlias = Float[Tensor, "B C H W T"]
"""Background first, then the objects in the order of the clip's mask channels."""

Frame: TypeAlias = npt.NDArray[np.uint8]
"""(H, W, 3), RGB, 0 to 255."""

LabelMap: TypeAlias = npt.NDArray[np.uint8]
"""(H, W), 0 for background, else an object's id."""
