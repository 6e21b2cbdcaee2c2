"""What is wrong with a data set, in words: its actions held against what its pictures show and what models have seen.

How the camera moved is read from every clip by optical flow (`camera.py`), which knows nothing of the actions: yaw and
pitch in degrees, ahead and right as parallax, whose scale nobody knows. Actions that are mirrored, swapped, late or in
another unit agree with it in another way than right ones: which way is found by trying them. What cannot be told from
pictures, the scale of translation, is held against the flights that the base model was trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wanact.actions import CHANNELS
from wanact.data.marks import NAMES, Fix
from wanact.data.seen import Seen, copies_in
from wanact.data.tables import FPS
from wanact.shapes import TEMPORAL_STRIDE

AXIS_WORDS = ("forward", "sideways", "yaw", "pitch")

# Of the channels that stand: 5th, 50th and 95th percentile of their magnitudes in the simulator's flights by random
# sticks, opposite channels together. The bundled models are trained on those, and full deflection is theirs.
MOVED, TURNED = (0.008, 0.048, 0.051), (0.48, 2.4, 3.07)
RANGES: tuple[tuple[float, float, float], ...] = (MOVED,) * 4 + (TURNED,) * 4

# Motion that is seen for certain, a latent frame: parallax in focal lengths, and degrees.
LEAST_SEEN = np.array([0.004, 0.004, 0.35, 0.35])
LEAST_SHARE = 0.02  # of latent frames, in which an axis must move before anything is said of it
AGREES, DISAGREES = 0.35, -0.35  # cosine of actions and pictures of one clip
LEAST_VOTES, LEAST_VOTE_SHARE = 3, 0.15
NEARLY_ALL = 0.85  # of the clips: what is wrong in so many is wrong in the way all were written
SWAP_GAIN = 0.5  # by which two axes together must agree better when they are swapped, of 2
MAX_LAG = 8  # latent frames: two seconds
SHIFT_GAIN = 0.06  # by which the mean agreement of the axes must be better when actions are shifted
LEAST_SHIFT = 0.7  # latent frames
# Lenses from 50 to 110 degrees turn a picture by 0.7 to 1.9 times what one of 75 degrees does.
SCALE_LOW, SCALE_HIGH = 0.5, 2.0
MOVE_SCALE = 3.0  # by which translation must be off what models have seen
# Agreement of all axes at the best shift below which actions are not of these pictures: what chance reaches in few
# latent frames, of which three in a row are alike because keys are held.
UNRELATED = (0.25, 0.5)
CHANCE, ALIKE = 4.0, 3
FEW_CLIPS = 3
BLURRED = 0.6  # of the usual sharpness: a Gaussian of one pixel brings it to 0.55, and scenes differ by a third
DARK, BRIGHT = 0.06, 0.94

# Factors by which others write rotation, and why.
KNOWN_SCALES = (
    (57.2958, "they look like radians"),
    (1 / 57.2958, "they look like degrees that were multiplied by 180/π once too often"),
    (4.0, "they look like an amount for each pixel frame, not for each latent frame of four"),
    (0.25, "they look like an amount a second, not for each latent frame"),
    (229.18, "they look like radians for each pixel frame"),
    (14.324, "they look like radians a second"),
)


@dataclass(frozen=True)
class Evidence:
    """One clip as it is judged.

    Attributes:
        key: its name in the marks.
        axes: its actions as they are marked, [N, 4], or None.
        seen: what is seen in it, or None where nobody has looked.
        lead: latent frames at its beginning whose actions are not known.
    """

    key: str
    axes: np.ndarray | None
    seen: Seen | None
    lead: int = 0


@dataclass(frozen=True)
class Verdict:
    """One thing that is wrong, or worth a look.

    Attributes:
        name: what it is called on the command line.
        words: one sentence.
        remedy: what applying it does, in a few words; "" where only a person can tell.
        grave: whether training on it teaches something false.
        fix: what is done to actions, if that mends it.
        keys: the clips that it is about; None for all.
        does: "fix", "leave_out", "split" or "".
        facts: the numbers behind it.
    """

    name: str
    words: str
    remedy: str = ""
    grave: bool = False
    fix: Fix | None = None
    keys: tuple[str, ...] | None = None
    does: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def judge(clips: Sequence[Evidence], fps: float = FPS) -> list[Verdict]:
    """Everything that is to be said of a data set, the gravest first; nothing of one in which all is well.

    Args:
        fps: frames a second at which the clips were read, so that shifts can be said in seconds.
    """
    return judge_with(clips, flags_of(clips), fps)


def judge_with(clips: Sequence[Evidence], flags: dict[str, set[str]], fps: float = FPS) -> list[Verdict]:
    """The same where `flags_of` was asked before."""
    return [*judge_actions(clips, fps), *_judge_pictures(flags)]


# ---- actions against pictures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Actions of a clip and the camera's motion beside them, latent frame by latent frame; `known` where both are."""

    key: str
    asked: np.ndarray
    seen: np.ndarray
    known: np.ndarray


