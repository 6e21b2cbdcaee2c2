"""The house stands on its floors: a file imports from floors below its own, and some libraries have one home."""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# As in docs/architecture.md, the ground floor first. A file imports its own room and rooms on floors below; the doors
# (`__main__`, which look a command up by its name) are on the floor of what they open.
STOREYS = (
    ("wanact.errors",),
    ("wanact.shapes", "wanact.flow", "wanact.files", "wanact.media"),
    ("wanact.actions",),
    ("wanact.models", "wanact.world"),
    ("wanact.weights", "wanact.data"),
    ("wanact.runs",),
    ("wanact.flying", "wanact.control_card", "train.data", "train.loop"),
    ("wanact.bench", "wanact.ui", "train.stages", "train.pilot"),
    ("app", "wanact.commands", "wanact.__main__", "train.commands", "train.__main__"),
)
FLOORS = {room: floor for floor, rooms in enumerate(STOREYS) for room in rooms}

# Where former command lines say what they are called now: they import nothing of ours.
SIGNPOSTS = (
    "wanact.flight",
    "wanact.convert",
    "wanact.push",
    "wanact.bench.__main__",
    "wanact.control_card.__main__",
    "train.bench",
    "train.crash_test",
)

HOMES = {
    "gradio": "wanact.ui",
    "accelerate": "train.loop",
    "gymnasium": "train.pilot",
    "stable_baselines3": "train.pilot",
}
WAN_HOMES = ("wanact.models", "wanact.weights")
PICKLES = ("pickle", "dill", "cloudpickle", "joblib")
OURS = ("wanact", "train", "app")


def source_files() -> list[Path]:
    files = [*(ROOT / "wanact").rglob("*.py"), *(ROOT / "train").rglob("*.py"), *ROOT.glob("*.py")]
    return sorted(file for file in files if "__pycache__" not in file.parts)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str | None:
    """The room that a module belongs to."""
    return next((part for part in FLOORS if module == part or module.startswith(part + ".")), None)


def imported_modules(source: str, module: str, is_package: bool = False) -> set[str]:
    """Every module that a file imports anywhere in it, also inside functions, as absolute names.

    `from wanact import actions` counts as wanact.actions, `from wanact.actions import X` as wanact.actions.X.
    """
    return imported_in(ast.parse(source), module, is_package)


def imported_in(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """The same of a file that is parsed already."""
    found = set()
    for node in ast.walk(tree):
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
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@functools.cache
def imports_of(file: Path) -> set[str]:
    return imported_in(parsed(file), module_name(file), file.name == "__init__.py")


def may_import(importer: str, imported: str) -> bool:
    return importer == imported or FLOORS[imported] < FLOORS[importer]


def test_imports_point_downward():
    for file in source_files():
        name = module_name(file)
        ours = {imported for imported in imports_of(file) if imported.split(".")[0] in OURS}
        if name in ("wanact", "train") or name.startswith(SIGNPOSTS):
            assert not ours, f"{name} imports {ours}"
            continue
        importer = part_of(name)
        assert importer is not None, f"{name} is on no floor; add its room to STOREYS and docs/architecture.md"
        for imported in ours:
            below = part_of(imported)
            assert below is not None, f"{name} imports {imported}, which is on no floor"
            assert may_import(importer, below), f"{name} imports {imported}, which is not below it"


def test_the_house_is_not_too_high_and_its_hallway_not_crowded():
    modules = {file.stem for file in (ROOT / "wanact").glob("*.py")} - {"__init__", "__main__"}
    packages = {file.parent.name for file in (ROOT / "wanact").glob("*/__init__.py")}
    packages -= {name.partition(".")[2] for name in SIGNPOSTS}  # nobody lives there
    assert len(STOREYS) <= 9 and len(modules) <= 6 and len(packages) <= 12


def test_each_library_is_imported_only_where_it_lives():
    for file in source_files():
        for name in imports_of(file):
            home = HOMES.get(name.split(".")[0])
            assert home is None or part_of(module_name(file)) == home, (
                f"{module_name(file)} imports {name}; only {home} may"
            )


def test_only_the_models_name_the_wan_classes_of_diffusers():
    for file in source_files():
        wan = {name for name in imports_of(file) if name.startswith("diffusers") and "wan" in name.lower()}
        at_home = part_of(module_name(file)) in WAN_HOMES
        assert at_home or not wan, f"{module_name(file)} imports {wan}; import them through wanact.models"


def test_nothing_unpickles_or_trusts_downloaded_code():
    forbidden = {("weights_only", False), ("trust_remote_code", True), ("shell", True), ("allow_pickle", True)}
    for file in source_files():
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
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

# Used if they are there: hosts and trackers bring their own, what measures in a browser is for developers, and who
# imports footage or trains a pilot installs what that needs.
EXTRAS = {
    *("spaces", "playwright", "flash_attn", "torchao", "wandb", "trackio", "tensorboard"),
    *("h5py", "pycolmap", "pyulog", "pymavlink", "srt"),  # of wanact[footage], each read by one importer
    *("datasets", "pyarrow"),  # of wanact[shards]: what `datasets:NAME` is streamed with
    *("gymnasium", "stable_baselines3"),  # of requirements-pilot.txt
}


def test_every_library_in_use_is_required():
    lines = (ROOT / "requirements.txt").read_text().lower().splitlines()
    required = {re.split(r"[\[<>=!~; ]", line)[0] for line in lines if line and not line.startswith("#")}
    imported = {name.split(".")[0] for file in source_files() for name in imports_of(file)}
    libraries = imported - set(sys.stdlib_module_names) - set(OURS) - EXTRAS
    assert {PACKAGES.get(name, name).lower() for name in libraries} <= required


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
    assert may_import("wanact.flying", "wanact.models")
    assert not may_import("wanact.models", "wanact.flying")
    assert not may_import("wanact.ui", "train.stages")
    assert not may_import("wanact.actions", "wanact.models")


def print_storeys() -> None:
    """The house from the roof down, with the lines of each room."""
    for floor in reversed(range(len(STOREYS))):
        files = {room: [f for f in source_files() if part_of(module_name(f)) == room] for room in STOREYS[floor]}
        rooms = (f"{room} ({sum(len(f.read_text().splitlines()) for f in files[room])})" for room in files)
        print(f"{floor + 1}  {', '.join(rooms)}")


if __name__ == "__main__":
    print_storeys()
