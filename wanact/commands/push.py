"""Put a run's checkpoints on the Hugging Face Hub, with a model card filled from their metadata.

    python -m wanact push RUN org/name [--steps 552 1104] [--private] [--dry_run FOLDER]

`--runs hf://org/name` of the app then lists them. Only what flies is uploaded, not what training needs to go on.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from wanact.errors import UserError
from wanact.files import place, write_json
from wanact.runs import store
from wanact.runs.publish import publish
from wanact.runs.ref import CHECKPOINTS, RUN_CONFIG, base_of
from wanact.runs.store import CheckpointInfo

RELEASE = "Wan-AI/Wan2.2-TI2V-5B"
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
    try:
        api.create_repo(hub_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message="Checkpoints that fly in WanAct")
    except LocalTokenNotFoundError as error:
        raise UserError("no token of the Hub is on this machine; run `hf auth login` or set HF_TOKEN") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise UserError(str(error)) from error
    return f"{api.endpoint}/{hub_id}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Upload a run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wanact push", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=place, help="run folder")
    parser.add_argument("hub_id", help="org/name of the repository")
    parser.add_argument("--steps", type=int, nargs="+", help="which checkpoints; all if not given")
    parser.add_argument("--private", action="store_true", help="make a private repository if there is none")
    parser.add_argument("--dry_run", type=place, metavar="FOLDER", help="write there what would be uploaded, and stop")
    args = parser.parse_args(arguments)
    if args.dry_run:
        args.dry_run.mkdir(parents=True)
        print(f"{prepare(args.run, args.dry_run, args.hub_id, args.steps)} holds what would be uploaded")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(args.run, Path(folder), args.hub_id, args.steps)
        print(f"{args.run} is at {push(prepared, args.hub_id, private=args.private)}")
    return 0
