"""WanAct: fly a drone inside a video model, and train the controller that makes it obey."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# What stock diffusers looks up here for a model_index.json that names our VAE: its class, and the base by which it is
# known as something that loads.
_FOR_DIFFUSERS = {"AutoencoderLapped": "wanact.models.lapped", "ModelMixin": "diffusers"}


def __getattr__(name: str) -> Any:
    if name in _FOR_DIFFUSERS:
        return getattr(import_module(_FOR_DIFFUSERS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
