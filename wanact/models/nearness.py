"""How near everything in a picture is, read from the picture alone by a small network.

What moves how far across a picture depends on how near it is. The mean over many flights, by how far below the horizon
something lies, is right over open ground; the network begins from that mean and says how much nearer or farther each
place is, as it learned it from a simulator that knows (`python -m train nearness`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wanact.errors import UserError

FOLDER = "nearness"  # of a model directory
WEIGHTS, CONFIG = "nearness.safetensors", "config.json"
MAX_BYTES = 16 * 2**20
MAX_CHANNELS = 512

# How near what is seen is, in 1 / clip path, by its elevation over the horizon from LOWEST_DEG on: the mean over
# flights of the simulator's worlds. Far above there is the sky; below the lowest, what lies under the drone.
LOWEST_DEG, STEP_DEG = -50.0, 5.0
NEARNESS = (5.37, 3.95, 3.10, 2.04, 1.63, 1.35, 1.12, 0.85, 0.64, 0.38, 0.13, 0.06, 0.04, 0.03, 0.03)


class NearnessError(UserError):
    """A network of nearness that cannot be used; the message names the folder."""


def usual_nearness(elevation: Tensor) -> Tensor:
    """1 / distance, in clip paths, of what is usually seen at an elevation in degrees."""
    table = torch.tensor(NEARNESS, device=elevation.device)
    place = ((elevation - LOWEST_DEG) / STEP_DEG).clamp(0, len(NEARNESS) - 1.001)
    index = place.long()
    return torch.lerp(table[index], table[index + 1], place - index)


@dataclass(frozen=True)
class NearnessConfig:
    """Size of the network.

    Attributes:
        channels: at the picture's half size, and after each halving.
    """

    channels: tuple[int, ...] = (12, 24, 48, 96, 128)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        good = [type(c) is int and 4 <= c <= MAX_CHANNELS and c % 4 == 0 for c in self.channels]
        if not all(good) or not 2 <= len(good) <= 6:
            raise UserError(f"channels={str(self.channels)[:60]} must be 2 to 6 multiples of 4 up to {MAX_CHANNELS}")


class NearnessNetwork(nn.Module):
    """A picture, and how far each place lies below the horizon -> 1 / distance in clip paths, at half the size."""

    def __init__(self, config: NearnessConfig | None = None):
        super().__init__()
        self.config = config or NearnessConfig()
        first, *rest = self.config.channels
        self.enter = _layer(4, first)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        wide = first
        for channels in rest:
            self.down.append(_layer(wide, channels, stride=2))
            self.up.insert(0, _layer(channels + wide, wide))
            wide = channels
        self.middle = _layer(wide, wide)
        self.leave = nn.Conv2d(first, 1, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # a sixth faster on a CPU, which would turn every picture round and back
                module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, picture: Tensor, elevation: Tensor) -> Tensor:
        """Nearness [B, 1, H/2, W/2], above 0.

        Args:
            picture: [B, 3, H, W] in [-1, 1]; H and W are even.
            elevation: of each place over the horizon, in degrees, [B or 1, 1, H/2, W/2].
        """
        elevation = elevation.expand(len(picture), -1, -1, -1)
        usual = usual_nearness(elevation)
        x = self.enter(torch.cat([F.avg_pool2d(picture, 2), elevation.to(picture.dtype) / 45], dim=1))
        passed = []
        for layer in self.down:
            passed.append(x)
            x = layer(x)
        x = self.middle(x)
        for layer in self.up:
            beside = passed.pop()
            x = layer(torch.cat([F.interpolate(x, beside.shape[2:], mode="nearest"), beside], dim=1))
        return usual * torch.exp(self.leave(x).float().clamp(-4, 4))

    def save(self, folder: Path) -> None:
        """Write weights and configuration, as `load_nearness` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")


def _layer(wide: int, channels: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(wide, channels, 3, stride, 1), nn.GroupNorm(4, channels), nn.SiLU())


def load_nearness(folder: Path) -> NearnessNetwork | None:
    """The network in a folder, for inference; None if there is none.

    Raises:
        NearnessError: if it is damaged.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        return None
    try:
        if (folder / WEIGHTS).stat().st_size > MAX_BYTES:
            raise NearnessError(f"{folder / WEIGHTS} is larger than {MAX_BYTES >> 20} MB; it is no network of nearness")
        network = NearnessNetwork(NearnessConfig(**json.loads((folder / CONFIG).read_text())))
        network.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise NearnessError(f"the network of nearness in {folder} is damaged: {str(error).splitlines()[0]}") from error
    return network.eval().requires_grad_(False)
