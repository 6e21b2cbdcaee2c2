"""What a flight depends on, as a value and as JSON.

Version 1 knew clips only; version 2 adds live flights, their changes of words, and pictures beside the record; version
3 adds rests, which earlier flights had none of. All are read, version 3 is written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict

from wanact.actions import MAX_ACTIONS, ActionError, ActionTrack, read_track
from wanact.errors import UserError
from wanact.files import number, parse_foreign, plain, read_model, says, text, whole
from wanact.flying.request import MAX_PIXELS, MAX_STEPS, ClipRequest, Request
from wanact.media.video import ImageError, open_image
from wanact.shapes import num_pixel_frames

VERSION = 3
READABLE = (1, 2, 3)
Kind = Literal["clip", "live"]
MAX_BYTES = 32 * 2**20
MAX_SEED = 2**31 - 1
MAX_NAME = 200  # of a pilot and a task
GRID = ("flow_shift", "sigma_grid")  # of the model's defaults: which noise levels a clip is drawn through
MAX_FPS = 240.0  # what a browser plays, and an encoder writes


class FlightError(UserError):
    """A flight record that cannot be used; the message is one sentence for the person who opened it."""


def grid_of(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The noise levels of a model's defaults, as a record keeps them; what the model does not say is left out."""
    return {key: defaults[key] for key in GRID if key in defaults}


