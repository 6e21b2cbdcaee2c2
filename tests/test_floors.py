"""The house stands on its floors: a file imports from floors below its own, and some libraries have one home."""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# As in docs/architecture.md. A package's own files may import one another.
FLOORS = {
    "wanact.shapes": 0,
    "wanact.actions": 0,
    "wanact.video": 0,
    "wanact.tiles": 0,
    "wanact.likeness": 0,
    "wanact.flow": 0,
    "wanact.models": 1,
    "wanact.convert.__main__": 3,
    "wanact.convert": 1,
    "wanact.layouts": 2,
    "wanact.model_dir": 2,
    "wanact.weight_files": 2,
    "wanact.checkpoints": 2,
    "wanact.weight_check": 2,
    "wanact.run_index": 2,
    "wanact.run_log": 2,
    "wanact.run_notes": 2,
    "wanact.prompts": 2,
    "wanact.finetuned": 2,
    "wanact.fit_options": 2,
    "wanact.fit": 2,
    "wanact.request": 2,
    "wanact.rollout": 2,
    "wanact.pipeline": 2,
    "wanact.stream": 2,
    "wanact.flight.__main__": 3,
    "wanact.flight": 2,
    "wanact.comparison": 2,
    "wanact.replay": 2,
    "wanact.control_card.__main__": 3,
    "wanact.control_card": 2,
    "wanact.control_live": 2,
    "wanact.bench": 3,
    "wanact.ui": 3,
    "train": 3,
    "wanact.push": 3,
    "app": 4,
}

# Floors that import within themselves, and in which order: later ones may use earlier ones.
STAIRS = {
    0: ("wanact.shapes", "wanact.actions", "wanact.flow", "wanact.video", "wanact.tiles", "wanact.likeness"),
    1: ("wanact.models", "wanact.convert"),
    2: (
        "wanact.layouts",
        "wanact.model_dir",
        "wanact.weight_files",
        "wanact.checkpoints",
        "wanact.weight_check",
        "wanact.run_index",
        "wanact.run_log",
        "wanact.run_notes",
        "wanact.flight",
        "wanact.comparison",
        "wanact.prompts",
        "wanact.finetuned",
        "wanact.fit_options",
        "wanact.fit",
        "wanact.request",
        "wanact.rollout",
        "wanact.pipeline",
        "wanact.stream",
        "wanact.replay",
        "wanact.control_card",
        "wanact.control_live",
    ),
    3: (
        "wanact.convert.__main__",
        "wanact.bench",
        "wanact.ui",
        "train",
        "wanact.push",
        "wanact.control_card.__main__",
        "wanact.flight.__main__",
    ),
}

HOMES = {"gradio": "wanact.ui", "accelerate": "train"}
WAN_HOMES = ("wanact.models", "wanact.convert")
PICKLES = ("pickle", "dill", "cloudpickle", "joblib")
OURS = ("wanact", "train", "app")


def source_files() -> list[Path]:
    files = [*(ROOT / "wanact").rglob("*.py"), *(ROOT / "train").rglob("*.py"), *ROOT.glob("*.py")]
    return sorted(file for file in files if "__pycache__" not in file.parts)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """The entry of FLOORS that a module belongs to."""
    return next((part for part in FLOORS if module == part or module.startswith(part + ".")), None)


