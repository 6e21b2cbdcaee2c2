"""Settings of a training run: dataclasses, their flags, YAML files and dotted overrides.

Precedence, lowest first: defaults, `--config FILE` (later files over earlier ones), flags and `section.name=value`.
Flag names are unique over all sections, so that `--learning_rate 1e-4`, `optim.learning_rate=1e-4` and a YAML file
with either spelling mean the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import yaml
from transformers.hf_argparser import HfArg, HfArgumentParser

from train.loop import words
from wanact import shapes
from wanact.actions import DEFAULT_MAGNITUDE_SCALE
from wanact.errors import UserError
from wanact.files import expanded
from wanact.models.attention import Attention
from wanact.models.injection import INJECTION_TYPES

Tracker = Literal["none", "wandb", "trackio", "tensorboard"]
_T = TypeVar("_T")


# Flags of the plans' scripts that change nothing here, and why.
NO_EFFECT = {
    "task": "every stage trains on clips and their words, which is what sft means",
    "extra_inputs": "the first frame and the actions are always given",
    "fp8_models": "what is not trained is kept in the type of computation",
    "offload_models": "what is not trained leaves the device once its results are cached",
    "find_unused_parameters": "parameters without a gradient are never waited for",
}


class ConfigError(UserError):
    """A setting that cannot be used; the message names the flag, what was expected and the remedy."""


@overload
def flag(*, default: _T, help: str, aliases: list[str] | None = None) -> _T: ...
@overload
def flag(*, default_factory: Callable[[], _T], help: str) -> _T: ...
def flag(**arguments: Any) -> Any:
    """A field of a dataclass of settings that is a command-line flag too; typed as its default, unlike HfArg."""
    return HfArg(**arguments)


@dataclass
class DataConfig:
    """What is learned from."""

    _argument_group_name = "data"

    dataset_base_path: str = flag(default="", help="folder that the paths in the metadata file are relative to")
    dataset_metadata_path: str = flag(
        default="",
        help="CSV, JSON or JSONL with video, prompt, action (input_image); a manifest; or shards and streams: a folder "
        "of .tar, any address of one (s3://...), or datasets:NAME",
    )
    data_file_keys: str = flag(default="video", help="columns that hold file paths: video, or video,input_image")
    dataset_repeat: int = flag(default=1, help="times each row is seen in an epoch")
    dataset_num_workers: int = flag(default=0, help="threads that decode videos ahead; 0 decodes in line")
    height: int | None = flag(default=None, help="pixels, a multiple of 32; the model directory's own if not given")
    width: int | None = flag(default=None, help="pixels, a multiple of 32; the model directory's own if not given")
    max_pixels: int | None = flag(default=None, help="shrink height and width, keeping their ratio, to at most this")
    num_frames: int | None = flag(default=None, help="pixel frames of a clip, 4k+1; the model's own if not given")
    fps: float = flag(default=16.0, help="frames a second of a clip: footage is resampled to it by its time stamps")
    window_stride: int | None = flag(
        default=None,
        help="learn from all of a long video: frames between the beginnings of its clips, a multiple of 4; "
        "its first clip alone if not given",
    )
    num_latent_frames_choices: list[int] | None = flag(
        default=None, help="train on prefixes of a clip: each step draws one of these numbers of latent frames"
    )
    random_start: bool = flag(
        default=False, help="such clips begin at any latent frame; for autoencoders whose latent frames stand alone"
    )
    pictures_per_clip: int = flag(
        default=1, help="where a step draws 1 of them, so many single pictures of each clip, so that it costs as much"
    )
    encoding: Literal["ahead", "lazy"] = flag(
        default="ahead",
        help="encode all clips before the first step, or, of a manifest of episodes, each when it is first drawn",
    )
    fit: Literal["crop", "pad"] = flag(default="crop", help="how a video of another shape is made to fit")
    mirror: bool = flag(default=False, help="learn from every clip twice: as it is, and mirrored with its actions")
    cache_dir: str | None = flag(default=None, help="latents and text embeddings; OUTPUT_PATH/cache if not given")
    cache_dtype: Literal["float32", "float16", "bfloat16"] = flag(default="float16", help="of cached latents and text")
    cache_memory_gb: float = flag(default=8.0, help="cached latents are held in memory up to this size")
    cache_disk_gb: float = flag(
        default=50.0, help="of a stream, latents are kept in the cache up to this size, and what is beyond made again"
    )
    max_rows: int | None = flag(default=None, help="use the first so many rows only")
    max_skipped: float = flag(default=0.1, help="stop if more than this fraction of the rows cannot be used")

    def file_keys(self) -> set[str]:
        """Columns of the table whose files are used."""
        return set(named_in(self.data_file_keys))

    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip, for a stage that requires them."""
        assert self.num_frames and self.height and self.width, "the stage's check refuses settings without them"
        return self.num_frames, self.height, self.width

    def __post_init__(self) -> None:
        if self.height is not None or self.width is not None:
            if self.height is None or self.width is None:
                raise ConfigError("give both --height and --width, or neither")
            _as_config_error(shapes.check_size, self.height, self.width)
        if self.num_frames is not None:
            _as_config_error(shapes.num_latent_frames, self.num_frames)
        if self.max_pixels is not None and self.max_pixels < shapes.SIZE_MULTIPLE**2:
            raise ConfigError(f"--max_pixels {self.max_pixels} must be at least {shapes.SIZE_MULTIPLE**2}")
        keys = self.file_keys()
        if "video" not in keys or keys - {"video", "input_image"}:
            raise ConfigError(f"--data_file_keys {self.data_file_keys!r} must be video or video,input_image")
        for choice in self.num_latent_frames_choices or []:
            if choice < 1:
                raise ConfigError(f"--num_latent_frames_choices {choice} must be at least 1")
        _positive(self, "dataset_repeat")
        _positive(self, "pictures_per_clip")
        if self.max_rows is not None:
            _positive(self, "max_rows")
        _positive(self, "fps")
        if self.cache_disk_gb < 0:
            raise ConfigError(f"--cache_disk_gb {self.cache_disk_gb:g} must not be negative")
        if self.window_stride is not None and (self.window_stride < 1 or self.window_stride % shapes.TEMPORAL_STRIDE):
            raise ConfigError(
                f"--window_stride {self.window_stride} must be a multiple of {shapes.TEMPORAL_STRIDE}, "
                "the frames that an action steers"
            )
        _fraction(self, "max_skipped")


