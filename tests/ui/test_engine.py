import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.flying.test_pipeline import edit_config
from tests.flying.test_stream import write_causal_run
from tests.ui.conftest import write_card, write_run
from wanact.files import CheckpointError
from wanact.flying import pipeline
from wanact.flying.pipeline import Cancelled
from wanact.flying.prompts import negative_prompts
from wanact.flying.turns import Turns
from wanact.runs.ref import BASE
from wanact.ui.engine import Decoded, Denoised, Engine, Waiting, _Room
from wanact.ui.pages.fly.desk import FlyDesk, FlyForm


@pytest.fixture
def flight(desk, request_fields):
    return desk.read_flight(FlyForm(**request_fields))


def frames_of(events):
    return [event for event in events if isinstance(event, np.ndarray)][-1]


def flown_at_once(engine, flights):
    """The frames of each, all asked for by visitors at the same time."""
    frames = [None] * len(flights)

    def visit(i):
        frames[i] = frames_of(engine.fly(flights[i]))

    visitors = [threading.Thread(target=visit, args=(i,)) for i in range(len(flights))]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return frames


def test_checkpoints_are_listed_newest_first_and_the_base_last(engine):
    choices, damaged = engine.checkpoints()
    assert [choice.id for choice in choices] == ["drone/step-000000400", "drone/step-000000200", BASE]
    assert choices[0].label == "drone · step 400 · loss 0.0250 · lowest loss · latest"
    assert damaged == 0
    assert engine.default_checkpoint() == "drone/step-000000400"


def test_the_default_is_the_best_of_the_run_that_was_saved_to_last(pipe, tmp_path):
    write_run(tmp_path / "a-newer", steps=(400, 200))  # the loss rises, so that the first is the best
    write_run(tmp_path / "b-older", steps=(900,), timestamp="2001-01-01T00:00:00+00:00")
    engine = Engine(pipe, tmp_path)
    assert engine.default_checkpoint() == "a-newer/step-000000400"


def test_best_is_by_control_where_there_are_cards_and_else_reads_lowest_loss(pipe, tmp_path):
    run = write_run(tmp_path / "drone", steps=(100, 200, 300))
    engine = Engine(pipe, tmp_path)
    assert "lowest loss" in engine.find("drone/step-000000300").label
    write_card(run, 100, control=0.9)
    write_card(run, 300, control=0.7)
    write_card(run, 200, control=1.0, first_frames=2)
    marks = [(entry.step, entry.is_best, entry.label) for entry in engine.runs()[0].entries]
    assert [step for step, is_best, _ in marks if is_best] == [100], "a quick card does not win over full ones"
    assert marks[0][2].endswith("· best") and not any("lowest loss" in label for _, _, label in marks)
    assert engine.default_checkpoint() == "drone/step-000000100"
    assert engine.find("drone/step-000000100").label.endswith("· best")


def test_without_runs_there_is_the_base(pipe, tmp_path):
    engine = Engine(pipe, tmp_path / "nowhere")
    assert [choice.id for choice in engine.checkpoints()[0]] == [BASE]
    assert engine.default_checkpoint() == BASE


def test_a_damaged_checkpoint_is_left_out_and_counted(pipe, tmp_path):
    run = write_run(tmp_path / "drone")
    weights = run / "checkpoints" / "step-000000400" / "action_controller.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    choices, damaged = Engine(pipe, tmp_path).checkpoints()
    assert [choice.step for choice in choices] == [200, None]
    assert damaged == 1


def test_a_new_checkpoint_shows_without_a_restart(pipe, tmp_path):
    engine = Engine(pipe, tmp_path)
    write_run(tmp_path / "late", steps=(5,))
    assert engine.find("late/step-000000005").step == 5


def test_ids_are_names_and_never_paths(engine):
    for wanted in ("../drone/step-000000400", "/etc", "", None, "drone/step-000000999"):
        with pytest.raises(CheckpointError, match="is not there any more"):
            engine.find(wanted)


def test_a_flight_reports_its_steps_and_ends_with_the_frames(engine, flight):
    events = [event for event in engine.fly(flight) if not isinstance(event, Waiting)]
    steps = [event for event in events if isinstance(event, Denoised)]
    assert [(event.step, event.total) for event in steps] == [(1, 2), (2, 2)]
    assert steps[0].preview.dtype == np.uint8 and steps[0].preview.shape[0] == 5
    assert [event.num_frames for event in events if isinstance(event, Decoded)][-1] == 17
    assert events[-1].shape == (17, 32, 64, 3)


def test_visitors_with_different_checkpoints_get_what_each_would_get_alone(engine, flight):
    flights = [flight, replace(flight, checkpoint=engine.find(BASE)), replace(flight, seed=4)]
    alone = [frames_of(engine.fly(flight)) for flight in flights]
    together = flown_at_once(engine, flights)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(alone[0], alone[1])