def imported_modules(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every module that a file imports anywhere in it, also inside functions, as absolute names.

    `from wanact import actions` counts as wanact.actions, `from wanact.actions import X` as wanact.actions.X.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                above = package[: len(package) - (node.level - 1)]
                base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def imports_of(file: Path) -> set[str]:
    return imported_modules(file.read_text(), module_name(file), file.name == "__init__.py")


def may_import(importer: str, imported: str) -> bool:
    if importer == imported or FLOORS[imported] < FLOORS[importer]:
        return True
    stairs = STAIRS.get(FLOORS[importer], ())
    same_floor = FLOORS[imported] == FLOORS[importer]
    return same_floor and stairs.index(imported) < stairs.index(importer)


@pytest.mark.parametrize("file", source_files(), ids=module_name)
def test_imports_point_downward(file):
    importer = part_of(module_name(file))
    if module_name(file) == "wanact":
        assert not {name for name in imports_of(file) if name.split(".")[0] in OURS}
        return
    assert importer is not None, f"{module_name(file)} is on no floor; add it to FLOORS and docs/architecture.md"
    for imported in filter(None, map(part_of, imports_of(file))):
        assert may_import(importer, imported), f"{module_name(file)} imports {imported}, which is not below it"


@pytest.mark.parametrize("file", source_files(), ids=module_name)
def test_each_library_is_imported_only_where_it_lives(file):
    for name in imports_of(file):
        home = HOMES.get(name.split(".")[0])
        assert home is None or part_of(module_name(file)) == home, (
            f"{module_name(file)} imports {name}; only {home} may"
        )


@pytest.mark.parametrize("file", source_files(), ids=module_name)
def test_only_the_models_name_the_wan_classes_of_diffusers(file):
    if part_of(module_name(file)) in WAN_HOMES:
        return
    wan = {name for name in imports_of(file) if name.startswith("diffusers") and "wan" in name.lower()}
    assert not wan, f"{module_name(file)} imports {wan}; import them through wanact.models"


@pytest.mark.parametrize("file", source_files(), ids=module_name)
def test_nothing_unpickles_or_trusts_downloaded_code(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            forbidden = {("weights_only", False), ("trust_remote_code", True), ("shell", True), ("allow_pickle", True)}
            assert (node.arg, node.value.value) not in forbidden, f"{file}:{node.value.lineno}: {node.arg}"
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
            caught = ast.unparse(node.type) if node.type else "everything"
            broad = {"everything", "Exception", "BaseException"}
            assert caught not in broad, f"{file}:{node.lineno} swallows {caught}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in PICKLES:
            assert node.attr == "UnpicklingError", f"{file}:{node.lineno}: {ast.unparse(node)}"
    pickles = {name for name in imports_of(file) if name.split(".")[0] in PICKLES}
    assert pickles <= {"pickle", "pickle.UnpicklingError"}, f"{file} imports {pickles}"


# Where the name of an import is not the name of its package.
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "skimage": "scikit-image", "yaml": "pyyaml"}

# Used if they are there: hosts and trackers bring their own, and what measures in a browser is for developers.
EXTRAS = {"spaces", "playwright", "flash_attn", "torchao", "wandb", "trackio", "tensorboard"}


def test_every_library_in_use_is_required():
    lines = (ROOT / "requirements.txt").read_text().lower().splitlines()
    required = {re.split(r"[\[<>=!~; ]", line)[0] for line in lines if line and not line.startswith("#")}
    imported = {name.split(".")[0] for file in source_files() for name in imports_of(file)}
    libraries = imported - set(sys.stdlib_module_names) - set(OURS) - EXTRAS
    assert {PACKAGES.get(name, name).lower() for name in libraries} <= required


def test_every_part_has_its_stair():
    for floor in range(4):
        assert set(STAIRS[floor]) == {part for part, number in FLOORS.items() if number == floor}


def test_the_walk_sees_imports_in_functions_and_relative_ones():
    source = "import torch.nn\ndef f():\n from wanact import stream\n from .vae import decode\n from .. import flow\n"
    assert imported_modules(source, "wanact.models.transformer") == {
        "torch.nn",
        "wanact.stream",
        "wanact.models.vae.decode",
        "wanact.flow",
    }
    assert imported_modules("from . import vae", "wanact.models", is_package=True) == {"wanact.models.vae"}


def test_the_rule_forbids_going_up():
    assert may_import("wanact.pipeline", "wanact.models")
    assert not may_import("wanact.models", "wanact.pipeline")
    assert not may_import("wanact.ui", "train")
    assert not may_import("wanact.actions", "wanact.video")
