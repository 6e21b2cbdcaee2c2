"""Put a run's checkpoints on the Hugging Face Hub, or the page itself as a Space.

    python -m wanact push RUN org/name [--steps 552 1104] [--private] [--dry_run FOLDER]
    python -m wanact push --space user/name [--model_dir org/name] [--runs hf://org/name] [--hardware zero-a10g]

`--runs hf://org/name` of the app then lists the run. Only what flies is uploaded, not what training needs to go on. A
Space gets the code, the bundled world and its runs, and the variables that name another model and other runs.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, SpaceHardware
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from wanact.commands.space import ATTRIBUTES, REPLACED, prepare_space, space_variables
from wanact.errors import UserError
from wanact.files import place, write_json
from wanact.runs import store
from wanact.runs.publish import publish
from wanact.runs.ref import CHECKPOINTS, RUN_CONFIG, base_of
from wanact.runs.store import CheckpointInfo

RELEASE = "Wan-AI/Wan2.2-TI2V-5B"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (RUN_CONFIG, store.CONTROLLER, store.LORA, store.TRANSFORMER)


def prepare(run: Path, folder: Path, hub_id: str, steps: list[int] | None = None) -> Path:
    """Write what is uploaded: the run under its name, and README.md.

    Args:
        run: a run, or a folder with exported weights.
        folder: new; becomes the root of the repository.
        hub_id: `org/name`, for the card.
        steps: which checkpoints; all if not given.

    Raises:
        CheckpointError: if there is nothing to fly, a step is not there, or one is damaged.
    """
    target = folder / run.resolve().name
    if store.list_checkpoints(run):
        publish(run, target, steps)
        for entry in (target / CHECKPOINTS).iterdir():
            if entry.is_symlink():  # the Hub has none; the newest and the best are found without
                entry.unlink()
    else:
        weights = store.load_flight_weights(run)
        target.mkdir(parents=True)
        for name in _FILES:
            if (run / name).is_file():
                shutil.copyfile(run / name, target / name)
        write_json(target / RUN_CONFIG, weights.config)
    info = store.run_info(target)
    (folder / "README.md").write_text(model_card(hub_id, info.name, info.config, info.checkpoints), encoding="utf-8")
    return folder


def model_card(hub_id: str, name: str, config: dict[str, Any], steps: Sequence[CheckpointInfo]) -> str:
    """The README.md of a repository with one run."""
    base = base_of(config)
    is_release = "wan2.2-ti2v-5b" in base.lower()
    controller = config.get("action_controller_config") or {}
    rows = "\n".join(f"| {info.step:,} | {_number(info.loss)} | {info.saved_at or '–'} |" for info in steps)
    table = f"\n## Checkpoints\n\n| step | loss | saved |\n| ---: | ---: | --- |\n{rows}\n" if steps else ""
    settings = "\n".join(f"| `{key}` | `{value}` |" for key, value in controller.items())
    link = f"[{RELEASE}](https://huggingface.co/{RELEASE})" if is_release else Path(base).name or "unknown"
    front = [
        "---",
        "license: apache-2.0",
        *([f"base_model: {RELEASE}", "base_model_relation: adapter"] if is_release else []),
        "pipeline_tag: image-to-video",
        "library_name: wanact",
        "tags:",
        "  - world-model",
        "  - action-control",
        "  - wan2.2",
        "---",
    ]
    return "\n".join(front) + (
        f"\n\n# {name}\n\n"
        "An action controller for a Wan video model: a first frame and a prompt set the scene, and eight channels "
        "(forward, back, left, right, yaw left, yaw right, pitch up, pitch down) steer every latent frame.\n\n"
        f"Base model: {link}. "
        f"Magnitudes are multiplied by `{config.get('action_magnitude_scale')}` before the model sees them.\n\n"
        f"## Fly it\n\n```sh\npython app.py --model_dir DIR --runs hf://{hub_id}\n```\n"
        f"{table}\n## Controller\n\n| setting | value |\n| --- | --- |\n{settings}\n"
    )


def push(folder: Path, hub_id: str, *, private: bool = False, api: HfApi | None = None) -> str:
    """Upload a prepared folder; the repository is made if it is not there.

    Returns:
        Its address.

    Raises:
        UserError: for a wrong name, a missing right, or no way to the Hub.
    """
    api = api or HfApi()
    with _words_of_the_hub():
        api.create_repo(hub_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Checkpoints that fly in WanAct")
    return f"{api.endpoint}/{hub_id}"


def _hardware(name: str | None) -> SpaceHardware | None:
    known = [one.value for one in SpaceHardware]
    if name and name not in known:
        raise UserError(f"--hardware {name!r} must be one of the Hub's names: {', '.join(known)}")
    return SpaceHardware(name) if name else None


def push_space(
    folder: Path,
    hub_id: str,
    variables: dict[str, str],
    *,
    hardware: str | None = None,
    private: bool = False,
    api: HfApi | None = None,
) -> str:
    """Upload what `prepare_space` wrote; the Space is made if it is not there, and brought up to date if it is.

    Returns:
        Its address.

    Raises:
        UserError: for a wrong name, a missing right, or no way to the Hub.
    """
    wanted = _hardware(hardware)
    api = api or HfApi()
    with _words_of_the_hub():
        api.create_repo(hub_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        for key, value in variables.items():  # before the files, which make it start
            api.add_space_variable(hub_id, key, value)
        if wanted:
            api.request_space_hardware(hub_id, wanted)
        # First what says which files are binary: the Hub tells the client by what it has, where to put each file.
        attributes = folder / ATTRIBUTES
        api.upload_file(path_or_fileobj=attributes, path_in_repo=ATTRIBUTES, repo_id=hub_id, repo_type="space")
        api.upload_folder(
            repo_id=hub_id,
            repo_type="space",
            folder_path=folder,
            delete_patterns=REPLACED,
            commit_message="WanAct",
        )
    return f"{api.endpoint}/spaces/{hub_id}"


@contextlib.contextmanager
def _words_of_the_hub() -> Iterator[None]:
    """What the Hub and its client refuse becomes a UserError."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UserError("no token of the Hub is on this machine; run `hf auth login` or set HF_TOKEN") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise UserError(str(error)) from error


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Upload a run or a Space; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wanact push", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=place, nargs="?", help="run folder")
    parser.add_argument("hub_id", nargs="?", help="org/name of the repository")
    parser.add_argument("--space", metavar="USER/NAME", help="make or update this Space instead; no run is named then")
    parser.add_argument("--model_dir", metavar="ORG/NAME", help="of a Space: a model on the Hub instead of nano")
    parser.add_argument("--runs", metavar="hf://ORG/NAME", help="of a Space: runs on the Hub instead of the bundled")
    parser.add_argument(
        "--hardware", help="of a Space: as the Hub names it (zero-a10g, l4x1, ...); its own if not given"
    )
    parser.add_argument("--steps", type=int, nargs="+", help="which checkpoints; all if not given")
    parser.add_argument("--private", action="store_true", help="make a private repository if there is none")
    parser.add_argument("--dry_run", type=place, metavar="FOLDER", help="write there what would be uploaded, and stop")
    args = parser.parse_args(arguments)
    if args.space:
        if args.run or args.steps:
            parser.error("--space takes no run; push the run on its own, and name it with --runs hf://ORG/NAME")
        return _push_space(args)
    if not args.hub_id:
        parser.error("name a run and its repository, or a Space with --space USER/NAME")
    if args.dry_run:
        args.dry_run.mkdir(parents=True)
        print(f"{prepare(args.run, args.dry_run, args.hub_id, args.steps)} holds what would be uploaded")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(args.run, Path(folder), args.hub_id, args.steps)
        print(f"{args.run} is at {push(prepared, args.hub_id, private=args.private)}")
    return 0


def _push_space(args: argparse.Namespace) -> int:
    if args.model_dir and not _HUB_ID.fullmatch(args.model_dir):
        raise UserError(f"--model_dir {args.model_dir} of a Space is a model on the Hub, as in {RELEASE}")
    if args.runs and not _HUB_ID.fullmatch(args.runs.removeprefix("hf://")):
        raise UserError(f"--runs {args.runs} of a Space are on the Hub, as in hf://org/name; push them there first")
    runs = f"hf://{args.runs.removeprefix('hf://')}" if args.runs else None
    variables = space_variables(args.model_dir, runs)
    if args.dry_run:
        args.dry_run.mkdir(parents=True)
        print(f"{prepare_space(args.dry_run, args.model_dir, runs)} holds what would be uploaded")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_space(Path(folder), args.model_dir, runs)
        address = push_space(prepared, args.space, variables, hardware=args.hardware, private=args.private)
    print(f"the Space is at {address}")
    return 0
