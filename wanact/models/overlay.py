"""Trained weights laid over a transformer, and taken off again without a trace."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from wanact.errors import UserError

LORA_PREFIX = "transformer"
_BIAS = ".lora_B.bias"


class OverlayError(UserError):
    """Weights that do not fit the transformer; the message names the first that does not."""


class Overlay:
    """Swaps a transformer's weights and restores them exactly.

    The base weights are set aside, not copied: a parameter points to other memory while the overlay is on. On a GPU
    they wait in the CPU's memory. A LoRA is merged, since its two small products cost more time than they save memory
    on the machines where time is short.
    """

    def __init__(self, transformer: WanTransformer3DModel):
        self.transformer = transformer
        self._originals: dict[str, Tensor] = {}

    def apply(self, weights: Mapping[str, Tensor] | None = None, lora: Mapping[str, Tensor] | None = None) -> None:
        """Replace what was laid on before.

        Args:
            weights: replacements by parameter name, some or all, of any dtype.
            lora: pairs `transformer.LAYER.lora_A.weight` and `lora_B.weight`, and what is added to biases,
                `transformer.LAYER.lora_B.bias`, as `convert_lora` gives them; goes on top of `weights`.

        Raises:
            OverlayError: if something does not fit; the transformer is then the base.
        """
        self.remove()
        try:
            if weights:
                self._replace(weights)
            if lora:
                self._merge_lora(lora)
        except BaseException:
            self.remove()
            raise

    @torch.no_grad()
    def remove(self) -> None:
        """Back to the base, bit for bit."""
        parameters = dict(self.transformer.named_parameters())
        for name, original in self._originals.items():
            parameters[name].data = original.to(parameters[name].device)
        self._originals.clear()

    def keep(self) -> None:
        """Make what is laid on the base; it cannot be taken off any more."""
        self._originals.clear()

    def _replace(self, weights: Mapping[str, Tensor]) -> None:
        parameters = dict(self.transformer.named_parameters())
        for name, tensor in weights.items():
            if name not in parameters:
                raise OverlayError(f"the transformer has no weight {name}")
            if tensor.shape != parameters[name].shape:
                raise OverlayError(
                    f"{name} has shape {tuple(tensor.shape)}, the transformer's has {tuple(parameters[name].shape)}"
                )
        for name, tensor in weights.items():
            self._set(name, parameters[name], tensor.to(parameters[name]))

    @torch.no_grad()
    def _merge_lora(self, lora: Mapping[str, Tensor]) -> None:
        """Add every product of an up and a down matrix to its weight; the sum is taken in float32 and rounded once."""
        parameters = dict(self.transformer.named_parameters())
        for module, (down, up) in _pairs(lora).items():
            name = f"{module}.weight"
            if name not in parameters:
                raise OverlayError(f"the LoRA changes {module}, which the transformer does not have")
            weight = parameters[name].data
            if (up.shape[0], down.shape[1]) != (weight.shape[0], weight[0].numel()) or up.shape[1] != down.shape[0]:
                raise OverlayError(
                    f"the LoRA does not fit: {tuple(up.shape)} times {tuple(down.shape)} is not the shape of {name}, "
                    f"{tuple(weight.shape)}"
                )
            product = (up.to(weight.device).float() @ down.to(weight.device).float()).view_as(weight)
            self._set(name, parameters[name], (weight.float() + product).to(weight.dtype))
        for full, added in lora.items():
            if not full.endswith(_BIAS):
                continue
            name = f"{full.removeprefix(f'{LORA_PREFIX}.').removesuffix(_BIAS)}.bias"
            if name not in parameters:
                raise OverlayError(f"the LoRA changes {name}, which the transformer does not have")
            bias = parameters[name].data
            if added.shape != bias.shape:
                raise OverlayError(
                    f"the LoRA does not fit: it adds {tuple(added.shape)} to {name}, which has {tuple(bias.shape)}"
                )
            self._set(name, parameters[name], (bias.float() + added.to(bias.device).float()).to(bias.dtype))

    def _set(self, name: str, parameter: nn.Parameter, data: Tensor) -> None:
        if name not in self._originals:
            self._originals[name] = parameter.data.cpu()
        parameter.data = data


def _pairs(lora: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up matrix of every layer, by its name in the transformer."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, down in lora.items():
        if name.endswith(_BIAS):
            continue
        module, side, _ = name.partition(".lora_")
        if not side or not name.startswith(f"{LORA_PREFIX}."):
            raise OverlayError(f"the LoRA's weight {name} has no name like {LORA_PREFIX}.LAYER.lora_A.weight")
        up = lora.get(f"{module}.lora_B.weight")
        if up is None or f"{module}.lora_A.weight" not in lora:
            raise OverlayError(f"the LoRA has only {name} for its layer; expected lora_A.weight and lora_B.weight")
        if name.endswith("lora_A.weight"):
            pairs[module.removeprefix(f"{LORA_PREFIX}.")] = (down, up)
    return pairs
