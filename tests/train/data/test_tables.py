"""Tables as people and their programs write them are read, or what is wrong is called what it is."""

from __future__ import annotations

import json
import unicodedata
import warnings

import pytest

from train.data.csv import DataError, RowError, parse_row, read_records, windows
from wanact.actions import ActionTrack

TRACK = ActionTrack.from_keys([[1, 0, 0, 0, 0, 0, 0, 0]] * 2).to_json()
SAID = "a drone flies over a lake, at noon"


def table(separator=",", names=("video", "prompt", "action"), prompt=SAID):
    """A header and a row, quoted where it is needed."""
    fields = [f'"{field}"' if separator in field else field for field in ("a.mp4", prompt, TRACK)]
    return separator.join(names) + "\n" + separator.join(fields) + "\n"


@pytest.fixture
def read(tmp_path):
    """Rows of a table with this content, parsed; the clip is there."""
    (tmp_path / "a.mp4").touch()

    def read(content, name="clips.csv", needs_actions=True):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        records = read_records(path, needs_actions)
        return [parse_row(record, i, tmp_path, 9, needs_actions) for i, record in enumerate(records, start=1)]

    return read


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_separators_marks_and_line_ends_of_every_program_are_read(read, separator, encoding, line_end):
    (row,) = read(table(separator).replace("\n", line_end).encode(encoding))
    assert row.prompt == SAID and len(row.track) == 2


def test_excels_own_first_line_and_typed_blanks_are_read(read):
    (row,) = read("sep=;\n" + table(";"))
    assert row.prompt == SAID
    (row,) = read(f'video , prompt, Action\na.mp4, "{SAID}", "{TRACK}"\n')
    assert row.prompt == SAID and row.track is not None


def test_an_unquoted_comma_is_named_with_its_row(read, tmp_path):
    content = table() + f'a.mp4,{SAID},"{TRACK}"\n'
    with pytest.raises(RowError, match="row 2 has 4 fields, the header 3; put text that holds a comma into quotes"):
        read(content)
    assert len(read_records(tmp_path / "clips.csv")) == 2, "the other row is read"


def test_quotes_that_do_not_match_are_named_with_their_row(read):
    with pytest.raises(DataError, match=r"clips.csv: the quotes of row 2 \(line \d\) do not match"):
        read(table() + 'a.mp4,"he said "left", then,"[]"\n')


def test_another_encoding_is_named_with_its_place(read):
    content = table() + table(prompt="the pilot\u2019s café").partition("\n")[2]
    with pytest.raises(DataError, match=r"clips.csv is not UTF-8: line 3 has the byte 0x92; save it as UTF-8"):
        read(content.encode("cp1252"))


@pytest.mark.parametrize(
    "beginning, words",
    [(b"PK\x03\x04", "Excel"), (b"PAR1", "Parquet"), (b"version https://git-lfs.github.com/spec/v1", "git lfs pull")],
)
def test_what_is_no_table_is_called_what_it_is(read, beginning, words):
    with pytest.raises(DataError, match=words):
        read(beginning + b" something")


@pytest.mark.parametrize("name", ["caption", "text", "Caption "])
def test_captions_are_read_as_prompts_with_a_word(read, name):
    with pytest.warns(UserWarning, match=f"no column prompt; {name.strip().lower()} is read as prompt"):
        (row,) = read(table(names=("video", name, "action")))
    assert row.prompt == SAID
    with pytest.warns(UserWarning, match="caption is read as prompt"):
        (row,) = read(json.dumps([{"video": "a.mp4", "caption": SAID, "action": TRACK}]), "clips.json")
    assert row.prompt == SAID


@pytest.mark.parametrize(
    "names, message",
    [
        (("video", "promt", "action"), "no column prompt, but promt; rename promt to prompt"),
        (("video", "prompt", "actions"), "no column action, only video, prompt, actions; rename actions to action"),
        (("file_name", "prompt", "action"), "no column video, .*; rename file_name to video"),
        (("video", "prompt", "notes"), "no column action, only video, prompt, notes"),
    ],
)
def test_a_missing_column_is_named_with_what_may_be_meant(read, names, message):
    with pytest.raises(DataError, match=message):
        read(table(names=names))


def test_columns_that_are_not_read_are_named_and_only_those(read):
    with pytest.warns(UserWarning, match="not read: column altitude, wind"):
        read(json.dumps([{"video": "a.mp4", "prompt": "", "action": TRACK, "altitude": 3, "wind": 1}]), "clips.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(table())


def test_line_separators_inside_a_text_do_not_part_a_row(read):
    odd = "one\u2028two\u2029three\x85four\x0bfive"
    line = json.dumps({"video": "a.mp4", "prompt": odd, "action": TRACK}, ensure_ascii=False)
    (row,) = read(line + "\n" if "\x0b" not in line else line.replace("\x0b", "\\u000b") + "\n", "clips.jsonl")
    assert row.prompt == odd
    (row,) = read(table(prompt=odd))
    assert row.prompt == odd


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_are_found_as_other_systems_write_their_names(tmp_path, monkeypatch, form):
    folder = tmp_path / unicodedata.normalize(form, "été")
    folder.mkdir()
    (folder / unicodedata.normalize(form, "café.mp4")).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLIPS", str(folder))
    other = unicodedata.normalize({"NFC": "NFD", "NFD": "NFC"}[form], "été/café.mp4")
    odd = ["été\\café.mp4", ".\\été\\café.mp4", "~/été/café.mp4", "$CLIPS/café.mp4", f"{tmp_path}/été/café.mp4", other]
    for name in odd:
        row = parse_row({"video": name}, 1, tmp_path, 9, False)
        assert row.video.is_file(), name
    with pytest.raises(RowError, match="file is missing"):
        parse_row({"video": "été/cafe.mp4"}, 1, tmp_path, 9, False)


@pytest.mark.parametrize(
    "record, first",
    [({}, 0), ({"start": 0}, 0), ({"start": "2.0"}, 32), ({"start": 2.1, "end": ""}, 32), ({"start": 1, "end": 3}, 16)],
)
def test_a_part_begins_at_a_latent_frame(tmp_path, record, first):
    assert windows({"video": "a.mp4"} | record, tmp_path, 9, 16.0, None) == [first]


@pytest.mark.parametrize(
    "record, message",
    [
        ({"start": "soon"}, "start is 'soon', expected seconds"),
        ({"start": -1}, "start is -1, expected seconds"),
        ({"start": 3, "end": 2}, "end 2 s must be after start 3 s"),
        ({"start": 3, "end": 3.25}, "3 s to end 3.25 s are 4 frames at 16 a second, but a clip has 9"),
    ],
)
def test_a_part_that_is_none_says_so(tmp_path, record, message):
    with pytest.raises(RowError, match=message):
        windows({"video": "a.mp4"} | record, tmp_path, 9, 16.0, None)
