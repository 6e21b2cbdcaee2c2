"""What programs may ask for beside clips and comparisons: lists of checkpoints, and control cards."""

# No postponed annotations here: Gradio reads the types of the functions themselves for its schema.
from typing import Annotated, Any, Literal

import gradio as gr
from gradio.events import api
from pydantic import BaseModel

from wanact.control_card.card import ControlCard
from wanact.files import read_model, whole
from wanact.runs.index import Entry
from wanact.ui.engine import Engine
from wanact.ui.gpu import on_gpu
from wanact.ui.pages.checkpoints.cards import card_seconds, quick_card
from wanact.ui.pages.checkpoints.desk import base_named, card_figures, injection_of

MAX_LISTED = 1_000


def expose(engine: Engine) -> None:
    """Add the endpoints to the current gr.Blocks; they have no place on the page."""

    def checkpoints(run: str = "", show: str = "flyable", offset: int = 0, limit: int = 200) -> list[dict[str, Any]]:
        """List checkpoints, run by run in the order of saving.

        Args:
            run: of this run only; of all runs if empty.
            show: flyable, damaged or all.
            offset: how many to leave out at the beginning.
            limit: how many to list, 1000 at most.

        Returns:
            id, run, step, loss, saved_at, is_best, best_by ("control" or "loss"), is_latest, control (what its control
            card says, None without one), bytes, state, problem, injection and base of each.
        """
        return list_checkpoints(engine, run, show, offset, limit)

    def control_card(checkpoint: str) -> dict[str, Any]:
        """The control card of a checkpoint: the one that was measured, else a quick one of a small model.

        Args:
            checkpoint: its id, as /checkpoints lists it.

        Returns:
            Settings and measures, as docs/control-card.md defines them; `quick`, whether it is a quick measurement, and
            `control_of`, how much its control is measured from.
        """
        card = quick_card(engine, checkpoint)
        return card.to_json() | {"quick": card.is_quick, "control_of": card.of_what}

    api(checkpoints, api_name="checkpoints", concurrency_limit=4)
    api(on_gpu(control_card, card_seconds), api_name="control_card", concurrency_id="card", concurrency_limit=1)


class _Wanted(BaseModel):
    show: Literal["flyable", "damaged", "all"]
    offset: Annotated[int, whole(0, floats=True)]
    limit: Annotated[int, whole(0, floats=True)]


def list_checkpoints(engine: Engine, run: Any, show: Any, offset: Any, limit: Any) -> list[dict[str, Any]]:
    """The rows of /checkpoints.

    Raises:
        gr.Error: if an argument is none of those that there are.
    """
    asked = {"show": show, "offset": offset, "limit": limit}
    page = read_model(_Wanted, asked, lambda problem: _refusal(f"The list cannot be given: {problem}."))
    runs = [one for one in engine.runs() if not run or one.name == run]
    if run and not runs:
        raise _refusal(f"There is no run {str(run)[:80]!r}.")
    wanted = {"flyable": lambda e: e.flyable, "damaged": lambda e: e.state == "damaged", "all": lambda _: True}
    rows = [(one, entry) for one in runs for entry in one.entries if wanted[page.show](entry)]
    chosen = rows[page.offset : page.offset + min(page.limit, MAX_LISTED)]
    return [_row(entry, one.config, engine.cards.of(one.path)) for one, entry in chosen]


def _row(entry: Entry, config: dict[str, Any], cards: dict[int, ControlCard]) -> dict[str, Any]:
    card = None if entry.step is None else cards.get(entry.step)
    return {
        "id": entry.id,
        "run": entry.run,
        "step": entry.step,
        "loss": entry.loss,
        "saved_at": entry.saved_at,
        "is_best": entry.is_best,
        "best_by": entry.best_by if entry.is_best else None,
        "is_latest": entry.is_latest,
        "control": None if card is None else card_figures(card),
        "bytes": entry.num_bytes,
        "state": entry.state,
        "problem": entry.problem,
        "injection": injection_of(config),
        "base": base_named(config),
    }


def _refusal(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)
