"""How long a client may take to say what it wants; uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Impatient(HttpToolsProtocol):
    """Closes a connection whose first bytes, or whose headers, take longer than `headers_s`."""

    headers_s = 30.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's way
        super().connection_made(transport)
        self._expect()

    def on_message_begin(self) -> None:
        """Also of a further request on the same connection."""
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        self._expect_no_more()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.headers_s, self._too_late)

    def _expect_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect()  # the answer to the request before is still on its way
        elif not self.transport.is_closing():
            self.transport.close()
