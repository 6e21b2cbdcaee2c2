"""JSON and weights from files that nobody vouches for, and files and folders that are whole or as they were before.

Nothing is unpickled, headers are held against the size of their file, and JSON is read up to a sensible size.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from wanact.errors import TakenError, UserError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError, WrapValidator

_MAX_JSON_BYTES = 32 * 2**20
_MAX_HEADER_BYTES = 100 * 10**6  # safetensors' own limit
_MAX_VALUES = 2_000_000  # of a JSON: an empty list takes two bytes there and 56 here
_MANY_DIGITS = re.compile(r"(?<![\d.])\d{19,}")
_MAX_WHOLE = 2**63 - 1

Model = TypeVar("Model", bound="BaseModel")


class CheckpointError(UserError):
    """A run or checkpoint that cannot be used; the message names the file."""


_POINTER = b"version https://git-lfs.github.com/spec/"

# What file managers leave beside everything, and no program means: macOS' resource forks are `._NAME`.
_CLUTTER = {".DS_Store", "desktop.ini", "Desktop.ini", "Thumbs.db"}


def visible(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that somebody meant, in order: without what file managers leave behind."""
    return [path for path in paths if not path.name.startswith("._") and path.name not in _CLUTTER]


def pointer_problem(path: Path) -> str | None:
    """A sentence if a file is only a Git LFS pointer to what should be there, else None."""
    try:
        with open(path, "rb") as file:
            found = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return None
    return f"{path} is a Git LFS pointer; fetch the file with git lfs pull" if found else None


def _refuse_pointer(path: Path) -> None:
    problem = pointer_problem(path)
    if problem:
        raise CheckpointError(problem)


def expanded(path: str) -> str:
    """A path with `~` and environment variables replaced, as a shell does it outside of quotes.

    Raises:
        UserError: for a variable that is not set, unless something of that very name is there.
    """
    full = os.path.expandvars(os.path.expanduser(path))
    missing = re.search(r"\$(\w+|\{\w+\})", full)
    if missing and not Path(full).exists():
        raise UserError(f"{path}: the variable {missing[0]} is not set")
    return full


