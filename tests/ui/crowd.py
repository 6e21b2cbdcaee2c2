"""Many visitors at once, and flights that their visitors have abandoned: what each was told, and what the server keeps.

    python -m tests.ui.crowd --visitors 50 --abandoned 20

Starts the app as a process of its own and speaks HTTP with it as browsers do. Everybody must be served, or told in a
sentence why not; afterwards all places must be free again, and memory and descriptors as before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from wanact.actions import channel_track

ROOT = Path(__file__).resolve().parents[2]
FREE_WITHIN_S = 40.0
API = "/gradio_api"


@dataclass
class Report:
    """What came of it.

    Attributes:
        served, told: visitors by what they wanted; told are those with a sentence instead.
        lost: what went wrong with those who were neither.
        free_after_s: seconds until every place was free; None if they were not in time.
        memory: megabytes before and after.
        descriptors: before and after.
        log: what the app wrote.
    """

    served: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    free_after_s: float | None = None
    memory: tuple[float, float] = (0.0, 0.0)
    descriptors: tuple[int, int] = (0, 0)
    log: str = ""

    def problems(self) -> list[str]:
        """What must not be."""
        found = [f"neither served nor told: {lost}" for lost in self.lost]
        if self.free_after_s is None:
            found.append(f"places were taken after {FREE_WITHIN_S:.0f} s")
        if self.memory[1] > 1.1 * self.memory[0]:
            found.append(f"memory grew from {self.memory[0]:.0f} to {self.memory[1]:.0f} MB")
        if self.descriptors[1] > self.descriptors[0]:
            found.append(f"descriptors grew from {self.descriptors[0]} to {self.descriptors[1]}")
        if "Traceback" in self.log:
            found.append("a traceback is in the log")
        return found


class App:
    """The app as a process, its temporary files in a folder of their own."""

    def __init__(self, folder: Path, *arguments: str):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = open(folder / "log.txt", "w+")
        (folder / "temp").mkdir()
        variables = os.environ | {"TMPDIR": str(folder / "temp"), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "app.py", "--port", str(self.port), *arguments]
        self.process = psutil.Popen(command, cwd=ROOT, env=variables, stdout=self._log, stderr=subprocess.STDOUT)

    def wait_until_it_answers(self) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}{API}/info", timeout=60).status_code == 200:
                    return
            if self.process.poll() is not None:
                raise RuntimeError(f"the app did not start: {self.log()[-2000:]}")
            time.sleep(0.2)

    def log(self) -> str:
        self._log.flush()
        return (self.folder / "log.txt").read_text()

    def memory_mb(self) -> float:
        return self.process.memory_full_info().uss / 2**20

    def mailboxes(self) -> list[Path]:
        """Of the flights in the air and in line."""
        return list(self.folder.glob("temp/wanact-flights-*/*"))

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except psutil.TimeoutExpired:
            self.process.kill()
        self._log.close()


class Told(Exception):
    """A sentence instead of what was asked for."""


class Page:
    """A visitor's tab: a session, and what its page knows of the app."""

    def __init__(self, http: httpx.AsyncClient, config: dict[str, Any], frame: dict[str, Any]):
        self.http, self.frame = http, frame
        self.session = uuid.uuid4().hex[:12]
        self.events = {dep["api_name"]: dep["id"] for dep in config["dependencies"] if dep.get("api_name")}
        props = {c["props"].get("elem_id"): c["props"] for c in config["components"]}
        self.num_actions = props["plan"]["steps"] if "steps" in props["plan"] else props["plan"]["props"]["steps"]
        self.components = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
        live = self.components["live-stage"]
        for dep in config["dependencies"]:
            for target, event in dep["targets"]:
                self.events[f"{target} {event}"] = dep["id"]
        self.takeoff = self.events[f"{live} takeoff"]
        self.dice = self.events[f"{self.components['dice']} click"]

    async def ask(self, event: int, data: list[Any]) -> None:
        """Join the queue; Told if there is no place."""
        body = {"data": data, "fn_index": event, "session_hash": self.session}
        _sentence_of(await self.http.post(f"{API}/queue/join", json=body))

    async def hear(self) -> AsyncIterator[dict[str, Any]]:
        """The messages to this session."""
        address = f"{API}/queue/data?session_hash={self.session}"
        async with self.http.stream("GET", address) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def clip(self, steps: int = 2) -> None:
        plan = channel_track("forward", self.num_actions).to_list()
        await self.ask(self.events["generate"], [self.frame, "a lake", plan, "base", 0, "", steps, 1.5, None])
        async for message in self.hear():
            if message["msg"] == "process_completed":
                _completed(message)
                return
        raise RuntimeError("the stream of a clip ended before it")

    async def small(self) -> None:
        """A new seed: a press that must not wait for clips."""
        body = {"data": [], "fn_index": self.dice, "session_hash": self.session}
        seed = _sentence_of(await self.http.post(f"{API}/run/predict", json=body)).json()["data"][0]
        assert 0 <= seed < 2**31

    async def takes_off(self) -> None:
        await self.ask(self.takeoff, [{}, self.frame, "a lake", None, 0])

    async def tell(self, flight: str, **message: Any) -> bool:
        """What the page's script posts in flight; whether the flight is known."""
        stage = self.components["live-stage"]
        body = {"component_id": stage, "fn_name": "control", "session_hash": self.session}
        answer = await self.http.post(f"{API}/component_server", json=body | {"data": {"flight": flight, **message}})
        return bool(_sentence_of(answer).json()["known"])

    async def flight(self, latent_frames: int = 3, silent_after: str = "") -> None:
        """Fly, and land; with `silent_after` a kind of message, say nothing more after it and listen on."""
        await self.takes_off()
        flight, numbers, flown, value = "", itertools.count(1), 0, {}
        beat = asyncio.create_task(self._beats(lambda: flight, numbers))
        try:
            async for message in self.hear():
                if message["msg"] == "process_completed":
                    _completed(message)
                    if value.get("kind") == "failed":
                        raise Told(value["message"])
                    assert flown >= latent_frames or silent_after, f"landed after {flown}: {value}"
                    return
                if message["msg"] != "process_generating":
                    continue
                value = _newest(value, message["output"]["data"][0])
                flight = value.get("flight", flight)
                if value.get("kind") == silent_after:
                    beat.cancel()
                if value.get("kind") == "frames" and not silent_after:
                    shown = value["i"] + len(value["f"]) - 1
                    flown = max(flown, value["t"])
                    held = [1, 0, 0, 0, 0, 0, 0, 0]
                    stop = flown >= latent_frames
                    await self.tell(flight, n=next(numbers), ack=shown, held=held, paused=False, stop=stop)
        finally:
            beat.cancel()
        raise RuntimeError("the stream of a flight ended before it")

    async def _beats(self, flight: Any, numbers: Iterator[int]) -> None:
        while True:
            await asyncio.sleep(0.4)
            if flight():
                with contextlib.suppress(httpx.HTTPError):
                    await self.tell(flight(), n=next(numbers), ack=0)


