"""The sample frames and prompts under assets/examples."""

from __future__ import annotations

import base64
import io
import json
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wanact.errors import UserError
from wanact.media.video import ImageError, fit_image, open_image

_PLACES = threading.BoundedSemaphore(2)  # pictures of visitors that are decoded at once
_WAIT_S = 30.0
SAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"


@dataclass(frozen=True)
class Sample:
    """A first frame to start from, with a prompt that fits it.

    Attributes:
        credit: who made the picture.
        world, take: where in the simulator the frame was taken, so that it can fly on from there; world is None for
            photographs.
        pose: of the drone there (x, y, altitude, yaw, pitch); None where `take` says it.
    """

    id: str
    path: Path
    name: str
    prompt: str
    credit: str = ""
    world: int | None = None
    take: int = 0
    pose: tuple[float, ...] | None = None

    def entry(self) -> dict[str, str]:
        """What the gallery in the browser needs, with the thumbnail as a data URL."""
        thumbnail = io.BytesIO()
        fit_image(open_image(self.path), 96, 160).save(thumbnail, "JPEG", quality=80)
        url = "data:image/jpeg;base64," + base64.b64encode(thumbnail.getvalue()).decode()
        return {"id": self.id, "name": self.name, "credit": self.credit, "thumbnail": url}


def load_samples(folder: Path = SAMPLES) -> tuple[list[Sample], list[str]]:
    """Samples and prompts as samples.json lists them; a picture that is missing is left out.

    Raises:
        ValueError: if samples.json is damaged.
    """
    index = folder / "samples.json"
    if not index.is_file():
        return [], []
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        samples = [
            Sample(
                Path(entry["file"]).stem,
                folder / entry["file"],
                entry["name"],
                entry["prompt"],
                entry.get("credit", ""),
                entry.get("world"),
                entry.get("take", 0),
                tuple(map(float, entry["pose"])) if entry.get("pose") else None,
            )
            for entry in content["samples"]
        ]
        prompts = [str(prompt) for prompt in content.get("prompts", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} is damaged: {error!r}") from error
    return [sample for sample in samples if sample.path.is_file()], prompts


def read_upload(path: str | Path, longest_side: int = 1280) -> Image.Image:
    """A visitor's picture, upright and RGB, no larger than the page needs.

    Raises:
        ImageError: in one sentence, if it cannot be used.
    """
    if not _PLACES.acquire(timeout=_WAIT_S):
        raise ImageError("Many pictures are being read just now; try again in a moment.")
    try:
        return open_image(path, longest_side=longest_side)
    finally:
        _PLACES.release()
