"""Write docs/cli.md from the options that the command line declares.

python scripts/dev/make_cli_page.py
"""

import html
import re
import textwrap
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from bundle.cli import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
INTRODUCTION = """\
# Command line

Made from what `tcmn --help` says. `_` may stand for `-` in the names of options. `tcmn
--install-completion` lets the shell complete commands and options.

What the settings of inference do: [inference](inference.md). The commands that train and evaluate
run the configs of the same name, like `python -m monai.bundle run`: any value of a config can be
given as an option, see [train](train.md) and [evaluate](evaluate.md). Exit status: 0, 1 after an
error, 2 if the command line is wrong, 130 if interrupted.
"""
WIDTH = 100


def make_page() -> str:
    """The page in Markdown."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command, info_name="tcmn"), name="tcmn"
    )
    text = html.unescape(re.sub(r"</?span[^>]*>|\[/?dim\]|\\(?=\[)", "", text))
    commands = text[text.index("## `tcmn segment`") :]
    lines = [_wrap(line) for line in commands.splitlines()]
    return INTRODUCTION + "\n" + "\n".join(lines).rstrip() + "\n"


def _wrap(line: str) -> str:
    if len(line) <= WIDTH:
        return line
    indent = "  " if line.startswith("* ") else ""
    return textwrap.fill(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
