"""A proxy between one client and Redis, whose connections can be reset, refused or frozen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_CHUNK = 65536


class Link:
    """Forwards bytes between its unix socket and the server's, in a background thread.

    Args:
        path: of its socket.
        server: path of the server's socket.
    """

    def __init__(self, path: Path, server: Path) -> None:
        self.path, self.server = path, server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"link {path.name}", daemon=True)
        self._open = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def broker_url(self) -> str:
        """URL for Celery and kombu."""
        return f"redis+socket://{self.path}"

    def start(self) -> Link:
        """Start to listen."""
        self._thread.start()
        self._do(self._listen())
        return self

    def close(self) -> None:
        """Reset all connections and stop listening."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self.path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Reset all connections; accept new ones."""
        self._do(self._drop())

    def cut(self) -> None:
        """Reset all connections, and refuse new ones until `mend`."""
        self._open = False
        self.drop()

    def freeze(self) -> None:
        """Stop forwarding until `mend`, without closing connections."""
        self._do(self._flow(False))

    def mend(self) -> None:
        """Undo `cut` and `freeze`. Delayed bytes are forwarded."""
        self._open = True
        self._do(self._flow(True))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener = await asyncio.start_unix_server(self._accept, str(self.path))

    async def _flow(self, flowing: bool) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _end(self) -> None:
        self._listener.close()
        await self._drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self._open:
                await self._flowing.wait()
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the server is down, or the link ends
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(str(self.server))
        self._writers.add(to_server)
        pumps = [
            asyncio.ensure_future(self._pump(reader, to_server)),
            asyncio.ensure_future(self._pump(from_server, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            to_server.transport.abort()
            self._writers.discard(to_server)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
