"""The processes of a run: who we are, and the few collectives that training needs.

accelerate launches, places and mixes precision. Gradients are averaged here, once an update, instead of by
DistributedDataParallel: several networks, phases and accumulation then need no wrapper and no rules about unused
parameters. Networks too large for one device are sharded by `fully_shard` (FSDP2), which reduces its own gradients.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from train.loop import foreach

_BUCKET_ELEMENTS = 32 * 2**20
_TIMEOUT = timedelta(hours=6)  # one process may encode a large dataset while the others wait


class Processes:
    """All processes of a run, one or many.

    Args:
        mixed_precision: "auto", "no" or "bf16".
        tracker: name of an accelerate tracker, or "none".
        log_dir: where a tracker that writes files puts them.
        backend: "auto", "gloo" or "nccl".
        fsdp: shard trained networks; also set by `accelerate launch --use_fsdp`.
        strategy: what is split, and over whom: see `ShardConfig`.
        cpu_offload: keep what is sharded in host memory while it is not computed with.
    """

    def __init__(
        self,
        mixed_precision: str = "auto",
        tracker: str = "none",
        log_dir: str | None = None,
        backend: str = "auto",
        fsdp: bool = False,
        strategy: str = "FULL_SHARD",
        cpu_offload: bool = False,
    ) -> None:
        on_cpu = not torch.cuda.is_available()
        wanted = fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
        if wanted and backend == "auto" and not on_cpu:
            # What is written and read, and what is offloaded, lies in host memory.
            backend = "cpu:gloo,cuda:nccl"
        if mixed_precision == "auto":
            mixed_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no" if on_cpu else "bf16")
        self.accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="no",  # see autocast(): accelerate keeps one precision for the life of the process
            log_with=None if tracker == "none" else tracker,
            project_dir=log_dir,
            kwargs_handlers=[InitProcessGroupKwargs(backend=None if backend == "auto" else backend, timeout=_TIMEOUT)],
        )
        self.mixed_precision = mixed_precision
        if fsdp and not dist.is_initialized():
            warnings.warn("--fsdp has no effect in one process: there is nobody to share with", stacklevel=2)
        self.sharded = (fsdp or self.accelerator.distributed_type == DistributedType.FSDP) and dist.is_initialized()
        if cpu_offload and not self.sharded:
            warnings.warn("--cpu_offload has no effect without --fsdp and several processes", stacklevel=2)
        self.strategy, self.cpu_offload = strategy, cpu_offload
        self.meshes: tuple[DeviceMesh, DeviceMesh] | None = None  # where it is computed, and for host memory
        self.saving_group: Any = None
        if self.sharded:
            self.meshes = (self._mesh(self.device.type), self._mesh("cpu"))
            self.saving_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def count(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type of weights that are not trained."""
        return torch.bfloat16 if self.mixed_precision == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager:
        """Computation in bfloat16 over float32 weights, if that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed_precision == "bf16")

    def barrier(self) -> None:
        self.accelerator.wait_for_everyone()

    def print(self, *values: Any) -> None:
        """Print once, not once a process."""
        if self.is_main:
            print(*values, flush=True)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in order of rank; any object that pickles."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """The main process's value, on every process."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, values: Sequence[float]) -> list[float]:
        """Mean of each value over the processes."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return (tensor / self.count).tolist()

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set on some process."""
        if self.count == 1:
            return list(flags)
        tensor = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [bool(value) for value in tensor.tolist()]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes; sharded ones are averaged already.

        Which parameters have a gradient must not depend on the data, so that all processes agree on it.
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
        for bucket in _buckets(gradients):
            flat = _flatten_dense_tensors(bucket)
            dist.all_reduce(flat)
            flat /= self.count
            for gradient, mean in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
                gradient.copy_(mean)

    def _mesh(self, device: str) -> DeviceMesh:
        """All processes in a row; or, where every machine has the whole of it, a row for each machine."""
        if self.strategy != "HYBRID_SHARD":
            return init_device_mesh(device, (self.count,))
        own = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
        return init_device_mesh(device, (self.count // own, own), mesh_dim_names=("machines", "processes"))

    def shard(self, units: Iterable[nn.Module], network: nn.Module) -> None:
        """Shard a network over the processes in place, unit by unit."""
        assert self.meshes is not None, "who shards has asked whether it is to be"
        low = torch.bfloat16 if self.mixed_precision == "bf16" else None
        settings: dict[str, Any] = {
            "mesh": self.meshes[0],
            "mp_policy": MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False),
            "reshard_after_forward": self.strategy != "SHARD_GRAD_OP",
        }
        if self.cpu_offload:
            settings["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device.type == "cuda")
        for unit in units:
            fully_shard(unit, **settings)
        fully_shard(network, **settings)

    def make_room(self, network: nn.Module) -> None:
        """Memory for this process's part of a sharded network that is on the meta device, to be filled."""
        place = torch.device("cpu") if self.cpu_offload else self.device
        network._apply(lambda tensor: torch.empty_like(tensor, device=place) if tensor.is_meta else tensor)

    def own_copy(self, tensor: Tensor) -> Tensor:
        """What this process holds of a tensor, copied to host memory, and which part of the whole it is."""
        if not isinstance(tensor, DTensor):
            return to_host(tensor)
        assert self.meshes is not None, "there are parts only where it was sharded"
        copy = tensor.to_local().detach().to("cpu", copy=True)
        return DTensor.from_local(
            copy, self.meshes[1], tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    def close(self) -> None:
        """End trackers and leave the process group."""
        self.accelerator.end_training()


def _buckets(tensors: list[Tensor]) -> Iterable[list[Tensor]]:
    """Runs of tensors of one type, each about 128 MB."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > _BUCKET_ELEMENTS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full, gathered if it is sharded. Collective for sharded tensors."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory that later updates do not touch. Collective for sharded tensors."""
    return whole(tensor.detach()).to("cpu", copy=True)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, in the same memory; a whole tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, reference: Tensor) -> Tensor:
    """A full tensor placed and sharded as another one is; of one on the meta device the place alone, to be filled.

    Each process takes its own part of the value, so that of a file that is mapped into memory no more is read.
    """
    if not isinstance(reference, DTensor) or not value.ndim:
        if value.is_meta:
            return torch.zeros(value.shape, dtype=value.dtype, device=reference.device)
        return value.to(reference.device, copy=True)
    placed = torch.zeros_like(reference, dtype=value.dtype)
    if not value.is_meta:
        fill(placed, value)
    return placed


@torch.no_grad()
def fill(tensor: Tensor, value: Tensor) -> None:
    """Copy a full tensor into one that may be sharded: each process takes its own part, and reads no more of a file
    that is mapped into memory."""
    if isinstance(tensor, DTensor):
        shape, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        value = value[tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))]
    local(tensor).copy_(value)


def sum_in_last_round(networks: Iterable[nn.Module], is_last: bool) -> None:
    """Let sharded networks add up the gradients of the processes after the last round of an accumulation only."""
    for network in networks:
        if isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(is_last)


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Norm of all gradients, sharded or not, which are scaled down to `max_norm` if that is above 0."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    groups = [[g for g in gradients if isinstance(g, DTensor) is sharded] for sharded in (False, True)]
    norms = [whole(nn.utils.get_total_norm(group)) for group in groups if group]
    total = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    if max_norm > 0:
        factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
        foreach.mul_([local(gradient) for gradient in gradients], factor)
    return total
