"""The words of Vidar's plan for the same settings: its YAML files and flags are read as they are written.

One table says what each word is called here. Settings that are not there (`LATER`) may be given as what is done without
them, and are refused otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from wanact.errors import UserError

Settings = dict[str, Any]

# What the plan's model class and loss say of the stage: the first is trained where no other is named.
WHOLE, CAUSAL = ("vidar", "i2v"), ("vidarc", "causal")
_STAGES = {
    "model_class": {"WanModel": WHOLE, "WanModelCausal": CAUSAL},
    "type": {"flow_matching": WHOLE, "causal_flow_matching": CAUSAL},
    "causal": {True: CAUSAL, False: WHOLE},
}
_PRECISIONS = {"bf16": "bf16", "bfloat16": "bf16", "no": "no", "fp32": "no", "float32": "no"}
_NETWORKS = {"t5": "text_encoder", "text_encoder": "text_encoder", "dit": "transformer", "transformer": "transformer"}


def _share(word: str, value: Any) -> Settings:
    """The plan counts a forward's samples over all processes."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    size = _whole(word, value)
    if size % count:
        raise UserError(
            f"{word}: {size} cannot be split over {count} processes; give a multiple of {count}, or --batch_size for "
            "each process"
        )
    return {"batch_size": size // count}


def _window(word: str, value: Any) -> Settings:
    """The plan counts all latent frames in the cache, here the first stays out of the count."""
    length = _whole(word, value)
    if length < 2:
        raise UserError(f"{word}: {length} must be at least 2, the first latent frame and one before the newest")
    return {"window": length - 1}


def _trained(word: str, value: Any) -> Settings:
    frozen = [value] if isinstance(value, str) else value
    if not isinstance(frozen, list) or not all(isinstance(name, str) for name in frozen):
        raise UserError(f"{word}: {value!r} must be a list of t5, vae and dit")
    unknown = [name for name in frozen if name != "vae" and name not in _NETWORKS]
    if unknown:
        raise UserError(f"{word}: {unknown[0]} is no network; choose from t5, vae and dit")
    if "vae" not in frozen:
        raise UserError(f"{word}: vae is missing; `python -m train vae` trains it, this does not")
    left = [name for name in ("transformer", "text_encoder") if name not in {_NETWORKS.get(f) for f in frozen}]
    if "transformer" not in left:
        raise UserError(f"{word}: with dit nothing of the plan is left to train; leave it out")
    return {"trainable_models": ",".join(left)}


def _precision(word: str, value: Any) -> Settings:
    if str(value) not in _PRECISIONS:
        raise UserError(f"{word}: {value} must be bf16 or fp32")
    return {"mixed_precision": _PRECISIONS[str(value)]}


def _stage(word: str, value: Any) -> Settings:
    _stages_of(word, value)
    return {}


def _whole(word: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{word}: {value} must be a whole number above 0")
    return value


Reading = str | Callable[[str, Any], Settings]

WORDS: dict[str, dict[str, Reading]] = {
    "model": {
        "ckpt_dir": "model_dir",
        "pt_dir": "init_from",
        "model_class": _stage,
        "gradient_checkpointing": "use_gradient_checkpointing",
        "chunk_size": "chunk_size",
    },
    "training": {
        "num_steps": "max_steps",
        "batch_size": _share,
        "gradient_accumulation": "gradient_accumulation_steps",
        "lr": "learning_rate",
        "warmup": "lr_warmup_steps",
        "weight_decay": "weight_decay",
        "freeze": _trained,
    },
    "loss": {"type": _stage, "embodiment_aware": "embodiment_aware", "eta": "eta"},
    "self_forcing": {"causal": _stage, "chunk_size": "chunk_size", "kv_cache_length": _window},
    "output": {"save_path": "save_path"},
    "distributed": {
        "use_fsdp": "fsdp",
        "sharding_strategy": "sharding_strategy",
        "mixed_precision": _precision,
        "activation_checkpointing": "use_gradient_checkpointing",
        "cpu_offload": "cpu_offload",
    },
}

# Words of the plan without a setting in every stage, and the value that asks for nothing; eta weighs what
# embodiment_aware turns on.
LATER: dict[str, Any] = {
    "embodiment_aware": False,
    "eta": None,
}

# Single words that nobody else means by these names; the others need their section (`training.batch_size=16`).
_ALONE = {
    word: section
    for section, words in WORDS.items()
    for word in words
    if word not in ("batch_size", "mixed_precision", "weight_decay", "type", "causal")
}


def stage_of(files: Iterable[Mapping[str, Any]]) -> str:
    """The stage that settings are for, of which the later ones win.

    Raises:
        UserError: if they say none.
    """
    said = None
    for content in files:
        for section, word, value in _words_in(content):
            stages = _stages_of(word, value) if WORDS[section][word] is _stage else None
            if word in ("chunk_size", "kv_cache_length"):
                stages = CAUSAL
            said = stages or said
    if said is None:
        raise UserError(
            "nothing says what is trained; name the stage (python -m train vidar --config ...) or model.model_class in "
            "the file: WanModel or WanModelCausal"
        )
    return said[0]


def translate(content: Mapping[str, Any], stage: str, shared: Collection[str]) -> Settings:
    """A file's settings with the plan's words called what they are called here; all others as they are.

    Args:
        content: as read from YAML.
        stage: that they are for.
        shared: sections that have names of ours as well.

    Raises:
        UserError: for a word that the plan does not have, a value that cannot be used, or another stage's settings.
    """
    ours: Settings = {}
    for section, values in content.items():
        if section not in WORDS or not isinstance(values, Mapping):
            ours[section] = values
            continue
        rest = {word: value for word, value in values.items() if word not in WORDS[section]}
        if rest and section not in shared:
            raise UserError(f"section {section} has no {next(iter(rest))}; it has {', '.join(WORDS[section])}")
        if rest:
            ours[section] = rest
    for section, word, value in _words_in(content):
        ours |= _translated(section, word, value, stage)
    return ours


def translate_flags(
    argv: Iterable[str], stage: str, known: Collection[str], load: Callable[[str], Any], ours: Collection[str]
) -> list[str]:
    """Arguments with the plan's words among them (`--num_steps 9`, `training.lr=1e-5`) as flags of ours.

    Args:
        known: flags that the stage has itself.
        load: what a value means, as in YAML.
        ours: dotted names that are settings of ours, such as `model.model_dir`.
    """
    result: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name, equals, text = token.partition("=")
        section, dot, word = name.removeprefix("--").partition(".")
        if not dot:
            section, word = _ALONE.get(section, ""), section
        is_flag = name.startswith("--") or (dot and equals)
        if not is_flag or word not in WORDS.get(section, {}) or name in ours:
            result.append(token)
            continue
        if f"--{word}" in known and not dot and word not in LATER:
            result.append(token)
            continue
        if not equals:
            values: list[str] = []
            while tokens and not tokens[0].startswith("--") and "=" not in tokens[0]:
                values.append(tokens.pop(0))
                if word != "freeze":
                    break
            text = f"[{', '.join(values)}]" if word == "freeze" else " ".join(values) or "true"
        for setting, value in _translated(section, word, load(text), stage).items():
            result.append(f"--{setting}={value}")
    return result


def without_later(tokens: Iterable[str], known: Collection[str], stage: str) -> list[str]:
    """Arguments without the words of the plan that this stage has no setting for, which ask for nothing.

    Raises:
        UserError: if one asks for something.
    """
    kept: list[str] = []
    last: dict[str, str] = {}
    tokens = list(tokens)
    weighs = [token.partition("=")[2].lower() for token in tokens if token.startswith("--embodiment_aware=")]
    unweighed = bool(weighs) and weighs[-1] == "false"  # then nothing is left for the plan's eta to say
    for token in tokens:
        name, _, value = token.removeprefix("--").partition("=")
        if token.startswith("--eta=") and unweighed:
            continue
        if token.startswith("--") and name in LATER and f"--{name}" not in known:
            last[name] = value
        else:
            kept.append(token)
    for name, value in last.items():
        nothing = LATER[name]
        if nothing is not None and value.lower() not in (str(nothing).lower(), ""):
            raise UserError(f"{name}: {value} is not there in stage {stage}; leave it out or give {name}: {nothing}")
    return kept


def _words_in(content: Mapping[str, Any]) -> Iterable[tuple[str, str, Any]]:
    for section, values in content.items():
        if isinstance(values, Mapping):
            yield from ((section, word, value) for word, value in values.items() if word in WORDS.get(section, {}))


def _translated(section: str, word: str, value: Any, stage: str) -> Settings:
    reading = WORDS[section][word]
    if value is None:
        return {}
    if reading is _stage and stage in WHOLE + CAUSAL and stage not in _stages_of(word, value):
        raise UserError(f"{word}: {value} is for stage {_stages_of(word, value)[0]}, and this is {stage}; keep one")
    return {reading: value} if isinstance(reading, str) else reading(word, value)


def _stages_of(word: str, value: Any) -> tuple[str, ...]:
    choices = _STAGES[word]
    if value not in choices:
        raise UserError(f"{word}: {value} is unknown; choose from {', '.join(map(str, choices))}")
    return choices[value]