@dataclass
class ModelConfig:
    """What is trained, and from what."""

    _argument_group_name = "model"

    model_dir: str | None = flag(
        default=None,
        aliases=["--base_model_dir", "--ckpt_dir"],
        help="model directory: a manifest, the original release or diffusers",
    )
    model_paths: str | None = flag(default=None, help="JSON list of weight files, instead of --model_dir")
    model_id_with_origin_paths: str | None = flag(
        default=None, help='"org/name:pattern, org/name:pattern", fetched from the Hub, instead of --model_dir'
    )
    tokenizer_path: str | None = flag(default=None, help="tokenizer folder, if not the model directory's")
    trainable_models: str | None = flag(
        default=None, help="comma list of transformer, text_encoder, action_controller; the stage's own if not given"
    )
    frozen_layers: str | None = flag(
        default=None,
        help="comma list of layers of the transformer that stay as they are, diffusers' names (attn2); stage i2v",
    )
    action_controller_config: str | None = flag(
        default=None, help="named configuration (wan_ti2v_5b, nano, ...) or a JSON object"
    )
    action_injection_type: str | None = flag(
        default=None, help=f"over the configuration's: {', '.join(INJECTION_TYPES)}"
    )
    action_initial_scale: float | None = flag(default=None, help="initial output scale, over the configuration's")
    action_controller_checkpoint: str | None = flag(
        default=None, help="controller weights to start from (.safetensors, .pt)"
    )
    action_magnitude_scale: list[float] = flag(
        default_factory=lambda: list(DEFAULT_MAGNITUDE_SCALE), help="factors of the eight magnitudes before the model"
    )
    lora_base_model: str | None = flag(default=None, help="train a LoRA of this model: transformer (or dit)")
    lora_target_modules: str = flag(default="q,k,v,o,ffn.0,ffn.2", help="comma list of layers, Wan or diffusers names")
    lora_rank: int = flag(default=32, help="rank of the LoRA; its alpha is the same")
    lora_checkpoint: str | None = flag(default=None, help="LoRA to start from: a file, or peft's folder")
    initialize_model_on_cpu: bool = flag(default=False, help="build on the CPU, then move: less memory at the start")
    use_gradient_checkpointing: bool = flag(default=False, help="recompute activations; always on for the 5B model")
    use_gradient_checkpointing_offload: bool = flag(default=False, help="store gradient checkpoints in host memory")
    compile_blocks: bool = flag(
        default=False,
        help="compile the transformer's blocks by torch.compile, half a minute for each length of clips; stage i2v",
    )
    attention: Attention = flag(
        default="auto", help="attention kernel; those beside native need a CUDA device, --mixed_precision bf16, no mask"
    )
    task: str | None = flag(default=None, help=f"taken for other trainers' scripts; {NO_EFFECT['task']}")
    extra_inputs: str | None = flag(default=None, help=f"taken for theirs too; {NO_EFFECT['extra_inputs']}")
    fp8_models: str | None = flag(default=None, help=f"taken for theirs too; {NO_EFFECT['fp8_models']}")
    offload_models: str | None = flag(default=None, help=f"taken for theirs too; {NO_EFFECT['offload_models']}")
    find_unused_parameters: bool = flag(
        default=False, help=f"taken for theirs too; {NO_EFFECT['find_unused_parameters']}"
    )

    def __post_init__(self) -> None:
        if self.trainable_models:
            names = [name.strip() for name in self.trainable_models.split(",")]
            self.trainable_models = ",".join("transformer" if name == "dit" else name for name in names)
        if self.task not in (None, "", "sft", "sft:train"):
            raise ConfigError(f"--task {self.task!r} must be sft: other tasks are stages of their own here")
        inputs = set(named_in(self.extra_inputs))
        if inputs - {"input_image", "action"}:
            raise ConfigError(f"--extra_inputs {self.extra_inputs!r} must be input_image: the model takes no others")
        given = [n for n in ("model_dir", "model_paths", "model_id_with_origin_paths") if getattr(self, n)]
        if len(given) > 1:
            raise ConfigError(f"--{given[0]} and --{given[1]} both name the base model; keep one")
        _positive(self, "lora_rank")
        if self.lora_base_model not in (None, "", "transformer", "dit"):
            raise ConfigError(f"--lora_base_model {self.lora_base_model!r} must be transformer (or dit)")
        if len(self.action_magnitude_scale) != 8:
            raise ConfigError(f"--action_magnitude_scale takes 8 numbers, got {len(self.action_magnitude_scale)}")
        if self.use_gradient_checkpointing_offload:
            self.use_gradient_checkpointing = True


