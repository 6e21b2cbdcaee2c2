"""What a page's script is answered, whatever it says and whatever goes wrong."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr

from wanact.errors import UserError
from wanact.ui.pages.fly.desk import sentence

Message = TypeVar("Message")

logger = logging.getLogger(__name__)


def answering(
    function: Callable[..., dict[str, Any]],
    read: Callable[[dict[str, Any]], Message],
    may_edit: Callable[[gr.Request | None], bool],
    page: str,
) -> Callable[..., dict[str, Any]]:
    """The function with its errors as {"problem": sentence}, whatever the message is.

    Args:
        function: takes a message; `may_edit`, whether an owner asks, where it has such an argument.
        read: a message of what the script said.
        may_edit: whether who asks is an owner.
        page: what the log calls the page.
    """
    asks_who = "may_edit" in inspect.signature(function).parameters

    def answer(message: Any, request: gr.Request | None = None) -> dict[str, Any]:
        try:
            said = read(message if isinstance(message, dict) else {})
            return function(said, may_edit=may_edit(request)) if asks_who else function(said)
        except UserError as error:
            return {"problem": sentence(error)}
        except OSError as error:
            return {"problem": sentence(error.strerror or "the disk did not answer")}
        except Exception:
            logger.exception("the %s page", page)
            return {"problem": "Something went wrong on the server; nothing was changed."}

    answer.__name__ = function.__name__
    return answer