def judge_actions(clips: Sequence[Evidence], fps: float = FPS) -> list[Verdict]:
    """What is wrong with the actions, as far as pictures and usual magnitudes tell."""
    pairs = [pair for clip in clips if (pair := _pair(clip)) is not None]
    found = _judge_agreement(pairs, fps) if len(pairs) >= FEW_CLIPS else []
    unrelated = any(verdict.name == "unrelated" for verdict in found)
    return [*found, *([] if unrelated else _judge_magnitudes(clips, found))]


def _pair(clip: Evidence) -> _Pair | None:
    if clip.axes is None or clip.seen is None or clip.seen.problem:
        return None
    count = min(len(clip.axes), len(clip.seen.camera))
    if count < 2:
        return None
    known = clip.seen.whole[:count] & (np.arange(count) >= clip.lead)
    return _Pair(clip.key, clip.axes[:count], clip.seen.camera[:count], known)


def _judge_agreement(pairs: list[_Pair], fps: float) -> list[Verdict]:
    limits = _limits(pairs)
    lag, gain, agreement = _best_lag(pairs, limits)
    count = sum(int(pair.known.sum()) for pair in pairs)
    if agreement < float(np.clip(CHANCE * np.sqrt(ALIKE / max(count, 1)), *UNRELATED)):
        words = f"The actions do not fit the pictures of these {len(pairs)} clips, whichever way they are turned."
        return [Verdict("unrelated", words, grave=True, facts={"agreement": round(agreement, 3)})]
    found = []
    if abs(lag) >= LEAST_SHIFT and gain > SHIFT_GAIN:
        found.append(_shifted(pairs, limits, lag, fps))
    shift = Fix(later=round(lag, 3)) if found else Fix()
    moved = [_shifted_pair(pair, shift) for pair in pairs] if found else pairs
    source = _best_source(moved, limits)
    found += _swapped(moved, limits, source)
    moved = [
        _Pair(pair.key, pair.asked[:, list(source)], pair.seen, pair.known) for pair in moved
    ]  # as they are once they are swapped back
    mirrored = _mirrored(moved, limits)
    found += mirrored
    return [*found, *_turned_too_far(moved, limits)]


def _limits(pairs: list[_Pair]) -> np.ndarray:
    """Size of a large motion of each axis, [4]: what is seen beyond counts as that, for flow may err by much."""
    size = np.abs(np.concatenate([pair.seen[pair.known] for pair in pairs]))
    return np.maximum(np.percentile(size, 95, axis=0), LEAST_SEEN) if len(size) else LEAST_SEEN


