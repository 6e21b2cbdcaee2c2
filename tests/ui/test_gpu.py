import sys
from types import SimpleNamespace

import pytest

from wanact.ui.gpu import LONGEST, clip_seconds, on_gpu

CALL = {"first_frame": "a.png", "prompt": "a lake", "plan": [], "checkpoint": "base", "seed": 0}


def work(name):
    yield f"hello {name}"


class LentGPU:
    """What `spaces.GPU(duration=...)` is on ZeroGPU, as far as it shows here."""

    def __init__(self, duration):
        self.duration = duration

    def __call__(self, function):
        def wrapped(*args):
            yield from (("lent", self.duration(*args), answer) for answer in function(*args))

        return wrapped


@pytest.fixture
def spaces(monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=LentGPU))


def test_a_lent_gpu_is_asked_for_with_a_time_from_the_request(spaces, monkeypatch):
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    wrapped = on_gpu(work, lambda name: len(name))
    assert list(wrapped("pilot")) == [("lent", 5, "hello pilot")]


@pytest.mark.parametrize("value", [None, "", "false"])
def test_elsewhere_nothing_is_wrapped(spaces, monkeypatch, value):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    if value is not None:
        monkeypatch.setenv("SPACES_ZERO_GPU", value)
    assert on_gpu(work, len) is work


@pytest.fixture
def seconds(engine):
    from wanact.ui.pages.fly.desk import FlyDesk, FlyForm

    of_form = clip_seconds(FlyDesk(engine))
    return lambda **fields: of_form(FlyForm(**fields))


def test_more_work_is_given_more_time(seconds):
    usual = seconds(**CALL)
    assert 5 <= usual <= seconds(**CALL, steps=60, guidance=5.0) <= LONGEST


def test_what_will_be_refused_is_given_little(seconds, monkeypatch):
    assert seconds(**CALL, size="a×b") == seconds(**CALL, steps="many") == 5


def test_every_clip_of_both_pages_is_drawn_with_a_lent_gpu(spaces, monkeypatch, engine, request_fields):
    from wanact.ui.pages.compare.desk import CompareDesk
    from wanact.ui.pages.fly.desk import FlyDesk

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    *_, (lent, seconds, (state, _)) = FlyDesk(engine).generate(**request_fields)
    assert (lent, state.status) == ("lent", "done") and 5 <= seconds < 100
    fields = request_fields | {"lanes": ["base"] * 3}
    del fields["checkpoint"]
    *_, (lent, all_lanes, state) = CompareDesk(engine).compare(**fields)
    assert (lent, all_lanes, state.status) == ("lent", 3 * seconds, "done")
