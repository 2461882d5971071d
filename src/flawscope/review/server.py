"""The review in a browser on the same machine.

Only this machine can connect. The address holds a random token, without which nothing is answered: so other
pages in the same browser can neither read nor decide anything; and a request must name this machine as its
host, so that no other name can be made to point here.
"""

from __future__ import annotations

import io
import json
import secrets
import sys
import threading
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.pictures.decoding import decode
from flawscope.pictures.eight_bits import to_eight_bits
from flawscope.report import review_page
from flawscope.results import drawing
from flawscope.review.flagged import Flagged
from flawscope.review.folders import proposed_mask
from flawscope.review.session import Session

HOSTS = ("127.0.0.1", "localhost")
MOST_SIDE = 1600  # pixels of a picture as it is shown
QUALITY = 88  # of WebP, 0..100
MOST_BYTES = 1000  # of what a page sends

Answer = tuple[HTTPStatus, str, bytes]  # status, media type, body


class Review:
    """Serves a session until `stop`, or until the person ends it in the page.

    Args:
        port: 0 takes a free one.

    Raises:
        InputError: the port is taken.
    """

    def __init__(self, session: Session, title: str, port: int = 0):
        self.session, self.title = session, title
        self.token = secrets.token_urlsafe(24)
        try:
            self.server = _Server((HOSTS[0], port), partial(_Handler, self))
        except OSError as error:
            raise InputError(f"port {port} cannot be used: {error.strerror}; choose another --port") from None
        self.url = f"http://{HOSTS[0]}:{self.server.server_address[1]}/{self.token}/"

    def serve(self) -> None:
        """Returns when the review has ended."""
        try:
            self.server.serve_forever(poll_interval=0.2)
        finally:
            self.server.server_close()

    def stop(self) -> None:
        """From another thread than that of `serve`."""
        self.server.shutdown()

    # ---- answers

    def get(self, what: str) -> Answer:
        """What a path below the token shows."""
        if what == "":
            pictures, decided = self.session.pictures, self.session.decided()
            text = review_page(self.title, [_facts(one) for one in pictures], decided)
            return HTTPStatus.OK, "text/html; charset=utf-8", text.encode()
        kind, _, number = what.partition("/")
        shown: dict[str, Callable[[Flagged], bytes]] = {"photo": photo, "found": found}
        if kind not in shown or not number.isdecimal() or int(number) >= len(self.session.pictures):
            return _text(HTTPStatus.NOT_FOUND, "there is no such page")
        try:
            return HTTPStatus.OK, "image/webp", shown[kind](self.session.pictures[int(number)])
        except MemoryError:
            return _text(HTTPStatus.GONE, "not enough memory")
        except (FlawscopeError, OSError, ValueError) as error:
            return _text(HTTPStatus.GONE, one_line(error))

    def post(self, what: str, sent: dict[str, Any]) -> Answer:
        """Do what the page asks for, and say what is decided now."""
        number: int | None = None
        try:
            if what == "decide":
                number = int(sent["number"])
                self.session.decide(number, str(sent["decision"]))
            elif what == "undo":
                number = self.session.undo()
            elif what == "done":
                threading.Thread(target=self.stop).start()  # after this answer
            else:
                return _text(HTTPStatus.NOT_FOUND, "there is no such page")
        except (KeyError, TypeError, ValueError) as error:
            if not isinstance(error, FlawscopeError):
                return _text(HTTPStatus.BAD_REQUEST, "this is not what the page sends")
            return _json(HTTPStatus.CONFLICT, {"error": str(error)})
        except (FlawscopeError, OSError) as error:
            return _json(HTTPStatus.CONFLICT, {"error": str(error)})
        return _json(HTTPStatus.OK, {"number": number, "decided": self.session.decided()})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *request: Any) -> None:
        """A browser that turned to the next picture does not wait for this one: that is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(*request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be idle

    def __init__(self, review: Review, *rest: Any):
        self.review = review
        super().__init__(*rest)

    def do_GET(self) -> None:
        what = self._asked()
        self._answer(_text(HTTPStatus.FORBIDDEN, "not here") if what is None else self.review.get(what))

    def do_POST(self) -> None:
        what = self._asked()
        length = self.headers.get("Content-Length", "")
        if what is None or self.headers.get_content_type() != "application/json" or not self._same_origin():
            self.close_connection = True  # what was sent stays unread
            return self._answer(_text(HTTPStatus.FORBIDDEN, "not here"))
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            return self._answer(_text(HTTPStatus.BAD_REQUEST, "this is not what the page sends"))
        try:
            sent = json.loads(self.rfile.read(int(length)))
        except ValueError:
            sent = None
        if not isinstance(sent, dict):
            return self._answer(_text(HTTPStatus.BAD_REQUEST, "this is not what the page sends"))
        self._answer(self.review.post(what, sent))

    def _asked(self) -> str | None:
        """What is asked for, without the token; None where the request is not from the page."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        token, _, what = self.path.removeprefix("/").partition("/")
        known = secrets.compare_digest(token.encode(), self.review.token.encode())
        return what if known and host in HOSTS else None

    def _same_origin(self) -> bool:
        origin = self.headers.get("Origin")
        return origin is None or origin == f"http://{self.headers.get('Host')}"

    def _answer(self, answer: Answer) -> None:
        status, media, body = answer
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "private, max-age=3600" if media == "image/webp" else "no-store")
        self.send_header("Referrer-Policy", "no-referrer")  # the address holds the token
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The terminal is for the person."""


def photo(one: Flagged) -> bytes:
    """The picture alone, WebP."""
    return _webp(to_eight_bits(decode(one.path)))


def found(one: Flagged) -> bytes:
    """The picture with what was found on it, as the run drew it; without a drawing, with its regions."""
    if one.overlay is not None:
        return _webp(np.asarray(Image.open(one.overlay).convert("RGB")))
    picture, mask = to_eight_bits(decode(one.path)), proposed_mask(one)
    return _webp(picture if mask is None else drawing.contour(picture, mask))


def _webp(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    height, width = picture.shape[:2]
    most = min(MOST_SIDE, max(height, width))
    buffer = io.BytesIO()
    drawing.fitted(picture, (most, most)).save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()


def _facts(one: Flagged) -> dict[str, Any]:
    row = one.row
    return {
        "name": one.name,
        "severity": row.severity or 0.0,
        "p_value": row.p_value,
        "score": row.score or 0.0,
        "regions": len(row.boxes),
    }


def _text(status: HTTPStatus, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", text.encode()


def _json(status: HTTPStatus, value: dict[str, Any]) -> Answer:
    return status, "application/json", json.dumps(value).encode()
