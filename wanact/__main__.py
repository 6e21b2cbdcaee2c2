"""`python -m wanact COMMAND`: everything that is done with a model beside flying it in the browser."""

from __future__ import annotations

import sys
from importlib import import_module

from wanact.errors import UserError, in_words, unsupported_system

# Command -> what it is for; its module in wanact/commands has the same name.
COMMANDS = {
    "replay": "fly records again, on any checkpoints",
    "card": "measure what a checkpoint does with the controls",
    "data": "say what is wrong with a data set, and mark what mends it",
    "bench": "measure seconds and memory",
    "convert": "write a model directory in another layout",
    "push": "put a run, or the page as a Space, on the Hugging Face Hub",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. What a person can set right ends with one sentence."""
    argv = sys.argv[1:] if argv is None else argv
    if (problem := unsupported_system()) is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if argv and argv[0] in COMMANDS:
        try:
            return import_module(f"wanact.commands.{argv[0]}").main(argv[1:]) or 0
        except (UserError, OSError) as error:
            print(f"error: {' '.join(in_words(error).split())}", file=sys.stderr)
            return 1
    rows = "\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items())
    usage = f"usage: python -m wanact COMMAND ...\n\ncommands (each has --help):\n{rows}"
    if argv and argv[0] not in ("-h", "--help"):
        usage = f"python -m wanact: {argv[0]!r} is unknown\n\n{usage}"
    asked = bool(argv) and argv[0] in ("-h", "--help")
    print(usage, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
