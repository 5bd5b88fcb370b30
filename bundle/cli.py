"""``tcmn``: the command line. Reads options; what commands do is elsewhere, imported when used."""

import gc
import logging
import os
import runpy
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from bundle.inference.settings import GONE, OLD_NAMES, InferenceSettings
from bundle.utils.bundle_files import bundle_root, program_version
from bundle.utils.options import MissingPackageError, print_error, suggest
from bundle.utils.paths import expand_user

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


app = typer.Typer(
    name="tcmn",
    help="Segmentation of medical video: mask one frame, get every frame's mask.",
    epilog="tcmn segment echo.dcm --mask first.png",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": normalize},
)

Advanced = typer.Option


def _setting(name: str, about: str) -> Any:
    """An advanced option of inference, whose default stands in ``InferenceSettings``."""
    default = getattr(DEFAULTS, name)
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{about} [dim]\\[default: {'null' if default is None else default}][/dim]",
        show_default=False,
        rich_help_panel=ADVANCED,
        metavar="VALUE",
    )


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
    _setting(
        "inference_size", "Shorter side of frames in the network, in pixels; null: the video's own."
    ),
]
Every = Annotated[str | None, _setting("memory_every", "Remember one frame in so many.")]
MemoryFrames = Annotated[
    str | None,
    _setting("max_memory_frames", "Most frames to remember; auto: as many as fit; null: no limit."),
]


def _tell_gone(value: str | None, parameter: typer.CallbackParam) -> str | None:
    if value is not None and parameter.name is not None:
        about = GONE[parameter.name]
        print(f"warning: --{parameter.name} does nothing any more: {about}", file=sys.stderr)
    return value


Gone = Annotated[str | None, typer.Option(hidden=True, callback=_tell_gone)]
Direction = Annotated[
    str | None, _setting("direction", "Propagate from each mask: both (ways), forward or backward.")
]
Prior = Annotated[
    str | None,
    _setting(
        "spatial_prior",
        "How far to look for objects, as a share of the shorter side; auto: by motion; null: anywhere.",
    ),
]
Review = Annotated[
    str | None, _setting("review_below", "Confidence below which a frame is flagged for review.")
]
Precision = Annotated[
    str | None,
    _setting("precision", "Precision of --backend torch: auto, float32, bfloat16 or float16."),
]
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


