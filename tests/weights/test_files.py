import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from wanact.weights.files import WeightFiles, write_safetensors, write_torch
from wanact.weights.names import ConvertError

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.tensor([1, 2])}
NAMES = {"a": "x.a", "b": "x.b", "c": "x.c"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "-old.pt"])
def test_weights_of_every_kind_of_file_are_read(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(STATE, file)
    else:
        torch.save(STATE, file, _use_new_zipfile_serialization=suffix == ".pth")
    weights = WeightFiles([file])
    assert weights.shapes == {"a": (2, 3), "b": (4,), "c": (2,)}
    assert_close(dict(weights), STATE)
    assert weights.num_bytes() == 24 + 8 + 16 and weights.num_bytes(torch.float16) == 12 + 8 + 16


@pytest.mark.parametrize("wrapped", ["state_dict", "model", "generator"])
def test_what_a_trainer_wraps_is_unwrapped(tmp_path, wrapped):
    torch.save({wrapped: STATE, "step": 3}, tmp_path / "w.pt")
    weights = WeightFiles([tmp_path / "w.pt"])
    assert_close(dict(weights), STATE)
    assert weights.keys_taken == {"w.pt": wrapped}


def test_the_averaged_generator_is_taken_unless_another_is_asked_for(tmp_path):
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    torch.save({"generator": other, "generator_ema": STATE, "critic": other}, tmp_path / "w.pt")
    assert_close(dict(WeightFiles([tmp_path / "w.pt"])), STATE)
    assert_close(dict(WeightFiles([tmp_path / "w.pt"], key="generator")), other)
    with pytest.raises(ConvertError, match="no state_dict 'critic_ema'; it holds generator, generator_ema, critic"):
        WeightFiles([tmp_path / "w.pt"], key="critic_ema")


class Evil:
    def __reduce__(self):
        return (print, ("code has run",))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: None, "is missing"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: file.write_bytes(b"not a file of torch"), "cannot be read|pickled objects"),
        (lambda file: torch.save({"a": Evil()}, file), "pickled objects and not only tensors"),
        (lambda file: torch.save([1, 2], file), "does not hold named tensors"),
        (lambda file: torch.save({"a": torch.ones(1), "b": 3}, file), "does not hold named tensors only: b is none"),
        (lambda file: torch.save({"model": {}}, file), "does not hold named tensors"),
    ],
)
def test_a_file_that_is_no_weights_is_refused(tmp_path, write, says, capsys):
    write(tmp_path / "w.pt")
    with pytest.raises(ConvertError, match=says) as caught:
        WeightFiles([tmp_path / "w.pt"])
    assert "w.pt" in str(caught.value) and "\n" not in str(caught.value)
    assert "code has run" not in capsys.readouterr().out


def test_a_name_in_two_files_is_refused(tmp_path):
    save_file(STATE, tmp_path / "1.safetensors")
    save_file({"c": STATE["c"]}, tmp_path / "2.safetensors")
    with pytest.raises(ConvertError, match="2.safetensors holds c, which another file holds too"):
        WeightFiles([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])


def test_shards_hold_no_more_than_was_asked_and_an_index_finds_all(tmp_path):
    weights = WeightFiles.of({str(i): torch.full((100,), float(i)) for i in range(7)})
    names = {name: f"layer.{name}" for name in weights}
    files = write_safetensors(weights, names, tmp_path, "model", max_shard_bytes=900)
    assert [file.name for file in files] == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(index) == sorted(names.values())
    for name, file in index.items():
        assert_close(load_file(tmp_path / file)[name], torch.full((100,), float(name[-1])))


def test_a_cast_spares_whole_numbers(tmp_path):
    weights = WeightFiles.of(STATE)
    (file,) = write_safetensors(weights, NAMES, tmp_path, "model", dtype=torch.float16)
    written = load_file(file)
    assert file.name == "model.safetensors"
    assert written["x.a"].dtype == written["x.b"].dtype == torch.float16 and written["x.c"].dtype == torch.int64
    again = torch.load(write_torch(weights, NAMES, tmp_path / "w.pth"), weights_only=True)
    assert_close(again, {NAMES[name]: tensor for name, tensor in STATE.items()})


def test_tensors_that_share_memory_are_written_once_each(tmp_path):
    big = torch.arange(1000.0)
    weights = WeightFiles.of({"first": big[:4], "last": big[-4:]})
    (file,) = write_safetensors(weights, {"first": "a", "last": "b"}, tmp_path, "m")
    assert file.stat().st_size < 500
    write_torch(weights, {"first": "a"}, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < 3000