@dataclass
class OptimConfig:
    """How far and how fast."""

    _argument_group_name = "optimization"

    learning_rate: float = flag(default=1e-4, help="after warm-up")
    lr_warmup_ratio: float = flag(default=0.05, help="fraction of all steps in which the rate rises from 0")
    lr_warmup_steps: int | None = flag(default=None, help="the same in steps, instead of the fraction")
    lr_min_lr: float = flag(default=0.0, help="where it ends")
    lr_schedule: Literal["cosine", "linear"] = flag(default="cosine", help="the way down after warm-up")
    optimizer: Literal["adamw", "muon"] = flag(
        default="adamw", help="muon: orthogonalised momentum for weight matrices, AdamW for the rest; not with --fsdp"
    )
    muon_momentum: float = flag(default=0.95, help="of Muon, which takes no betas")
    weight_decay: float = flag(default=0.01, help="of weight matrices")
    adam_beta1: float = flag(default=0.9, help="of AdamW")
    adam_beta2: float = flag(default=0.999, help="of AdamW")
    adam_epsilon: float = flag(default=1e-8, help="of AdamW")
    max_grad_norm: float = flag(default=1.0, help="gradients are clipped to this norm; 0 leaves them")
    max_steps: int | None = flag(default=None, help="optimizer updates; over --num_epochs")
    num_epochs: int = flag(default=1, help="passes over the data, if --max_steps is not given")
    batch_size: int = flag(default=1, help="samples of one forward in one process")
    gradient_accumulation_steps: int = flag(default=1, help="forwards of an update in one process")
    ema_decay: float = flag(default=0.0, help="keep an average of the weights and export that; 0 is off")
    ema_start_step: int = flag(default=0, help="step from which on it averages; before, it is the newest weights")
    mixed_precision: Literal["auto", "no", "bf16"] = flag(
        default="auto", help="bf16 autocast over fp32 weights; auto is bf16 on an accelerator, no on a CPU"
    )
    seed: int = flag(default=0, help="of weights, data order and noise")
    checks: bool = flag(
        default=False, help="look at every operation for NaN, and whether each weight has a gradient: slow"
    )

    def __post_init__(self) -> None:
        for name in ("learning_rate", "num_epochs", "batch_size", "gradient_accumulation_steps", "adam_epsilon"):
            _positive(self, name)
        if self.max_steps is not None:
            _positive(self, "max_steps")
        for name in ("lr_warmup_ratio", "adam_beta1", "adam_beta2", "muon_momentum", "ema_decay"):
            _fraction(self, name)
        if self.lr_warmup_steps is not None and self.lr_warmup_steps < 0:
            raise ConfigError(f"--lr_warmup_steps {self.lr_warmup_steps} must not be negative")
        if self.ema_start_step < 0:
            raise ConfigError(f"--ema_start_step {self.ema_start_step} must not be negative")
        if not 0 <= self.lr_min_lr <= self.learning_rate:
            raise ConfigError(
                f"--lr_min_lr {self.lr_min_lr:g} must lie between 0 and --learning_rate {self.learning_rate:g}"
            )
        for name in ("weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name):g} must not be negative")