def _sums(pair: _Pair, limits: np.ndarray, lag: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products of what is seen and asked, [4, 4], and squares of both, [4] each, with actions `lag` later."""
    count = len(pair.asked)
    here = np.arange(max(0, -lag), count - max(0, lag))
    here = here[pair.known[here] & pair.known[here + lag]] if len(here) else here
    seen, asked = np.clip(pair.seen[here] / limits, -1, 1), pair.asked[here + lag]
    return seen.T @ asked, np.square(seen).sum(axis=0), np.square(asked).sum(axis=0)


def _cosines(pairs: Sequence[_Pair], limits: np.ndarray, lag: int = 0) -> np.ndarray:
    """How each axis that is seen agrees with each that is asked, over all clips, [4, 4] in -1..1; 0 where one rests."""
    products, seen, asked = np.zeros((4, 4)), np.zeros(4), np.zeros(4)
    for pair in pairs:
        more = _sums(pair, limits, lag)
        products, seen, asked = products + more[0], seen + more[1], asked + more[2]
    size = np.sqrt(np.outer(seen, asked))
    return np.where(size > 1e-12, products / np.maximum(size, 1e-12), 0.0)


_ORDERS = tuple(itertools.permutations(range(4)))


def _agreement(cosines: np.ndarray) -> float:
    """Mean agreement over the axes, whichever way they are mirrored and swapped."""
    size = np.abs(cosines)
    moves = max(1, min(int((size > 0).any(axis=1).sum()), int((size > 0).any(axis=0).sum())))
    return max(float(size[range(4), order].sum()) for order in _ORDERS) / moves


def _best_lag(pairs: list[_Pair], limits: np.ndarray) -> tuple[float, float, float]:
    """Latent frames by which actions come late; how much better they agree then, and how well."""
    longest = max(len(pair.asked) for pair in pairs)
    far = min(MAX_LAG, longest // 3)
    lags = range(-far, far + 1)
    scores = np.array([_agreement(_cosines(pairs, limits, lag)) for lag in lags])
    best = int(scores.argmax())
    place = float(lags[best])
    if 0 < best < len(scores) - 1:
        before, here, after = scores[best - 1 : best + 2]
        bend = before - 2 * here + after
        place += float(0.5 * (before - after) / bend) if bend < 0 else 0.0
    return place, float(scores[best] - scores[far]), float(scores[best])


def _shifted_pair(pair: _Pair, shift: Fix) -> _Pair:
    asked = shift.of_axes(pair.asked)
    count = len(asked)
    known = pair.known[:count] & (np.arange(count) >= shift.lead)
    return _Pair(pair.key, asked, pair.seen[:count], known)


def _shifted(pairs: list[_Pair], limits: np.ndarray, lag: float, fps: float) -> Verdict:
    near = round(lag)
    votes = [
        _agreement(_cosines([pair], limits, near)) > _agreement(_cosines([pair], limits))
        for pair in pairs
        if len(pair.asked) > abs(near) + 2
    ]
    seconds = abs(lag) * TEMPORAL_STRIDE / fps
    whose = "late" if lag > 0 else "early"
    words = (
        f"Actions come {abs(lag):.1f} latent frames too {whose} ({seconds:.2f} s at {fps:g} frames a second): "
        f"the picture moves before them in {sum(votes)} of {len(votes)} clips."
    )
    if lag < 0:
        words = words.replace("before them", "after them")
    # Whole latent frames where it is nearly that: in between, actions have to be mixed.
    exact = float(near) if abs(lag - near) < 0.25 else round(lag, 2)
    return Verdict(
        "shifted",
        words,
        f"move all actions {abs(exact):g} latent frames {'ahead' if lag > 0 else 'back'}; clips get that much shorter",
        grave=True,
        fix=Fix(later=exact),
        does="fix",
        facts={"latent_frames": round(lag, 3), "clips": [sum(votes), len(votes)]},
    )


def _best_source(pairs: list[_Pair], limits: np.ndarray) -> tuple[int, int, int, int]:
    """For each axis that is seen the one of the actions that moves with it; its own unless another is by far better."""
    size = np.abs(_cosines(pairs, limits))
    straight = float(np.trace(size))
    best = max(_ORDERS, key=lambda order: float(size[range(4), order].sum()))
    if float(size[range(4), best].sum()) < straight + SWAP_GAIN:
        return (0, 1, 2, 3)
    changed = [i for i in range(4) if best[i] != i]
    # An axis in which nothing moves goes wherever it is put: it says nothing of a swap.
    if sum(size[i, best[i]] > 0.3 for i in changed) < 2:
        return (0, 1, 2, 3)
    a, b, c, d = best
    return a, b, c, d


def _swapped(pairs: list[_Pair], limits: np.ndarray, source: tuple[int, int, int, int]) -> list[Verdict]:
    changed = [i for i in range(4) if source[i] != i]
    if not changed:
        return []
    votes = []
    for pair in pairs:
        size = np.abs(_cosines([pair], limits))
        if size[changed].sum() > 0:
            votes.append(bool(sum(size[i, source[i]] for i in changed) > sum(size[i, i] for i in changed)))
    words = [AXIS_WORDS[i] for i in changed]
    if len(changed) == 2:
        said = f"{words[0].capitalize()} and {words[1]} look swapped"
    else:
        taken = "; ".join(f"{AXIS_WORDS[i]} stands as {AXIS_WORDS[source[i]]}" for i in changed)
        said = f"Axes look swapped ({taken})"
    return [
        Verdict(
            f"swapped-{'-'.join(words)}",
            f"{said} in {sum(votes)} of {len(votes)} clips.",
            "swap them back in all clips",
            grave=True,
            fix=Fix(source=source),
            does="fix",
            facts={"clips": [sum(votes), len(votes)]},
        )
    ]


def _votes(pair: _Pair, limits: np.ndarray) -> np.ndarray:
    """Whether a clip's axes go with the picture (1), against it (-1), or too little is seen (0), [4]."""
    cosines = np.diag(_cosines([pair], limits))
    moves = (np.abs(pair.seen[pair.known]) > LEAST_SEEN).sum(axis=0) >= 2
    moves &= (pair.asked[pair.known] != 0).sum(axis=0) >= 2
    return np.where(moves, np.where(cosines > AGREES, 1, np.where(cosines < DISAGREES, -1, 0)), 0)


def _mirrored(pairs: list[_Pair], limits: np.ndarray) -> list[Verdict]:
    votes = np.array([_votes(pair, limits) for pair in pairs])
    found = []
    for axis, word in enumerate(AXIS_WORDS):
        against = [pair.key for pair, vote in zip(pairs, votes[:, axis], strict=True) if vote < 0]
        told = int((votes[:, axis] != 0).sum())
        if len(against) < max(LEAST_VOTES, LEAST_VOTE_SHARE * told):
            continue
        everywhere = len(against) >= NEARLY_ALL * told
        times = [1.0] * 4
        times[axis] = -1.0
        how = "reversed" if axis == 0 else "upside down" if axis == 3 else "mirrored"
        where = "all clips" if everywhere else f"these {len(against)} clips"
        a, b, c, d = times
        found.append(
            Verdict(
                f"{word}-mirrored",
                f"{word.capitalize()} looks {how} in {len(against)} of {told} clips: the picture moves against it.",
                f"turn {NAMES_OF[axis]} round in {where}",
                grave=True,
                fix=Fix(times=(a, b, c, d)),
                keys=None if everywhere else tuple(against),
                does="fix",
                facts={"clips": [len(against), told]},
            )
        )
    return found


NAMES_OF = tuple(NAMES.values())


def _turned_too_far(pairs: list[_Pair], limits: np.ndarray) -> list[Verdict]:
    """Rotation in another unit than degrees a latent frame: the picture tells, up to the lens."""
    asked = np.concatenate([pair.asked[pair.known] for pair in pairs])
    seen = np.concatenate([pair.seen[pair.known] for pair in pairs])
    cosines = np.abs(np.diag(_cosines(pairs, limits)))
    ratios: dict[int, float] = {}
    for axis in (2, 3):
        moves = (asked[:, axis] != 0) & (np.abs(seen[:, axis]) > LEAST_SEEN[axis])
        if moves.sum() < max(5, LEAST_SHARE * len(asked)) or cosines[axis] < AGREES:
            continue
        ratios[axis] = float(np.median(np.abs(seen[moves, axis]) / np.abs(asked[moves, axis])))
    off = {axis: ratio for axis, ratio in ratios.items() if not SCALE_LOW <= ratio <= SCALE_HIGH}
    if not off:
        return []
    values = list(off.values())
    if len(off) == 2 and max(values) < 1.6 * min(values):  # one mistake, made once
        return [_scaled(tuple(off), float(np.sqrt(values[0] * values[1])), "the picture turns")]
    return [_scaled((axis,), ratio, "the picture turns") for axis, ratio in off.items()]


def _scaled(axes: tuple[int, ...], factor: float, held_against: str) -> Verdict:
    """Axes that have to be multiplied by a factor."""
    known = next((one for one in KNOWN_SCALES if axes[0] >= 2 and 0.72 < factor / one[0] < 1.38), None)
    exact = known[0] if known else float(f"{factor:.2g}")
    words = " and ".join(AXIS_WORDS[axis] for axis in axes)
    size = f"{max(factor, 1 / factor):.2g} times {'smaller' if factor > 1 else 'larger'}"
    verb = "are" if len(axes) > 1 else "is"
    why = f"; {known[1]}" if known else ""
    times = [1.0] * 4
    for axis in axes:
        times[axis] = exact
    a, b, c, d = times
    return Verdict(
        f"{'-'.join(AXIS_WORDS[axis] for axis in axes)}-scaled",
        f"{words.capitalize()} {verb} {size} than {held_against}{why}.",
        f"multiply {'them' if len(axes) > 1 else 'it'} by {exact:.4g} in all clips",
        grave=True,
        fix=Fix(times=(a, b, c, d)),
        does="fix",
        facts={"factor": round(factor, 4)},
    )


# ---- magnitudes against what models have seen -------------------------------------------------------------------


def _judge_magnitudes(clips: Sequence[Evidence], found: list[Verdict]) -> list[Verdict]:
    axes = [clip.axes for clip in clips if clip.axes is not None and len(clip.axes)]
    if not axes:
        return []
    values = np.abs(np.concatenate(axes))
    source = next(
        (verdict.fix.source for verdict in found if verdict.name.startswith("swapped-") and verdict.fix), None
    )
    if source is not None:
        values = values[:, list(source)]  # units belong to what an axis is, not to where it stands
    ratios = {}
    for axis in (0, 1):
        moving = values[values[:, axis] > 0, axis]
        if len(moving) >= max(5, LEAST_SHARE * len(values)):
            ratios[axis] = MOVED[1] / float(np.median(moving))
    off = {axis: ratio for axis, ratio in ratios.items() if not 1 / MOVE_SCALE <= ratio <= MOVE_SCALE}
    told = "in the base model's data"
    if len(off) == 2 and max(off.values()) < 2.0 * min(off.values()):
        return [_scaled((0, 1), float(np.sqrt(off[0] * off[1])), told)]
    return [_scaled((axis,), ratio, told) for axis, ratio in off.items()]


def histograms(axes: Sequence[np.ndarray], bins: int = 24) -> list[dict[str, Any]]:
    """For each channel how often which magnitudes stand, beside the range that models have seen.

    Returns:
        For each channel {"channel", "share" of actions in which it stands, "low", "middle", "high" of those that
        models have seen, "top" of the last bin, "counts" of each bin, "beyond" the last}.
    """
    together = np.concatenate([np.zeros((0, 4)), *axes])
    magnitude = np.zeros((len(together), len(CHANNELS)))
    for channel in range(len(CHANNELS)):
        axis, sign = AXIS_OF[channel]
        magnitude[:, channel] = np.clip(sign * together[:, axis], 0, None)
    found = []
    for channel, name in enumerate(CHANNELS):
        low, middle, high = RANGES[channel]
        values = magnitude[:, channel][magnitude[:, channel] > 0]
        largest = float(np.percentile(values, 99)) if len(values) else high
        top = float(f"{max(2 * high if largest > 1.2 * high else 1.2 * high, min(largest, 4 * high)):.2g}")
        counts, _ = np.histogram(values, bins=bins, range=(0, top))
        found.append(
            {
                "channel": name,
                "share": round(len(values) / max(1, len(together)), 4),
                "low": low,
                "middle": middle,
                "high": high,
                "median": round(float(np.median(values)), 5) if len(values) else None,
                "top": top,
                "counts": counts.tolist(),
                "beyond": int((values > top).sum()),
            }
        )
    return found


AXIS_OF = ((0, 1), (0, -1), (1, -1), (1, 1), (2, -1), (2, 1), (3, 1), (3, -1))  # of each channel: its axis, and sign


def together(axes: Sequence[np.ndarray]) -> list[list[float]]:
    """Share of all actions in which two channels stand together, [8][8]; with itself, in which a channel stands."""
    joined = np.concatenate([np.zeros((0, 4)), *axes])
    stands = np.stack([sign * joined[:, axis] > 0 for axis, sign in AXIS_OF], axis=1).astype(np.float64)
    return (stands.T @ stands / max(1, len(joined))).round(4).tolist()


# ---- pictures ----------------------------------------------------------------------------------------------------


def flags_of(clips: Sequence[Evidence]) -> dict[str, set[str]]:
    """What is to be said of each clip's pictures, by its key: cut, copy, blurred, dark, bright, unreadable, against."""
    flags: dict[str, set[str]] = {clip.key: set() for clip in clips}
    looked = [(clip, clip.seen) for clip in clips if clip.seen is not None]
    good = [(clip, seen) for clip, seen in looked if not seen.problem]
    usual = float(np.median([seen.sharpness for _, seen in good])) if good else 0.0
    pairs = [pair for clip, _ in good if (pair := _pair(clip)) is not None]
    limits = _limits(pairs) if pairs else LEAST_SEEN
    for clip, seen in looked:
        said = {
            "unreadable": bool(seen.problem),
            "cut": bool(seen.cuts),
            "blurred": not seen.problem and seen.sharpness < BLURRED * usual,
            "dark": not seen.problem and seen.brightness < DARK,
            "bright": not seen.problem and seen.brightness > BRIGHT,
        }
        flags[clip.key] |= {name for name, holds in said.items() if holds}
    for pair in pairs:
        if (_votes(pair, limits) < 0).any():
            flags[pair.key].add("against")
    for (clip, _), original in zip(good, copies_in([seen.signature for _, seen in good]), strict=True):
        if original is not None:
            flags[clip.key].add("copy")
    return flags


def _judge_pictures(flags: dict[str, set[str]]) -> list[Verdict]:
    def flagged(name: str) -> tuple[str, ...]:
        return tuple(key for key, said in flags.items() if name in said)

    found = []
    if keys := flagged("unreadable"):
        words = f"{_clips(keys)} cannot be read; training would leave {_them(keys)} out as well."
        found.append(Verdict("unreadable", words, f"leave {_them(keys)} out", keys=keys, does="leave_out"))
    if keys := flagged("cut"):
        words = f"{_clips(keys)} {_hold(keys)} a hard cut: at it the picture jumps, and no action does that."
        found.append(Verdict("cuts", words, f"split {_them(keys)} at the cuts", True, keys=keys, does="split"))
    if keys := flagged("copy"):
        words = f"{_clips(keys)} {_show(keys)} the same pictures as an earlier one."
        found.append(Verdict("copies", words, f"leave the {_copies(keys)} out", keys=keys, does="leave_out"))
    for name, words in (
        ("blurred", "much blurrier than the others"),
        ("dark", "nearly black"),
        ("bright", "nearly white"),
    ):
        if keys := flagged(name):
            is_ = "are" if len(keys) > 1 else "is"
            remedy = f"leave {_them(keys)} out"
            found.append(Verdict(name, f"{_clips(keys)} {is_} {words}.", remedy, keys=keys, does="leave_out"))
    return found


def _clips(keys: Sequence[str]) -> str:
    return f"{len(keys)} clip{'s' if len(keys) > 1 else ''}"


def _them(keys: Sequence[str]) -> str:
    return "them" if len(keys) > 1 else "it"


def _hold(keys: Sequence[str]) -> str:
    return "have" if len(keys) > 1 else "has"


def _show(keys: Sequence[str]) -> str:
    return "show" if len(keys) > 1 else "shows"


def _copies(keys: Sequence[str]) -> str:
    return "copies" if len(keys) > 1 else "copy"
