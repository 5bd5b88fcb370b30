"""Options that several commands share, and old names of options that still work."""

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
"""Context settings of commands that pass unknown options on to a config."""

_warned: set[str] = set()


def normalize(token: str) -> str:
    """Write the name of an option with ``-`` for ``_``, and replace an old name, with a warning.

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
    """Warn of old names again, when a new command begins."""
    _warned.clear()


def setting(name: str, about: str) -> Any:
    """Make an advanced option of inference. Its default is that of ``InferenceSettings``."""
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


Device = Annotated[str, typer.Option(help="Device to compute on: auto, cpu, cuda, cuda:N or mps.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Weights file (.pt) to use instead of the shipped weights.",
        rich_help_panel=ADVANCED,
        show_default=False,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        help="Engine: int8 (8-bit integers, fast on CPUs), openvino or torch (floating point), auto.",
        rich_help_panel=ADVANCED,
    ),
]
Int8Dir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the 8-bit network of these weights, from tcmn quantize.",
        rich_help_panel=ADVANCED,
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    setting(
        "inference_size",
        "Shorter side of the frames in the network, in pixels; null: that of the video.",
    ),
]
Every = Annotated[str | None, setting("memory_every", "Keep every VALUE-th frame in memory.")]
Last = Annotated[
    str | None,
    setting(
        "remember_last", "Keep the last frame in memory, too, until the next one: true or false."
    ),
]
MemoryFrames = Annotated[
    str | None,
    setting(
        "max_memory_frames",
        "Most frames to keep in memory; auto: as many as the device can hold; null: no limit.",
    ),
]
Direction = Annotated[
    str | None, setting("direction", "Propagate from each mask: both (ways), forward or backward.")
]
Prior = Annotated[
    str | None,
    setting(
        "spatial_prior",
        "How far objects are expected to move, as a share of the shorter side; auto: by the motion in "
        "the video; null: any distance.",
    ),
]
Review = Annotated[
    str | None, setting("review_below", "Confidence below which a frame is flagged for review.")
]
Who = Annotated[
    str | None,
    typer.Option(
        help="Name of the annotator; by default the user name of the system.",
        rich_help_panel=PROJECTS,
        show_default=False,
    ),
]
Precision = Annotated[
    str | None,
    setting("precision", "Precision of --backend torch: auto, float32, bfloat16 or float16."),
]
Gone = Annotated[str | None, typer.Option(hidden=True, callback=_tell_gone)]
DatasetDir = Annotated[
    Path | None, typer.Option(help="Folder of the data set.", show_default=False)
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", "--output", "-o", help="Folder of the results.", show_default=False
    ),
]
Configs = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        help="Config that overrides values of the others: a name from tcmn config, or a file. May be "
        "repeated.",
        show_default=False,
    ),
]


def given(**values: str | None) -> dict[str, str]:
    """Keep only the settings that were given. ``InferenceSettings`` has defaults for the others."""
    return {name: value for name, value in values.items() if value is not None}
