"""The server's log: to the standard error, as text or as JSON lines, with a line for each request if wanted.

No line has a secret in it: of requests only what the fields of RequestLog say, never headers, queries or bodies.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import BaseRequest, StreamResponse

from api.state import CALLER, REQUEST_ID

REQUESTS: Final = "backupforge.requests"
_OURS: Final = ("backupforge", "aiohttp", "alembic")
_LONGEST: Final = 500


def configure(*, as_json: bool, requests: bool) -> None:
    """Make the process log, once. `requests` adds a line for each request."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_tells_of_us)
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("backupforge").setLevel(logging.INFO)
    logging.getLogger(REQUESTS).setLevel(logging.INFO if requests else logging.WARNING)


def _tells_of_us(record: logging.LogRecord) -> bool:
    """Clients that go away or send what is no HTTP could fill a disk with tracebacks; they are no fault of ours."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (ConnectionError, HttpProcessingError))


class JsonLines(logging.Formatter):
    """A record as one line of JSON; what it has in `fields` beside the message, in fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class RequestLog(AbstractAccessLogger):
    """A line for each request, when its answer has been sent."""

    def log(self, request: BaseRequest, response: StreamResponse, time: float) -> None:
        """See `AbstractAccessLogger`; `time` is in seconds."""
        caller = request.get(CALLER)
        fields = {
            "method": request.method[:16],
            "path": request.rel_url.raw_path[:_LONGEST],
            "status": response.status,
            "sent": response.body_length,
            "seconds": round(time, 6),
            "client": request.remote or "",
            "request_id": request.get(REQUEST_ID, ""),
            "tenant": caller.tenant_id if caller else None,
            "user": caller.user_id if caller else None,
            "token": caller.token_id if caller else None,
        }
        text = "{method} {path} {status} {sent} {seconds} {client} {request_id}".format_map(fields)
        self.logger.info("%s", text, extra={"fields": fields})
