"""Text embeddings of prompts: kept in memory, kept on disk, and made by a text encoder that need not stay loaded.

The text encoder of Wan2.2-TI2V-5B takes 11 GB, more than the transformer, and is used once a prompt. With a folder to
keep embeddings in it is loaded when a prompt is new, used and dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wanact.errors import UserError
from wanact.files import disk_errors, replacing, visible
from wanact.models.text import cleaned, encode_prompts, unread
from wanact.weights import layouts

IN_MEMORY = 32

# Wan's own code puts this where nobody gives a negative prompt (sample_neg_prompt of wan/configs/shared_config.py in
# Wan2.2); DiffSynth and diffusers put nothing, and so do we unless it is chosen.
_WANS_OWN = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
_UMT5_XXL_WIDTH = 4096  # of the text that released Wan models read; a world of another width knows no Chinese


def negative_prompts(text_dim: int) -> dict[str, str]:
    """Ready-made negative prompts by name, for a transformer that reads text of this width."""
    return {"Wan's own": _WANS_OWN} if text_dim == _UMT5_XXL_WIDTH else {}


class PromptStore:
    """Embeddings on disk, one file a prompt. Several processes may share the folder.

    Args:
        folder: made if missing.
        identity: what the embeddings depend on beside the prompt: encoder, length, type.
    """

    def __init__(self, folder: str | os.PathLike, identity: str):
        self.folder = Path(folder)
        self.identity = identity
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, prompt: str) -> Tensor | None:
        """Embedding [1, S, text_dim], or None; a damaged file counts as none."""
        file = self._file(prompt)
        try:
            state = load_file(file)
            length = int(state["length"])
            return torch.nn.functional.pad(state["text"], (0, 0, 0, length - state["text"].shape[0]))[None]
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError):
            return None

    def put(self, prompt: str, embedding: Tensor) -> None:
        """Keep an embedding [1, S, text_dim], without the zeros behind the prompt, if the disk takes it."""
        text = embedding[0].cpu()
        used = text.ne(0).any(dim=1).nonzero()
        text = text[: int(used[-1]) + 1 if len(used) else 1].contiguous()
        file = self._file(prompt)
        with contextlib.suppress(OSError), replacing(file) as temporary, disk_errors():
            save_file({"text": text, "length": torch.tensor(embedding.shape[1])}, temporary)

    def _file(self, prompt: str) -> Path:
        name = hashlib.sha256(f"{self.identity}\x1f{cleaned(prompt)}".encode()).hexdigest()
        return self.folder / f"{name[:40]}.safetensors"


class Prompts:
    """Gives every prompt its embedding, by the cheapest way there is.

    Args:
        tokenizer: of the text encoder.
        text_encoder: in use; None to have `load` bring it when it is needed, and drop it then.
        length: text tokens S.
        load: gives the text encoder on the device where it is to run.
        store: embeddings on disk.
        borrow: entered while the text encoder works, for instance to bring it onto the GPU.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        length: int,
        *,
        load: Callable[[], Any] | None = None,
        store: PromptStore | None = None,
        borrow: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.length = length
        self.store = store
        self._load = load
        self._borrow = borrow
        self._memory: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, prompts: Sequence[str], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Embeddings [B, S, text_dim], zero behind each prompt; the text encoder runs for new prompts only."""
        found = {prompt: embedding for prompt in prompts if (embedding := self._find(prompt)) is not None}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        if new:
            found |= self._make(new)
        for prompt in prompts:
            self._memory[prompt] = found[prompt].to(device, dtype)
            self._memory.move_to_end(prompt)
        embeddings = torch.cat([self._memory[prompt] for prompt in prompts])
        while len(self._memory) > IN_MEMORY:
            self._memory.popitem(last=False)
        return embeddings

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the text encoder does not read, "" if it reads all of it."""
        return unread(self.tokenizer, prompt, self.length)

    def forget(self) -> None:
        """Empty the memory; what is on disk stays."""
        self._memory.clear()

    def _find(self, prompt: str) -> Tensor | None:
        if prompt in self._memory:
            return self._memory[prompt]
        return None if self.store is None else self.store.get(prompt)

    def _make(self, prompts: list[str]) -> dict[str, Tensor]:
        made = {}
        with self._borrow():
            encoder = self.text_encoder if self.text_encoder is not None or self._load is None else self._load()
            if encoder is None:
                raise UserError("there is no text encoder to read the prompt with")
            for prompt in prompts:  # one by one: a batch differs in the last bit
                made[prompt] = encode_prompts(self.tokenizer, encoder, [prompt], self.length)
                if self.store is not None:
                    self.store.put(prompt, made[prompt])
        return made


def encoder_identity(path: Path, length: int, dtype: torch.dtype) -> str:
    """What embeddings of a model directory depend on: its text encoder's files, the length and the type.

    Files are told apart by name, size and time; reading 11 GB to hash them would take longer than encoding.
    """
    source = layouts.locate(path).sources.get("text_encoder")
    files = () if source is None else source.weights or tuple(sorted(visible(source.folder.glob("*"))))
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return f"{stamps} {length} {dtype}"
