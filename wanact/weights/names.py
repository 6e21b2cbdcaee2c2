"""Names of the same weights in two conventions, told by pairs of patterns that are read both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from wanact.errors import UserError

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class NameMap:
    """Translates weight names between the original code and diffusers, one to one.

    A pattern is a whole name. `{i}` stands for a number and means the same number on the other side; a final `*`
    stands for the last word (weight, bias, gamma). A number that one side lacks comes from `counts`, which
    describes the network: Wan numbers a stage's resampler after its residual blocks, diffusers does not.

    Args:
        pairs: original pattern -> diffusers pattern.
    """

    def __init__(self, pairs: Mapping[str, str]):
        self.pairs = dict(pairs)
        self._to_diffusers = [(_compile(ours), theirs) for ours, theirs in self.pairs.items()]
        self._to_original = [(_compile(theirs), ours) for ours, theirs in self.pairs.items()]

    def to_diffusers(self, name: str, counts: Mapping[str, int] | None = None) -> str | None:
        """diffusers' name of an original name; None if it is none."""
        return _translate(name, self._to_diffusers, counts or {})

    def to_original(self, name: str, counts: Mapping[str, int] | None = None) -> str | None:
        """The original name of diffusers' name; None if it is none."""
        return _translate(name, self._to_original, counts or {})

    def modules(self) -> Iterable[tuple[str, str]]:
        """Pairs of patterns of whole modules, without the last word."""
        return ((ours[:-2], theirs[:-2]) for ours, theirs in self.pairs.items() if ours.endswith(".*"))


def _compile(pattern: str) -> re.Pattern[str]:
    literal = re.escape(pattern).replace(r"\*", r"(?P<leaf>\w+)")
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", literal))


def _translate(name: str, rules: list[tuple[re.Pattern[str], str]], counts: Mapping[str, int]) -> str | None:
    for pattern, template in rules:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        groups = match.groupdict()
        leaf = groups.pop("leaf", None)
        numbers = {key: int(value) for key, value in groups.items()}
        if any(numbers[key] != counts.get(key, numbers[key]) for key in numbers):
            continue
        numbers = {**counts, **numbers}
        translated = _PLACEHOLDER.sub(lambda place, known=numbers: str(known[place[1]]), template)
        return translated if leaf is None else translated.replace("*", leaf)
    return None


class ConvertError(UserError):
    """Weights whose names or shapes are not those of the network; the message names the first ones."""


# What distributed training and compiling put inside names, and trainers and pipelines before them.
_INSIDE = re.compile(r"(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_BEFORE = (
    *("module", "pipe", "model", "diffusion_model", "generator", "base_model"),
    *("dit", "transformer", "vae", "text_encoder", "action_controller"),
)


def bare_name(name: str, translate: Callable[[str], str | None]) -> str | None:
    """What `translate` makes of a name once it is stripped of what trainers put before it; None if nothing."""
    name = _INSIDE.sub("", name)
    while True:
        translated = translate(name)
        if translated is not None:
            return translated
        first, dot, rest = name.partition(".")
        if not dot or first not in _BEFORE:
            return None
        name = rest


def listing(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
