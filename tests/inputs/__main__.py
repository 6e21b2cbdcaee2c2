"""`python -m tests.inputs FOLDER`: what is done with each file that people bring, beside what should be.

Each module beside this one has `lines(folder)`, which yields (file, what was done, what should be, whether they agree)
for the files that it knows. The exit status is 1 unless all agree.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from pathlib import Path


def main(folder: Path) -> int:
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    found = [
        line for name in names if name != "__main__" for line in import_module(f"tests.inputs.{name}").lines(folder)
    ]
    for file, done, should, agrees in found:
        print(f"{'agrees' if agrees else 'DIFFERS'}  {file}: {done}  [should be: {should}]")
    unknown = sorted({file.name for file in folder.iterdir()} - {file for file, *_ in found} - {"README.md"})
    if unknown:
        print(f"not known here: {', '.join(unknown)}")
    differing = sum(not agrees for *_, agrees in found)
    print(f"{len(found)} files, {differing} differ")
    return 1 if differing or not found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python -m tests.inputs FOLDER")
    sys.exit(main(Path(sys.argv[1])))