def image_sha256(image: Image.Image) -> str:
    """A fingerprint of what is seen: of the size and the RGB pixels, whatever file they came in."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


class Piloted(NamedTuple):
    """Latent frames from `first` to `last`, from 1 and both included, that a pilot flew, and what it was asked."""

    first: int
    last: int
    pilot: str
    task: str


def stretches(pilots: Mapping[int, tuple[str, str]]) -> tuple[Piloted, ...]:
    """Who flew, by latent frame, in stretches."""
    found: list[Piloted] = []
    for n in sorted(pilots):
        newest = found[-1] if found else None
        if newest is not None and newest.last == n - 1 and newest[2:] == pilots[n]:
            found[-1] = newest._replace(last=n)
        else:
            found.append(Piloted(n, n, *pilots[n]))
    return tuple(found)


@dataclass(frozen=True)
class FlightRecord:
    """Everything that a clip or a live flight depends on.

    Args:
        image: the first frame as the model saw it, RGB, already fitted to the clip's size.
        prompt, negative_prompt: as they were typed; of a live flight, the words it began with.
        seed: 0 to 2**31 - 1.
        num_frames, fps: length of the clip in pixel frames, and its speed.
        num_inference_steps, guidance_scale: the sampler's settings.
        track: the actions, one for each latent frame after the first.
        model: {"name", "fingerprint"} of the model directory.
        checkpoint: {"run", "step"} of the action controller, or None for the base model, which takes no actions.
        sampler: whatever else the sampler depends on, for example {"flow_shift": 5.0, "sigma_grid": "wan"}.
        kind: "clip", whose frames are drawn from one noise, or "live", whose noise is seeded latent frame by latent
            frame as `WanActStream` does: such a flight has any length, and its beginning does not depend on its end.
        prompt_changes: of a live flight, (n, prompt): after n latent frames had been flown the words became `prompt`.
            In order, n from 0 to the length of the track.
        taken_up: of a live flight, after how many latent frames it was rewound to or forked, in order; see
            `WanActStream.taken_up`.
        held: of a live flight, the latent frames, from 1, that were rests, in order; see `WanActStream.held`. None for
            a track that has not been flown so: it rests by the rule of the stream, as `sampler["rest"]` says.
        piloted: of a live flight, where a pilot had the sticks and not a person, in order; see `Piloted`.

    Raises:
        FlightError: if length and track, or the changes of words, contradict each other.
    """

    image: Image.Image
    prompt: str
    seed: int
    track: ActionTrack
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""
    fps: float = 16.0
    model: dict[str, str] = field(default_factory=dict)
    checkpoint: dict[str, Any] | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "clip"
    prompt_changes: tuple[tuple[int, str], ...] = ()
    taken_up: tuple[int, ...] = ()
    held: tuple[int, ...] | None = None
    piloted: tuple[Piloted, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise FlightError(f"The flight's kind is {str(self.kind)[:40]!r}, expected clip or live.")
        object.__setattr__(self, "prompt_changes", tuple((int(at), str(words)) for at, words in self.prompt_changes))
        object.__setattr__(self, "taken_up", tuple(map(int, self.taken_up)))
        if self.held is not None:
            object.__setattr__(self, "held", tuple(map(int, self.held)))
        if self.kind == "clip" and (self.prompt_changes or self.taken_up or self.held or self.piloted):
            raise FlightError("The flight is a clip, which is drawn at once; only a live flight changes on the way.")
        for what, places in (("changes words", [at for at, _ in self.prompt_changes]), ("is taken up", self.taken_up)):
            if list(places) != sorted(set(places)) or any(not 0 <= at <= len(self.track) for at in places):
                raise FlightError(
                    f"The flight {what} at {str(list(places))[:60]}, expected rising numbers up to {len(self.track)}."
                )
        object.__setattr__(self, "piloted", tuple(Piloted(*stretch) for stretch in self.piloted))
        if not _follow_each_other(self.piloted, len(self.track)):
            raise FlightError(
                f"The flight's pilots flew {str([list(one[:2]) for one in self.piloted])[:60]}, expected stretches of "
                f"latent frames after each other, from 1 to {len(self.track)}."
            )
        held = list(self.held or ())
        rests = {number for number, action in enumerate(self.track.magnitude, 1) if not action.any()}
        if held != sorted(set(held)) or not rests.issuperset(held):
            raise FlightError(f"The flight rests at {str(held)[:60]}, expected rising numbers of actions that are 0.")
        if self.kind == "live" and self.num_frames != num_pixel_frames(len(self.track) + 1):
            raise FlightError(f"The flight has {self.num_frames} frames, but {len(self.track)} actions.")

    @classmethod
    def from_stream(cls, stream: Any, checkpoint: dict[str, Any] | None = None) -> FlightRecord:
        """The record of a live flight, as far as it has been flown; the flight may go on.

        Args:
            stream: a `WanActStream`, which stands above this floor.
            checkpoint: how it is to be found again, {"run", "step", ...}; None for run and step of the stream's own.

        Raises:
            FlightError: if the flight is longer than a record holds (10,000 latent frames).
        """
        if stream.num_frames > MAX_ACTIONS:
            raise FlightError(f"The flight has {stream.num_frames:,} latent frames; a record holds {MAX_ACTIONS:,}.")
        (_, prompt), *changes = stream.prompts
        flown = stream.checkpoint
        return cls(
            image=stream.image,
            prompt=prompt,
            prompt_changes=tuple(changes),
            taken_up=tuple(stream.taken_up),
            held=stream.held,
            seed=stream.seed,
            track=stream.track,
            num_frames=num_pixel_frames(stream.num_frames + 1),
            num_inference_steps=stream.num_inference_steps,
            guidance_scale=stream.guidance_scale,
            fps=float(stream.pipe.defaults["fps"]),
            model={"name": str(stream.pipe.metadata.get("name", "")), "fingerprint": stream.pipe.fingerprint()},
            checkpoint=checkpoint
            or (flown.to_json() if flown.path is None else {"run": flown.run, "step": flown.step}),
            sampler=grid_of(stream.pipe.defaults) | {"name": stream.sampler, "rest": stream.rest},
            kind="live",
        )

    @classmethod
    def by_defaults(
        cls, defaults: Mapping[str, Any], image: Image.Image, prompt: str, track: ActionTrack, **more: Any
    ) -> FlightRecord:
        """The record of a clip as a model draws it unless it is told otherwise, with seed 0.

        Args:
            defaults: the model's, `pipe.defaults`.
            image: the first frame, already fitted to the clip's size.
            track: its actions; the clip is as long as they are.
            more: further fields of a record, such as model and checkpoint.
        """
        return cls(
            image=image,
            prompt=prompt,
            seed=0,
            track=track,
            num_frames=num_pixel_frames(len(track) + 1),
            num_inference_steps=defaults["num_inference_steps"],
            guidance_scale=defaults["guidance_scale"],
            fps=float(defaults["fps"]),
            sampler=grid_of(defaults),
            **more,
        )

    @classmethod
    def from_request(cls, request: Request, **more: Any) -> FlightRecord:
        """The record of a clip that was drawn as asked; `more` are fps, model, checkpoint and sampler."""
        track = request.track if request.track is not None else ActionTrack.zeros(request.num_latent_frames - 1)
        if request.image is None:
            raise FlightError("A flight that began with words alone has no first frame that a record could hold.")
        not_kept = ("height", "width", "perturbed_layers")  # its size is its first frame's, the layers are the model's
        asked = {name: value for name, value in vars(request).items() if name not in not_kept}
        fields: dict[str, Any] = asked | {"track": track} | more
        return cls(**fields)

    def to_request(self) -> ClipRequest:
        """What draws the record's clip again."""
        return ClipRequest(
            self.prompt,
            self.image,
            self.track,
            negative_prompt=self.negative_prompt,
            height=self.image.height,
            width=self.image.width,
            num_frames=self.num_frames,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
        )

    def until(self, num_latent_frames: int) -> FlightRecord:
        """The same flight up to this latent frame, to go on from there or to fly on otherwise.

        A live flight's frames stay what they were; a clip's come from one noise for all, so that a shorter clip is
        another clip along the beginning of the track.

        Args:
            num_latent_frames: actions that are kept, 0 to the length of the track.

        Raises:
            FlightError: if the flight is shorter than that.
        """
        if not 0 <= num_latent_frames <= len(self.track):
            raise FlightError(f"The flight has {len(self.track)} latent frames to go back to, not {num_latent_frames}.")
        return self.with_track(ActionTrack(self.track.magnitude[:num_latent_frames]))

    def with_track(self, track: ActionTrack) -> FlightRecord:
        """The same flight along another track, of any length; words that would change after its end are left out."""
        as_flown = np.array_equal(track.magnitude, self.track.magnitude[: len(track)])
        return replace(
            self,
            track=track,
            num_frames=num_pixel_frames(len(track) + 1),
            prompt_changes=tuple(change for change in self.prompt_changes if change[0] <= len(track)),
            taken_up=tuple(at for at in self.taken_up if at <= len(track)),
            held=tuple(n for n in self.held if n <= len(track)) if self.held is not None and as_flown else None,
            piloted=self._piloted_until(len(track)) if self._begins_as_flown(track) else (),
        )

    def _begins_as_flown(self, track: ActionTrack) -> bool:
        shared = min(len(track), len(self.track))
        return np.array_equal(track.magnitude[:shared], self.track.magnitude[:shared])

    def _piloted_until(self, last: int) -> tuple[Piloted, ...]:
        return tuple(one._replace(last=min(one.last, last)) for one in self.piloted if one.first <= last)

    @property
    def pilots(self) -> dict[int, tuple[str, str]]:
        """Who flew, by latent frame, where a pilot did: its id and its task."""
        return {n: (one.pilot, one.task) for one in self.piloted for n in range(one.first, one.last + 1)}

    def continued(self, actions: ActionTrack | Sequence[Sequence[float]]) -> FlightRecord:
        """A fork: this flight, and then these actions."""
        more = actions if isinstance(actions, ActionTrack) else ActionTrack(np.asarray(actions, np.float32))
        return self.with_track(ActionTrack(np.concatenate([self.track.magnitude, more.magnitude])))

    @classmethod
    def load(cls, path: str | Path) -> FlightRecord:
        """Read a record's file; a picture beside it is found there.

        Raises:
            FlightError: as `parse`, or if the file cannot be read.
        """
        path = Path(path)
        try:
            source = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b" " * (MAX_BYTES + 1)
        except OSError as error:
            raise FlightError(f"The flight {path} cannot be read: {error.strerror}.") from error
        return cls.parse(source, folder=path.parent)

    def to_json(self, image_path: str | None = None) -> str:
        """The record as JSON; `parse` gives an equal flight back.

        Args:
            image_path: where the picture lies, relative to the record's file; it is not written here. None puts the
                picture itself into the record.
        """
        picture: dict[str, str] = {"sha256": image_sha256(self.image)}
        if image_path is None:
            png = io.BytesIO()
            pixels = Image.fromarray(np.asarray(self.image.convert("RGB")))  # Pillow would keep what the file said, too
            pixels.save(png, "PNG", optimize=True)
            picture["png"] = base64.b64encode(png.getvalue()).decode()
        else:
            picture["path"] = image_path
        record = {
            "wanact_flight": VERSION,
            "kind": self.kind,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "size": {
                "width": self.image.width,
                "height": self.image.height,
                "num_frames": self.num_frames,
                "fps": self.fps,
            },
            "sampler": {
                **self.sampler,
                "num_inference_steps": self.num_inference_steps,
                "guidance_scale": self.guidance_scale,
            },
            "model": self.model,
            "checkpoint": self.checkpoint,
            "prompt_changes": [list(change) for change in self.prompt_changes],
            "taken_up": list(self.taken_up),
            "held": None if self.held is None else list(self.held),
            "piloted": [list(stretch) for stretch in self.piloted],
            "actions": self.track.to_list(),
            "image": picture,
        }
        return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def parse(cls, source: str | bytes, folder: Path | None = None) -> FlightRecord:
        """Read a record of any version.

        Args:
            source: the JSON.
            folder: where a picture that the record only names may lie. Without one such a record is refused: what a
                visitor sends names no files here.

        Raises:
            FlightError: if it is no flight record, is from a newer version, was changed or breaks the format.
        """
        record = read_model(_Record, _decode(source), lambda problem: FlightError(f"The flight is damaged: {problem}."))
        try:
            track, mended = read_track(record.actions)
        except ActionError as error:
            raise FlightError(f"The flight's actions cannot be flown: {error}.") from error
        if mended:  # we write no such flags, so somebody has changed the record
            raise FlightError(f"The flight's actions cannot be flown as they were: {mended.number} flags were changed.")
        return cls(
            image=_image(record.image, record.size, folder),
            prompt=record.prompt,
            negative_prompt=record.negative_prompt,
            seed=record.seed,
            track=track,
            num_frames=record.size.num_frames,
            fps=record.size.fps,
            num_inference_steps=record.sampler.num_inference_steps,
            guidance_scale=record.sampler.guidance_scale,
            model=record.model,
            checkpoint=record.checkpoint,
            sampler=record.sampler.model_extra or {},
            kind=record.kind,
            prompt_changes=tuple(record.prompt_changes),
            taken_up=tuple(record.taken_up),
            held=None if record.held is None else tuple(record.held),
            piloted=tuple(Piloted(*stretch) for stretch in record.piloted),
        )