def test_work_that_is_cut_at_every_block_gives_the_same_frames(engine, flight, runs_root, tmp_path, monkeypatch):
    """Clips of a checkpoint, of the base, and of a causal checkpoint, which is flown latent frame by latent frame."""
    monkeypatch.setattr(pipeline, "SLICE_S", -1.0)
    monkeypatch.setattr(Turns, "_next", lambda self, places: next(iter(places), None))  # the others, at every chance
    write_causal_run(tmp_path / "live")
    causal = Engine(engine.pipe, tmp_path).checkpoints()[0][0]
    flights = [flight, replace(flight, checkpoint=engine.find(BASE)), replace(flight, checkpoint=causal, seed=4)]
    alone = [frames_of(engine.fly(flight)) for flight in flights]
    ways = []
    give_way = Turns.give_way

    def counted(self):
        self.slice_s = 0.0
        ways.append(give_way(self))
        return ways[-1]

    monkeypatch.setattr(Turns, "give_way", counted)
    together = flown_at_once(engine, flights)
    assert sum(ways) > 20, "they have had the model in turns"
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_a_causal_checkpoint_keeps_its_own_number_of_steps_unless_another_is_asked(engine, request_fields, tmp_path):
    edit_config(write_causal_run(tmp_path / "live"), causal={"window": 3, "num_inference_steps": 5})
    desk = FlyDesk(Engine(engine.pipe, tmp_path))
    usual = engine.defaults["num_inference_steps"]
    for checkpoint, asked, steps in (
        ("live/exported", None, 5),
        ("live/exported", usual, 5),
        ("live/exported", usual + 1, usual + 1),
        (BASE, usual, usual),
    ):
        form = FlyForm(**request_fields | {"checkpoint": checkpoint, "steps": asked})
        assert desk.read_flight(form).num_inference_steps == steps


def test_what_would_not_fit_beside_others_waits_and_what_is_alone_gets_all(engine):
    room, gone = _Room(100), threading.Event()
    with room.taken(500, gone):
        entered = threading.Event()

        def enter(num_bytes):
            with room.taken(num_bytes, gone):
                entered.set()

        other = threading.Thread(target=enter, args=(10,))
        other.start()
        assert not entered.wait(0.2)
    other.join(10)
    assert entered.is_set()
    with room.taken(60, gone), room.taken(40, gone):
        left = threading.Event()
        left.set()
        with pytest.raises(Cancelled), room.taken(1, left):
            pass
    with room.taken(100, gone):
        pass


def test_closing_a_flight_stops_it_and_frees_the_model(engine, flight, monkeypatch):
    begun, go_on, steps = threading.Event(), threading.Event(), []
    preview = engine.pipe.preview

    def slow_preview(latents):
        steps.append(1)
        begun.set()
        assert go_on.wait(10)
        return preview(latents)

    monkeypatch.setattr(engine.pipe, "preview", slow_preview)
    events = engine.fly(replace(flight, num_inference_steps=20))
    for event in events:
        if begun.is_set():
            assert isinstance(event, Waiting)
            break
    events.close()
    go_on.set()
    with engine.pipe.lock:
        assert len(steps) <= 2
    monkeypatch.undo()
    assert frames_of(engine.fly(flight)).shape == (17, 32, 64, 3)


def test_a_checkpoint_that_vanished_since_it_was_listed_is_named(engine, flight, tmp_path):
    run = write_run(tmp_path / "gone", steps=(7,))
    choice = Engine(engine.pipe, tmp_path).find("gone/step-000000007")
    shutil.rmtree(run)
    with pytest.raises(CheckpointError, match="“gone · step 7 .*” cannot be loaded"):
        list(engine.fly(replace(flight, checkpoint=choice)))
    assert len(frames_of(engine.fly(flight))) == 17


def test_messages_do_not_tell_where_runs_lie(pipe, flight, tmp_path):
    run = write_run(tmp_path / "drone", steps=(7,))
    engine = Engine(pipe, tmp_path)
    choice = engine.find("drone/step-000000007")
    (run / "checkpoints" / "step-000000007" / "action_controller.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError) as caught:
        list(engine.fly(replace(flight, checkpoint=choice)))
    assert str(tmp_path) not in str(caught.value)


def test_wans_own_negative_prompt_is_a_choice_for_models_that_read_chinese_alone(engine, monkeypatch):
    import gradio as gr

    from wanact.ui.scene import negative_prompt

    assert negative_prompts(48) == engine.negative_prompts == {}
    monkeypatch.setattr(engine, "negative_prompts", negative_prompts(4096))
    with gr.Blocks() as page:
        field = negative_prompt(engine)
    assert field.value == ""  # stays empty unless it is chosen
    (choose,) = page.fns.values()
    assert choose.fn is not None
    text = choose.fn("Wan's own")
    assert text.startswith("色调艳丽，过曝，静态") and text.endswith("倒着走")
    assert choose.fn("another") == ""
