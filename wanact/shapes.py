"""The shape legend of the whole project, and the arithmetic between pixels, latents and actions.

One letter a dimension, in docstrings and trailing comments alike:

    B   batch                       H W  pixels
    F   pixel frames                h w  latent grid
    T   latent frames               L    video tokens
    C   latent channels             S    text tokens
    D   model width                 N    attention heads
    K   head size                   A    action channels (8)

The first latent frame holds one pixel frame, every later one four; each later one is steered by one action.
So 81 pixel frames are 21 latent frames and 20 actions. The VAE shrinks space by 16 and the transformer
joins 2x2 latents into a token, so that pixel sizes are multiples of 32.
"""

from __future__ import annotations

from wanact.errors import UserError

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 16
SIZE_MULTIPLE = 32


def num_latent_frames(num_frames: int) -> int:
    """Latent frames of a clip of `num_frames` pixel frames (81 -> 21).

    Raises:
        UserError: unless num_frames is 4k+1; the message names the nearest that are.
    """
    if num_frames < 1 or num_frames % TEMPORAL_STRIDE != 1:
        below = max(1, (num_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
        raise UserError(
            f"num_frames={num_frames} must be 4k+1 (1, 5, 9, ...); nearest are {below} and {below + TEMPORAL_STRIDE}"
        )
    return (num_frames - 1) // TEMPORAL_STRIDE + 1


def num_pixel_frames(num_latent: int) -> int:
    """Pixel frames that `num_latent` latent frames decode to (21 -> 81)."""
    if num_latent < 1:
        raise UserError(f"num_latent={num_latent} must be at least 1")
    return (num_latent - 1) * TEMPORAL_STRIDE + 1


def num_actions(num_frames: int) -> int:
    """Actions that steer a clip of `num_frames` pixel frames (81 -> 20); the first latent frame takes none."""
    return num_latent_frames(num_frames) - 1


def latent_size(height: int, width: int) -> tuple[int, int]:
    """The latent grid (h, w) of a clip of `height` x `width` pixels (96x160 -> 6x10)."""
    check_size(height, width)
    return height // SPATIAL_STRIDE, width // SPATIAL_STRIDE


def check_size(height: int, width: int) -> None:
    """Refuse pixel sizes that the model cannot make.

    Raises:
        UserError: unless both are positive multiples of 32; the message names the nearest that are.
    """
    for name, value in (("height", height), ("width", width)):
        if value < SIZE_MULTIPLE or value % SIZE_MULTIPLE:
            below = max(SIZE_MULTIPLE, value // SIZE_MULTIPLE * SIZE_MULTIPLE)
            raise UserError(
                f"{name}={value} must be a multiple of {SIZE_MULTIPLE}; nearest are {below} and {below + SIZE_MULTIPLE}"
            )