def _sentence_of(answer: httpx.Response) -> httpx.Response:
    if answer.status_code == 429:
        raise Told(answer.json()["detail"])
    answer.raise_for_status()
    return answer


def _completed(message: dict[str, Any]) -> None:
    if not message["success"]:
        raise Told(str(message["output"].get("error")))


def _newest(before: Any, output: Any) -> Any:
    """The value that a message brings: Gradio sends the first whole, then what has changed."""
    if not (isinstance(output, list) and all(isinstance(step, list) and len(step) == 3 for step in output)):
        return output
    value = json.loads(json.dumps(before))
    for action, path, new in output:
        if not path:
            value = new
            continue
        place = value
        for key in path[:-1]:
            place = place[key]
        if action == "delete":
            del place[path[-1]]
        elif action == "add" and isinstance(place, list):
            place.insert(path[-1], new)
        else:
            place[path[-1]] = new
    return value


async def _upload(http: httpx.AsyncClient, picture: Path) -> dict[str, Any]:
    answer = await http.post(f"{API}/upload", files={"files": (picture.name, picture.read_bytes())})
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


async def _abandon(page: Page, number: int) -> None:
    """Take off and care no more, in one of three ways: never listen, hang up in flight, or listen and say nothing."""
    with contextlib.suppress(Told):
        if number % 3 == 0:
            await page.takes_off()
        elif number % 3 == 1:
            await page.takes_off()
            async for message in page.hear():
                if message["msg"] == "process_generating":
                    return
        else:
            await page.flight(silent_after="line")


