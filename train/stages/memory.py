"""What a run of a flow stage takes of the memory of one device, counted before anything is loaded.

The stage builds its networks as it always does, on the meta device; weights, gradients and the optimizer's state are
their parameters. Activations are counted as well as they can be without computing: of a transformer of one block and of
one of two it is seen what the way back needs. Attention is counted as kernels keep it that never write the scores down
(flash, flex by blocks). What lives for a moment within one operation, and what a library takes beside the tensors (its
own buffers, fragments of memory), is not counted at all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.loop.config import TrainConfig
from train.loop.optim import build_optimizer, kept_names
from train.stages.causal import CausalStage
from train.stages.flow import FlowStage
from wanact import shapes
from wanact.models.components import empty
from wanact.models.controller import controller_of
from wanact.models.transformer import WanActAttnProcessor

DEVICE, HOST = "device", "host"


@dataclass(frozen=True)
class Model:
    """The model directory that a run would start from.

    Attributes:
        configs: of its networks, by part.
        defaults: of its clips.
    """

    configs: Mapping[str, dict[str, Any]]
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class Team:
    """The processes of a run that is only planned; what a stage asks of `train.loop.dist.Processes` while it builds.

    Attributes:
        count: processes, one a device.
        on_a_machine: of them.
        sharded: whether trained networks are split.
        strategy, cpu_offload: see `ShardConfig`.
        compute_dtype: of matrix products, and of networks that are not trained.
    """

    count: int
    on_a_machine: int
    sharded: bool
    strategy: str
    cpu_offload: bool
    compute_dtype: torch.dtype

    @property
    def parts(self) -> int:
        """Into how many a trained network is split."""
        if not self.sharded:
            return 1
        return self.on_a_machine if self.strategy == "HYBRID_SHARD" else self.count

    def print(self, *values: Any) -> None:
        """Nothing runs, so nothing is said."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: that takes memory.
        how: it was reckoned.
        size: in bytes, of one process.
        where: "device" or "host".
    """

    what: str
    how: str
    size: int
    where: str = DEVICE


@dataclass(frozen=True)
class Plan:
    """What one process of a run takes.

    Attributes:
        clip: in words.
        rows: of the device, and of host memory for what is offloaded.
        saving: bytes of host memory that a checkpoint takes while it is written: of each process where networks are
            split, else of the main one.
    """

    clip: str
    rows: list[Row]
    saving: int

    def total(self, where: str = DEVICE) -> int:
        """Bytes of all rows there."""
        return sum(row.size for row in self.rows if row.where == where)


def plan(kind: type[FlowStage], config: TrainConfig, model: Model, team: Team) -> Plan:
    """Count what each process of a run with these settings takes."""
    return _Count(kind, config, model, team).plan()


class _Count:
    def __init__(self, kind: type[FlowStage], config: TrainConfig, model: Model, team: Team) -> None:
        self.config, self.model, self.team = config, model, team
        self.stage = _built(kind, config, model, team)
        units = set(self.stage.shard_units())
        self.split = {n for n, m in self.stage.modules.items() if team.sharded and units & set(m.modules())}
        patch = self.stage.transformer.config.patch_size
        h, w = shapes.latent_size(self.stage.height, self.stage.width)
        self.tokens = (h // patch[1]) * (w // patch[2])  # of a latent frame
        self.frames = max(self.stage.choices or [self.stage.num_latent_frames])
        self.batch = config.optim.batch_size
        self.state_place = HOST if team.cpu_offload else DEVICE

    def plan(self) -> Plan:
        kept = [*self._weights(), *self._moments(), *self._average()]
        rows = [*kept, *self._gradients(), *self._passed_on(), *self._frozen(), *self._activations()]
        full = self.config.checkpoint.save_full_state
        saving = sum(row.size for row in (kept if full else [*self._weights(), *self._average()]))
        size = f"{self.frames} latent frames of {self.stage.width}x{self.stage.height}, {self.tokens} tokens each"
        return Plan(f"{self.batch} clips a process: {size}", [row for row in rows if row.size], saving)

    # What is kept from step to step

    def _own(self, name: str) -> tuple[int, str]:
        """Into how many parts a trained network is split, and how that is written."""
        parts = self.team.parts if name in self.split else 1
        return parts, f" / {parts}" if parts > 1 else ""

    def _row(self, what: str, name: str, numbers: int, width: int) -> Row:
        parts, share = self._own(name)
        place = self.state_place if name in self.split else DEVICE
        return Row(f"{what}, {name}", f"{_short(numbers)} x {width}{share}", numbers * width // parts, place)

    def _weights(self) -> list[Row]:
        return [
            self._row("weights", name, sum(p.numel() for p in of_type), of_type[0].element_size())
            for name, module in self.stage.modules.items()
            for of_type in _by_type(module.parameters())
        ]

    def _moments(self) -> list[Row]:
        rows = []
        for phase in self.stage.phases:
            trained = self.stage.trainable(phase)
            kept = kept_names(build_optimizer(trained, self.config.optim, sharded=True))
            for module in self.stage.phase_modules(phase):
                own = [p for name, p in trained.items() if name.partition(".")[0] == module]
                numbers = sum(p.numel() * sum(key != "step" for key in kept[p]) for p in own)
                rows.append(self._row(f"state of {self.config.optim.optimizer}", module, numbers, 4))
        return rows

    def _average(self) -> list[Row]:
        if not self.config.optim.ema_decay:
            return []
        names = self.stage.averaged_modules()
        return [self._row("average of the weights", name, self._trained(name), 4) for name in names]

    def _trained(self, module: str) -> int:
        return sum(p.numel() for name, p in self.stage.trainable().items() if name.partition(".")[0] == module)

    def _gradients(self) -> list[Row]:
        """Of the phase that has most of them: they are dropped after each."""
        rounds = self.config.optim.gradient_accumulation_steps
        phases = [self.stage.phase_modules(phase) for phase in self.stage.phases]
        rows = []
        for name in max(phases, key=lambda names: sum(map(self._trained, names))):
            if name in self.split and rounds > 1:  # summed over the processes after the last round
                numbers = self._trained(name)
                how = f"{_short(numbers)} x 4, whole: {rounds} forwards are added up"
                rows.append(Row(f"gradients, {name}", how, 4 * numbers))
            else:
                rows.append(self._row("gradients", name, self._trained(name), 4))
        return rows

    # What comes and goes within a step

    def _passed_on(self) -> list[Row]:
        """Weights in the type that is computed in."""
        width = self.team.compute_dtype.itemsize
        if not self.split:
            if width == 4:
                return []
            matrices = sum(p.numel() for p in self.stage.trainable().values() if p.ndim > 1)
            return [Row("trained weights in bfloat16, kept by autocast", f"{_short(matrices)} x 2", 2 * matrices)]
        transformer = self.stage.transformer
        whole = _numbers(transformer.parameters())
        block = _numbers(transformer.blocks[0].parameters())
        if self.team.strategy == "SHARD_GRAD_OP":
            return [Row("weights, gathered from forward to backward", f"{_short(whole)} x {width}", width * whole)]
        numbers = whole - len(transformer.blocks) * block + 2 * block
        return [
            Row(
                "weights of two blocks, gathered, and of what is in none",
                f"{_short(numbers)} x {width}",
                width * numbers,
            )
        ]

    def _frozen(self) -> list[Row]:
        """Networks that compute along and are not trained."""
        stage, rows = self.stage, []
        others: dict[str, nn.Module | None] = {"transformer": stage.transformer}
        others["action_controller"] = getattr(stage, "controller", None)
        if isinstance(stage, CausalStage):
            if stage.teacher is not None:
                others |= dict(
                    zip(("the teacher's transformer", "the teacher's controller"), stage.teacher, strict=True)
                )
            if stage.settings.distribution_matching:
                others |= {
                    "the real score": stage.real.transformer,
                    "the real score's controller": stage.real.controller,
                }
        if self.config.data.encoding == "lazy":  # clips are encoded while it trains
            others |= {part: _empty(self.model, part, torch.float32) for part in ("vae", "text_encoder")}
        for name, network in others.items():
            if network is not None and network not in stage.modules.values():
                for of_type in _by_type(network.parameters()):
                    numbers, width = _numbers(of_type), of_type[0].element_size()
                    rows.append(Row(f"not trained, {name}", f"{_short(numbers)} x {width}", numbers * width))
        return rows

    def _activations(self) -> list[Row]:
        settings = getattr(self.stage, "settings", None)
        if settings is None:
            return self._pass(self.frames)
        chunk = min(settings.chunk_size or self.frames, self.frames)
        if not settings.rolls_out:
            return self._pass(self.frames + chunk)
        rollout = self._rollout(min(settings.grad_frames or chunk, chunk, self.frames - 1))
        if not settings.distribution_matching:
            return rollout
        # The critic's pass and the rollout are never there together, but for what the rollout remembers.
        whole = self._pass(self.frames)
        return max(rollout, whole, key=lambda rows: sum(row.size for row in rows))

    def _pass(self, frames: int) -> list[Row]:
        """One forward over so many latent frames, clean and noisy ones."""
        block, around = self._saved(frames)
        return self._kept(block, around, frames * self.tokens * self.batch, 1)

    def _rollout(self, frames: int) -> list[Row]:
        """So many forwards over one latent frame each, and the keys and values that they see."""
        config = self.stage.transformer.config
        wide = config.num_attention_heads * config.attention_head_dim
        window = self.stage.flight_window if isinstance(self.stage, CausalStage) else 0
        frame = 2 * self.batch * self.tokens * wide * self.team.compute_dtype.itemsize
        remembered = min(self.frames, window + 1 + frames)
        seen = min(self.frames, window + 2)
        block, around = self._saved(1)
        memory = Row(
            "keys and values of remembered frames",
            f"{remembered} frames x {config.num_layers} blocks x {_short(frame)}B",
            remembered * config.num_layers * frame,
        )
        return [memory, *self._kept(block + seen * frame, around, self.tokens * self.batch, frames)]

    def _kept(self, block: int, around: int, tokens: int, times: int) -> list[Row]:
        """What the way back needs of so many forwards, with each block computed again or all of them kept."""
        config = self.stage.transformer.config
        blocks = config.num_layers
        wide = config.num_attention_heads * config.attention_head_dim
        outside = Row("before and behind the blocks", f"{times} x" if times > 1 else "counted", times * around)
        if not self.stage.checkpoints_blocks():
            how = f"{_short(block)}B x {blocks} blocks" + (f" x {times}" if times > 1 else "")
            return [Row("activations of the blocks", how, times * blocks * block), outside]
        width = self.team.compute_dtype.itemsize
        inputs = times * tokens * wide * width * blocks
        how = f"{times * tokens:,} tokens x {wide:,} x {width} x {blocks}"
        return [
            Row("inputs of the blocks, which checkpointing keeps", how, inputs),
            Row(
                "inside of one block, computed again",
                f"{block / max(tokens * wide, 1):.0f} bytes a token and channel",
                block,
            ),
            outside,
        ]

    def _saved(self, frames: int) -> tuple[int, int]:
        """Bytes that the way back needs of one block, and of what is around all, in a pass over so many frames."""
        one, two = (self._bytes_saved(frames, layers) for layers in (1, 2))
        return two - one, 2 * one - two

    def _bytes_saved(self, frames: int, layers: int) -> int:
        transformer = empty("transformer", self.model.configs["transformer"] | {"num_layers": layers})
        transformer = transformer.to("meta", self.team.compute_dtype)
        transformer.requires_grad_("transformer" in self.stage.chosen)
        for block in transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.set_processor(_FlashLike())
        h, w = shapes.latent_size(self.stage.height, self.stage.width)
        config = transformer.config
        given: dict[str, Any] = {"device": "meta", "dtype": self.team.compute_dtype}
        latents = torch.empty(self.batch, config.in_channels, frames, h, w, **given)
        text = torch.empty(self.batch, self.stage.text_length, config.text_dim, **given)
        steered = self._steering(frames, layers)
        held = {p.untyped_storage()._cdata for p in transformer.parameters()}
        storages: dict[int, Any] = {}  # kept, or another one could take the place of one that is gone

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in held:
                storages[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            timestep = torch.empty(self.batch, frames, device="meta")
            output = transformer(latents, timestep, text, return_dict=False, **steered)[0]
        size = sum(storage.nbytes() for storage in storages.values())
        del output
        return size

    def _steering(self, frames: int, layers: int) -> dict[str, Any]:
        controller = getattr(self.stage, "controller", None)
        if controller is None or frames == 1:
            return {}
        own = {"num_layers": layers, "num_latent_frames": max(frames - 1, 1), "inject_layers": None}
        with torch.device("meta"):
            small = controller_of(self.stage.controller_settings | own).to(self.team.compute_dtype)
            actions = torch.empty(
                2, self.batch, frames - 1, controller.config.action_dim, dtype=self.team.compute_dtype
            )
        return {"actions": tuple(actions), "controller": small.requires_grad_(True)}


class _FlashLike(WanActAttnProcessor):
    """Attention that computes nothing and keeps for the way back what flash kernels keep."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return _Attended.apply(query, key, value)


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = query.new_empty(query.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out


def _built(kind: type[FlowStage], config: TrainConfig, model: Model, team: Team) -> Any:
    """The stage with its networks on the meta device, and none of the files that a run would read."""
    config = copy.deepcopy(config)
    config.model.action_controller_checkpoint = config.model.lora_checkpoint = None
    stage: Any = kind(config, torch.device("meta"))
    stage.processes = team
    stage.take_sizes(model.defaults)
    stage.prediction = "flow_prediction"

    def load_parts(*parts: str, trained: bool = False, sharded: bool = True) -> Any:
        dtype = torch.float32 if trained or (sharded and team.sharded) else team.compute_dtype
        return _Parts({part: _empty(model, part, dtype).requires_grad_(False) for part in parts})

    stage.load_parts = load_parts
    stage.load_transformer = lambda trained: load_parts("transformer", trained=trained).transformer
    stage._make_drafter = lambda: None
    stage._load_real = lambda critic, controller: None
    stage._load_teacher = lambda: copy.deepcopy((stage.transformer, stage.controller))
    stage.build()
    return stage


class _Parts:
    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self.__dict__.update(parts)


def _empty(model: Model, part: str, dtype: torch.dtype) -> nn.Module:
    return empty(part, model.configs[part]).to("meta", dtype)


def _by_type(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    kinds: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault(parameter.dtype, []).append(parameter)
    return list(kinds.values())


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _short(number: float) -> str:
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
