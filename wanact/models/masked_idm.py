"""Inverse dynamics with a mask: a U-Net says which pixels matter, a residual network reads the action from them alone.

The mask learns from the error of the action and is kept small by its own size, so that what stays in it is the body
that acts: of a robot its arms, of a drone's flight what shows the motion. Training weights its loss by it
(`train/stages/embodiment.py`).

With the configuration it has unless told otherwise this is the network of Vidar's released `idm.pt` (92.7 M parameters,
names and shapes alike), which reads 14 joint positions from one picture of 518 x 518. What a drone does shows in no
single picture, so that a network for its 8 channels or 4 axes sees the five frames of a latent frame instead.

Source: Feng et al. 2025 (Vidar, arXiv:2507.12898), equation 4; He et al. 2016 (arXiv:1512.03385) for the reader,
Ronneberger et al. 2015 (arXiv:1505.04597) for the mask.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from wanact.errors import UserError
from wanact.files import CheckpointError, load_state, load_weights, read_json
from wanact.models.idm import CONFIG, FRAMES, WEIGHTS, IDMError
from wanact.shapes import TEMPORAL_STRIDE, num_latent_frames

RELEASED = "idm.pt"  # as Vidar writes it
SECTION = "masked_idm"  # of a configuration's file
# Of ImageNet's pictures in 0..1, to which the released network is used.
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY = (0.299, 0.587, 0.114)
AROUND = 9  # pixels a side, from which a pixel's motion is told
FLAT = 1e-3  # squared slope below which nothing tells it
AT_ONCE = 8  # pictures whose masks are read together
# What the mask is before its tanh, everywhere: 0.73 after it, so that the reader begins with the whole picture and what
# it does not need is taken from it. As torch draws it an eighth of the pixels was seen, by chance.
SEEN_AT_FIRST = 0.5


@dataclass(frozen=True)
class MaskedIDMConfig:
    """Size of the network.

    Attributes:
        action_dim: numbers that are read.
        frames: pictures that are seen at once: 1 for where joints stand, 5 for what a drone does.
        height, width: to which pictures are brought, whatever their shape.
        mask_channels: of the U-Net's first step; each step down has twice as many.
        mask_depth: its steps down.
        channels: of the reader's first stage; each stage has twice as many.
        blocks: of each of its four stages.
        cells: rows and columns that the picture is averaged to before the answer.
        inner_relu: whether the first convolution of a block is followed by a ReLU; in the released network it is not.
    """

    action_dim: int = 14
    frames: int = 1
    height: int = 518
    width: int = 518
    mask_channels: int = 64
    mask_depth: int = 5
    channels: int = 64
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    cells: tuple[int, int] = (1, 1)
    inner_relu: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "cells", tuple(self.cells))
        if self.frames not in (1, FRAMES):
            raise UserError(f"frames={self.frames} must be 1 or {FRAMES}")
        if len(self.blocks) != 4 or len(self.cells) != 2:
            raise UserError(f"blocks={self.blocks} and cells={self.cells} must be four numbers and two")
        sizes = (self.action_dim, self.mask_channels, self.mask_depth, self.channels, *self.blocks, *self.cells)
        if min(sizes) < 1:
            raise UserError(f"every size of a masked inverse dynamics model must be above 0, not {sizes}")
        if min(self.height, self.width) < 2 ** max(self.mask_depth, 5):
            raise UserError(
                f"{self.width} x {self.height} is too small for {self.mask_depth} steps down; "
                f"at least {2 ** max(self.mask_depth, 5)} pixels a side are needed"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


# Named sizes: Vidar's own, and one that learns on a processor.
PRESETS = {
    "vidar": MaskedIDMConfig(),
    "small": MaskedIDMConfig(
        height=96, width=160, mask_channels=8, mask_depth=3, channels=16, blocks=(1, 1, 1, 1), cells=(3, 5)
    ),
}


def preset(name: str, action_dim: int) -> MaskedIDMConfig:
    """A named size for so many numbers; 8 channels and 4 axes of a drone are read from five frames."""
    return replace(PRESETS[name], action_dim=action_dim, frames=FRAMES if action_dim in (4, 8) else 1)


class MaskedInverseDynamics(nn.Module):
    """Pictures -> the action in them, in the units of the data, and the mask of where it was read.

    Attributes:
        train_mean, train_std: of the actions of the data, [n]; the network answers in deviations from the mean.
    """

    train_mean: Tensor
    train_std: Tensor

    def __init__(self, config: MaskedIDMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MaskedIDMConfig()
        self.model = _Masked(config)
        self.register_buffer("train_mean", torch.zeros(config.action_dim))
        self.register_buffer("train_std", torch.ones(config.action_dim))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Actions [B, n] and masks [B, 1, H, W] in 0..1 of what `as_input` gives."""
        answer, mask = self.model(pictures)
        return answer * self.train_std + self.train_mean, mask

    def as_input(self, frames: Tensor) -> Tensor:
        """Frames float [B, k, H, W, 3] in 0..1, k as the configuration has it, as the network takes them."""
        if self.config.frames == 1:
            mean, std = (frames.new_tensor(values) for values in (IMAGE_MEAN, IMAGE_STD))
            return ((frames[:, 0] - mean) / std).permute(0, 3, 1, 2)
        grey = (frames * frames.new_tensor(GREY)).sum(dim=-1)  # a product of matrices would be bfloat16 in training
        mean, deviation = grey.mean((1, 2, 3), keepdim=True), grey.std((1, 2, 3), keepdim=True)
        grey = (grey - mean) / (deviation + 0.02)
        return torch.cat([grey, motion_features(grey)], dim=1)

    @torch.no_grad()
    def get_mask(self, frames: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Where the action is read, for each latent frame: float32 [1, T, h, w] in 0..1, on the CPU.

        Of a network that sees single pictures a latent frame has the mean of its own four; of one that sees five, the
        first latent frame has the mask of the second.

        Args:
            frames: uint8 [F, H, W, 3] with F = 4k+1.
            size: of the latent grid, (h, w), to which masks are averaged.
        """
        num_latent_frames(len(frames))
        small = resized(frames, self.config.height, self.config.width)
        windows = [small[i : i + self.config.frames] for i in self.window_starts(len(frames))]
        device = self.train_mean.device
        masks = []
        for i in range(0, len(windows), AT_ONCE):
            pictures = torch.from_numpy(np.stack(windows[i : i + AT_ONCE])).to(device).float() / 255
            masks.append(F.adaptive_avg_pool2d(self(self.as_input(pictures))[1].float(), size).cpu())
        pooled = torch.cat(masks)[:, 0]  # [windows, h, w]
        if self.config.frames == 1:
            later = pooled[1:].unflatten(0, (-1, TEMPORAL_STRIDE)).mean(1) if len(pooled) > 1 else pooled[1:]
            return torch.cat([pooled[:1], later])[None]
        return torch.cat([pooled[:1], pooled])[None]

    def window_starts(self, num_frames: int) -> range:
        """First frames of what is seen of a clip: every frame, or those of the latent frames after the first."""
        step = 1 if self.config.frames == 1 else TEMPORAL_STRIDE
        return range(0, num_frames - self.config.frames + 1, step)

    def save(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        """Write configuration and weights, and these again in `idm.pt` under `model_state_dict` as Vidar does."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        torch.save({"model_state_dict": state, SECTION: self.config.to_dict()}, folder / RELEASED)
        (folder / CONFIG).write_text(json.dumps({SECTION: self.config.to_dict()} | (notes or {}), indent=2) + "\n")


class _Masked(nn.Module):
    def __init__(self, config: MaskedIDMConfig) -> None:
        super().__init__()
        channels = 3 if config.frames == 1 else FRAMES + 5 * (FRAMES - 1)
        self.mask_model = _UNet(channels, config.mask_channels, config.mask_depth)
        self.resnet_model = _ResNet(channels, config)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        mask = (1 + torch.tanh(self.mask_model(pictures))) / 2
        hard = (mask >= 0.5).to(mask.dtype)
        # What is seen is all or nothing; gradients pass as if it were the mask itself.
        return self.resnet_model(pictures * ((hard - mask).detach() + mask)), mask


def _double(wide: int, out: int, middle: int | None = None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for one, other in ((wide, middle or out), (middle or out, out)):
        layers += [nn.Conv2d(one, other, 3, padding=1, bias=False), nn.BatchNorm2d(other), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class _Up(nn.Module):
    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.conv = _double(wide, out, wide // 2)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        larger = F.interpolate(below, beside.shape[2:], mode="bilinear", align_corners=True)
        return self.conv(torch.cat([larger, beside], dim=1))


class _UNet(nn.Module):
    def __init__(self, wide: int, base: int, depth: int) -> None:
        super().__init__()
        widths = [base * 2**i for i in range(depth)]
        widths.append(widths[-1])  # the last step down keeps its width: what comes up beside it is joined to as much
        self.in_conv = _double(wide, base)
        self.downs = nn.Sequential(
            *(nn.Sequential(nn.MaxPool2d(2), _double(*pair)) for pair in zip(widths[:-1], widths[1:], strict=True))
        )
        ends = [*(width // 2 for width in widths[depth - 1 : 0 : -1]), base]
        self.ups = nn.Sequential(
            *(_Up(2 * width, end) for width, end in zip(widths[depth - 1 :: -1], ends, strict=True))
        )
        self.out = nn.Conv2d(base, 1, 1)
        weight, bias = self.out.parameters()
        nn.init.zeros_(weight)
        nn.init.constant_(bias, SEEN_AT_FIRST)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.in_conv(x)]
        for down in self.downs:
            seen.append(down(seen[-1]))
        x = seen.pop()
        for up in self.ups:
            x = up(x, seen.pop())
        return self.out(x)


class _Bottleneck(nn.Module):
    def __init__(self, wide: int, channels: int, stride: int, inner_relu: bool) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            *([nn.ReLU(inplace=True)] if inner_relu else []),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, 4 * channels, 1, bias=False),
            nn.BatchNorm2d(4 * channels),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or wide != 4 * channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(wide, 4 * channels, 1, stride, bias=False), nn.BatchNorm2d(4 * channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual_function(x) + self.shortcut(x))


class _ResNet(nn.Module):
    def __init__(self, wide: int, config: MaskedIDMConfig) -> None:
        super().__init__()
        base = config.channels
        self.conv1 = nn.Sequential(
            nn.Conv2d(wide, base, 7, 2, 3, bias=False),
            nn.BatchNorm2d(base),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        wide = base
        for stage, count in enumerate(config.blocks):
            channels, blocks = base * 2**stage, []
            for block in range(count):
                stride = 2 if stage and not block else 1
                blocks.append(_Bottleneck(wide, channels, stride, config.inner_relu))
                wide = 4 * channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.cells = config.cells
        self.fc = nn.Linear(wide * config.cells[0] * config.cells[1], config.action_dim)
        # The first answer is the mean of the data: of thousands of inputs any other is noise, to be learned away.
        for parameter in self.fc.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(F.adaptive_avg_pool2d(x, self.cells).flatten(1))


def motion_features(grey: Tensor) -> Tensor:
    """How each pixel of normalised grey frames [B, F, H, W] moves and what tells it, [B, 5 (F - 1), H, W].

    Of each pair of neighbours: change times slope, across and down, over the squared slope, which is the motion along
    it (Lucas & Kanade 1981); what share of the slope is across, and how it leans; and the change. All but the last are
    means around the pixel, and the contrast of the picture is in none of them: batch norm would follow the few
    pictures with the strongest texture. A linear fit to 3 x 5 cells of the first two reads unseen flights (error 0.25
    of full deflection, where 0.32 is that of no answer at all); one to the bare products does not (0.32).
    """
    change = grey.diff(dim=1)
    middle = (grey[:, 1:] + grey[:, :-1]) / 2
    across = F.pad(middle[..., 2:] - middle[..., :-2], (1, 1)) / 2
    down = F.pad(middle[..., 2:, :] - middle[..., :-2, :], (0, 0, 1, 1)) / 2

    slope = _around(across**2 + down**2) + FLAT
    products = [change * across, change * down, across**2, across * down]
    return torch.cat([*(_around(product) / slope for product in products), change / slope.sqrt()], dim=1)


def _around(values: Tensor) -> Tensor:
    """The mean over a square around each pixel, [..., H, W]; beyond the edges is 0. From running sums, at any size."""
    half = AROUND // 2
    for dim, pad in ((-1, (half + 1, half)), (-2, (0, 0, half + 1, half))):
        sums, count = F.pad(values, pad).cumsum(dim), values.shape[dim]
        values = sums.narrow(dim, AROUND, count) - sums.narrow(dim, 0, count)
    return values / AROUND**2


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames uint8 [F, H, W, 3] at another size, whatever their shape: uint8 [F, height, width, 3]."""
    if frames.shape[1:3] == (height, width):
        return frames
    squeezed = np.empty((len(frames), height, width, 3), np.uint8)
    for i in range(0, len(frames), AT_ONCE):  # a whole clip as float32 takes gigabytes
        pixels = torch.from_numpy(np.ascontiguousarray(frames[i : i + AT_ONCE])).permute(0, 3, 1, 2).float()
        smaller = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True, align_corners=False)
        squeezed[i : i + AT_ONCE] = smaller.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return squeezed


def huber_and_mask(answer: Tensor, target: Tensor, mask: Tensor, std: Tensor, weight: float) -> Tensor:
    """Equation 4 of Vidar for each sample, [B]: huber(answer - target) + weight |mask|_1.

    Errors are counted in standard deviations of the data, or degrees would outweigh paths, and the norm is the mean
    over the picture, or its size would count.

    Args:
        answer, target: [B, n].
        mask: [B, 1, H, W].
        std: of the data, [n].
        weight: of the mask; Vidar's is 3e-3.
    """
    error = F.huber_loss(answer / std, target / std, reduction="none").mean(dim=1)
    return error + weight * mask.float().mean(dim=(1, 2, 3))


def load_masked_idm(path: Path) -> MaskedInverseDynamics:
    """A masked inverse dynamics model: a folder that `save` or a run wrote, or a file of weights as Vidar's `idm.pt`.

    Raises:
        IDMError: if it is missing, damaged, or none.
    """
    try:
        config, state = _read(path)
        with torch.device("meta"):
            model = MaskedInverseDynamics(config)
        model.load_state_dict(state, assign=True)
    except (CheckpointError, UserError, KeyError, TypeError, RuntimeError, OSError) as error:
        if isinstance(error, IDMError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise IDMError(f"{path} is no inverse dynamics model with a mask: {reason}") from error
    return model.float().eval()


def _read(path: Path) -> tuple[MaskedIDMConfig, dict[str, Tensor]]:
    if path.is_dir():
        config = read_json(path / CONFIG)
        if SECTION not in config:
            raise IDMError(f"{path} holds no mask; `python -m train idm_mask` trains a model that has one")
        return MaskedIDMConfig(**config[SECTION]), load_weights(path / WEIGHTS)
    content: Any = load_weights(path) if path.suffix == ".safetensors" else load_state(path)
    said = None
    if isinstance(content, dict) and isinstance(content.get("model_state_dict"), dict):
        said, content = content.get(SECTION), content["model_state_dict"]
    if not isinstance(content, dict) or "model.mask_model.out.weight" not in content:
        raise IDMError(f"{path} has no weights of an inverse dynamics model with a mask")
    return MaskedIDMConfig(**said) if said else config_of(content), content


def config_of(state: dict[str, Tensor]) -> MaskedIDMConfig:
    """The configuration of a network with these weights; the size of pictures, which no weight tells, is Vidar's."""
    mask, reader = "model.mask_model.", "model.resnet_model."

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)})

    answer, first = state[f"{reader}fc.weight"], state[f"{mask}in_conv.0.weight"]
    return MaskedIDMConfig(
        action_dim=len(answer),
        frames=1 if first.shape[1] == 3 else FRAMES,
        mask_channels=len(first),
        mask_depth=count(f"{mask}downs."),
        channels=len(state[f"{reader}conv1.0.weight"]),
        blocks=tuple(count(f"{reader}layer{stage}.") for stage in range(1, 5)),
        inner_relu=f"{reader}layer1.0.residual_function.7.weight" in state,
    )
