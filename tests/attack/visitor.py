"""A visitor without a browser: every door of the app, as its own configuration lists them."""

from __future__ import annotations

import base64
import io
import itertools
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from PIL import Image

API = "/gradio_api"
FILE = {"_type": "gradio.FileData"}


class Visitor:
    """One session. Everything that it is answered is kept in `heard`.

    Args:
        url: of the app.
    """

    def __init__(self, url: str, **options: Any):
        self.http = httpx.Client(base_url=url, timeout=120, **options)
        self.session = secrets.token_hex(6)
        self.heard: list[str] = []
        self.config = self._json(self.http.get("/config"))

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # ---- what there is ---------------------------------------------------------------------------------------

    @property
    def functions(self) -> list[dict[str, Any]]:
        """Every event that the server answers, public or hidden: id, api_name, inputs, ..."""
        return [function for function in self.config["dependencies"] if function["backend_fn"]]

    @property
    def server_functions(self) -> list[tuple[int, str]]:
        """(component, name) of every function that a component's script may call."""
        return [
            (component["id"], name)
            for component in self.config["components"]
            for name in component["props"].get("server_fns") or []
        ]

    def function(self, name: str) -> dict[str, Any]:
        """The event of this api_name."""
        return next(one for one in self.config["dependencies"] if one["api_name"] == name)

    def answer_to(self, elem_id: str, event: str) -> int:
        """The number of what answers this event of a component."""
        target = [self.component(elem_id), event]
        return next(one["id"] for one in self.config["dependencies"] if target in one["targets"])

    def component(self, elem_id: str) -> int:
        """The number of a component."""
        return next(one["id"] for one in self.config["components"] if one["props"].get("elem_id") == elem_id)

    def usual(self, function: dict[str, Any]) -> list[Any]:
        """What the page would send first: the inputs' own values."""
        values = {one["id"]: one["props"].get("value") for one in self.config["components"]}
        return [values.get(number) for number in function["inputs"]]

    # ---- asking ----------------------------------------------------------------------------------------------

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Any post; `json`, `content`, `files`, `headers` as httpx takes them."""
        answer = self.http.post(path, **body)
        self.heard.append(answer.text)
        return answer

    def get(self, path: str, **options: Any) -> httpx.Response:
        answer = self.http.get(path, **options)
        if "image/" not in answer.headers.get("content-type", "") and "video/" not in answer.headers.get(
            "content-type", ""
        ):
            self.heard.append(answer.text)
        return answer

    def ask(self, function: int, data: Any, **more: Any) -> httpx.Response:
        """Join the queue; `json_text` sends a body that json.dumps would not write."""
        body = {"fn_index": function, "data": data, "session_hash": self.session} | more
        text = json.dumps(body).encode("utf-8", "surrogatepass")
        return self.post(f"{API}/queue/join", content=text, headers={"content-type": "application/json"})

    def listen(self, seconds: float = 60.0) -> Iterator[dict[str, Any]]:
        """The messages of this session until its events are done."""
        end = time.monotonic() + seconds
        with self.http.stream("GET", f"{API}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                self.heard.append(line)
                if line.startswith("data: "):
                    message = json.loads(line[6:])
                    yield message
                    if message["msg"] == "close_stream":
                        return
                if time.monotonic() > end:
                    return

    def run(self, function: int | str, data: Any, seconds: float = 60.0, **more: Any) -> list[dict[str, Any]]:
        """Ask and listen to the end: all messages; none if the question was refused."""
        asked = self.function(function) if isinstance(function, str) else self._event(function)
        if asked["queue"] is False:
            return self._run_at_once(asked, data)
        if self.ask(asked["id"], data, **more).status_code != 200:
            return []
        return list(self.listen(seconds))

    def _event(self, number: int) -> dict[str, Any]:
        return next(one for one in self.config["dependencies"] if one["id"] == number)

    def _run_at_once(self, function: dict[str, Any], data: Any) -> list[dict[str, Any]]:
        """As the page asks for what passes the queue; the answer as a message."""
        body = {"data": data, "fn_index": function["id"], "session_hash": self.session}
        text = json.dumps(body).encode("utf-8", "surrogatepass")
        answer = self.post(
            f"{API}/run/{function['api_name']}", content=text, headers={"content-type": "application/json"}
        )
        output = answer.json() if answer.headers["content-type"].startswith("application/json") else {}
        success = answer.status_code == 200
        return (
            [{"msg": "process_completed", "success": success, "output": output}] if success or "error" in output else []
        )

    def tell(self, component: int, name: str, message: Any, **headers: str) -> httpx.Response:
        """Call a server function."""
        body = {"component_id": component, "fn_name": name, "session_hash": self.session, "data": message}
        text = json.dumps(body).encode("utf-8", "surrogatepass")
        return self.post(
            f"{API}/component_server", content=text, headers={"content-type": "application/json"} | headers
        )

    def upload(self, data: bytes, name: str = "a.png") -> dict[str, Any]:
        """Bring a file; how it is named from then on."""
        answer = self.post(f"{API}/upload", files={"files": (name, data)})
        assert answer.status_code == 200, answer.text
        return {"path": answer.json()[0], "orig_name": name, "meta": FILE}

    def generate(self, frame: Any, steps: int = 1, **changes: Any) -> list[dict[str, Any]]:
        """Ask for a clip; all messages."""
        function = self.function("generate")
        names = [self._name(number) for number in function["inputs"]]
        fields = dict(zip(names, self.usual(function), strict=True)) | {"frame": frame, "Steps": steps} | changes
        return self.run(function["id"], list(fields.values()))

    def _name(self, number: int) -> str:
        props = next(one["props"] for one in self.config["components"] if one["id"] == number)
        return props.get("elem_id") or props.get("label")

    def _json(self, answer: httpx.Response) -> Any:
        self.heard.append(answer.text)
        return answer.json()


def last(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that ends an event."""
    return next((message for message in reversed(messages) if message["msg"] == "process_completed"), {})


def words(messages: list[dict[str, Any]]) -> str:
    """What a refused visitor reads."""
    ended = last(messages)
    return "" if ended.get("success") else str((ended.get("output") or {}).get("error"))


def picture(width: int = 64, height: int = 48, kind: str = "PNG", seed: int = 0) -> bytes:
    """A picture of noise, as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def wait_until(holds: Any, seconds: float) -> bool:
    """Whether something comes true within so many seconds."""
    end = time.monotonic() + seconds
    for pause in itertools.chain((0.05, 0.1, 0.2), itertools.repeat(0.5)):
        if holds():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return False
