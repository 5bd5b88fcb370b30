"""``tcmn``: the commands that are no configuration of ``python -m monai.bundle run``."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {"annotate": ("bundle.apps.annotate.__main__", "a page to annotate videos in")}
"""Name to the module whose ``main`` takes the arguments, and what it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names.

    Returns:
        The exit status.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in COMMANDS:
        status: int = import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
        return status
    asked = bool(arguments) and arguments[0] in ("-h", "--help")
    lines = [f"  tcmn {name} --help    {about}" for name, (_, about) in COMMANDS.items()]
    usage = "\n".join(["usage: tcmn COMMAND ...", *lines])
    print(usage, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
