"""Shards hold what was put into them, wherever they lie and whoever wrote them; what is damaged is said."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from train.data import shards, streams
from train.data.csv import DataError, RowError
from train.data.shards import ShardWriter, StreamError, TarShards, braces
from train.data.streams import open_source, stream_order


def samples(count: int, first: int = 0):
    """Clips of random bytes with a line about each."""
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        said = json.dumps({"prompt": f"clip {number}", "action": [[0] * 8]}).encode()
        yield f"{number:09d}", {"mp4": rng.bytes(100 + 7 * number), "json": said}


def write(address, total=10, rows=4, part=0, parts=1, made=None):
    writer = ShardWriter(str(address), rows, made)
    for number, own in writer.shards_of(total, part, parts):
        if writer.samples_in(number, own) is None:
            writer.write(number, own, samples(len(own), own.start))
    return str(address)


@pytest.fixture(params=["folder", "memory"])
def address(request, tmp_path):
    """A folder, and an address whose files are on no disk."""
    if request.param == "folder":
        yield str(tmp_path / "shards")
    else:
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()


def test_what_is_written_is_read_in_any_order(address, tmp_path):
    source = open_source(write(address), tmp_path / "seen")
    assert len(source) == 10 and source.counts == [4, 4, 2]
    wanted = list(samples(4)) + list(samples(4, 4)) + list(samples(2, 8))
    for index in (9, 0, 5, 3, 9, 4):
        key, files = wanted[index]
        found = source[index]
        assert found.key == key and found.files == {"mp4": files["mp4"]} and found.fields["prompt"] == f"clip {index}"


def test_shares_of_any_number_write_the_same_shards(tmp_path):
    whole = write(tmp_path / "one")
    for part in range(3):
        write(tmp_path / "three", part=part, parts=3)
    tars = [{f.name: f.read_bytes() for f in Path(folder).iterdir()} for folder in (whole, tmp_path / "three")]
    assert tars[0] == tars[1] and len(tars[0]) == 6


def test_a_share_goes_on_where_it_was(tmp_path):
    folder = Path(write(tmp_path / "shards"))
    (folder / "shard-000001.index.json").unlink()
    (folder / "shard-000002.tar").write_bytes(b"cut off")
    writer = ShardWriter(str(folder), 4)
    there = [writer.samples_in(number, rows) for number, rows in writer.shards_of(10, 0, 1)]
    assert there == [4, None, None]
    assert writer.samples_in(2, range(8, 12)) is None, "a table that has grown makes its last shard anew"
    with pytest.raises(DataError, match="with other settings or of other rows"):
        ShardWriter(str(folder), 3).samples_in(0, range(0, 3))
    with pytest.raises(DataError, match="with other settings or of other rows"):
        ShardWriter(str(folder), 4, {"vae": "another"}).samples_in(0, range(0, 4))


def test_shards_without_an_index_are_read_by_their_headers(address, tmp_path):
    system, path = fsspec.core.url_to_fs(write(address))
    with_index = [TarShards(address, tmp_path / "a")[i] for i in range(10)]
    for file in system.glob(f"{path}/*.index.json"):
        system.rm(file)
    said: list[str] = []
    source = TarShards(address, tmp_path / "b", said.append)
    assert [source[i] for i in range(10)] == with_index
    assert said == [f"looking into 3 shards of {address}"]
    TarShards(address, tmp_path / "b", said.append)
    assert len(said) == 1, "what was found out is remembered"


def test_the_library_webdataset_reads_them_and_is_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    folder = write(tmp_path / "ours")
    found = list(webdataset.WebDataset(f"{folder}/shard-{{000000..000002}}.tar", shardshuffle=False))
    assert [(s["__key__"], s["mp4"]) for s in found] == [(key, files["mp4"]) for key, files in _all(10)]
    (tmp_path / "theirs").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "theirs" / "%06d.tar"), maxcount=3, verbose=0) as writer:
        for key, files in _all(10):
            writer.write({"__key__": key, **files, "txt": "said in a file of its own"})
    source = TarShards(str(tmp_path / "theirs"), tmp_path / "seen")
    assert source.counts == [3, 3, 3, 1]
    assert [source[i].files["mp4"] for i in range(10)] == [files["mp4"] for _, files in _all(10)]


def _all(count):
    return [sample for first in range(0, count, 4) for sample in samples(min(4, count - first), first)]


def test_a_damaged_sample_is_said_and_the_others_are_read(tmp_path):
    folder = Path(write(tmp_path / "shards"))
    tar = folder / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    place = TarShards(str(folder), tmp_path / "seen")._members(1)[2][1]["mp4"][0]
    data[place] ^= 1
    tar.write_bytes(data)
    source = TarShards(str(folder), tmp_path / "seen")
    assert source[5].key == "000000005" and source[7].key == "000000007"
    with pytest.raises(RowError, match=r"000000006.mp4 of .*shard-000001.tar is damaged"):
        source[6]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: [file.unlink() for file in folder.glob("*.tar")], "holds no shard"),
        (lambda folder: (folder / "shard-000000.tar").write_bytes(b"x" * 512), "one of them was cut off"),
        (lambda folder: (folder / "shard-000000.index.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "more.tar").write_text("no tar at all" * 100), "is no tar that can be read"),
    ],
)
def test_what_is_no_shard_is_said(tmp_path, break_it, words):
    folder = Path(write(tmp_path / "shards"))
    break_it(folder)
    with pytest.raises(DataError, match=words):
        TarShards(str(folder), tmp_path / "seen")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere://x", "cannot be opened"),
        ("memory://nothing/here", "nothing is there"),
        ("memory://x/clips.csv", "tables are read from a local folder"),
        ("memory://x/clips.tar.gz", "no sample can be found alone in a packed tar"),
        ("datasets:/nothing/here", "cannot be streamed|needs the package datasets"),
    ],
)
def test_an_address_that_is_none_is_said(tmp_path, name, words):
    assert streams.is_stream(name)
    with pytest.raises(DataError, match=words):
        open_source(name, tmp_path)


def test_a_line_that_was_cut_is_tried_again_and_never_a_bad_clip(tmp_path, monkeypatch):
    address = write(f"memory://{tmp_path.name}")
    source = TarShards(address, tmp_path / "seen")
    monkeypatch.setattr(shards.time, "sleep", lambda seconds: None)
    system, failures = type(source._system), [ConnectionError("reset"), TimeoutError()]
    cat_file = system.cat_file

    def flaky(self, *args, **kwargs):
        if failures:
            raise failures.pop()
        return cat_file(self, *args, **kwargs)

    monkeypatch.setattr(system, "cat_file", flaky)
    assert source[3].key == "000000003"
    failures.extend([ConnectionError("reset")] * 4)
    with pytest.raises(StreamError, match="reset"):
        source[4]


def test_braces_are_counted_out():
    assert braces("x-{008..010}.tar") == ["x-008.tar", "x-009.tar", "x-010.tar"]
    assert braces("x.tar") == ["x.tar"]
    with pytest.raises(DataError, match="must rise"):
        braces("{5..2}.tar")


def test_members_with_long_names_are_found(tmp_path):
    key = "folder-" + "long" * 40
    ShardWriter(str(tmp_path), 1).write(0, range(0, 1), [(key, {"mp4": b"x"})])
    with tarfile.open(tmp_path / "shard-000000.tar") as tar:
        assert tar.getnames() == [f"{key}.mp4"]
    (tmp_path / "shard-000000.index.json").unlink()
    assert TarShards(str(tmp_path), tmp_path / "seen")[0].files == {"mp4": b"x"}


@pytest.mark.parametrize("counts", [[40, 7, 33, 1, 64], [5], [0, 3, 0]])
def test_a_stream_is_shuffled_and_each_file_read_from_the_front(counts):
    orders = [stream_order(counts, 3, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(orders[0], orders[1]) and (sum(counts) < 4 or not torch.equal(orders[0], orders[2]))
    assert sorted(orders[0].tolist()) == list(range(sum(counts)))
    begins = np.cumsum([0, *counts])
    for begin, end in zip(begins, begins[1:], strict=False):
        blocks = [int(row - begin) // 4 for row in orders[0].tolist() if begin <= row < end]
        assert all(later >= earlier - 1 for earlier, later in zip(blocks, blocks[1:], strict=False)), "hardly back"


def test_streamed_rows_are_those_of_the_files(tmp_path):
    pytest.importorskip("datasets")
    from pyarrow import Table, parquet

    rows = [{"prompt": f"row {i}", "video": bytes([i]) * 9} for i in range(70)]
    for number, part in enumerate((rows[:40], rows[40:])):
        parquet.write_table(Table.from_pylist(part), tmp_path / f"part-{number}.parquet", row_group_size=7)
    (tmp_path / "seen").mkdir()
    source = open_source(f"datasets:{tmp_path}", tmp_path / "seen")
    assert source.counts == [40, 30]
    order = stream_order(source.counts, source.lanes, streams.BLOCK, torch.Generator().manual_seed(0)).tolist()
    for index in [*order, 69, 0, 39, 40]:
        assert source[index].files["mp4"] == rows[index]["video"]
        assert source[index].fields["prompt"] == rows[index]["prompt"]


def test_rows_of_other_formats_are_counted_by_reading_them(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(2):
        (folder / f"clip{number}.mp4").write_bytes(bytes([number]) * 5)
        lines = [json.dumps({"prompt": f"{number}.{i}", "video": f"clip{number}.mp4"}) for i in range(3 + number)]
        (folder / f"part-{number}.jsonl").write_text("\n".join(lines))
    said: list[str] = []
    names = ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2", "1.3"]
    (tmp_path / "only").mkdir()
    for file in folder.glob("*.jsonl"):
        (tmp_path / "only" / file.name).write_text(file.read_text().replace('"clip', f'"{folder}/clip'))
    source = open_source(f"datasets:{tmp_path / 'only'}:train", tmp_path / "seen", said.append)
    assert source.counts == [3, 4] and len(said) == 1
    assert [source[i].fields["prompt"] for i in range(7)] == names
    assert source[6].files["mp4"] == b"\x01" * 5
    open_source(f"datasets:{tmp_path / 'only'}:train", tmp_path / "seen", said.append)
    assert len(said) == 1
