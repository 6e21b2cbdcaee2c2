"""A Hugging Face Space of this page: the files that it needs, laid out for `huggingface_hub` to upload.

The Hub refuses binary files that are neither in LFS nor in Xet. Its client puts there what `.gitattributes` names, so
the folder brings one that names every binary kind in it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from wanact.errors import UserError
from wanact.files import write_text

ROOT = Path(__file__).resolve().parents[2]
FILES = ("app.py", "requirements.txt", "LICENSE")
FOLDERS = ("wanact", "assets")
# What a Space replaces when it is pushed again, so that files that have gone here go there.
REPLACED = [f"{folder}/**" for folder in FOLDERS]
ATTRIBUTES = ".gitattributes"
_IN_LFS = "filter=lfs diff=lfs merge=lfs -text"
_LEFT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def prepare_space(folder: Path, model: str | None = None, runs: str | None = None) -> Path:
    """Write everything that a Space needs.

    Args:
        folder: new, or empty; becomes the root of the Space.
        model: `org/name` of a model on the Hub that is fetched when the Space is built; None flies nano.
        runs: `hf://org/name` of runs there; None for the bundled ones.

    Raises:
        UserError: if this is no checkout.
    """
    missing = [name for name in (*FILES, *FOLDERS, "README.md") if not (ROOT / name).exists()]
    if missing:
        raise UserError(f"a Space is made of a checkout of WanAct; {ROOT} has no {missing[0]}: clone the repository")
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / name)
    for name in FOLDERS:  # links stay behind: the Hub has none, and the newest and the best are found without
        shutil.copytree(ROOT / name, folder / name, ignore=_without_links, dirs_exist_ok=True)
    fetched = [name for name in (model, runs and runs.removeprefix("hf://")) if name]
    write_text(folder / "README.md", _card(fetched))
    binary = [file for file in folder.rglob("*") if file.is_file() and _is_binary(file)]
    kinds = sorted({f"*{file.suffix}" if file.suffix else file.name for file in binary})
    lines = ["# The Hub takes binary files in LFS or Xet alone.", *(f"{kind} {_IN_LFS}" for kind in kinds)]
    write_text(folder / ATTRIBUTES, "\n".join(lines) + "\n")
    return folder


def space_variables(model: str | None, runs: str | None) -> dict[str, str]:
    """Variables of the Space's settings, as app.py reads them."""
    return {name: value for name, value in (("WANACT_MODEL_DIR", model), ("WANACT_RUNS", runs)) if value}


def _without_links(folder: str, names: list[str]) -> set[str]:
    return _LEFT(folder, names) | {name for name in names if (Path(folder) / name).is_symlink()}


def _is_binary(file: Path) -> bool:
    """As git and the Hub tell: by a zero byte at its beginning."""
    with open(file, "rb") as opened:
        return b"\0" in opened.read(8000)


def _card(fetched: list[str]) -> str:
    """README.md: the head that the repository's own has, and what is fetched before the app starts."""
    head: dict[str, Any] = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    if fetched:
        head |= {"models": fetched, "preload_from_hub": fetched, "startup_duration_timeout": "1h"}
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {head['title']}\n\n"
        f"{head['short_description']}: hold W A S D to move and the arrow keys to look.\n"
    )
