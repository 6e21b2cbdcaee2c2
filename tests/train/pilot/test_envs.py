"""Both environments keep Gymnasium's contract, repeat themselves, and go on from their state."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

from tests.flying.test_stream import write_causal_run
from train.pilot.envs import SIM, WORLD, SimEnv, WorldEnv
from wanact.flying.pipeline import WanActPipeline
from wanact.world import tasks


@pytest.fixture
def sim() -> SimEnv:
    env = gym.make(SIM, task="mixed", num_worlds=1).unwrapped
    assert isinstance(env, SimEnv)
    return env


@pytest.fixture
def world(tiny_model_dir, tmp_path) -> WorldEnv:
    pipe = WanActPipeline.from_model_dir(tiny_model_dir)
    pipe.load_controller(write_causal_run(tmp_path / "run"))
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    assert WORLD in gym.registry
    return WorldEnv(pipe=pipe, images=[str(tmp_path / "first.png")])


def flight(env: gym.Env, seed: int, steps: int) -> list:
    seen = [env.reset(seed=seed)[0]]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, 4).astype(np.float32))
        seen += [observation, reward]
        if terminated or truncated:
            break
    return seen


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("env", ["sim", "world"])
def test_gymnasium_accepts_the_environment(env, request):
    check_env(request.getfixturevalue(env), skip_render_check=True)


@pytest.mark.parametrize("env", ["sim", "world"])
def test_a_seed_repeats_its_episode_and_no_other(env, request):
    env = request.getfixturevalue(env)
    first = flight(env, 4, 6)
    assert same(first, flight(env, 4, 6)) and not same(first, flight(env, 5, 6))


@pytest.mark.parametrize("env", ["sim", "world"])
def test_an_episode_and_the_next_go_on_from_the_state_to_the_last_bit(env, request):
    env = request.getfixturevalue(env)
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    sticks = rng.uniform(-1, 1, (12, 4)).astype(np.float32)
    for action in sticks[:4]:
        env.step(action)
    state = json.loads(json.dumps(env.get_state()))
    expected = [env.step(action)[:2] for action in sticks[4:7]] + [env.reset()[0]]
    flight(env, 9, 3)
    env.set_state(state)
    again = [env.step(action)[:2] for action in sticks[4:7]] + [env.reset()[0]]
    for (seen, reward), (seen_again, reward_again) in zip(expected[:-1], again[:-1], strict=True):
        assert np.array_equal(seen, seen_again) and reward == reward_again
    assert np.array_equal(expected[-1], again[-1])


@pytest.mark.parametrize(("observation", "shape"), [("picture", (48, 80, 3)), ("both", (48, 80, 3))])
def test_a_picture_can_be_shown(observation, shape):
    env = gym.make(SIM, num_worlds=1, observation=observation)
    seen, _ = env.reset(seed=0)
    picture = seen if observation == "picture" else seen["picture"]
    assert picture.shape == shape and picture.dtype == np.uint8 and picture.std() > 5
    assert env.observation_space.contains(seen)


def test_an_episode_ends_with_what_came_of_it(sim):
    seen, info = sim.reset(seed=0, options={"task": "gates"})
    assert info["truth"] == "simulator"
    total, is_over = 0.0, False
    while not is_over:
        seen, reward, terminated, truncated, info = sim.step(tasks.hand_written(seen))
        total += reward
        is_over = terminated or truncated
    assert info["is_success"] and info["episode"]["r"] == pytest.approx(total)


def test_inside_the_world_what_is_read_is_what_counts(world):
    _, info = world.reset(seed=0)
    assert info["truth"] == "inverse dynamics"
    world.step(np.array((1.0, 0, 0, 0), np.float32))
    read = world.idm.read(np.concatenate([np.asarray(world.stream.image)[None], _replayed(world)]))[0]
    from wanact.world.craft import FULL

    np.testing.assert_allclose(world.craft.velocity, read / FULL)


def _replayed(world: WorldEnv) -> np.ndarray:
    from wanact.flying.stream import WanActStream

    stream = WanActStream(world.pipe, world.episode["image"], seed=world.episode["seed"], rest="commit")
    return stream.step(world.stream.track.magnitude[0])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="task='looping'"):
        SimEnv("looping")
    with pytest.raises(ValueError, match="observation='sound'"):
        SimEnv(observation="sound")  # type: ignore[arg-type]
