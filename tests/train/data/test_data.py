"""Broken rows are named and left out; what is cached is not computed again."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from tests.train.conftest import NUM_FRAMES, SIZE, write_dataset
from train.data import text
from train.data.cache import Cache, CachedEntries, ahead, key_of, module_fingerprint
from train.data.csv import DataError, RowError, parse_row, read_records
from wanact.actions import ActionTrack, channel_track
from wanact.media.video import write_mp4


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["video", "prompt", "action"])
        writer.writeheader()
        writer.writerows(rows)


def break_rows(folder):
    """Ten rows, each broken in its own way: (row, what skipped.csv says)."""
    good = read_rows(folder / "clips.csv")[0]
    both = [[[1, 1, 0, 0, 0, 0, 0, 0], [0.1, 0.1, 0, 0, 0, 0, 0, 0]]] * 2
    opposite = json.dumps(both)
    negative = json.dumps([[[1] + [0] * 7, [-0.05] + [0] * 7]] * 2)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video")
    (folder / "cut.mp4").write_bytes((folder / "clip0.mp4").read_bytes()[:900])
    (folder / "folder.mp4").mkdir()
    write_mp4(np.zeros((5, SIZE, SIZE, 3), np.uint8), folder / "short.mp4", lossless=True)
    return [
        ({**good, "video": "missing.mp4"}, "missing"),
        ({**good, "video": "empty.mp4"}, "cannot be read"),
        ({**good, "video": "text.mp4"}, "cannot be read"),
        ({**good, "video": "cut.mp4"}, "damaged at 0.00 s"),
        ({**good, "video": "folder.mp4"}, "a folder without pictures"),
        ({**good, "video": "short.mp4"}, "5 frames"),
        ({**good, "action": "[[1, 2"}, "not valid JSON"),
        ({**good, "action": json.dumps([[[0] * 8, [0] * 8]])}, "1 actions"),
        ({**good, "action": opposite}, "active at once"),
        ({**good, "action": negative}, "negative"),
    ]


def test_a_dataset_with_five_percent_broken_files_of_ten_kinds_trains_to_the_end_and_lists_them(run, tmp_path, capsys):
    data = write_dataset(tmp_path)
    good = read_rows(data / "clips.csv")
    broken = break_rows(data)
    mixed = [*(good * 38), *(row for row, _ in broken)]
    np.random.default_rng(0).shuffle(mixed)
    write_rows(data / "clips.csv", mixed)
    flags = ["--dataset_base_path", str(data), "--dataset_metadata_path", str(data / "clips.csv")]
    trainer = run("action", tmp_path / "run", *flags, "--num_epochs", "1", "--batch_size", "10")
    assert trainer.step == 19 and len(trainer.stage) == 190
    skipped = read_rows(tmp_path / "run" / "skipped.csv")
    assert [int(s["row"]) for s in skipped] == sorted(int(s["row"]) for s in skipped)
    for row, reason in broken:
        number = mixed.index(row) + 1
        (line,) = [s for s in skipped if int(s["row"]) == number]
        assert line["video"] == row["video"] and reason in line["reason"], (row, line)
    assert len(skipped) == len(broken) == 10
    assert "skipped row" in (out := capsys.readouterr().out) and "10 of 200 rows are left out" in out


def test_more_broken_rows_than_allowed_stop_the_run(run, tmp_path):
    write_dataset(tmp_path)
    good = read_rows(tmp_path / "clips.csv")
    bad = {**good[0], "video": "missing.mp4"}
    flags = ["--dataset_base_path", str(tmp_path), "--dataset_metadata_path", str(tmp_path / "clips.csv")]
    write_rows(tmp_path / "clips.csv", [*good, bad])
    with pytest.raises(DataError, match="1 of 6 rows cannot be used.*--max_skipped 0.1.*missing"):
        run("action", tmp_path / "other", *flags, "--max_steps", "1")


def test_csv_json_and_jsonl_hold_the_same_rows(dataset, tmp_path):
    rows = read_records(dataset / "clips.csv")
    nested = [row | {"action": json.loads(row["action"])} for row in rows]
    (tmp_path / "clips.json").write_text(json.dumps(nested))
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, nested)) + "\n\n{broken\n")
    expected = [parse_row(row, i, dataset, NUM_FRAMES, True) for i, row in enumerate(rows)]
    as_json = [
        parse_row(row, i, dataset, NUM_FRAMES, True) for i, row in enumerate(read_records(tmp_path / "clips.json"))
    ]
    assert as_json == expected
    *lines, broken = read_records(tmp_path / "clips.jsonl")
    assert [parse_row(row, i, dataset, NUM_FRAMES, True) for i, row in enumerate(lines)] == expected
    with pytest.raises(RowError, match="not valid JSON"):
        parse_row(broken, 0, dataset, NUM_FRAMES, True)


def test_a_longer_track_is_cut_to_the_clip(dataset):
    record = read_records(dataset / "clips.csv")[0]
    longer = ActionTrack(np.full((7, 8), [0.05, 0, 0, 0, 0, 0, 0, 0]))
    row = parse_row(record | {"action": longer.to_json()}, 1, dataset, NUM_FRAMES, True)
    assert row.track == longer.with_length(2)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "video_name,prompt\nx.mp4,y\n", "rename video_name to video"),
        ("a.csv", "video,prompt,action\n", "no rows"),
        ("a.json", "{}", "list of rows"),
        ("a.json", "[", "damaged"),
        ("a.csv", b"\xff\x00\x01", "not UTF-8: line 1"),
    ],
)
def test_a_metadata_file_that_cannot_be_used_says_why(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_records(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "nowhere.csv")


def test_an_epoch_encodes_nothing_twice(run, arguments, tmp_path, monkeypatch):
    from wanact.models import vae

    run("action", tmp_path / "first", "--max_steps", "1", "--cache_dir", str(tmp_path / "cache"))
    monkeypatch.setattr(vae, "encode", lambda *_: pytest.fail("a cached clip was encoded again"))
    monkeypatch.setattr(text, "embed", lambda *_: pytest.fail("a cached prompt was embedded again"))
    assert run("action", tmp_path / "second", "--max_steps", "9", "--cache_dir", str(tmp_path / "cache")).step == 9


def test_a_renamed_video_is_found_in_the_cache_and_a_changed_one_is_not(run, tmp_path, monkeypatch):
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    write_dataset(data, 2)
    flags = ["--dataset_base_path", str(data), "--dataset_metadata_path", str(data / "clips.csv")]
    flags += ["--cache_dir", str(cache), "--max_steps", "1"]
    run("action", tmp_path / "a", *flags)
    entries = {p for p in (cache / "latents").rglob("*.safetensors")}
    assert len(entries) == 2
    shutil.move(data / "clip0.mp4", data / "renamed.mp4")
    (data / "clips.csv").write_text((data / "clips.csv").read_text().replace("clip0.mp4", "renamed.mp4"))
    run("action", tmp_path / "b", *flags)
    assert {p for p in (cache / "latents").rglob("*.safetensors")} == entries
    shutil.copy(data / "clip1.mp4", data / "renamed.mp4")
    write_mp4(np.full((NUM_FRAMES, SIZE, SIZE, 3), 99, np.uint8), data / "clip1.mp4", lossless=True)
    run("action", tmp_path / "c", *flags)
    assert len({p for p in (cache / "latents").rglob("*.safetensors")}) == 3


def test_a_damaged_entry_of_the_cache_is_made_anew(run, tmp_path):
    flags = ["--cache_dir", str(tmp_path / "cache"), "--max_steps", "1"]
    run("action", tmp_path / "a", *flags)
    entry = next((tmp_path / "cache" / "latents").rglob("*.safetensors"))
    data = entry.read_bytes()
    entry.write_bytes(data[:-10])
    run("action", tmp_path / "b", *flags)
    assert entry.read_bytes() == data


def test_an_input_image_takes_the_place_of_the_first_frame(run, dataset, tmp_path):
    from PIL import Image

    rows = read_rows(dataset / "clips.csv")
    Image.new("RGB", (50, 40), (200, 30, 30)).save(dataset / "red.png")
    lines = [json.dumps({**rows[0], "input_image": name}) for name in (None, "red.png", "nowhere.png")]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    trainer = run("action", tmp_path / "run", "--dataset_metadata_path", str(tmp_path / "clips.jsonl"),
                  "--max_steps", "1", "--max_skipped", "0.5",
                  "--data_file_keys", "video,input_image")  # fmt: skip
    plain, with_image = (trainer.stage.latents[i]["latents"] for i in range(2))
    assert not torch.equal(plain[:, :1], with_image[:, :1])
    assert torch.equal(plain[:, 1:], with_image[:, 1:])
    assert "input_image nowhere.png is missing" in (tmp_path / "run" / "skipped.csv").read_text()


def test_an_input_image_is_left_alone_unless_its_column_is_named(run, dataset, tmp_path, capsys):
    rows = read_rows(dataset / "clips.csv")
    lines = [json.dumps({**rows[0], "input_image": name}) for name in (None, "nowhere.png")]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    trainer = run("action", tmp_path / "run", "--dataset_metadata_path", str(tmp_path / "clips.jsonl"),
                  "--max_steps", "1", "--data_file_keys", "video")  # fmt: skip
    one, other = (trainer.stage.latents[i]["latents"] for i in range(2))
    assert torch.equal(one, other)
    said = "the input_image of 1 rows is left alone; --data_file_keys video,input_image uses it"
    assert said in capsys.readouterr().out


def test_flags_that_differ_from_magnitudes_are_counted_over_all_rows(run, dataset, tmp_path, capsys):
    rows = read_rows(dataset / "clips.csv")
    flags_alone = json.dumps([[[1] + [0] * 7, [0] * 8]] * 2)
    magnitudes_alone = json.dumps([[0.05] + [0] * 7] * 2)
    actions = (flags_alone, flags_alone, magnitudes_alone)
    lines = [json.dumps({**rows[0], "action": action}) for action in actions]
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    trainer = run("action", tmp_path / "run", "--dataset_metadata_path", str(tmp_path / "clips.jsonl"),
                  "--max_steps", "1")  # fmt: skip
    assert all(row.track == channel_track("forward", 2) for row in trainer.stage.rows)
    said = "in the actions of 2 rows, 4 flags without a magnitude are taken as full deflection"
    assert said in capsys.readouterr().out


def test_cached_entries_are_the_same_from_memory_and_from_disk(tmp_path):
    cache = Cache(tmp_path)
    keys = [key_of("x", i % 3) for i in range(5)]
    for i in range(3):
        cache.put(key_of("x", i), {"latents": torch.full((4,), float(i))})
    held, read = CachedEntries(cache, keys, 1e9), CachedEntries(cache, keys, 0)
    for i in range(5):
        assert torch.equal(held[i]["latents"], read[i]["latents"]) and held[i]["latents"][0] == i % 3


def test_a_network_has_another_fingerprint_when_one_weight_changes():
    network = torch.nn.Linear(3, 3)
    before = module_fingerprint(network)
    assert module_fingerprint(network) == before
    with torch.no_grad():
        network.weight[0, 0] += 1e-3
    assert module_fingerprint(network) != before


@pytest.mark.parametrize("workers", [0, 3])
def test_reading_ahead_keeps_the_order_and_hands_errors_over(workers):
    def half(x):
        if x % 4 == 3:
            raise ValueError(str(x))
        return x // 2

    pairs = list(ahead(half, range(20), workers))
    assert [item for item, _ in pairs] == list(range(20))
    for item, result in pairs:
        assert str(result) == str(item) if item % 4 == 3 else result == item // 2


def test_prompts_are_embedded_as_in_flight(model):
    from wanact.models.text import encode_prompts
    from wanact.weights.model_dir import load_components

    parts = load_components(model, parts=("text_encoder", "tokenizer"))
    prompts = ["a drone flies &amp; turns", "", "  green   hills and a lake at noon, fog in the valley " * 3]
    expected = encode_prompts(parts.tokenizer, parts.text_encoder, prompts, 16)
    ids = text.tokenise(parts.tokenizer, prompts, 16)
    with torch.no_grad():
        together = text.embed(parts.text_encoder, *text.pad_ids(ids), 16)
        alone = [text.embed(parts.text_encoder, *text.pad_ids([row]), len(row))[0] for row in ids]
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(text.pad_embeddings(alone, 16), expected, rtol=0, atol=1e-6)
