"""Gymnasium environments of a drone with tasks: `WanAct/Sim-v0` in the simulator, `WanAct/World-v0` in a world model.

One step is one latent frame. An action is four signed sticks in [-1, 1], ahead, right, yaw right and pitch up, of full
deflection; they become the eight channels through `ActionTrack`. `import train.pilot.envs` registers both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from wanact.actions import ActionTrack
from wanact.errors import UserError
from wanact.world import tasks
from wanact.world.craft import FULL, Craft, ReckonedCraft, SimulatedCraft, Worlds, start

SIM, WORLD = "WanAct/Sim-v0", "WanAct/World-v0"
PICTURE_SIZE = (48, 80)
Observation = Literal["state", "picture", "both"]
HELD_OUT = 1_000_000  # worlds from this seed on are never trained in
MIXED = "mixed"


class TaskEnv(gym.Env[Any, np.ndarray]):
    """What both environments share: the task, its rewards, episodes, and their state.

    Args:
        task: a name of `tasks.NAMES`, or `mixed` for another one each episode.
        observation: `state` (numbers alone), `picture` (uint8 [48, 80, 3]) or `both`.
        render_mode: None or `rgb_array`.

    The info of an episode's last step holds `is_success` and `episode` (`r` its return, `l` its length), that of each
    step `truth`: where reward and observation come from, `simulator` or `inverse dynamics`.

    Raises:
        UserError: if an argument is none of these.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 6}
    truth = "simulator"
    craft: Craft
    task: tasks.Task

    def __init__(self, task: str = "gates", observation: Observation = "state", render_mode: str | None = None):
        if task not in (*tasks.NAMES, MIXED):
            raise tasks.TaskError(f"task={task!r} is not one of {', '.join((*tasks.NAMES, MIXED))}")
        if observation not in get_args(Observation):
            raise UserError(f"observation={observation!r} is not one of {', '.join(get_args(Observation))}")
        self.asked, self.observation, self.render_mode = task, observation, render_mode
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        state = spaces.Box(-tasks.LIMIT, tasks.LIMIT, (tasks.SIZE,), np.float32)
        picture = spaces.Box(0, 255, (*PICTURE_SIZE, 3), np.uint8)
        both = spaces.Dict({"state": state, "picture": picture})
        self.observation_space = {"state": state, "picture": picture, "both": both}[observation]
        self.step_number, self.total = 0, 0.0

    # What each environment does itself

    def _begin(self, options: Mapping[str, Any]) -> tasks.Task | None:
        """Set `craft` somewhere and a task there; None if the place suits none."""
        raise NotImplementedError

    def _fly(self, axes: np.ndarray) -> None:
        raise NotImplementedError

    def _picture(self) -> np.ndarray:
        raise NotImplementedError

    # Gymnasium

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the same seed gives the same. `options` may ask for a `task` and a `world` (its seed)."""
        super().reset(seed=seed)
        for _ in range(200):
            task = self._begin(options or {})
            if task is not None:
                self.task, self.step_number, self.total = task, 0, 0.0
                return self._observe(), self._info()
        raise UserError(f"no place was found in 200 to fly {self.asked} from; choose another world or task")

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        axes = np.clip(np.asarray(action, np.float64), -1, 1)
        before = self.craft.pose
        self._fly(axes)
        self.step_number += 1
        verdict = tasks.judge(self.task, before, self.craft, self.step_number)
        self.total += verdict.reward
        truncated = not verdict.is_over and self.step_number >= self.task.num_steps
        info = self._info()
        if verdict.is_over or truncated:
            info["is_success"] = bool(verdict.is_done)
            info["episode"] = {"r": float(self.total), "l": self.step_number}
        return self._observe(), float(verdict.reward), verdict.is_over, truncated, info

    def render(self) -> np.ndarray | None:
        return self._picture() if self.render_mode == "rgb_array" else None

    def _observe(self) -> Any:
        if self.observation == "picture":
            return self._picture()
        state = tasks.observe(self.task, self.craft, self.step_number)
        return state if self.observation == "state" else {"state": state, "picture": self._picture()}

    def _info(self) -> dict[str, Any]:
        return {"truth": self.truth, "task": self.task.name}

    def _draw_task(self, options: Mapping[str, Any]) -> str:
        asked = options.get("task", self.asked)
        return str(self.np_random.choice(tasks.NAMES)) if asked == MIXED else asked

    # State, for checkpoints

    def get_state(self) -> dict[str, Any]:
        """Everything an episode goes on from, as JSON; see `set_state`."""
        return {
            "generator": self.np_random.bit_generator.state,
            "task": tasks.to_json(self.task),
            "step": self.step_number,
            "total": self.total,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` gave, in this or another process, to the last bit."""
        generator = np.random.default_rng()
        generator.bit_generator.state = state["generator"]
        self.np_random = generator
        self.task = tasks.from_json(state["task"])
        self.step_number, self.total = int(state["step"]), float(state["total"])