@dataclass
class LossConfig:
    """Flow matching: which noise levels, how weighted, what is left out."""

    _argument_group_name = "loss"

    max_timestep_boundary: float = flag(
        default=1.0, help="end of the trained part of the schedule, counted from noise (0) to data (1)"
    )
    min_timestep_boundary: float = flag(default=0.0, help="beginning of that part")
    sigma_sampling: Literal["uniform", "logit_normal"] = flag(default="uniform", help="density before the shift")
    sigma_mean: float = flag(default=0.0, help="of logit_normal")
    sigma_std: float = flag(default=1.0, help="of logit_normal")
    sigma_shift: float | None = flag(default=None, help="towards noise; the model directory's flow_shift if not given")
    loss_weighting: Literal["none", "bell"] = flag(default="none", help="bell: less at both ends, as DiffSynth")
    prompt_dropout: float = flag(default=0.1, help="fraction of samples trained without prompt, for guidance")
    action_dropout: float = flag(default=0.0, help="fraction of samples trained with no action")
    first_frame_dropout: float = flag(
        default=0.0, help="fraction of clips trained without first frame, from words alone; of single pictures all are"
    )
    embodiment_aware: bool = flag(default=False, help="errors count for more where --idm sees a body act")
    eta: float = flag(default=3.0, help="how much more: inside its mask an error is multiplied by 1 + eta")
    idm: str | None = flag(
        default=None, help="idm.pt, or what idm_mask wrote; the idm.pt beside --init_from if not given"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.min_timestep_boundary < self.max_timestep_boundary <= 1:
            raise ConfigError(
                f"--min_timestep_boundary {self.min_timestep_boundary:g} and --max_timestep_boundary "
                f"{self.max_timestep_boundary:g} must satisfy 0 <= min < max <= 1"
            )
        _fraction(self, "prompt_dropout", inclusive=True)
        _fraction(self, "action_dropout", inclusive=True)
        _fraction(self, "first_frame_dropout", inclusive=True)
        if self.sigma_std <= 0 or (self.sigma_shift is not None and self.sigma_shift <= 0):
            raise ConfigError("--sigma_std and --sigma_shift must be above 0")
        if not 0 <= self.eta <= 1000:
            raise ConfigError(f"--eta {self.eta:g} must be at least 0")


@dataclass
class CheckpointConfig:
    """What is kept, and where a run begins."""

    _argument_group_name = "checkpoints"

    output_path: str = flag(default="", aliases=["--output_dir"], help="the run's folder")
    save_steps: int | None = flag(
        default=None, aliases=["--checkpoint_interval"], help="steps between checkpoints; at the end only if not given"
    )
    max_checkpoints: int | None = flag(
        default=None,
        aliases=["--keep_last_n_checkpoints"],
        help="keep this many, and always the best; all if not given",
    )
    save_full_state: bool = flag(
        default=False, aliases=["--save_optimizer_state"], help="optimizer and scheduler too: resume without a trace"
    )
    resume_from: str = flag(
        default="auto", aliases=["--resume_from_ckpt"], help="auto (newest that verifies), none, or a checkpoint"
    )
    on_resume_error: Literal["stop", "fresh"] = flag(
        default="stop", help="fresh: train on with the weights that fit, and without what cannot load"
    )
    init_from: str | None = flag(
        default=None, aliases=["--pt_dir"], help="run, checkpoint or weight file whose weights a new run starts from"
    )
    override: list[str] | None = flag(
        default=None, help="settings that may differ from the checkpoint's without a word, or `all`"
    )
    export_model_dir: str | None = flag(default=None, help="write a complete model directory here at the end")
    save_path: str | None = flag(
        default=None, help="write the trained transformer here at the end, one .pt file in Wan's names"
    )
    export_dtype: Literal["float32", "float16", "bfloat16"] = flag(
        default="bfloat16", help="of exported transformers and text encoders; controllers and LoRA stay float32"
    )

    def __post_init__(self) -> None:
        for name in ("save_steps", "max_checkpoints"):
            if getattr(self, name) is not None:
                _positive(self, name)
        if self.save_path and Path(self.save_path).suffix not in (".pt", ".pth"):
            raise ConfigError(f"--save_path {self.save_path} must end in .pt, or in .pth")


@dataclass
class LogConfig:
    """What is seen while it runs."""

    _argument_group_name = "logging"

    log_steps: int = flag(default=10, help="steps between lines of log.jsonl and the trackers")
    tracker: Tracker = flag(default="none", help="where curves go as well")
    use_wandb: bool = flag(default=False, help="the same as --tracker wandb")
    wandb_project: str = flag(default="wanact", help="project, for any tracker")
    wandb_run_name: str | None = flag(default=None, help="name of the run, for any tracker")
    sample_steps: int | None = flag(default=None, help="steps between sample clips; none if not given")
    sample_count: int = flag(default=2, help="sample clips each time")
    sample_inference_steps: int | None = flag(default=None, help="denoising steps of a sample clip")

    def __post_init__(self) -> None:
        _positive(self, "log_steps")
        if self.use_wandb:
            if self.tracker not in ("none", "wandb"):
                raise ConfigError(f"--use_wandb and --tracker {self.tracker} contradict each other; keep one")
            self.tracker = "wandb"


@dataclass
class ShardConfig:
    """Several processes."""

    _argument_group_name = "processes"

    fsdp: bool = flag(default=False, help="shard trained weights, gradients and optimizer over the processes")
    sharding_strategy: Literal["FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD"] = flag(
        default="FULL_SHARD",
        help="SHARD_GRAD_OP: weights stay whole between forward and backward; HYBRID_SHARD: each machine has all parts",
    )
    cpu_offload: bool = flag(
        default=False, help="keep what is sharded, and its optimizer, in host memory while it is not computed with"
    )
    backend: Literal["auto", "gloo", "nccl"] = flag(default="auto", help="of torch.distributed")


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "loss": LossConfig,
    "checkpoint": CheckpointConfig,
    "log": LogConfig,
    "shard": ShardConfig,
}


