"""A procedural drone world: a pinhole camera over seeded ground, and eight actions whose motion is known exactly.

`worlds.py` makes a world, `drawing.py` draws it, and the drone flies here.

World axes are x, y and down (right-handed); a camera-to-world pose has the OpenCV camera axes right, down, forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from wanact.actions import FULL_DEFLECTION, ActionTrack
from wanact.shapes import TEMPORAL_STRIDE, num_actions
from wanact.world import landmarks
from wanact.world.palettes import BIOMES, TIMES
from wanact.world.poses import PATH_UNITS, actions_from_poses, pose_matrix
from wanact.world.terrain import MAP_SIZE, TEXEL, WORLD_SIZE, sample
from wanact.world.worlds import World, make_world

__all__ = ["WORLD_SIZE", "Clip", "Drone", "World", "actions_from_poses", "fly", "make_world", "render"]

FIELD_OF_VIEW_DEG = 75.0
PITCH_LIMITS_DEG = (-38.0, 16.0)
BERTH = 7.0  # what the drone keeps from landmarks
OUT_OF_REACH = 80.0  # beyond it and twice its size no landmark keeps a step off; looking at all of a city takes long
RESPONSE = 0.6  # of the way to its stick's speed that the drone makes in a pixel frame
CEILING = 120.0  # above the water, for the places where a flight begins

Pose = tuple[float, float, float, float, float]  # x, y, altitude, yaw, pitch in world units and radians


@dataclass
class Clip:
    frames: np.ndarray  # uint8 [F, H, W, 3]
    track: ActionTrack  # what was flown, read from the poses
    poses: np.ndarray  # camera-to-world, OpenCV axes, [F, 4, 4]
    caption: str


def render(world: World, pose: Pose, height: int, width: int) -> np.ndarray:
    """One frame, uint8 [H, W, 3]."""
    return render_with_depth(world, pose, height, width)[0]


def render_with_depth(world: World, pose: Pose, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """One frame, uint8 [H, W, 3], and the depth of its pixels' centres along the view, infinite for the sky."""
    from wanact.world.drawing import Scene, draw  # numba is a slow import

    x, y, altitude, yaw, pitch = pose
    focal = width / 2 / np.tan(np.radians(FIELD_OF_VIEW_DEG / 2))
    axes = pose_matrix(pose)[:3, :3] * np.array((1.0, 1.0, -1.0))[:, None]
    parts = world.parts.copy()
    for column, centre in ((landmarks.X, x), (landmarks.Y, y)):  # the nearest copy of each
        parts[:, column] = centre + (parts[:, column] - centre + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
    scene = Scene(world.height, world.bounds, world.highest, world.colour, world.sky, world.haze, world.look, world.air,
                  world.water, parts)  # fmt: skip
    return draw(scene, np.array((x, y, altitude)), np.ascontiguousarray(axes), focal, height, width)


def random_commands(rng: np.random.Generator, count: int) -> np.ndarray:
    """Stick positions [count, 4] in [-1, 1]: forward, right, yaw right, pitch up; each held for two to eight frames.

    Now and then the drone hovers for 10 to 20 latent frames, in all about 8% of the time.
    """
    commands = np.zeros((count, 4), np.float32)
    step = 0
    while step < count:
        if rng.random() < 0.029:
            step += int(rng.integers(10, 21))
            continue
        stick = np.zeros(4, np.float32)
        chosen = rng.random(4) < (0.55, 0.33, 0.45, 0.30)
        if rng.random() < 0.35:  # one channel alone, as a key press is
            chosen = np.arange(4) == rng.choice(4)
        sign = np.where(rng.random(4) < (0.5, 0.5, 0.5, 0.5), 1, -1)
        amplitude = np.where(rng.random(4) < 0.5, 1.0, rng.uniform(0.35, 1.1, 4))
        stick[chosen] = (sign * amplitude)[chosen]
        hold = int(rng.integers(2, 9))
        commands[step : step + hold] = stick
        step += hold
    return commands


def turn_back(commands: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same flight up to a place in its first half, then the same way back: its start comes into view again."""
    turn = int(rng.integers(max(len(commands) // 5, 1), max(len(commands) // 2, 1) + 1))
    commands = commands.copy()
    way_back = -commands[turn - 1 :: -1][: len(commands) - turn]
    commands[turn : turn + len(way_back)] = way_back
    return commands


def _start(world: World, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A place and heading worth looking at: x, y, altitude, yaw.

    Half of the places are drawn round a landmark, facing it roughly; the one with the best view of some is kept.
    """
    best, best_score = None, -np.inf
    for _ in range(20):
        if len(world.places) and rng.random() < 0.75:
            px, py, _ = world.places[rng.integers(len(world.places))]
            bearing, far = rng.uniform(0, 2 * np.pi), rng.uniform(95, 240)
            x, y = (px - far * np.cos(bearing)) % WORLD_SIZE, (py - far * np.sin(bearing)) % WORLD_SIZE
            yaw = bearing + rng.normal(0, 0.28)
        else:
            (x, y), yaw = rng.uniform(0, WORLD_SIZE, 2), rng.uniform(0, 2 * np.pi)
        rise = rng.uniform(16, 44) + (24 if world.biome == "a city" else 0)  # over the lower roofs
        altitude = max(_ground_near(world, x, y, 26) + rise, 0.8 * _ground_near(world, x, y, 100) + 12)
        score = _view_score(world, x, y, altitude, yaw) + rng.uniform(0, 0.6)
        if score > best_score:
            best, best_score = (float(x), float(y), float(altitude), float(yaw)), score
    assert best is not None, "every score is above the first"
    return best


def _view_score(world: World, x: float, y: float, altitude: float, yaw: float) -> float:
    """How good a view is: an open horizon, a landmark that is neither hidden nor too near, some water, room to fly."""
    angle = yaw + np.radians(np.array((-30, -15, 0, 15, 30)))[:, None]
    far = np.array((15, 30, 50, 75, 105, 140, 180, 240, 320))[None]
    ground = sample(world.height, x + far * np.cos(angle), y + far * np.sin(angle))
    slope = (np.maximum(ground, 0) - altitude) / far
    score = -6.0 * float(np.clip(slope.max(1) - 0.06, 0, 0.5).mean()) - 3.0 * float(slope[:, :4].max() > -0.02)
    score -= max(altitude - CEILING, 0) / 40
    wet = float((ground[:, 2:] < 0).mean())
    score += 1.2 * min(wet, 0.45) - 1.0 * max(wet - 0.8, 0)
    sun = np.angle(np.exp(1j * (np.arctan2(world.look[1], world.look[0]) - yaw)))
    score += 0.9 * float(abs(sun) < np.radians(30) and world.look[2] < 0.5)
    distance, _ = landmarks.clearance(world.parts, x, y, WORLD_SIZE)
    tall = world.parts[:, landmarks.TOP] > altitude - BERTH
    if (distance[tall] < 26).any():
        score -= 4
    dx = (world.parts[:, landmarks.X] - x + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
    dy = (world.parts[:, landmarks.Y] - y + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
    ahead, across = dx * np.cos(yaw) + dy * np.sin(yaw), np.abs(dy * np.cos(yaw) - dx * np.sin(yaw))
    score -= 0.8 * float((tall & (ahead > 0) & (ahead < 220) & (across < 20)).any())  # room to fly ahead
    score -= 0.7 * min(int((tall & (ahead > 0) & (ahead < 95) & (across < 0.8 * ahead + 10)).sum()), 4)
    for px, py, top in world.places:
        dx = (px - x + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
        dy = (py - y + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2
        away, off = np.hypot(dx, dy), np.angle(np.exp(1j * (np.arctan2(dy, dx) - yaw)))
        if away > 330 or abs(off) > np.radians(31):
            continue
        way = np.linspace(0.1, 0.85, 8)
        ray = altitude + way * (top - 8 - altitude)
        if (top - altitude) / away > 0.2:  # its head is out of the picture
            score -= 1.5
        elif (sample(world.height, x + way * dx, y + way * dy) < ray).all():
            score += 1.4 * np.clip((away - 40) / 50, -0.5, 1) * np.clip((380 - away) / 240, 0, 1)
    return score


def fly(
    world: World,
    rng: np.random.Generator,
    num_frames: int = 81,
    height: int = 96,
    width: int = 160,
    track: ActionTrack | None = None,
    returns: float = 0.0,
) -> Clip:
    """Fly one clip from a random place: along ``track``, or by random sticks, of which a share ``returns`` turns back.

    The drone has inertia (it follows the stick within about a latent frame), keeps its height, climbs over ground that
    comes near and slides round landmarks. The clip's track is read from the poses, so it says what happened rather
    than what was asked.
    """
    poses = fly_poses(world, rng, num_frames, track, returns)
    frames = np.stack([render(world, pose, height, width) for pose in poses])
    matrices = np.stack([pose_matrix(pose) for pose in poses])
    return Clip(frames, actions_from_poses(matrices), matrices, world.caption)


def fly_poses(
    world: World, rng: np.random.Generator, num_frames: int, track: ActionTrack | None = None, returns: float = 0.0
) -> list[Pose]:
    """The poses of a flight, see fly."""
    steps = num_actions(num_frames)
    full = np.array(FULL_DEFLECTION)[1::2]
    if track is None:
        commands = random_commands(rng, steps) * full
        if returns and rng.random() < returns:
            commands = turn_back(commands, rng)
    else:
        track.require_length(num_frames)
        commands = track.axes.astype(float)
    x, y, altitude, yaw = _start(world, rng)
    pitch = float(np.radians(rng.uniform(-15, -2) if track is None else -8))
    drone = Drone(world, (x, y, altitude, yaw, pitch), commands[0] if steps else None)
    poses = [drone.pose]
    for command in commands:
        poses += drone.step(command)
    return poses


class Drone:
    """A drone that is flown latent frame by latent frame.

    Args:
        world: where it flies.
        pose: where it begins.
        command: the sticks it is flown with already, see `step`; None at rest.

    Attributes:
        pose: where it is.
        velocity: ahead, right, yaw right and pitch up a pixel frame, [4], in the units of a track.
        climb: world units a pixel frame; the ground lifts it, no stick does.
        touched: whether something kept it from where the sticks led, in the latent frame before: it slid round what
            stands there, or was lifted off the ground.
    """

    def __init__(self, world: World, pose: Pose, command: np.ndarray | None = None):
        self.world, self.pose = world, pose
        self.velocity = np.zeros(4) if command is None else np.asarray(command, float) / TEMPORAL_STRIDE
        self.climb, self.touched = 0.0, False

    def step(self, command: np.ndarray) -> list[Pose]:
        """Fly one latent frame; the poses of its pixel frames.

        Args:
            command: ahead, right, yaw right and pitch up, [4], in the units of a track.
        """
        self.touched = False
        poses = []
        for _ in range(TEMPORAL_STRIDE):
            self._fly_frame(command)
            poses.append(self.pose)
        return poses

    def _fly_frame(self, command: np.ndarray) -> None:
        world = self.world
        x, y, altitude, yaw, pitch = self.pose
        low, high = np.radians(PITCH_LIMITS_DEG)
        velocity = self.velocity + RESPONSE * (command / TEMPORAL_STRIDE - self.velocity)
        velocity = np.where((np.abs(velocity) < 1e-4) & (command == 0), 0, velocity)  # rest is rest
        ahead, right = velocity[:2] * PATH_UNITS
        yaw += np.radians(velocity[2])
        pitch = float(np.clip(pitch + np.radians(velocity[3]), low, high))
        dx, dy = ahead * np.cos(yaw) - right * np.sin(yaw), ahead * np.sin(yaw) + right * np.cos(yaw)
        asked = x + dx, y + dy
        x, y = _slide_round(world, x, y, dx, dy, altitude)
        wanted = max(_ground_near(world, x + 6 * dx, y + 6 * dy, 8), _ground_near(world, x + 14 * dx, y + 14 * dy, 8))
        climb = self.climb + 0.3 * (min(0.12 * max(wanted + 9 - altitude, 0), 2.2) - self.climb)
        self.climb = climb if climb > 1e-3 else 0.0
        floor = _ground_near(world, x, y, 3) + 3
        self.touched |= (x, y) != asked or altitude + self.climb < floor
        altitude = max(altitude + self.climb, floor)
        self.velocity, self.pose = velocity, (float(x), float(y), float(altitude), float(yaw), float(pitch))


def _slide_round(world: World, x: float, y: float, dx: float, dy: float, altitude: float) -> tuple[float, float]:
    """Where a step leads that keeps its berth from what stands at this height and goes round it."""
    parts = world.parts
    at_height = (parts[:, landmarks.BOTTOM] - BERTH < altitude) & (altitude < parts[:, landmarks.TOP] + BERTH)
    parts = parts[at_height]
    away_x, away_y = ((parts[:, k] - v + WORLD_SIZE / 2) % WORLD_SIZE - WORLD_SIZE / 2 for k, v in
                      ((landmarks.X, x), (landmarks.Y, y)))  # fmt: skip
    parts = parts[np.hypot(away_x, away_y) < 2 * parts[:, landmarks.REACH] + OUT_OF_REACH]
    if not len(parts):
        return x + dx, y + dy
    distance, away = landmarks.clearance(parts, x + dx, y + dy, WORLD_SIZE)
    nearest = int(distance.argmin())
    if distance[nearest] < BERTH:  # along the outline, as fast as before
        along = np.array((-away[nearest, 1], away[nearest, 0]))
        side = 1.0 if along @ (dx, dy) >= 0 else -1.0
        dx, dy = side * along * np.hypot(dx, dy)
    x, y = x + dx, y + dy
    for _ in range(4):
        distance, away = landmarks.clearance(parts, x, y, WORLD_SIZE)
        nearest = int(distance.argmin())
        if distance[nearest] >= BERTH:
            break
        push = BERTH - distance[nearest] + 1e-6
        x, y = x + push * away[nearest, 0], y + push * away[nearest, 1]
    return float(x), float(y)


def _ground_near(world: World, x: float, y: float, radius: float) -> float:
    """The highest ground, or the water, within a square of this half side."""
    reach = int(np.ceil(radius / TEXEL))
    span = np.arange(-reach, reach + 2, max(1, reach // 4))
    rows, columns = (int(y // TEXEL) + span) % MAP_SIZE, (int(x // TEXEL) + span) % MAP_SIZE
    return max(float(world.height[rows[:, None], columns].max()), 0.0)  # np.ix_ takes longer than the look-up


def contact_sheet(seed: int, height: int = 192, width: int = 320) -> Image.Image:
    """First frames of every biome (down) at every hour (across)."""
    rows = []
    for k, biome in enumerate(BIOMES):
        row = []
        for j, time in enumerate(TIMES):
            number = seed + len(TIMES) * k + j
            world = make_world(number, biome.name, time.name)
            pose = fly_poses(world, np.random.default_rng([number, 0]), 1)[0]
            row.append(render(world, pose, height, width))
        rows.append(np.concatenate(row, 1))
    return Image.fromarray(np.concatenate(rows))
