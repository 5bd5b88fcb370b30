"""Save the results of a run while it works, so that the same run can resume after an interruption.

A folder holds the masks in parts, and the network's memory after the last part. A run resumes from it
only if the video, masks, weights, settings and version are the same.
"""

import hashlib
import json
import logging
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bundle.inference.propagation import Propagation
from bundle.inference.results import FrameResult
from bundle.utils.atomic_write import sweep, written_beside

logger = logging.getLogger(__name__)

STATE = "state.pt"
PARTS = "part_*.npz"
VERSION = 3
EVERY_S = 10.0
"""Seconds between two parts: at most this much work is lost by an interruption."""


class RunCheckpoint:
    """Saves the results of a propagation, for the next one of the same video, masks and settings.

    Args:
        folder: Folder of the checkpoint; made with the first part, removed by ``remove``.
        identity: Text that names all else that the results depend on: video, weights and so on.
        resume: Whether to resume from an existing checkpoint; otherwise it is replaced.
        every_s: Seconds between two parts.
    """

    def __init__(
        self, folder: Path, identity: str, resume: bool = True, every_s: float = EVERY_S
    ) -> None:
        self.folder, self.identity, self.resume = folder, identity, resume
        self.every_s = every_s
        self._parts = 0
        self._new: dict[str, np.ndarray] = {}
        self._last = time.monotonic()

    def restore(self, work: Propagation) -> int:
        """Load the saved masks and memory into a propagation, if they fit it.

        Returns:
            Number of frames that are already done.
        """
        self._fits = self._digest(work)
        if not self.resume:
            return 0
        path = self.folder / STATE
        try:
            state = torch.load(path, map_location=work.device, weights_only=True)
            if state["version"] != VERSION or state["fits"] != self._fits:
                return 0
            results = list(self._read(state["parts"]))
            if state["position"] is not None:
                work.resume_at(state["position"])
        except FileNotFoundError:
            return 0
        except Exception as error:  # a damaged file may raise anything
            logger.warning("%s cannot be read (%s): starting the video again", path, error)
            return 0
        restored = work.restore(results)
        self._parts = state["parts"]
        return len(restored)

    def add(self, work: Propagation, index: int) -> None:
        """Add the result of a frame; a part is written every ``every_s`` seconds.

        Args:
            work: The propagation that has just finished the frame.
            index: Index of the frame.
        """
        result = work.result(index)
        trust = {str(i): value for i, value in result.confidence.items()}
        text = json.dumps({"shape": result.labels.shape, "confidence": trust})
        self._new[f"{index}.json"] = np.frombuffer(text.encode(), np.uint8)
        packed = zlib.compress(np.ascontiguousarray(result.labels).tobytes(), 1)
        self._new[f"{index}.labels"] = np.frombuffer(packed, np.uint8)
        if time.monotonic() - self._last >= self.every_s:
            self._write(work)
            self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the checkpoint, after the results have been written."""
        if not self.folder.is_dir():
            return
        sweep(self.folder)
        for path in [self.folder / STATE, *self.folder.glob(PARTS)]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(self, work: Propagation) -> None:
        part = self._part(self._parts)
        with written_beside(part) as beside, beside.open("wb") as file:
            np.savez(file, **self._new)  # type: ignore[arg-type]
        # The state is written last: it says how many parts are complete.
        self._parts, self._new = self._parts + 1, {}
        with written_beside(self.folder / STATE) as beside:
            torch.save(
                {
                    "version": VERSION,
                    "fits": self._fits,
                    "parts": self._parts,
                    "position": work.position(),
                },
                beside,
            )

    def _part(self, number: int) -> Path:
        """Path of a part, named by the digest of the run, so that parts of two runs never mix."""
        return self.folder / f"part_{self._fits[:16]}_{number:05d}.npz"

    def _read(self, parts: int) -> Iterator[FrameResult]:
        for number in range(parts):
            with np.load(self._part(number), allow_pickle=False) as part:
                for name in part.files:
                    if not name.endswith(".json"):
                        continue
                    frame = name.removesuffix(".json")
                    about = json.loads(part[name].tobytes())
                    labels = zlib.decompress(part[f"{frame}.labels"].tobytes())
                    trust = {int(i): float(v) for i, v in about["confidence"].items()}
                    shaped = np.frombuffer(labels, np.uint8).reshape(about["shape"])
                    yield FrameResult(int(frame), shaped, trust, False)

    def _digest(self, work: Propagation) -> str:
        """SHA-256 of everything that the results depend on."""
        found = hashlib.sha256(self.identity.encode())
        found.update(repr((work.settings, work.video.frame_count)).encode())
        for index, labels in sorted(work.prompts.items()):
            covered = sorted(work.covers(index))
            found.update(repr((index, labels.shape, covered)).encode())
            found.update(np.ascontiguousarray(labels).tobytes())
        return found.hexdigest()