def place(text: str) -> Path:
    """A path on a command line, for argparse."""
    try:
        return Path(expanded(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of sensible size.

    Raises:
        CheckpointError: if it is missing, too large or no JSON object.
    """
    return parse_json(path, read_bytes(path))


def read_bytes(path: Path, max_bytes: int = _MAX_JSON_BYTES) -> bytes:
    """Content of a file of sensible size.

    Raises:
        CheckpointError: if it is missing or too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise CheckpointError(f"{path} is larger than {max_bytes >> 20} MB; it is not read")
    return data


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """A JSON object from bytes that were read from `path`.

    Raises:
        CheckpointError: if it is no JSON object.
    """
    try:
        content = parse_foreign(data)  # it passes over a byte order mark
    except ValueError as error:
        _refuse_pointer(path)
        raise CheckpointError(f"{path} is damaged: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected a JSON object")
    return content


def parse_foreign(source: str | bytes, max_values: int = _MAX_VALUES, strict: bool = False) -> Any:
    """JSON that nobody vouches for, which takes no more memory than its size suggests.

    Args:
        source: the JSON.
        max_values: more are not read.
        strict: refuse what cannot be written again everywhere: NaN, the infinities, whole numbers beyond 64 bits and
            half a surrogate pair. Else who takes a field says which.

    Raises:
        ValueError: in a clause, if it is no JSON, too deep or too much.
    """
    try:
        text = source if isinstance(source, str) else source.decode(json.detect_encoding(source))
        if (count := text.count(",") + text.count("[") + text.count("{")) > max_values:
            raise ValueError(f"it has {count:,} values, at most {max_values:,} are read")
        if not strict:
            return json.loads(text)
        many_digits = _MANY_DIGITS.search(text) is not None
        content = json.loads(text, parse_int=_whole if many_digits else None, parse_constant=_no_number)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeError as error:
        raise ValueError("it holds characters that are none") from error
    return content


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > _MAX_WHOLE:
        raise ValueError(f"it holds a whole number of {len(digits):,} digits")
    return number


def _no_number(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object so that the file is whole or as before."""
    with replacing(path) as temporary:
        temporary.write_bytes(json_bytes(content))


def write_text(path: Path, content: str) -> None:
    """Write text in UTF-8 so that the file is whole or as before."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def json_bytes(content: dict[str, Any]) -> bytes:
    """The bytes that `write_json` writes."""
    return (json.dumps(content, indent=2) + "\n").encode()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an error.

    Its name is drawn by chance: threads of a process, and processes of several machines (which have the same numbers
    where each runs in a container of its own), may write the same file at once, and the last one stands.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Bring a file or folder to the disk, where the file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Around safetensors' writing: what it says of a full disk as the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


class BusyError(UserError):
    """A folder that another process is writing into; the message says which one."""


class Lock:
    """One writer at a time, told by a lock that ends with its process, however that ends.

    Args:
        file: what is locked; made, and removed again. It says who holds it.
        what: what is being written, for the message.

    Raises:
        BusyError: if another one holds it.
        OSError: if the file cannot be made.
    """

    def __init__(self, file: Path, what: str) -> None:
        self.file, self._process = file, os.getpid()
        self._handle: int | None = None
        self._handle = self._take(what)

    def _take(self, what: str) -> int | None:
        import fcntl

        while True:
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                os.close(handle)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise BusyError(f"{what} is being written by {holder}; wait for its end, or end it") from error
                self.file.unlink(missing_ok=True)
                warnings.warn(
                    f"{what} lies on a file system without locks ({error.strerror}): see to it that nobody else writes "
                    "there",
                    stacklevel=4,
                )
                return None
            with contextlib.suppress(FileNotFoundError):  # the holder before has just removed it
                if os.path.samestat(os.fstat(handle), os.stat(self.file)):
                    break
            os.close(handle)
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk keeps the lock, if not the name
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)
        return handle

    def release(self) -> None:
        """Let others write."""
        if self._handle is not None and self._process == os.getpid():  # a forked child holds nothing of its own
            with contextlib.suppress(OSError):
                self.file.unlink()
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextlib.contextmanager
def replacing_folder(folder: Path, overwrite: bool = True) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends without an error.

    A process that is killed at any moment leaves the older one: in its place, or, between the two renames at the end,
    beside it, from where the next call puts it back first.

    Args:
        overwrite: whether something that is there already may be replaced.

    Raises:
        TakenError: if it is there and may not be replaced.
        BusyError: if another process is writing it.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    words = ("lock", "writing", "replaced", "deleting")
    lock, writing, replaced, deleting = (folder.with_name(f".{folder.name}.{word}") for word in words)

    def discard() -> None:
        """Half of a folder must not keep the name under which a whole one would be put back."""
        shutil.rmtree(deleting, ignore_errors=True)
        if replaced.exists():
            os.rename(replaced, deleting)
            shutil.rmtree(deleting, ignore_errors=True)

    with Lock(lock, str(folder)):
        if replaced.exists() and not folder.exists():
            os.rename(replaced, folder)
        discard()
        if folder.exists() and not overwrite:
            raise TakenError(f"{folder} exists; choose another folder or remove it")
        shutil.rmtree(writing, ignore_errors=True)
        try:
            writing.mkdir()
            with disk_errors():
                yield writing
            for file in (*writing.rglob("*"), writing):
                if not file.is_symlink():
                    sync(file)
            if folder.exists():
                os.rename(folder, replaced)
            os.rename(writing, folder)
            sync(folder.parent)
        except BaseException:
            if replaced.exists() and not folder.exists():
                os.rename(replaced, folder)
            raise
        finally:
            shutil.rmtree(writing, ignore_errors=True)
        discard()


def load_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Named tensors from a .safetensors or .pt file; pickled objects are never built.

    Raises:
        CheckpointError: if it is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _tensors_only(load_state(path), path)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_safetensors(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def check_safetensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, checked against the size of the file.

    Raises:
        CheckpointError: if the header is too large, no JSON, or names bytes that the file has not.
    """
    _refuse_pointer(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(f"{path} is truncated or no safetensors file: its header does not fit")
        try:
            header = parse_foreign(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} has a damaged safetensors header") from error
    if 8 + length + end != size:
        raise CheckpointError(f"{path} has {size} bytes, its header speaks of {8 + length + end}: it is truncated")
    return header


def load_state(path: Path, mmap: bool = False) -> Any:
    """Content of a .pt file: tensors, numbers, strings and containers of them.

    Args:
        mmap: leave tensors on the disk until they are used, so that the processes of a machine share their memory.

    Raises:
        CheckpointError: if it is damaged, or a pickle of other objects, which could run code.
    """
    import pickle

    import torch

    _refuse_pointer(path)
    try:
        with open(path, "rb") as file:
            begin = file.read(2)
        if begin[:1] != b"\x80" and begin != b"PK":
            raise CheckpointError(
                f"{path} cannot be read as tensors (.pt, .safetensors); a pickle of other kinds is not loaded: a "
                "pickle can run code"
            )
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds pickled objects and not only tensors, so it is not loaded: a pickle can run code. "
            "Save its state_dict as .safetensors instead"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damage makes the unpickler fail in every way there is
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read: it is damaged ({reason})") from error


def _tensors_only(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state_dict", "module"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} does not hold named tensors; expected a state_dict")
    return content


# JSON that people, pages and programs send: pydantic models say what is taken, and these what their fields may hold.
# pydantic is imported where a model is made, so that who only reads runs does not wait for it.

_WORDS = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "int_type": "a whole number",
    "bool_type": "true or false",
}
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxlong = _brief.maxother = 40


class _Clause(ValueError):
    """What is wrong, in a clause of its own."""


@contextlib.contextmanager
def refusing(refuse: Callable[[str], Exception]) -> Iterator[None]:
    """Turn pydantic's error into ours, which `refuse` makes of the first problem in words."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        raise refuse(first_problem(error)) from error


def read_model(model: type[Model], content: Any, refuse: Callable[[str], Exception]) -> Model:
    """Content that nobody vouches for, as a model: nothing is converted, text is no number and true is not 1.

    Raises:
        what `refuse` makes of a clause such as "seed is -1, expected a whole number from 0 to 9".
    """
    with refusing(refuse):
        return model.model_validate(content, strict=True)


def first_problem(error: ValidationError) -> str:
    """The first thing that a model has refused: the field's name, its value, and what was expected."""
    problem = error.errors(include_url=False)[0]
    name, reason = ".".join(map(str, problem["loc"])), problem.get("ctx", {}).get("error")
    if isinstance(reason, _Clause):
        return str(reason).format(name=problem["loc"][-1])
    if problem["type"] == "missing":
        return f"“{name}” is missing"
    literal = str(problem.get("ctx", {}).get("expected", "")).replace("'", "")
    expected = str(reason) if reason is not None else literal or _WORDS.get(problem["type"], problem["msg"])
    return f"{name or 'the content'} is {_brief.repr(problem['input'])}, expected {expected}"


def whole(low: int, high: int = 2**53, floats: bool = False) -> WrapValidator:
    """Of a field: a whole number in a range; with `floats`, 3.0 is one."""
    words = f"a whole number from {low}" + (f" to {high}" if high < 2**53 else "")

    def take(value: Any, validate: Callable[[Any], Any]) -> int:
        taken = validate(int(value) if floats and isinstance(value, float) and value.is_integer() else value)
        if not low <= taken <= high:
            raise ValueError
        return taken

    return _expecting(words, take)


def number(low: float = -math.inf, high: float = math.inf) -> WrapValidator:
    """Of a field: a finite number, in a range."""
    words = "a number" + (f" from {low:g} to {high:g}" if math.isfinite(high) else "")

    def take(value: Any, validate: Callable[[Any], Any]) -> float:
        taken = validate(value)
        if not math.isfinite(taken) or not low <= taken <= high:
            raise ValueError
        return taken

    return _expecting(words, take)


def text(longest: int = _MAX_JSON_BYTES, shortest: int = 0) -> WrapValidator:
    """Of a field: text of so many characters, without lone surrogates, which no file can hold."""
    words = f"text of {shortest} to {longest:,} characters" if longest < _MAX_JSON_BYTES else "text"

    def take(value: Any, validate: Callable[[Any], Any]) -> str:
        taken = validate(value)
        if not shortest <= len(taken) <= longest:
            raise ValueError
        taken.encode()
        return taken

    return _expecting(words, take)


def plain() -> WrapValidator:
    """Of a field that holds an object of any kind: it can be written as JSON again."""

    def take(value: Any, validate: Callable[[Any], Any]) -> Any:
        taken = validate(value)
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError):
            raise ValueError("an object of finite numbers and readable text") from None
        return taken

    from pydantic import WrapValidator

    return WrapValidator(take)


def says(clause: str, inside: bool = True) -> WrapValidator:
    """Of a field: what is said instead of its value and what was expected; {name} is its own name or place.

    Args:
        inside: also where the problem is inside of it; else what is inside says its own.
    """
    from pydantic import ValidationError, WrapValidator

    def take(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            if not inside and error.errors(include_url=False)[0]["loc"]:
                raise
            raise _Clause(clause) from None

    return WrapValidator(take)


def otherwise(value: Any) -> WrapValidator:
    """Of a field: what it counts as if it is malformed."""
    from pydantic import ValidationError, WrapValidator

    def take(given: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(given)
        except ValidationError:
            return value

    return WrapValidator(take)


def _expecting(words: str, take: Callable[[Any, Callable[[Any], Any]], Any]) -> WrapValidator:
    from pydantic import ValidationError, WrapValidator

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return take(value, validate)
        except (ValidationError, ValueError, OverflowError):
            raise ValueError(words) from None

    return WrapValidator(check)