@dataclass
class TrainConfig:
    """All settings of one run, in sections; `stage` holds what only its stage has."""

    stage_name: str
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    shard: ShardConfig = field(default_factory=ShardConfig)
    stage: Any = None
    given: frozenset[str] = frozenset()  # names that were set, not left at their default
    debug: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Sections as plain values, for train_config.json; `from_dict` reads it back."""
        sections = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        if self.stage is not None:
            sections["stage"] = dataclasses.asdict(self.stage)
        return {"stage_name": self.stage_name, **sections}


# What --debug means: a minute that shows whether a run would work. Flags beside it win.
DEBUG: dict[str, Any] = {
    "max_rows": 8,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "log_steps": 1,
    "checks": True,
}


def parse(
    stage_name: str,
    argv: list[str],
    options: type | None = None,
    refuse: Callable[[TrainConfig], None] = lambda config: None,
    usual: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Settings from command-line arguments.

    Args:
        stage_name: the word after `python -m train`.
        argv: the arguments behind it.
        options: dataclass of the stage's own flags, or None.
        refuse: raises ConfigError for settings that the stage does not use; asked before settings are held against
            each other, so that nobody is told what else to give for a flag that has no effect here.
        usual: what settings are where nobody gives them, if that is not their default.

    Raises:
        ConfigError: for an unknown flag or section, a value of the wrong kind, or a contradiction.
        SystemExit: for `--help`.
    """
    types = dict(SECTIONS) | ({"stage": options} if options else {})
    parser = _Parser(
        list[Any](types.values()),  # classes, which its stub calls no DataClassType
        prog=f"python -m train {stage_name}",
        allow_abbrev=False,
        description=_description(stage_name),
    )
    parser.add_argument("--config", action="append", default=[], help="YAML file of settings; may be given repeatedly")
    parser.add_argument("--debug", action="store_true", help=_debug_help())
    with _words_as_config_errors():
        argv = words.translate_flags(argv, stage_name, parser.option_strings(), _value_of, _dotted(types))
    arguments = _split_lists(parser, _without_dots(argv, types))
    files = [Path(expanded(path)) for path in parser.config_files(arguments)]
    from_files = [token for path in files for token in _file_arguments(path, types, parser, stage_name)]
    if "--debug" in arguments:
        from_files += _tokens(DEBUG, parser)
    with _words_as_config_errors():
        said = words.without_later(from_files + arguments, parser.option_strings(), stage_name)
    given = parser.given(said)
    *parts, _, unknown = parser.parse_args_into_dataclasses(
        _tokens(_still_usual(usual or {}, given), parser) + said,
        return_remaining_strings=True,
        look_for_args_file=False,
    )
    if unknown:
        raise ConfigError(_unknown(unknown[0], parser))
    for part in parts:
        _expand_paths(part)
    config = TrainConfig(stage_name, **dict(zip(types, parts, strict=True)), given=given, debug="--debug" in arguments)
    refuse(config)
    _check_combinations(config)
    return config