def _follow_each_other(piloted: Sequence[Piloted], last: int) -> bool:
    free = 1
    for one in piloted:
        if not free <= one.first <= one.last <= last:
            return False
        free = one.last + 1
    return True


class _Size(BaseModel):
    width: Annotated[int, whole(1)]
    height: Annotated[int, whole(1)]
    num_frames: Annotated[int, whole(1)]
    fps: Annotated[float, number(1, MAX_FPS)] = 16.0


class _Sampler(BaseModel):
    model_config = ConfigDict(extra="allow")
    num_inference_steps: Annotated[int, whole(1, MAX_STEPS)]
    guidance_scale: Annotated[float, number()]


class _Picture(BaseModel):
    sha256: Annotated[str, text()]
    png: Annotated[str, text()] | None = None
    path: Annotated[str, text()] | None = None


def _as_pair(entry: Any) -> Any:
    return tuple(entry) if isinstance(entry, list) else entry  # JSON has no tuples


_Change = Annotated[tuple[int, Annotated[str, text()]], BeforeValidator(_as_pair)]


_Stretch = Annotated[
    tuple[int, int, Annotated[str, text(MAX_NAME)], Annotated[str, text(MAX_NAME)]], BeforeValidator(_as_pair)
]


class _Record(BaseModel):
    """The JSON of a record, as `to_json` writes it; what it does not know is left out."""

    prompt: Annotated[str, text()]
    negative_prompt: Annotated[str, text()] = ""
    seed: Annotated[int, whole(0, MAX_SEED)]
    size: _Size
    sampler: Annotated[_Sampler, plain()]
    actions: list[Any]
    image: _Picture
    model: Annotated[dict[str, Any], plain()] = {}
    checkpoint: Annotated[
        dict[str, Any] | None, plain(), says("its checkpoint is damaged; expected a run and a step, or null")
    ] = None
    kind: Kind = "clip"
    prompt_changes: Annotated[
        list[_Change], says("its changes of words are no pairs of a latent frame and a text")
    ] = []
    taken_up: Annotated[list[int], says("where it was taken up are no whole numbers")] = []
    held: Annotated[list[int] | None, says("where it rested are no whole numbers")] = None
    piloted: Annotated[list[_Stretch], says("who flew is no list of first and last latent frame, pilot and task")] = []


