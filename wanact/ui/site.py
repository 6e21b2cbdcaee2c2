"""gr.Blocks between visitors and handlers: what they send is theirs and readable, and what goes wrong is said in words.

Gradio itself takes any path in some components, tells where files lie, prints a traceback for every field that cannot
be read, and puts messages on the page as HTML.
"""

from __future__ import annotations

import html
import logging
import reprlib
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio.server_messages import EventMessage, LogMessage
from gradio.utils import get_function_params

from wanact.errors import UserError, without_folders
from wanact.ui import cache
from wanact.ui.shares import Shares

logger = logging.getLogger(__name__)

_UNREADABLE = "What was sent cannot be read; reload the page, and try again."
_BROKEN = "Something went wrong on the server; try again."
_DEEPEST = 100
# What JSON schema calls them, and what people do.
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
_FILE_FIELDS = set(FileData.model_fields)


class Site(gr.Blocks):
    """A page on which strangers may press everything.

    Attributes:
        shares: flights that are served beside the page, if any.
        data: what answers for the data sets that the page shows, if any.
    """

    shares: Shares | None = None
    data: Any = None

    def queue(self, *args: Any, **kwargs: Any) -> Site:
        super().queue(*args, **kwargs)
        send = self._queue.send_message
        self._queue.send_message = lambda event, event_message: send(event, _harmless(event_message))
        return self

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Gradio's; every error leaves as a gr.Error, whose words stay words and say nothing of this machine."""
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:
            raise refusal(error.message, error.title, duration=error.duration) from error
        except UserError as error:
            raise refusal(error) from error
        except Exception as error:
            logger.exception("an event failed")
            raise refusal(_BROKEN) from error

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """As Gradio's, of files that are the visitor's own."""
        try:
            found = inputs if explicit_call else [_with_files(value) for value in inputs]
            # Programs name fields by their order, and may be older than the last ones.
            newer = block_fn.inputs[len(found) :]
            if all(getattr(field, "may_be_left_out", False) for field in newer):
                found = [*found, *(getattr(field, "value", None) for field in newer)]
            return await super().preprocess_data(block_fn, found, state, explicit_call)
        except (gr.Error, UserError):
            raise
        except Exception as error:  # Gradio's components raise anything on what they do not expect
            if isinstance(error.__cause__, UserError):
                raise error.__cause__ from error
            logger.info("an event was refused: %s", type(error).__name__)
            raise UserError(_UNREADABLE) from error

    @staticmethod
    def _format_processing_error(
        block_fn: Any, index: int, block: Any, value: Any, is_input: bool, original_error: Exception
    ) -> str:
        """Where Gradio would describe a component at an index, a program is told its own field."""
        if is_input and not isinstance(original_error, UserError):
            logger.info("an event was refused: %s", type(original_error).__name__)
            raise UserError(_wrong_kind(block_fn, index, block, value)) from original_error
        return gr.Blocks._format_processing_error(block_fn, index, block, value, is_input, original_error)


def refusal(words: Any, title: Any = "Error", duration: float | None = 10) -> gr.Error:
    """What a visitor is told, without a line in the log; the page lays its toasts out as HTML."""
    return gr.Error(_plain(words), title=_plain(title), duration=duration, print_exception=False)


def _wrong_kind(block_fn: Any, index: int, block: Any, value: Any) -> str:
    """One sentence about a field whose component cannot read what was sent."""
    names = [name for name, *_ in get_function_params(block_fn.fn)]
    name = names[index] if index < len(names) else getattr(block, "label", None) or f"field {index + 1}"
    expected = _KINDS.get((block.api_info() or {}).get("type", ""), "what its schema says")
    return f"{name} is {reprlib.repr(value)}, expected {expected}"


def _harmless(message: EventMessage) -> EventMessage:
    """The same of a warning on the way."""
    if isinstance(message, LogMessage):
        return message.model_copy(update={"log": _plain(message.log), "title": _plain(message.title)})
    return message


def _plain(words: Any) -> str:
    return html.escape(without_folders(str(words)), quote=False)


def _with_files(value: Any, depth: int = 0) -> Any:
    """What a visitor sends, with the files that it names looked up.

    Raises:
        NoFileError: if one is not theirs.
    """
    if depth > _DEEPEST:
        raise UserError(_UNREADABLE)
    if isinstance(value, list):
        return [_with_files(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if "path" in value and ("meta" in value or _FILE_FIELDS.issuperset(value)):
        return _file(value)
    return {key: _with_files(item, depth + 1) for key, item in value.items()}


def _file(value: dict[str, Any]) -> dict[str, Any]:
    name, url = value.get("orig_name"), value.get("url")
    name = name[:200] if isinstance(name, str) else None
    if not value["path"] and isinstance(url, str) and url.startswith("data:"):
        return {"path": None, "url": url, "orig_name": name}  # with meta and a path, Gradio would look for a file
    return {"path": str(cache.find(value["path"])), "orig_name": name, "meta": {"_type": "gradio.FileData"}}