def stage_said(argv: list[str]) -> str:
    """The stage that `--config` files or flags name by the plan's words.

    Raises:
        ConfigError: if a file cannot be read, or none is named.
    """
    paths = [value for token, value in zip(argv, argv[1:], strict=False) if token == "--config"]
    paths += [token.partition("=")[2] for token in argv if token.startswith("--config=")]
    contents = [read_settings(Path(expanded(path))) for path in paths]
    flags = {}
    for token, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = token.removeprefix("--").partition("=")
        if name.removeprefix("model.") == "model_class":
            flags["model"] = {"model_class": value if equals else following}
    with _words_as_config_errors():
        return words.stage_of([*contents, flags])


@contextlib.contextmanager
def _words_as_config_errors(where: str = "") -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(f"{where}{error}") from error


def _value_of(text: str) -> Any:
    return yaml.load(text, _Yaml)


def _dotted(types: dict[str, type]) -> set[str]:
    """Settings of ours with their section, as in `optim.batch_size`, with and without dashes."""
    names = {f"{section}.{f.name}" for section, kind in types.items() for f in dataclasses.fields(kind)}
    return names | {f"--{name}" for name in names}


def _debug_help() -> str:
    meaning = ", ".join(f"{name} {str(value).lower()}" for name, value in DEBUG.items())
    return f"see in a minute whether a run would work: {meaning}, and --save_path in the run's folder"


