"""Trained weights laid over a transformer, and taken off again without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

LORA_PREFIX = "transformer"


class OverlayError(ValueError):
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
            lora: under `transformer.` names in peft's, kohya's or diffusers' format; goes on top of `weights`.

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

    def _merge_lora(self, lora: Mapping[str, Tensor]) -> None:
        strays = [name for name in lora if not name.startswith(f"{LORA_PREFIX}.")]
        if strays:  # diffusers would pass over them in silence
            raise OverlayError(f"the LoRA's weight {strays[0]} has no name that starts with {LORA_PREFIX}.")
        layers = {name.removeprefix(f"{LORA_PREFIX}.").partition(".lora_")[0] for name in lora}
        known = {name for name, _ in self.transformer.named_modules()}
        if layers - known:  # so would it over these
            raise OverlayError(f"the LoRA changes {min(layers - known)}, which the transformer does not have")
        try:
            # The converter changes tensors in place where an alpha is given.
            self.transformer.load_lora_adapter({k: v.clone() for k, v in lora.items()}, prefix=LORA_PREFIX)
            for name, layer in _lora_layers(self.transformer):
                weight = layer.get_base_layer().weight
                self._set(f"{name}.weight", weight, weight.data.clone())
            self.transformer.fuse_lora()
        except (ValueError, RuntimeError, KeyError) as error:
            raise OverlayError(f"the LoRA does not fit: {' '.join(str(error).split())[:300]}") from error
        finally:
            self.transformer.unload_lora()

    def _set(self, name: str, parameter: nn.Parameter, data: Tensor) -> None:
        if name not in self._originals:
            self._originals[name] = parameter.data.cpu()
        parameter.data = data


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, BaseTunerLayer]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
