"""Boxes and points as options of a command line."""

import re
from collections.abc import Sequence

from bundle.inference.prompts import MAX_ID, ObjectPrompt
from bundle.inference.prompts_file import PromptEntry


def read_prompt_options(
    boxes: Sequence[str], points: Sequence[str], frames: Sequence[int], objects: Sequence[int]
) -> list[PromptEntry]:
    """What ``--box``, ``--points``, ``--frame`` and ``--object`` say.

    The first box, points, frame and object belong together, and so on. A single frame or object holds
    for all. Without ``--object`` several boxes are of objects 1, 2, 3 ..., all points of object 1.

    Args:
        boxes: ``LEFT,TOP,RIGHT,BOTTOM`` each.
        points: ``X,Y,SIGN`` each, or several of them one after another.
        frames: Indices, 0 if there is none.
        objects: Ids.

    Raises:
        ValueError: An option cannot be read, or it is not clear what belongs together.

    Example:
        >>> entry, = read_prompt_options(["40,30,120,110"], ["60,70,1"], [17], [2])
        >>> entry.frame, entry.object_id, entry.prompt.box, entry.prompt.points
        (17, 2, (40.0, 30.0, 120.0, 110.0), ((60.0, 70.0),))
    """
    count = max(len(boxes), len(points))
    if not count:
        if frames or objects:
            option = "--frame" if frames else "--object"
            raise ValueError(
                f"{option} says where a --box or --points is: add one (of a mask, --mask-frame says "
                "the frame)"
            )
        return []
    if len(boxes) > 1 and len(points) not in (0, len(boxes)):
        raise ValueError(
            f"it is not clear which of {len(boxes)} --box the {len(points)} --points belong to: give "
            "one --points for each --box, or a file with --prompts"
        )
    ids = list(range(1, count + 1)) if len(boxes) > 1 else [1]
    frame_of = _spread(frames or [0], count, "--frame")
    object_of = _spread(objects or ids, count, "--object")
    for frame in frame_of:
        if frame < 0:
            raise ValueError(f"--frame must be a frame's number from 0 on, got {frame}")
    for object_id in object_of:
        if not 1 <= object_id <= MAX_ID:
            raise ValueError(f"--object must be from 1 to {MAX_ID}, got {object_id}")
    prompts = [ObjectPrompt() for _ in range(count)]
    for i, text in enumerate(boxes):
        left, top, right, bottom = _numbers(text, "--box", "LEFT,TOP,RIGHT,BOTTOM", 4)
        prompts[i] = prompts[i].with_box((left, top, right, bottom))
    for i, text in enumerate(points):
        numbers = _numbers(text, "--points", "X,Y,1 (on the object) or X,Y,0 (beside it)", 3, True)
        for x, y, on in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
            if on not in (0, 1):
                raise ValueError(
                    f"--points {text}: the third number must be 1 (on the object) or 0 (beside it), "
                    f"got {on:g}"
                )
            prompts[i] = prompts[i].with_points([(x, y)], [bool(on)])
    return [PromptEntry(*each) for each in zip(frame_of, object_of, prompts, strict=True)]


def _spread(values: Sequence[int], count: int, option: str) -> list[int]:
    if len(values) not in (1, count):
        raise ValueError(
            f"{len(values)} {option} do not fit {count} --box or --points: give one for all, one for "
            "each, or a file with --prompts"
        )
    return list(values) * (count if len(values) == 1 else 1)


def _numbers(text: str, option: str, form: str, count: int, several: bool = False) -> list[float]:
    parts = [part for part in re.split(r"[,;\s]+", text.strip()) if part]
    try:
        found = [float(part) for part in parts]
    except ValueError:
        found = []
    finite = all(abs(number) < 1e9 for number in found)
    if not found or not finite or len(found) % count or not (several or len(found) == count):
        raise ValueError(f"{option} {text!r} cannot be read: give {form} in pixels")
    return found