def _still_usual(usual: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """What nobody has said, also not by the other name of the same thing."""
    other = {"lr_warmup_steps": "lr_warmup_ratio"}
    return {name: value for name, value in usual.items() if name not in given and other.get(name) not in given}


def _check_combinations(config: TrainConfig) -> None:
    """Raise ConfigError for settings that contradict each other or have no effect beside the others."""
    given = config.given
    if {"max_steps", "num_epochs"} <= given:
        raise ConfigError("--max_steps and --num_epochs both say when to stop; keep one")
    if {"lr_warmup_steps", "lr_warmup_ratio"} <= given:
        raise ConfigError("--lr_warmup_steps and --lr_warmup_ratio both say how long the rate rises; keep one")
    if config.checkpoint.init_from and config.checkpoint.resume_from not in ("auto", "none"):
        raise ConfigError("--init_from and --resume_from both say where to start; keep one")
    for name, active, remedy in (
        ("sigma_mean", config.loss.sigma_sampling == "logit_normal", "--sigma_sampling logit_normal"),
        ("sigma_std", config.loss.sigma_sampling == "logit_normal", "--sigma_sampling logit_normal"),
        ("eta", config.loss.embodiment_aware, "--embodiment_aware true"),
        ("idm", config.loss.embodiment_aware, "--embodiment_aware true"),
        ("sample_count", config.log.sample_steps, "--sample_steps N"),
        ("sample_inference_steps", config.log.sample_steps, "--sample_steps N"),
        ("pictures_per_clip", 1 in (config.data.num_latent_frames_choices or []), "1 in --num_latent_frames_choices"),
        ("muon_momentum", config.optim.optimizer == "muon", "--optimizer muon"),
        ("ema_start_step", config.optim.ema_decay, "--ema_decay"),
        ("wandb_run_name", config.log.tracker != "none", "--use_wandb or --tracker NAME"),
    ):
        if name in given and not active:
            raise ConfigError(f"--{name} has no effect without {remedy}")
    if config.optim.optimizer == "muon" and config.shard.fsdp:
        raise ConfigError("--optimizer muon needs whole matrices, which --fsdp splits; keep one")
    choices, num_frames = config.data.num_latent_frames_choices, config.data.num_frames
    if choices and min(choices) == 1 and config.loss.first_frame_dropout == 0:
        raise ConfigError(
            "--num_latent_frames_choices 1 must be at least 2, or --first_frame_dropout above 0: a single picture is "
            "drawn from its prompt alone"
        )
    if choices and num_frames and max(choices) > shapes.num_latent_frames(num_frames):
        raise ConfigError(
            f"--num_latent_frames_choices {max(choices)} is more than the {shapes.num_latent_frames(num_frames)} "
            f"latent frames of --num_frames {num_frames}"
        )


# Settings that are places on a disk; `--model_paths` is a JSON list of them.
PATHS = (
    *("dataset_base_path", "dataset_metadata_path", "cache_dir", "model_dir", "model_paths", "tokenizer_path"),
    *("action_controller_checkpoint", "lora_checkpoint", "output_path", "resume_from", "init_from", "idm"),
    *("export_model_dir", "teacher_run", "real_run", "save_path"),
)


def _expand_paths(part: Any) -> None:
    for name in PATHS:
        value = getattr(part, name, None)
        if not isinstance(value, str) or not value:
            continue
        try:
            setattr(part, name, _expanded_json(value) if value.lstrip().startswith("[") else expanded(value))
        except UserError as error:
            raise ConfigError(f"--{name} {error}") from error


def _expanded_json(text: str) -> str:
    try:
        return json.dumps(_expanded_list(json.loads(text)))
    except json.JSONDecodeError:
        return text  # whoever reads the list says what is wrong with it


def _expanded_list(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded_list(item) for item in value]
    return expanded(value) if isinstance(value, str) else value


def require_writable(name: str, path: Path) -> None:
    """Make a folder if it is not there and see that something can be written in it, before anything loads.

    Raises:
        ConfigError: if not.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"--{name} {path} cannot be written: {error.strerror or error}; choose another") from error


class _Parser(HfArgumentParser):
    """Reports mistakes as ConfigError instead of ending the process."""

    def error(self, message: str) -> None:
        raise ConfigError(message)

    def option_strings(self) -> dict[str, Any]:
        return self._option_string_actions

    def config_files(self, argv: list[str]) -> list[str]:
        values = []
        for i, token in enumerate(argv):
            if token == "--config" and i + 1 < len(argv):
                values.append(argv[i + 1])
            elif token.startswith("--config="):
                values.append(token.partition("=")[2])
        return values

    def given(self, argv: list[str]) -> frozenset[str]:
        options = self.option_strings()
        tokens = (token.partition("=")[0] for token in argv)
        return frozenset(options[token].dest for token in tokens if token in options)


def _description(stage_name: str) -> str:
    return (
        f"Train the {stage_name} stage. A flag may also be written section.name=value or stand in a --config file. "
        "Those that have no effect in this stage are refused."
    )


def _without_dots(argv: list[str], types: dict[str, type]) -> list[str]:
    """Rewrite `section.name=value` and `--section.name` to `--name`, checking that the section has the name."""
    result = []
    for token in argv:
        name, equals, value = token.partition("=")
        section, dot, key = name.removeprefix("--").partition(".")
        if not dot or section not in types or (not token.startswith("--") and not equals):
            result.append(token)
            continue
        if key not in {f.name for f in dataclasses.fields(types[section])}:
            raise ConfigError(f"{name} is unknown: section {section} has no {key}")
        result += [f"--{key}", value] if equals else [f"--{key}"]
    return result


def _split_lists(parser: _Parser, argv: list[str]) -> list[str]:
    """Let list flags take `9,13,21` as well as `9 13 21`."""
    result, in_list = [], False
    for token in argv:
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            action = parser.option_strings().get(name)
            in_list = action is not None and action.nargs == "+"
            result += [name, *value.split(",")] if in_list and equals else [token]
        else:
            result += token.split(",") if in_list else [token]
    return result


def read_settings(path: Path) -> dict[str, Any]:
    """Content of a YAML file of settings.

    Raises:
        ConfigError: if it cannot be read, or holds anything but names and values.
    """
    try:
        content = yaml.load(_utf8(path), _Yaml)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} must hold names and values, not {type(content).__name__}")
    return content


def _file_arguments(path: Path, types: dict[str, type], parser: _Parser, stage_name: str) -> list[str]:
    """The settings in a YAML file as command-line arguments."""
    with _words_as_config_errors(f"{path}: "):
        content = words.translate(read_settings(path), stage_name, types)
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if name in types and isinstance(value, dict):
            known = {f.name for f in dataclasses.fields(types[name])}
            unknown = [key for key in value if key not in known]
            if unknown:
                raise ConfigError(f"{path}: section {name} has no {unknown[0]}")
            flat |= value
        else:
            flat[name] = value
    for name in flat:
        if f"--{name}" not in parser.option_strings() and name not in words.LATER:
            raise ConfigError(f"{path}: {_unknown(f'--{name}', parser)}")
    return _tokens(flat, parser)


def _tokens(settings: Mapping[str, Any], parser: _Parser) -> list[str]:
    """Settings as command-line arguments."""
    tokens: list[str] = []
    for name, value in settings.items():
        action = parser.option_strings().get(f"--{name}")
        tokens += _value_arguments(name, value, action is not None and isinstance(action.const, bool))
    return tokens


def _utf8(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"--config {path} is not UTF-8: line {line} has the byte 0x{data[error.start]:02x}; save it as UTF-8"
        ) from error


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's plain words: `no`, `off` and `on` are text, 010 and 12:30 no numbers, and dates no dates."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # filled below, not inherited


for _tag, _words, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_words})$"), list(_first))


def _value_arguments(name: str, value: Any, is_switch: bool) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    if is_switch and str(value).lower() in ("on", "off"):  # transformers knows yes and no, not these
        value = str(value).lower() == "on"
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def _unknown(token: str, parser: _Parser) -> str:
    name = token.partition("=")[0]
    close = difflib.get_close_matches(name, parser.option_strings(), n=1)
    hint = f"did you mean {close[0]}?" if close else "--help lists all flags"
    return f"{name} is unknown; {hint}"


def _as_config_error(check: Any, *values: Any) -> None:
    try:
        check(*values)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error


def _positive(config: Any, name: str) -> None:
    if getattr(config, name) <= 0:
        raise ConfigError(f"--{name} {getattr(config, name)} must be above 0")


def _fraction(config: Any, name: str, inclusive: bool = False) -> None:
    value = getattr(config, name)
    if not (0 <= value <= 1 if inclusive else 0 <= value < 1):
        raise ConfigError(f"--{name} {value:g} must be at least 0 and {'at most' if inclusive else 'below'} 1")


def named_in(names: str | None) -> list[str]:
    """The names of a comma list."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def require(config: TrainConfig, *names: str) -> None:
    """Raise ConfigError unless each of these flags has a value."""
    for name in names:
        section = next(s for s, cls in SECTIONS.items() if name in {f.name for f in dataclasses.fields(cls)})
        if not getattr(getattr(config, section), name):
            raise ConfigError(f"--{name} is required for stage {config.stage_name}")
