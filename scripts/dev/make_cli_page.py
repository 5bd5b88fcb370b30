"""Write docs/cli.md, the reference of the command line, from the options that the code declares.

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

This page is generated from `tcmn --help`. `_` and `-` are the same in names of options. `tcmn
--install-completion` lets the shell complete commands and options.

[Inference](inference.md) explains the settings of inference. The commands that train and evaluate
run the configs of the same name, like `python -m monai.bundle run`: any value of a config can be
given as an option, see [train](train.md) and [evaluate](evaluate.md). Exit status: 0 for success, 1
for an error, 2 for a wrong command line, 130 for an interruption.
"""
WIDTH = 100


def make_page() -> str:
    """Make the page, in Markdown."""
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