async def _visit(url: str, config: dict[str, Any], picture: Path, report: Report, numbers: tuple[int, int]) -> None:
    num_visitors, num_abandoned = numbers
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        frame = await _upload(http, picture)

        async def visitor(number: int) -> None:
            page = Page(http, config, frame)
            wants = ("clip", "flight", "small", "clip")[number % 4]
            try:
                await getattr(page, wants)()
                report.served[wants] += 1
            except Told as told:
                assert str(told).endswith("."), f"no sentence: {told}"
                report.told[wants] += 1
            except Exception as error:
                report.lost.append(f"{wants}: {error!r}")

        abandoned = [asyncio.create_task(_abandon(Page(http, config, frame), n)) for n in range(num_abandoned)]
        await asyncio.gather(*(visitor(number) for number in range(num_visitors)))
        # The silent ones listen on, until the server has had enough of them.
        deadline = time.monotonic() + FREE_WITHIN_S
        begun = time.monotonic()
        await asyncio.wait(abandoned, timeout=FREE_WITHIN_S) if abandoned else None
        newcomers = [asyncio.create_task(Page(http, config, frame).flight(1)) for _ in range(3)]
        done, pending = await asyncio.wait(newcomers, timeout=max(1.0, deadline - time.monotonic()))
        for task in (*pending, *abandoned):
            task.cancel()
        await asyncio.gather(*newcomers, *abandoned, return_exceptions=True)
        waiting = (await http.get(f"{API}/queue/status")).json()["queue_size"]
        if not pending and not waiting and all(task.exception() is None for task in done):
            report.free_after_s = time.monotonic() - begun


def visit(app: App, picture: Path, num_visitors: int, num_abandoned: int) -> Report:
    """Have visitors come, and see what is left of them."""
    report, config = Report(), httpx.get(f"{app.url}/config", timeout=60).json()
    # One round first: what a process takes once is not what visitors leave behind.
    warm = Report()
    asyncio.run(_visit(app.url, config, picture, warm, (12, 0)))
    before = _settled(app, None)
    asyncio.run(_visit(app.url, config, picture, report, (num_visitors, num_abandoned)))
    after = _settled(app, before)
    report.descriptors = before[0], after[0]
    report.memory = before[1], after[1]
    report.lost += [f"mailbox of a flight: {path.name}" for path in app.mailboxes()]
    report.log = app.log()
    return report


def _settled(app: App, goal: tuple[int, float] | None) -> tuple[int, float]:
    """Descriptors and megabytes, once they are at the goal or change no more."""
    seen: list[tuple[int, float]] = []
    for _ in range(90):
        seen.append((app.process.num_fds(), app.memory_mb()))
        if goal is not None and seen[-1][0] <= goal[0] and seen[-1][1] <= 1.1 * goal[1]:
            break
        if goal is None and len(seen) > 8 and len({one[0] for one in seen[-8:]}) == 1:
            break
        time.sleep(1)
    return seen[-1]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--abandoned", type=int, default=20)
    args = parser.parse_args(argv)
    picture = next(iter(sorted((ROOT / "assets" / "examples").glob("*.jpg"))))
    with tempfile.TemporaryDirectory() as folder:
        app = App(Path(folder))
        try:
            app.wait_until_it_answers()
            report = visit(app, picture, args.visitors, args.abandoned)
        finally:
            app.close()
    print(f"served {dict(report.served)}, told {dict(report.told)}")
    print(f"all places free after {report.free_after_s} s; memory {report.memory} MB; descriptors {report.descriptors}")
    for problem in report.problems():
        print(problem, file=sys.stderr)
    return 1 if report.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