def _show_version(asked: bool) -> bool:
    if asked:
        print(f"tcmn {program_version()}")
        raise typer.Exit
    return asked


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def segment(
    video: Annotated[
        Path,
        typer.Argument(
            help="A video file, a folder of frames, DICOM, or a 2D+t NIfTI, MetaImage, NRRD or TIFF. "
            "Many videos: a folder of them, each with NAME_mask beside it, or a CSV list of video,mask."
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            "-m",
            show_default=False,
            help="Mask of the first frame (a picture), or masks of several frames: a volume, whose "
            "empty frames do not count, or a folder of pictures named like their frames.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "--output-dir", "-o", help="Folder of results: OUTPUT/NAME for each video."
        ),
    ] = Path("output"),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace results of an earlier run; files of yours stay."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on where the same command was interrupted."),
    ] = True,
    formats: Annotated[
        str,
        typer.Option(
            help="Results to write: auto, or some of nifti, png, overlay, csv, summary, mha, nrrd, "
            "dicom_seg, rle, seg_nrrd, coco, cvat, yolo, mots, with commas between them."
        ),
    ] = "auto",
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors are shown.")] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="A box around the object, in pixels; may be repeated, for objects 1, 2 and so on.",
            metavar="LEFT,TOP,RIGHT,BOTTOM",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(
            help="A point in pixels, with 1 on the object or 0 beside it; may be repeated.",
            metavar="X,Y,1",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    frame: Annotated[
        list[int] | None,
        typer.Option(
            help="Frame of the boxes and points, counted from 0: once for all, or once for each.",
            rich_help_panel=PROMPTS,
            show_default="0",
        ),
    ] = None,
    object_id: Annotated[
        list[int] | None,
        typer.Option(
            "--object",
            help="Number of the object: once for all boxes and points, or once for each.",
            rich_help_panel=PROMPTS,
            show_default="1",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of boxes, points, scribbles and masks; see docs/prompts.md.",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    unknown: Annotated[
        int | None,
        typer.Option(
            help="Value of the mask's pixels that are unknown, such as 255; the network fills them.",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    mask_frame: Annotated[
        str | None,
        typer.Option(
            help="Frame of a single mask, counted from 0.",
            rich_help_panel=ADVANCED,
            show_default=False,
        ),
    ] = None,
    backend: Backend = "auto",
    weights: Weights = None,
    int8_dir: Int8Dir = None,
    inference_size: Size = None,
    memory_every: Every = None,
    max_memory_frames: MemoryFrames = None,
    direction: Direction = None,
    spatial_prior: Prior = None,
    review_below: Review = None,
    precision: Precision = None,
    eviction: Gone = None,
    policy: Gone = None,
) -> None:
    """Segment a video from the mask of one frame, or of a few; or from a box or points."""
    if quiet:
        logging.getLogger("bundle").setLevel(logging.ERROR)
    with _quick_start():
        from bundle.commands.segment import segment_videos
    segment_videos(
        video,
        mask,
        output,
        overwrite=overwrite,
        resume=resume,
        formats=formats,
        progress=not quiet,
        mask_frame=mask_frame,
        unknown=unknown,
        boxes=box or (),
        points=points or (),
        frames=frame or (),
        objects=object_id or (),
        prompts=prompts,
        device=device,
        backend=backend,
        weights=weights,
        int8_dir=int8_dir,
        **_given(
            inference_size=inference_size,
            memory_every=memory_every,
            max_memory_frames=max_memory_frames,
            direction=direction,
            spatial_prior=spatial_prior,
            review_below=review_below,
            precision=precision,
        ),
    )


@app.command()
def annotate(
    video: Annotated[
        Path | None,
        typer.Argument(
            help="Video, folder of frames, or saved session; or a project: a folder of videos, or a "
            "CSV list of them with the columns video and patient.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", "-m", help="Masks to begin with.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page; 0: any free one.")] = 0,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; one that other machines reach asks for a token."),
    ] = "127.0.0.1",
    token: Annotated[bool, typer.Option("--token", help="Ask for a token here as well.")] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address.")
    ] = False,
    as_project: Annotated[
        bool | None,
        typer.Option(
            "--project/--one-video",
            help="What a folder is, where that is not clear. One with a project is always a project.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    structures: Annotated[
        Path | None,
        typer.Option(
            help="What ids stand for, in all videos: JSON, a colour table of 3D Slicer, or a DICOM "
            "segmentation.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    who: Annotated[
        str | None,
        typer.Option(
            help="Who works on it; the system's user by default.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    weights: Weights = None,
    int8_dir: Int8Dir = None,
    inference_size: Size = None,
    memory_every: Every = None,
    max_memory_frames: MemoryFrames = None,
    spatial_prior: Prior = None,
    review_below: Review = None,
) -> None:
    """Annotate a video, or a project of many, on a page in the browser, on this machine alone."""
    from bundle.apps.annotate.launch import open_page

    open_page(
        video,
        mask,
        host=host,
        port=port,
        token=token,
        browser=not no_browser,
        as_project=as_project,
        structures=structures,
        who=who,
        device=device,
        backend=backend,
        weights=weights,
        int8_dir=int8_dir,
        **_given(
            inference_size=inference_size,
            memory_every=memory_every,
            max_memory_frames=max_memory_frames,
            spatial_prior=spatial_prior,
            review_below=review_below,
        ),
    )


@app.command("export-project")
def export_project(
    project: Annotated[
        Path,
        typer.Argument(help="The folder of the videos, their list, or the project's own folder."),
    ],
    output: Annotated[
        Path, typer.Argument(help="A folder that is not there yet.", show_default=False)
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="video_folder, davis, coco, yolo, cvat, nnunet_2d, nnunet_3d or dicom_seg."
        ),
    ] = "video_folder",
    frames: Annotated[
        str, typer.Option(help="all, or reviewed: only masks that somebody gave or accepted.")
    ] = "all",
    unfinished: Annotated[
        str,
        typer.Option(help="Videos that are not done: refuse, leave-out, or include as they are."),
    ] = "refuse",
    valid_fraction: Annotated[
        float,
        typer.Option(
            help="Share of the patients whose videos validate; 0 for none.", min=0, max=0.9
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the draw of patients.")] = 0,
) -> None:
    """Write the masks of a project as a data set, with a split by patient and a manifest."""
    from bundle.commands.export_project import export_data_set

    export_data_set(project, output, layout, frames, unfinished, valid_fraction, seed)


@app.command(context_settings=EXTRA_VALUES)
def train(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Train a network. Any value of the config train can be given: --epochs 20 --batch_size 8."""
    _run_config("training", ["train", *(config or ())], context, dataset_dir, output_dir)


@app.command(context_settings=EXTRA_VALUES)
def finetune(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Fine-tune the shipped weights on your videos. Any value of the configs train and finetune can be
    given: --layout video_folder --epochs 6.
    """
    _run_config(
        "training", ["train", "finetune", *(config or ())], context, dataset_dir, output_dir
    )


@app.command(context_settings=EXTRA_VALUES)
def evaluate(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Score weights on a data set. Any value of the configs train and evaluate can be given:
    --protocol cvc_clinicdb --weights best.pt.
    """
    _run_config(
        "evaluating", ["train", "evaluate", *(config or ())], context, dataset_dir, output_dir
    )


@app.command("check-data")
def check_data(
    dataset: Annotated[
        str, typer.Option(help="Layout of the data set: video_folder, davis, camus ...")
    ],
    dataset_dir: Annotated[Path, typer.Option(help="Root folder of the data set.")],
    output_dir: Annotated[
        Path,
        typer.Option("--output-dir", "--output", "-o", help="Folder of the picture, LAYOUT.png."),
    ] = Path("output/check_data"),
) -> None:
    """Check a data set: read every frame and mask, list all problems, draw a picture to look at."""
    from bundle.commands.check_data import check

    if not check(dataset, dataset_dir, output_dir):
        raise typer.Exit(1)


@app.command()
def quantize(
    dataset_dir: Annotated[Path, typer.Option(help="Folder that holds the training data sets.")],
    output_dir: Annotated[
        Path,
        typer.Option("--output-dir", "--output", "-o", help="Folder to make; it must not exist."),
    ],
    weights: Weights = None,
    clips: Annotated[int, typer.Option(help="Number of training clips that set the ranges.")] = 64,
    size: Annotated[int, typer.Option(help="Side of these clips, in pixels.")] = 320,
    config: Configs = None,
) -> None:
    """Make the 8-bit network of some weights, with ranges that training clips show."""
    from bundle.commands.quantize import quantize_weights

    configs = [_config_path(name) for name in ["train", *(config or ())]]
    quantize_weights(weights or _shipped(), dataset_dir, output_dir, configs, clips, size)


@app.command()
def export(
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "--output",
            "-o",
            help="Folder of the graphs; made if it does not exist.",
        ),
    ],
    weights: Weights = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference allowed, as a share of an output's largest value.",
            rich_help_panel=ADVANCED,
            show_default=False,
        ),
    ] = None,
    config: Configs = None,
) -> None:
    """Write the network as ONNX graphs, after a check that they compute the same."""
    from bundle.commands.export_onnx import export_checked

    configs = [_config_path(name) for name in config or ()]
    export_checked(weights or _shipped(), output_dir, tolerance, configs)


@app.command(context_settings=EXTRA_VALUES)
def serve(
    context: typer.Context,
    studies: Annotated[
        str, typer.Option(help="Folder of videos, or address of a DICOMweb server.")
    ],
    app_dir: Annotated[
        Path, typer.Option("--app-dir", help="The server's own folder; trained weights go there.")
    ] = Path("tcmn-label"),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
) -> None:
    """Start a MONAI Label server, for 3D Slicer and others. Its own options can be given, too."""
    from bundle.commands.serve import serve_label_app

    serve_label_app(studies, app_dir, host, port, context.args)


@app.command()
def config(
    name: Annotated[
        str | None, typer.Argument(help="Name of the config; without it all names are listed.")
    ] = None,
) -> None:
    """Print the path of a config, for python -m monai.bundle run --config_file."""
    if name is not None:
        print(_config_path(name, files=False))
        return
    for path in _config_files():
        print(path.relative_to(bundle_root() / "configs").with_suffix("").as_posix())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names.

    Returns:
        The exit status: 0, 1 after an error, 2 if the command line is wrong, 130 if interrupted.
    """
    _set_up_screen()
    _warned.clear()
    command = typer.main.get_command(app)
    try:
        command(args=None if arguments is None else list(arguments), prog_name="tcmn")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    finally:
        # The interpreter collects garbage as it ends: a second, for a million objects of PyTorch,
        # which go with the process anyway.
        gc.freeze()
    return 0


@contextmanager
def _quick_start() -> Iterator[None]:
    """Import without collecting garbage, of which imports make none; it takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _set_up_screen() -> None:
    """Show what this package says, and of the libraries only what goes wrong."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.getLogger("bundle").setLevel(logging.INFO)


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _shipped() -> Path:
    return bundle_root() / "models" / "model.pt"


def _config_files() -> list[Path]:
    return sorted((bundle_root() / "configs").rglob("*.yaml"))


def _config_path(name: str, *, files: bool = True) -> Path:
    """A config by its name, or (with ``files``) by its path."""
    if files and name.endswith((".yaml", ".yml", ".json")):
        return Path(name)
    root = bundle_root() / "configs"
    known = {path.relative_to(root).with_suffix("").as_posix(): path for path in _config_files()}
    stem = name.removesuffix(".yaml")
    if stem not in known:
        raise ValueError(f"unknown config {name}{suggest(stem, list(known), prefix='')}")
    return known[stem]


def _run_config(
    run_id: str,
    names: Sequence[str],
    context: typer.Context,
    dataset_dir: Path | None,
    output_dir: Path | None,
) -> None:
    """``python -m monai.bundle run``, with the configs of these names."""
    if find_spec("monai") is None:
        raise MissingPackageError("this command needs MONAI: pip install monai")
    files = [str(_config_path(name)) for name in names]
    arguments = ["run", run_id, "--config_file", repr(files), *context.args]
    arguments += ["--logging_file", str(bundle_root() / "configs" / "logging.conf")]
    for option, value in (("dataset_dir", dataset_dir), ("output_dir", output_dir)):
        if value is not None:
            arguments += [f"--{option}", os.fspath(expand_user(value))]
    sys.argv = ["monai.bundle", *arguments]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.exit(main())
