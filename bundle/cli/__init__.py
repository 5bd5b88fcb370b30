"""The command line ``tcmn``. Declares the commands and options; ``bundle.commands`` does the work."""

import gc
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from bundle.cli import annotate, check_data, configs, networks, segment, serve, training
from bundle.cli.options import EXTRA_VALUES, forget_warnings, normalize
from bundle.utils.bundle_files import program_version
from bundle.utils.options import print_error
from bundle.utils.processes import leave

app = typer.Typer(
    name="tcmn",
    help="Segment medical video: mark an object in one frame, get its mask in every frame.",
    epilog="tcmn segment echo.dcm --mask first.png",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": normalize},
)


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


app.command()(segment.segment)
app.command()(annotate.annotate)
app.command("export-project")(annotate.export_project)
app.command(context_settings=EXTRA_VALUES)(training.train)
app.command(context_settings=EXTRA_VALUES)(training.finetune)
app.command(context_settings=EXTRA_VALUES)(training.evaluate)
app.command("check-data")(check_data.check_data)
app.command()(networks.quantize)
app.command()(networks.export)
app.command(context_settings=EXTRA_VALUES)(serve.serve)
app.command()(configs.config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names.

    Returns:
        The exit status: 0, 1 after an error, 2 if the command line is wrong, 130 if interrupted.
    """
    _set_up_screen()
    forget_warnings()
    command = typer.main.get_command(app)
    try:
        command(args=None if arguments is None else list(arguments), prog_name="tcmn")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    finally:
        # At exit the interpreter collects garbage. For PyTorch's million objects that takes a second,
        # and it is useless. With Triton, which training imports, it must run: else leaks are reported.
        if "triton" not in sys.modules:
            gc.freeze()
    return 0


def run() -> NoReturn:
    """Run a command as a process of its own, and end the process."""
    status = main()
    if segment.was_used():
        # All files are closed by now, so no object needs its destructor.
        leave(status)
    sys.exit(status)


def _set_up_screen() -> None:
    """Show log messages of this package, and only errors of the libraries."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.getLogger("bundle").setLevel(logging.INFO)