class SimEnv(TaskEnv):
    """A drone in the simulator.

    Args:
        num_worlds: how many worlds episodes are flown in.
        first_world: the seed of the first of them.
        task, observation, render_mode: as for `TaskEnv`.
    """

    craft: SimulatedCraft

    def __init__(
        self,
        task: str = "gates",
        observation: Observation = "state",
        render_mode: str | None = None,
        num_worlds: int = 12,
        first_world: int = 0,
    ):
        super().__init__(task, observation, render_mode)
        if num_worlds < 1:
            raise UserError(f"num_worlds={num_worlds} must be at least 1")
        self.worlds = _shared(num_worlds, observation != "state" or render_mode is not None)
        self.num_worlds, self.first_world, self.world = num_worlds, first_world, first_world

    def _begin(self, options: Mapping[str, Any]) -> tasks.Task | None:
        name = self._draw_task(options)
        drawn = self.first_world + int(self.np_random.integers(self.num_worlds))
        self.world = int(options.get("world", drawn))
        self.craft = start(self.worlds(self.world), self.np_random)
        return tasks.set_up(name, self.craft, self.np_random)

    def _fly(self, axes: np.ndarray) -> None:
        self.craft.fly(_through_the_channels(axes))

    def _picture(self) -> np.ndarray:
        return self.craft.picture(*PICTURE_SIZE)

    def _info(self) -> dict[str, Any]:
        return super()._info() | {"world": self.world}

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"world": self.world, "craft": self.craft.state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self.world = int(state["world"])
        pose = state["craft"]["pose"]
        self.craft = SimulatedCraft(self.worlds(self.world), tuple(pose))
        self.craft.restore(state["craft"])


class WorldEnv(TaskEnv):
    """A drone inside a world model: every step draws four frames, and the inverse dynamics model reads how it moved.

    Nobody knows where anything stands there. Position and heading are reckoned from what is read, gates and landmarks
    are places in the air, range rays meet nothing, and a crash is not seen: rewards are as true as the reading.

    Args:
        model_dir, checkpoint: the model directory, and the run or checkpoint that is flown in it; a causal one.
        images: files of first frames, of which each episode draws one; none for the pictures that come with the app.
        device: where the model runs.
        num_inference_steps: steps that draw a latent frame; None for what the checkpoint was trained for.
        pipe: a pipeline to fly in, instead of opening one.
        task, observation, render_mode: as for `TaskEnv`.

    Raises:
        UserError: if there is no inverse dynamics model, or the checkpoint is not causal.
    """

    truth = "inverse dynamics"
    craft: ReckonedCraft

    def __init__(
        self,
        task: str = "gates",
        observation: Observation = "state",
        render_mode: str | None = None,
        model_dir: str = "assets/nano",
        checkpoint: str = "assets/runs/live",
        images: Sequence[str] = (),
        device: str = "cpu",
        num_inference_steps: int | None = None,
        pipe: Any = None,
    ):
        super().__init__(task, observation, render_mode)
        from wanact.flying.pipeline import WanActPipeline  # brings torch and the networks
        from wanact.models.idm import load_idm

        self.pipe = pipe
        if pipe is None:
            self.pipe = WanActPipeline.from_model_dir(model_dir, device)
            self.pipe.load_controller(checkpoint)
        idm = load_idm()
        if idm is None:
            raise UserError(f"{WORLD} reads motion with the inverse dynamics model, and assets/idm has none")
        self.idm, self.images, self.steps = idm, list(images) or _pictures(), num_inference_steps
        self.flown: list[list[float]] = []
        self.episode: dict[str, Any] = {}

    def _begin(self, options: Mapping[str, Any]) -> tasks.Task | None:
        name = self._draw_task(options)
        image = int(self.np_random.integers(len(self.images)))
        self._take_off({"image": self.images[image], "seed": int(self.np_random.integers(2**31 - 1))})
        return tasks.set_up(name, self.craft, self.np_random)

    def _take_off(self, episode: dict[str, Any]) -> None:
        from wanact.flying.stream import WanActStream

        self.episode, self.flown = episode, []
        self.stream = WanActStream(
            self.pipe, episode["image"], seed=episode["seed"], num_inference_steps=self.steps, rest="commit"
        )
        self.newest = np.asarray(self.stream.image)[None]
        self.craft = ReckonedCraft()

    def _fly(self, axes: np.ndarray) -> None:
        """Draw the next frames, and reckon with what they show rather than with what was asked."""
        self.flown.append([float(axis) for axis in axes])
        frames = self.stream.step(ActionTrack.from_axes(axes[None] * FULL).magnitude[0])
        read = self.idm.read(np.concatenate([self.newest, frames]))[0]
        self.newest = frames[-1:]
        self.craft.fly(read / FULL)

    def _picture(self) -> np.ndarray:
        import cv2

        return cv2.resize(self.newest[0], PICTURE_SIZE[::-1], interpolation=cv2.INTER_AREA)

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"episode": self.episode, "flown": self.flown}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """As ever; the world is drawn again from its first frame, which gives the same frames."""
        super().set_state(state)
        self._take_off(dict(state["episode"]))
        for axes in state["flown"]:
            self._fly(np.array(axes, np.float64))


_WORLDS: dict[bool, Worlds] = {}


def _shared(keep: int, with_pictures: bool) -> Worlds:
    """The environments of a process make each world once."""
    worlds = _WORLDS.setdefault(with_pictures, Worlds(keep, with_pictures))
    worlds.keep = max(worlds.keep, keep)
    return worlds


def _through_the_channels(axes: np.ndarray) -> np.ndarray:
    """The sticks as the eight channels of an action have them: in float32, opposite ones never both."""
    return ActionTrack.from_axes(axes[None] * FULL).axes[0].astype(np.float64) / FULL


def _pictures() -> list[str]:
    from pathlib import Path

    folder = Path(__file__).resolve().parents[2] / "assets" / "examples"
    return [str(path) for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png", ".webp")]


def register() -> None:
    """Make both known to `gymnasium.make`; done at import."""
    entries: dict[str, Callable[..., gym.Env]] = {SIM: SimEnv, WORLD: WorldEnv}
    for name, entry in entries.items():
        if name not in gym.registry:
            gym.register(name, entry_point=f"{__name__}:{entry.__name__}")


register()
