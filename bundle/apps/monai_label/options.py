"""Options of a request to the label server, and how a request is refused."""

import importlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from bundle.inference.settings import DIRECTIONS, InferenceSettings


def refuse(message: str, status: int = 400) -> NoReturn:
    """Refuse a request with a message that reaches the user.

    Raises:
        HTTPException: In a server, which answers with it and lives on.
        ValueError: Elsewhere.
    """
    if importlib.util.find_spec("fastapi"):
        raise importlib.import_module("fastapi").HTTPException(status, message)
    raise ValueError(message)


@dataclass(frozen=True)
class RequestOptions:
    """What a user can choose for a request.

    Attributes:
        direction: ``both`` ways from the painted frame, ``forward`` or ``backward``.
        reference_frame: The painted frame to start from, from 0; None for the only one.
        use_all_painted: Start from all painted frames, where there are several.
        spatial_prior: A number for ``VideoInferer``; 0 for none, None for the server's own setting.
    """

    direction: str = "both"
    reference_frame: int | None = None
    use_all_painted: bool = False
    spatial_prior: float | None = None

    @classmethod
    def read(cls, request: Mapping[str, Any]) -> "RequestOptions":
        """Read the options of a request; of a whole list of choices the first counts."""
        given = {
            name: value[0] if isinstance(value, (list, tuple)) else value
            for name, value in request.items()
            if name in ("direction", "reference_frame", "use_all_painted", "spatial_prior")
            and value not in ("", None)
        }
        direction = str(given.get("direction", "both"))
        if direction not in DIRECTIONS:
            refuse(f"direction is {direction!r}: choose one of {', '.join(DIRECTIONS)}")
        try:
            frame = int(given.get("reference_frame", -1))
        except (TypeError, ValueError):
            refuse(
                f"reference_frame is {given['reference_frame']!r}: give a frame's number, from 0"
            )
        try:
            prior = float(given.get("spatial_prior", -1))
        except (TypeError, ValueError):
            prior = math.nan
        if not math.isfinite(prior):
            refuse(
                f"spatial_prior is {given['spatial_prior']!r}: give a share of the frame's shorter "
                "side such as 0.15, 0 for none, or -1 for the server's own"
            )
        all_painted = str(given.get("use_all_painted", False)).lower() == "true"
        return cls(
            direction,
            None if frame < 0 else frame,
            all_painted,
            None if prior < 0 else prior,
        )

    def applied_to(self, settings: InferenceSettings) -> InferenceSettings:
        """The settings of an inferer, with what the request chose instead."""
        prior = settings.spatial_prior if self.spatial_prior is None else self.spatial_prior or None
        return replace(settings, direction=self.direction, spatial_prior=prior)