def _decode(source: str | bytes) -> dict:
    if len(source) > MAX_BYTES:
        raise FlightError(f"The flight has {len(source) / 2**20:.0f} MB, at most {MAX_BYTES / 2**20:.0f} MB are read.")
    try:
        record = parse_foreign(source)
    except ValueError as error:
        raise FlightError("The file is no flight record: it is not valid JSON.") from error
    if not isinstance(record, dict) or "wanact_flight" not in record:
        raise FlightError("The file is no flight record: choose a JSON that was saved with “Flight” under a clip.")
    version = record["wanact_flight"]
    if isinstance(version, bool) or version not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise FlightError(f"The flight has format version {version!r}; this version of WanAct reads {readable}.")
    return record


def _image(entry: _Picture, size: _Size, folder: Path | None) -> Image.Image:
    try:
        if entry.png is None and entry.path is not None:
            image = open_image(_beside(folder, entry.path), MAX_PIXELS)
        else:
            image = open_image(base64.b64decode(entry.png or "", validate=True), MAX_PIXELS)
    except (ImageError, binascii.Error) as error:
        raise FlightError("The flight is damaged: its first frame cannot be read.") from error
    if image.size != (size.width, size.height):
        raise FlightError(f"The flight is damaged: its first frame is {image.width} x {image.height} pixels.")
    if image_sha256(image) != entry.sha256:
        raise FlightError("The flight was changed: its first frame does not match its fingerprint.")
    return image


def _beside(folder: Path | None, name: str) -> Path:
    """A picture in the record's folder or below; never one elsewhere."""
    if folder is None:
        raise FlightError("The flight's first frame lies in a file of its own; open a record that holds the picture.")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FlightError(f"The flight names a first frame outside its folder: “{name[:80]}”.")
    return path
