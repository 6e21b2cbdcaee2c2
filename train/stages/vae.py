"""The video autoencoder: crops of clips, and of still pictures under a moving camera, through a bottleneck and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from train.data import csv
from train.data.cache import module_fingerprint
from train.loop.config import ConfigError, TrainConfig, flag, require
from train.loop.dist import Processes
from train.loop.seeding import Draw, derive_seed
from train.loop.stage import Stage, StepLoss, going_on
from train.stages.i2v import seeded
from train.stages.principal import Basis, principal_components
from train.stages.rows import CLIP_SETTINGS, RowReader, files_fingerprint
from wanact import shapes
from wanact.errors import TakenError
from wanact.media import video
from wanact.models import presets
from wanact.models import vae as wan_vae
from wanact.models.lapped import AutoencoderLapped
from wanact.weights import model_dir
from wanact.weights.layouts import INDEX
from wanact.world import stills

WEIGHTS, CONFIG = "vae.safetensors", "vae_train_config.json"
LOW_PASS = 8  # pixels; a box this wide sees drifting colours that single pixels hide
CELL = 8  # pixels; within one of these sharpness is compared, wherever in it the edges lie
PSNR_FLOOR = 1e-4  # a squared error, 46 dB: what is better than this need not get better
BASIS = "basis.safetensors"
STATISTICS_CLIPS = 200


@dataclass(frozen=True)
class CropKind:
    """What one sample of a step is: `count` crops of frames x height x width pixels, and how often.

    A step draws one kind for all its samples. Small crops make training affordable; some kinds are as long as a whole
    clip, because a VAE trained on short ones drifts in colour after a dozen frames, and some as large as a frame.
    """

    count: int
    frames: int
    height: int
    width: int
    share: float

    @classmethod
    def parse(cls, text: str) -> CropKind:
        """Read `FRAMESxHEIGHTxWIDTH:SHARE`, or `COUNTxFRAMESxHEIGHTxWIDTH:SHARE` for several crops a sample."""
        size, _, share = text.partition(":")
        try:
            numbers = [int(number) for number in size.split("x")]
            count, frames, height, width = numbers if len(numbers) == 4 else [1, *numbers]
            kind = cls(count, frames, height, width, float(share or 1))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"--vae_crops {text!r} must read FRAMESxHEIGHTxWIDTH:SHARE, as 17x64x64:0.6") from error
        stride = shapes.SPATIAL_STRIDE
        if min(numbers) < 1 or frames % shapes.TEMPORAL_STRIDE != 1 or height % stride or width % stride:
            raise ConfigError(f"--vae_crops {text!r} needs 4k+1 frames and sides that are multiples of {stride}")
        if kind.share <= 0:
            raise ConfigError(f"--vae_crops {text!r} must have a share above 0")
        return kind


@dataclass
class VAEOptions:
    """What is seen, and what counts as a loss."""

    _argument_group_name = "vae"

    vae_preset: str | None = flag(
        default=None, help=f"a new VAE of this size ({', '.join(presets.PRESETS)}), instead of --model_dir's"
    )
    vae_crops: list[str] = flag(
        default_factory=lambda: ["17x64x64:1"],
        help="kinds of samples, [COUNTx]FRAMESxHEIGHTxWIDTH:SHARE; each step draws one",
    )
    still_share: float = flag(
        default=0.0, help="of samples of square kinds: still pictures (dead leaves, clouds, photographs), moved"
    )
    mse_weight: float = flag(default=2.0, help="of the squared error, beside the absolute error's 1")
    psnr_weight: float = flag(default=0.0, help="of the logarithm of a crop's squared error: easy scenes count, too")
    gradient_weight: float = flag(default=0.5, help="of the error of differences between neighbours: sharpness")
    low_pass_weight: float = flag(default=0.5, help="of the error of means over 8x8 pixels: colour")
    chroma_weight: float = flag(default=0.0, help="of the error of colour differences, which brightness drowns early")
    sharpness_weight: float = flag(
        default=0.0, help="of the error of mean gradient length within 8x8 pixels: blur costs, a shift does not"
    )
    basis_clips: int = flag(
        default=60, help="clips whose principal components a new lapped VAE begins with; 0: it begins with cosines"
    )
    kl_weight: float = flag(default=1e-4, help="of the distance of latents to a standard normal")
    decoder_only: bool = flag(
        default=False, help="leave the encoder and so the latents as they are: transformers trained on them go on"
    )

    @property
    def kinds(self) -> list[CropKind]:
        return [CropKind.parse(text) for text in self.vae_crops]

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ConfigError("--vae_crops names no crop")
        if not 0 <= self.still_share <= 1:
            raise ConfigError(f"--still_share {self.still_share:g} must be at least 0 and at most 1")
        for name in (*(field.name for field in fields(self) if field.name.endswith("_weight")), "basis_clips"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name):g} must not be negative")
        if self.vae_preset is not None and self.vae_preset not in presets.PRESETS:
            raise ConfigError(f"--vae_preset {self.vae_preset!r} is unknown; choose from {', '.join(presets.PRESETS)}")


class VAEStage(Stage):
    """Train the VAE of a model directory, or a new one."""

    name = "vae"
    options = VAEOptions
    uses = (
        *CLIP_SETTINGS,
        *("max_skipped", "cache_memory_gb", "model_dir", "sample_steps", "sample_count"),
    )

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        require(config, "dataset_metadata_path", "output_path", "height", "width", "num_frames")
        if bool(config.model.model_dir) == bool(config.stage.vae_preset):
            raise ConfigError("give --vae_preset for a new VAE or --model_dir to train that directory's: one of them")
        data = config.data
        for kind in config.stage.kinds:
            if kind.frames > data.num_frames or kind.height > data.height or kind.width > data.width:
                raise ConfigError(
                    f"--vae_crops of {kind.frames}x{kind.height}x{kind.width} do not fit into clips of "
                    f"{data.num_frames}x{data.height}x{data.width}"
                )

    # Beginning

    def setup(self, processes: Processes) -> None:
        self.processes = processes
        self.settings: VAEOptions = self.config.stage
        self._read_rows()
        self.vae = self._build().to(self.device).train().requires_grad_(True)
        if isinstance(self.vae, AutoencoderLapped) and self.settings.vae_preset and self.settings.basis_clips:
            self.vae.set_basis(*self._basis())
        if self.settings.decoder_only:
            for parameter in wan_vae.encoder_parameters(self.vae):
                parameter.requires_grad_(False)
        self.modules["vae"] = self.vae
        self.base = {"model_dir": self.config.model.model_dir, "fingerprint": module_fingerprint(self.vae)}
        share = self.settings.still_share
        self.pictures = stills.picture_pool(derive_seed(self.config.optim.seed, "pictures") % 2**31) if share else []

    def _build(self) -> Any:
        if self.config.model.model_dir:
            vae = model_dir.load_components(self.config.model.model_dir, parts=("vae",)).vae
        else:
            assert self.settings.vae_preset is not None, "check asked for one of the two"
            with seeded(self.config.optim.seed, "vae"):
                vae = presets.random_vae(self.settings.vae_preset)
        return wan_vae.use_fast_operations(vae)

    def _basis(self) -> Basis:
        """The transform to begin with, computed once a run: a minute of linear algebra."""
        file = Path(self.config.checkpoint.output_path) / BASIS
        if not file.exists() and self.processes.is_main:
            chosen = np.linspace(0, len(self.rows) - 1, min(self.settings.basis_clips, len(self.rows))).astype(int)
            file.parent.mkdir(parents=True, exist_ok=True)
            principal_components((self.clip(index) for index in chosen), self.vae.config.z_dim).save(file)
        self.processes.barrier()
        return Basis.load(file)

    def _read_rows(self) -> None:
        """Keep the rows whose clips can be read; clips stay in memory as far as the budget goes."""
        data = self.config.data
        self._held: dict[tuple[int, int], np.ndarray] = {}  # by the row's number in its file, and its first frame
        budget = data.cache_memory_gb * 2**30

        def keep(row: csv.Row, frames: np.ndarray) -> csv.Row:
            nonlocal budget
            if budget >= frames.nbytes:
                self._held[row.number, row.start] = frames
                budget -= frames.nbytes
            return row

        shape = data.clip_shape()
        reader = RowReader(self.config, self.processes, shape[0], clip_bytes=3 * math.prod(shape))
        self.rows = reader.read(lambda row, _: self._frames(row), keep)

    def _frames(self, row: csv.Row) -> np.ndarray:
        data = self.config.data
        return csv.clip_frames(row, *data.clip_shape(), data.fit, data.fps)

    # Data

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def data_fingerprint(self) -> str:
        return files_fingerprint(self.rows)

    def load(self, draws: list[Draw]) -> dict[str, Tensor]:
        """Crops uint8 [B, crops, F, H, W, 3], and the noise of their latents [B * crops, C, T, h, w]."""
        kind = self._kind(draws[0])
        video_crops = np.stack([np.stack(self._crops(draw, kind)) for draw in draws])
        stride = shapes.SPATIAL_STRIDE
        size = (shapes.num_latent_frames(kind.frames), kind.height // stride, kind.width // stride)
        latent = (kind.count, self.vae.config.z_dim, *size)
        noise = [torch.randn(latent, generator=draw.generator("noise")) for draw in draws]
        return {"video": torch.from_numpy(video_crops), "noise": torch.cat(noise)}

    def _kind(self, draw: Draw) -> CropKind:
        kinds = self.settings.kinds
        share = torch.tensor([kind.share for kind in kinds])
        return kinds[int(torch.multinomial(share, 1, generator=draw.step_generator("crops")))]

    def _crops(self, draw: Draw, kind: CropKind) -> list[np.ndarray]:
        rng = np.random.default_rng(derive_seed(draw.seed, draw.stage, draw.position, "crop"))
        return [self._crop(draw, kind, rng) for _ in range(kind.count)]

    def _crop(self, draw: Draw, kind: CropKind, rng: np.random.Generator) -> np.ndarray:
        """One crop, uint8 [F, H, W, 3]."""
        if self.pictures and kind.height == kind.width and rng.random() < self.settings.still_share:
            picture = self.pictures[rng.integers(len(self.pictures))]
            return stills.moving_crop(picture, rng, kind.frames, kind.height)
        clip = self.clip(draw.index)
        t, y, x = (
            rng.integers(0, whole - part + 1)
            for whole, part in zip(clip.shape[:3], (kind.frames, kind.height, kind.width), strict=True)
        )
        crop = clip[t : t + kind.frames, y : y + kind.height, x : x + kind.width]
        return crop[:, :, ::-1] if rng.random() < 0.5 else crop

    def clip(self, index: int) -> np.ndarray:
        """Frames of one row, uint8 [F, H, W, 3]."""
        row = self.rows[index]
        held = self._held.get((row.number, row.start))
        return self._frames(row) if held is None else held

    # Loss

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        """Reconstruction in several ways and the pull of the latents to a standard normal, one value a sample."""
        target = rearrange(batch["video"], "b n f h w c -> (b n) c f h w").float() / 127.5 - 1
        with torch.set_grad_enabled(not self.settings.decoder_only):
            mean, log_variance = (moment.float() for moment in wan_vae.encode_moments(self.vae, target))
        latents = mean + torch.exp(0.5 * log_variance) * batch["noise"]
        again = wan_vae.decode_raw(self.vae, latents).float()
        error = again - target
        terms = {
            "l1": _each(error.abs()),
            "mse": _each(error.square()),
            "gradient": _each(error.diff(dim=-1).abs()) + _each(error.diff(dim=-2).abs()),
            "low_pass": _each(F.avg_pool3d(error, (1, LOW_PASS, LOW_PASS)).abs()),
            "chroma": _each(_colour_differences(error).abs()) + 2 * _each(_colour_differences(error).square()),
            "sharpness": _each((_mean_gradient(again) - _mean_gradient(target)).abs()),
            "kl": _each(0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)),
        }
        settings = self.settings
        loss = (
            terms["l1"]
            + settings.mse_weight * terms["mse"]
            + settings.psnr_weight * torch.log(terms["mse"] + PSNR_FLOOR)
            + settings.gradient_weight * terms["gradient"]
            + settings.low_pass_weight * terms["low_pass"]
            + settings.chroma_weight * terms["chroma"]
            + settings.sharpness_weight * terms["sharpness"]
            + settings.kl_weight * terms["kl"]
        )
        metrics = {name: value.detach() for name, value in terms.items()}
        metrics["psnr_db"] = 10 * torch.log10(4 / metrics["mse"].clamp_min(1e-10))
        return StepLoss(loss.view(len(batch["video"]), -1).mean(dim=1), metrics)

    # Results

    def export(self, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        return {WEIGHTS: self._whole(weights)}

    def _whole(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Trained weights, and beside them those that were left as they are."""
        left = {name: p.detach().to("cpu", copy=True) for name, p in self.vae.named_parameters() if not p.requires_grad}
        return left | {name.removeprefix("vae."): value for name, value in weights.items()}

    def export_config(self) -> tuple[str, dict[str, Any]]:
        config = {name: value for name, value in self.vae.config.items() if not name.startswith("_")}
        return CONFIG, {"stage": self.name, "base_model": self.config.model.model_dir, "vae_config": config}

    def export_model_dir(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the VAE with the statistics of its latents: alone, or in a copy of the model directory it came from.

        The statistics of a VAE whose decoder alone was trained stay as they were.
        """
        if (folder / "config.json").exists() or (folder / INDEX).exists():
            raise TakenError(f"{folder} holds a model already; choose another folder or remove it")
        trained = self._build().eval()
        trained.load_state_dict(self._whole(weights))
        latent_rgb = None
        if not self.settings.decoder_only:
            chosen = np.linspace(0, len(self.rows) - 1, min(STATISTICS_CLIPS, len(self.rows))).astype(int)
            latent_rgb = set_latent_statistics(trained, (self.clip(index) for index in chosen))
        if not self.config.model.model_dir:
            trained.save_pretrained(folder)
            return
        components = model_dir.load_components(self.config.model.model_dir)
        components.vae = trained
        if latent_rgb is not None:
            components.metadata["latent_rgb"] = latent_rgb
        model_dir.save_components(components, folder)

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """Clips above their reconstructions."""
        if not self.processes.is_main:
            return
        for number in range(min(self.config.log.sample_count, len(self.rows))):
            frames = self.clip(number)
            latents = wan_vae.encode(self.vae, video.to_tensor(frames)[None].to(self.device))
            again = video.to_uint8(wan_vae.decode(self.vae, latents)[0])
            both = np.concatenate([frames, again], axis=1)
            with going_on(f"sample {number} of step {step}"):
                video.write_mp4(both, folder / f"reconstruction-{number}.mp4", fps=self.config.data.fps)


def _colour_differences(video_error: Tensor) -> Tensor:
    """Green against magenta and blue against red, [B, 3, F, H, W] -> [B, 2, F, H, W]."""
    red, green, blue = video_error.unbind(1)
    return torch.stack([green - 0.5 * (red + blue), 0.5 * (blue - red)], dim=1)


def _mean_gradient(clip: Tensor) -> Tensor:
    """Mean length of the gradient of brightness in every cell, [B, 3, F, H, W] -> [B, F, H / CELL, W / CELL]."""
    grey = clip.mean(dim=1)
    across = F.pad(grey, (1, 1, 0, 0), mode="replicate").diff(n=1, dim=-1)
    down = F.pad(grey, (0, 0, 1, 1), mode="replicate").diff(n=1, dim=-2)
    across, down = across[..., 1:] + across[..., :-1], down[..., 1:, :] + down[..., :-1, :]
    return F.avg_pool2d((across.square() + down.square() + 1e-6).sqrt(), CELL)


def _each(values: Tensor) -> Tensor:
    """Mean over everything but the first dimension, [B]."""
    return values.flatten(1).mean(dim=1)


@torch.no_grad()
def set_latent_statistics(vae: Any, clips: Any) -> dict[str, list]:
    """Give a VAE the mean and deviation of its raw latents, so that normalised ones have zero mean and unit deviation.

    Of a lapped VAE they have unit deviation all together, not channel by channel.

    Args:
        vae: of any class; its configuration is changed.
        clips: iterable of uint8 [F, H, W, 3].

    Returns:
        `latent_rgb` for metadata.json: the linear map from normalised latents to colour that fits best.
    """
    latents, colours = [], []
    for clip in clips:
        pixels = video.to_tensor(clip)[None]
        raw = wan_vae.encode_moments(vae, pixels)[0][0]
        latents.append(rearrange(raw, "c t h w -> (t h w) c").double())
        colours.append(rearrange(_latent_colours(pixels[0]), "c t h w -> (t h w) c").double())
    raw, colour = torch.cat(latents), torch.cat(colours)
    mean, deviation = raw.mean(dim=0), raw.std(dim=0).clamp_min(1e-4)
    deviation = wan_vae.latent_deviation(vae, deviation)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    design = torch.cat([(raw - mean) / deviation, torch.ones(len(raw), 1, dtype=raw.dtype)], dim=1)
    gram = design.T @ design + 1e-6 * len(design) * torch.eye(design.shape[1], dtype=raw.dtype)
    solution = torch.linalg.solve(gram, design.T @ colour)
    return {"weight": solution[:-1].tolist(), "bias": solution[-1].tolist()}


def _latent_colours(pixels: Tensor) -> Tensor:
    """Mean colour of the pixels that belong to each latent, [3, F, H, W] -> [3, T, h, w]."""
    side, stride = shapes.SPATIAL_STRIDE, shapes.TEMPORAL_STRIDE
    first = F.avg_pool3d(pixels[:, :1], (1, side, side))
    rest = F.avg_pool3d(pixels[:, 1:], (stride, side, side)) if pixels.shape[1] > 1 else first[:, :0]
    return torch.cat([first, rest], dim=1)
