"""`python -m train pilot`: train a pilot, or measure one with `python -m train pilot evaluate RUN`."""

from __future__ import annotations

from importlib.util import find_spec

from wanact.errors import UserError

NEEDED = ("gymnasium", "stable_baselines3")


def main(argv: list[str] | None = None) -> int:
    """Train or evaluate.

    Raises:
        UserError: if what training pilots needs is not installed.
    """
    argv = list(argv or [])
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"training pilots needs {' and '.join(missing)}: pip install -r requirements-pilot.txt")
    if argv and argv[0] == "evaluate":
        from train.pilot.evaluate import main as evaluate

        return evaluate(argv[1:])
    from train.pilot.config import parse
    from train.pilot.training import train

    train(parse(argv))
    return 0
