"""`python -m train COMMAND`: training stages and the tools around them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, cast

from train.stages import STAGES
from wanact.errors import UserError, in_words, unsupported_system

# Command -> (module with main(argv), what it is for).
TOOLS = {
    "init": ("train.commands.init", "write an untrained model directory of a known size"),
    "pilot": ("train.commands.pilot", "train a pilot that flies by itself, or measure one"),
    "simulate": ("train.commands.simulate", "write a dataset of simulated drone flights"),
    "plan": ("train.commands.plan", "count what a run takes of each device's memory, before it is started"),
    "encode": ("train.commands.encode", "encode a share of a dataset ahead of training"),
    "shard": ("train.commands.shard", "write the clips of a table as shards, for data that outgrows a disk"),
    "import": ("train.commands.import_footage", "write a dataset from footage with camera poses"),
    "evaluate": ("train.commands.evaluate", "measure a model or a checkpoint"),
    "verify": ("train.commands.verify", "check every sum of a run or a checkpoint"),
    "export": ("train.commands.export", "write files to fly with, or a model directory, from a checkpoint"),
    "publish": ("train.commands.publish", "keep chosen steps of a run as a smaller run that only flies"),
    "merge-lora": ("train.commands.merge", "fuse a LoRA into a new model directory"),
    "bench": ("train.commands.bench", "measure what saving and resuming cost, or how fast data is read"),
    "crash_test": ("train.commands.crash_test", "kill a training run again and again, and see that nothing is lost"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if (problem := unsupported_system()) is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command.startswith("--"):  # settings alone, which say what is trained
        return _reporting(lambda: import_module("train.commands.run").main(None, argv))
    if command in STAGES:
        return _reporting(lambda: import_module("train.commands.run").main(command, rest))
    if command in TOOLS:
        return _reporting(lambda: import_module(TOOLS[command][0]).main(rest))
    print(f"python -m train: {command!r} is unknown\n\n{_usage()}", file=sys.stderr)
    return 2


def _reporting(run: Callable[[], int | None]) -> int:
    """What a person can set right ends with one sentence instead of a traceback."""
    with _patient_output():
        try:
            return run() or 0
        except (UserError, OSError) as error:
            print(f"error: {in_words(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:  # before the first step; during steps it saves and ends
            print("interrupted", file=sys.stderr)
            return 130
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's own
                raise
            remedy = "lower --batch_size, --num_frames, --height and --width, or --use_gradient_checkpointing true"
            print(f"error: there is not enough memory; {remedy}", file=sys.stderr)
            return 1


class _Patient:
    """An output stream whose writing never fails, as that to a full disk or a closed pipe does."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _patient_output() -> Iterator[None]:
    """Training that is written down in a file (`> train.log`) does not end because that file cannot grow."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(Any, _Patient(stream)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            try:
                stream.flush()
            except OSError:  # what was not written by now is dropped, or the interpreter would fail on it at the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _usage() -> str:
    rows = [(name, text) for name, (_, text) in (*STAGES.items(), *TOOLS.items())]
    commands = "\n".join(f"  {name:12} {text}" for name, text in rows)
    return (
        "usage: python -m train COMMAND ...\n"
        "       python -m train --config FILE ...    where FILE names its model_class: WanModel or WanModelCausal\n\n"
        f"commands (each has --help):\n{commands}"
    )


if __name__ == "__main__":
    sys.exit(main())
