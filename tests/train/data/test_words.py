"""Training reads a prompt as the page does, and says what is cut."""

from __future__ import annotations

import json

import pytest
import torch

from train.data import text
from wanact.flying.request import clean_prompt
from wanact.models.text import encode_prompts, unread
from wanact.weights.model_dir import load_components

ODD = [
    "half an emoji \ud83d over the lake",
    "first line\u2028second\u2029line\nthird\tline",
    "a &amp; b &lt;i&gt;",
    "control\x00\x07\x9f characters",
    "  wide   \u3000 spaces ",
    "",
]


@pytest.mark.parametrize("prompt", ODD)
def test_a_prompt_gives_the_same_tokens_in_training_as_on_the_page(model, prompt):
    parts = load_components(model, parts=("text_encoder", "tokenizer"))
    flown = encode_prompts(parts.tokenizer, parts.text_encoder, [clean_prompt(prompt)], 16)
    ids, mask = text.pad_ids(text.tokenise(parts.tokenizer, [prompt], 16))
    with torch.no_grad():
        torch.testing.assert_close(text.embed(parts.text_encoder, ids, mask, 16), flown, rtol=0, atol=1e-6)


def test_what_the_encoder_does_not_read_is_the_end_of_the_prompt(model):
    tokenizer = load_components(model, parts=("tokenizer",)).tokenizer
    prompt = "green hills and a lake at noon, fog in the valley, a drone flies and turns over the quiet water"
    assert unread(tokenizer, prompt, 512) == ""
    end = unread(tokenizer, prompt, 16)
    assert end and prompt.endswith(end)
    read = prompt.removesuffix(end)
    assert unread(tokenizer, read, 16) == ""
    (all_of_it,), (cut,) = (text.tokenise(tokenizer, [words], 16) for words in (prompt, read))
    assert torch.equal(all_of_it[: len(cut) - 1], cut[:-1]) and len(all_of_it) - len(cut) <= 1


def test_the_log_says_what_is_cut_and_that_there_are_no_words(run, dataset, tmp_path, capsys):
    (row, *_) = (json.loads(line) for line in _lines(dataset))
    long = "green hills and a lake at noon, fog in the valley " * 20 + "and the end"
    (tmp_path / "long.jsonl").write_text(json.dumps(row | {"prompt": long}))
    run("action", tmp_path / "a", "--dataset_metadata_path", str(tmp_path / "long.jsonl"), "--max_steps", "1")
    said = capsys.readouterr().out
    assert "1 of 2 prompts have more than the" in said and "and the end”" in said
    (tmp_path / "none.jsonl").write_text(json.dumps(row | {"prompt": ""}))
    run("action", tmp_path / "b", "--dataset_metadata_path", str(tmp_path / "none.jsonl"), "--max_steps", "1")
    assert "no row has a prompt" in capsys.readouterr().out


def _lines(dataset):
    from train.data.csv import read_records

    return [json.dumps(record) for record in read_records(dataset / "clips.csv")]
