"""A line between browser and server that can be slow, stand still, or be cut."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator


class Line:
    """Forwards connections to a port, later and slower than they come.

    Args:
        port: of the server.
        delay_s: each way.
        bytes_per_s: from the server, over all connections together; None for as fast as it goes.
    """

    def __init__(self, port: int, delay_s: float = 0.0, bytes_per_s: float | None = None):
        self.target, self.delay_s, self.bytes_per_s = port, delay_s, bytes_per_s
        self._flows = threading.Event()
        self._flows.set()
        self._is_cut = False
        self._sockets: set[socket.socket] = set()
        self._pipe = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """Let nothing through, and close nothing: the other end has fallen asleep, or its network is gone."""
        self._flows.clear()

    def flow(self) -> None:
        """Let everything through again, also what was held back."""
        self._is_cut = False
        self._flows.set()

    def cut(self) -> None:
        """Close every connection and take no new one."""
        self._is_cut = True
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self.flow()
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.target))
            self._sockets |= {near, far}
            for source, sink, rate in ((near, far, None), (far, near, self.bytes_per_s)):
                late: queue.SimpleQueue = queue.SimpleQueue()
                threading.Thread(target=self._read, args=(source, late, rate), daemon=True).start()
                threading.Thread(target=self._write, args=(sink, late), daemon=True).start()

    def _read(self, source: socket.socket, late: queue.SimpleQueue, rate: float | None) -> None:
        data = b"?"
        while data:
            try:
                data = source.recv(8192)
            except OSError:
                data = b""
            if rate and data:
                with self._pipe:
                    time.sleep(len(data) / rate)
            late.put((time.monotonic() + self.delay_s, data))

    def _write(self, sink: socket.socket, late: queue.SimpleQueue) -> None:
        while True:
            due, data = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self._flows.wait()
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return


@contextlib.contextmanager
def line_to(url: str, **settings: float) -> Iterator[Line]:
    """A line to the server at an address."""
    line = Line(int(url.rstrip("/").rsplit(":", 1)[1]), **settings)
    try:
        yield line
    finally:
        line.close()
