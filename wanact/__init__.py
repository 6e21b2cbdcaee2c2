"""WanAct: fly a drone inside a video model, and train the controller that makes it obey."""

import logging
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# What stock diffusers looks up here for a model_index.json that names our VAE: its class, and the base by which it is
# known as something that loads.
_FOR_DIFFUSERS = {"AutoencoderLapped": "wanact.models.lapped", "ModelMixin": "diffusers"}


# Remarks of libraries that nobody can act on, by the logger that makes them. We need no torchvision, and what is cast
# is cast on purpose (wanact/flying/placement.py).
_REMARKS = {
    "transformers.utils.import_utils": "requires torchvision",
    "diffusers.models.modeling_utils": "should be kept in float32",
}
for _name, _words in _REMARKS.items():
    logging.getLogger(_name).addFilter(lambda record, words=_words: words not in record.getMessage())


def __getattr__(name: str) -> Any:
    if name in _FOR_DIFFUSERS:
        return getattr(import_module(_FOR_DIFFUSERS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
