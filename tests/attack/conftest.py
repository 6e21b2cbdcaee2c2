"""One app for the whole suite, as a host runs it: what an attack leaves behind, the next one meets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attack.served import Served
from tests.attack.visitor import Visitor, wait_until

NEXT_VISITOR_S = 10.0


@pytest.fixture(scope="session")
def app(tmp_path_factory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


@pytest.fixture(autouse=True)
def harm(app) -> Iterator[None]:
    """After every attack: the app runs, has no traceback in its log, and serves the next visitor in time."""
    before = app.log().count("Traceback")
    yield
    assert app.is_alive, app.log()[-3_000:]
    said = app.log()
    assert said.count("Traceback") == before, said[said.rindex("Traceback") :][:3_000]
    assert wait_until(lambda: is_served(app), NEXT_VISITOR_S), "the next visitor is not served"


def is_served(app: Served) -> bool:
    """Whether somebody new gets the page, an answer of a component and one of the queue."""
    with Visitor(app.url) as visitor:
        page = visitor.get("/")
        listing = visitor.tell(visitor.component("ledger"), "list_shelf", {})
        rows = visitor.run("checkpoints", ["", "all", 0, 3])
        return page.status_code == 200 and "runs" in listing.json() and any(m.get("success") for m in rows)


@pytest.fixture
def visitor(app) -> Iterator[Visitor]:
    """A stranger. Nothing that they are told names a place of the machine."""
    with Visitor(app.url) as visitor:
        yield visitor
        told = "\n".join(visitor.heard)
        found = [place for place in app.places() if place in told]
        assert not found, told[told.index(found[0]) - 300 :][:600]
