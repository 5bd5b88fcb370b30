"""Options that several commands have, and the old names that go on working."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bundle.inference.settings import GONE, OLD_NAMES, InferenceSettings

DEFAULTS = InferenceSettings()
ADVANCED = "Advanced"
PROMPTS = "Pointing at objects"
PROJECTS = "Projects of many videos"
EXTRA_VALUES = {"allow_extra_args": True, "ignore_unknown_options": True}
"""For commands that hand on what they do not know to a config."""

_warned: set[str] = set()


def normalize(token: str) -> str:
    """Take ``_`` for ``-`` in names, and the old name of an option for its new one, with a warning.

    Example:
        >>> normalize("output_dir")
        'output-dir'
    """
    name = token.lstrip("-").replace("-", "_")
    dashes = token[: len(token) - len(token.lstrip("-"))]
    if name in OLD_NAMES:
        new = OLD_NAMES[name]
        if name not in _warned:
            _warned.add(name)
            shown = (each.replace("_", "-") for each in (name, new))
            print("warning: --{} is called --{} now: use that".format(*shown), file=sys.stderr)
        name = new
    return dashes + name.replace("_", "-")


def forget_warnings() -> None:
    """Warn of old names once more: another command begins."""
    _warned.clear()


def setting(name: str, about: str) -> Any:
    """An advanced option of inference, whose default stands in ``InferenceSettings``."""
    default = getattr(DEFAULTS, name)
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{about} [dim]\\[default: {'null' if default is None else default}][/dim]",
        show_default=False,
        rich_help_panel=ADVANCED,
        metavar="VALUE",
    )


def _tell_gone(value: str | None, parameter: typer.CallbackParam) -> str | None:
    if value is not None and parameter.name is not None:
        about = GONE[parameter.name]
        print(f"warning: --{parameter.name} does nothing any more: {about}", file=sys.stderr)
    return value


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Weights to use instead of the shipped ones, a .pt file.",
        rich_help_panel=ADVANCED,
        show_default=False,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        help="int8 (8-bit integers, fast on CPUs), openvino or torch (floating point), or auto.",
        rich_help_panel=ADVANCED,
    ),
]
Int8Dir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the 8-bit network of these weights, as tcmn quantize makes it.",
        rich_help_panel=ADVANCED,
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    setting(
        "inference_size", "Shorter side of frames in the network, in pixels; null: the video's own."
    ),
]
Every = Annotated[str | None, setting("memory_every", "Remember one frame in so many.")]
MemoryFrames = Annotated[
    str | None,
    setting("max_memory_frames", "Most frames to remember; auto: as many as fit; null: no limit."),
]
Direction = Annotated[
    str | None, setting("direction", "Propagate from each mask: both (ways), forward or backward.")
]
Prior = Annotated[
    str | None,
    setting(
        "spatial_prior",
        "How far to look for objects, as a share of the shorter side; auto: by motion; null: anywhere.",
    ),
]
Review = Annotated[
    str | None, setting("review_below", "Confidence below which a frame is flagged for review.")
]
Precision = Annotated[
    str | None,
    setting("precision", "Precision of --backend torch: auto, float32, bfloat16 or float16."),
]
Gone = Annotated[str | None, typer.Option(hidden=True, callback=_tell_gone)]
DatasetDir = Annotated[Path | None, typer.Option(help="Folder of the data.", show_default=False)]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", "--output", "-o", help="Folder of results.", show_default=False),
]
Configs = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        help="A config that overrides the others: a name that tcmn config lists, or a file; "
        "may be repeated.",
        show_default=False,
    ),
]


def given(**values: str | None) -> dict[str, str]:
    """The settings that were given; those that were not have their defaults elsewhere."""
    return {name: value for name, value in values.items() if value is not None}
