"""Where an inverse dynamics model looks: its masks of a clip, laid over the pictures on Data and on Compare."""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

import numpy as np
import torch
from PIL import Image

from wanact.errors import UserError
from wanact.files import CheckpointError, read_json
from wanact.models.idm import CONFIG, WEIGHTS, IDMError
from wanact.models.masked_idm import SECTION, MaskedIDMConfig, MaskedInverseDynamics, load_masked_idm
from wanact.runs import store
from wanact.runs.index import Entry, RunIndex
from wanact.shapes import TEMPORAL_STRIDE

NONE = "No run here has a network of masks; `python -m train idm_mask` trains one into a folder of --runs."
CELLS = (24, 40)  # rows and columns that a mask is averaged to
MOST_PARAMETERS = 20e6  # of a network that reads masks for visitors, beside the model that draws for them
MOST_FRAMES = 321
PATIENCE_S = 30.0


class Masks:
    """The newest network of masks among the runs. One clip is read at a time, whoever asks.

    Args:
        index: the runs.
    """

    def __init__(self, index: RunIndex):
        self._index = index
        self._reading = threading.Lock()
        self._kept: tuple[tuple, MaskedInverseDynamics] | None = None

    def told(self) -> dict[str, str]:
        """What a page says of it: {"by": run and step}, or {"problem": why there are no masks}."""
        try:
            return {"by": _named(self._newest())}
        except UserError as error:
            return {"problem": str(error)}

    def read(self, frames: np.ndarray) -> dict[str, Any]:
        """The masks of a clip, one below the other, as a picture.

        Args:
            frames: uint8 [F, H, W, 3]; those after the last whole latent frame, and after the 321st, are not read.

        Returns:
            {"strip": a data URL of greys, white where the network looks, "count": latent frames, "rows", "columns"}.

        Raises:
            UserError: if there is no network, it is too large, the clip too short, or many ask.
        """
        whole = (min(len(frames), MOST_FRAMES) - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        if whole < 1 + TEMPORAL_STRIDE:
            raise UserError(f"A clip of {len(frames)} frames is too short for masks; they need {1 + TEMPORAL_STRIDE}.")
        if not self._reading.acquire(timeout=PATIENCE_S):
            raise UserError("Masks of other clips are being read just now; try again in a moment.")
        try:
            masks = self._network().get_mask(frames[:whole], CELLS)[0]  # [T, rows, columns]
        finally:
            self._reading.release()
        greys = (255 * masks).round().clamp(0, 255).to(torch.uint8).flatten(0, 1).numpy()
        file = io.BytesIO()
        Image.fromarray(greys).save(file, "PNG")
        strip = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        return {"strip": strip, "count": len(masks), "rows": CELLS[0], "columns": CELLS[1]}

    def _newest(self) -> Entry:
        found = [entry for entry in self._index.entries() if entry.state != "damaged" and _has_mask(entry)]
        if not found:
            raise UserError(NONE)
        return max(found, key=lambda entry: (entry.saved_at, entry.step or 0))

    def _network(self) -> MaskedInverseDynamics:
        entry = self._newest()
        key = (entry.id, entry.stamp)
        if self._kept is None or self._kept[0] != key:
            parameters = _parameters(entry)
            if parameters > MOST_PARAMETERS:
                raise UserError(
                    f"The network of {_named(entry)} has {parameters / 1e6:.0f} M parameters; this page reads masks "
                    f"with up to {MOST_PARAMETERS / 1e6:.0f} M."
                )
            try:
                store.verify(entry.path)
                self._kept = key, load_masked_idm(entry.path)
            except (CheckpointError, IDMError) as error:
                raise UserError(self._index.plain(str(error))) from error
        return self._kept[1]


def _named(entry: Entry) -> str:
    return entry.run if entry.step is None else f"{entry.run} · step {entry.step:,}"


def _has_mask(entry: Entry) -> bool:
    try:
        return (entry.path / WEIGHTS).is_file() and SECTION in read_json(entry.path / CONFIG)
    except (CheckpointError, OSError):
        return False


def _parameters(entry: Entry) -> int:
    """Of the network that a configuration describes, which is not built."""
    try:
        config = MaskedIDMConfig(**read_json(entry.path / CONFIG)[SECTION])
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in MaskedInverseDynamics(config).parameters())
    except (TypeError, CheckpointError) as error:
        raise UserError(f"The network of {_named(entry)} cannot be read: its configuration is damaged.") from error
