import json
import os

import pytest
import torch
from torch.testing import assert_close

from tests.tiny_model import build_text_encoder, build_tokenizer
from wanact.flying.prompts import Prompts, PromptStore, encoder_identity
from wanact.models.text import encode_prompts

CPU, F32 = torch.device("cpu"), torch.float32
LENGTH = 12


class CountedEncoder:
    """Loads a text encoder and counts how often."""

    def __init__(self, tokenizer):
        self.loads = 0
        self.vocab_size = len(tokenizer)

    def __call__(self):
        self.loads += 1
        return build_text_encoder(self.vocab_size)


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def load(tokenizer) -> CountedEncoder:
    return CountedEncoder(tokenizer)


def test_embeddings_are_those_of_the_encoder_from_memory_and_from_disk(tokenizer, load, tmp_path):
    expected = torch.cat([encode_prompts(tokenizer, load(), [text], LENGTH) for text in ("a lake", "")])
    load.loads = 0
    prompts = Prompts(tokenizer, None, LENGTH, load=load, store=PromptStore(tmp_path, "tiny"))
    assert_close(prompts.encode(["a lake", ""], CPU, F32), expected, rtol=0, atol=0)
    assert_close(prompts.encode(["a lake", ""], CPU, F32), expected, rtol=0, atol=0)
    assert load.loads == 1, "both prompts in one load, and the second time from memory"
    prompts.forget()
    again = Prompts(tokenizer, None, LENGTH, load=load, store=PromptStore(tmp_path, "tiny"))
    for source in (prompts, again):
        assert_close(source.encode(["a lake", ""], CPU, F32), expected, rtol=0, atol=0)
    assert load.loads == 1, "from disk"


def test_another_encoder_does_not_find_them(tokenizer, load, tmp_path):
    for identity in ("one", "two"):
        Prompts(tokenizer, None, LENGTH, load=load, store=PromptStore(tmp_path, identity)).encode(["hills"], CPU, F32)
    assert load.loads == 2


def test_a_damaged_file_is_made_anew(tokenizer, load, tmp_path):
    store = PromptStore(tmp_path, "tiny")
    first = Prompts(tokenizer, None, LENGTH, load=load, store=store).encode(["hills"], CPU, F32)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    assert_close(Prompts(tokenizer, None, LENGTH, load=load, store=store).encode(["hills"], CPU, F32), first)
    assert load.loads == 2 and store.get("hills") is not None


def test_only_so_many_are_kept_in_memory(tokenizer, load, monkeypatch):
    monkeypatch.setattr("wanact.flying.prompts.IN_MEMORY", 2)
    prompts = Prompts(tokenizer, None, LENGTH, load=load)
    for text in ("one", "two", "three", "three", "two"):
        prompts.encode([text], CPU, F32)
    assert load.loads == 3
    prompts.encode(["one"], CPU, F32)
    assert load.loads == 4


def test_without_any_encoder_it_says_so(tokenizer):
    with pytest.raises(ValueError, match="no text encoder"):
        Prompts(tokenizer, None, LENGTH).encode(["hills"], CPU, F32)


def test_the_identity_follows_the_files_of_the_encoder(tiny_model_dir, tmp_path):
    before = encoder_identity(tiny_model_dir, 16, F32)
    assert before == encoder_identity(tiny_model_dir, 16, F32)
    assert before != encoder_identity(tiny_model_dir, 17, F32) != encoder_identity(tiny_model_dir, 17, torch.bfloat16)
    copy = tmp_path / "copy"
    (copy / "text_encoder").mkdir(parents=True)
    (copy / "model_index.json").write_text(
        json.dumps({"model_name": "x", "components": {"text_encoder": "text_encoder"}})
    )
    file = copy / "text_encoder" / "config.json"
    file.write_text("{}")
    changed = encoder_identity(copy, 16, F32)
    os.utime(file, ns=(1, 1))
    assert changed != encoder_identity(copy, 16, F32)
