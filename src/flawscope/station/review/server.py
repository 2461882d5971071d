"""Review page for a folder of results, in a browser on the same machine.

Only this machine can connect. The address holds a random token, without which every request is refused, so
that other pages in the same browser can neither read nor decide anything. A request must name this machine as
its host, so that no other name can be made to point here.
"""

from __future__ import annotations

import base64
import io
import json
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.errors import FlawscopeError, InputError, one_line
from flawscope.pictures.decoding import decode, read_mask, to_eight_bits
from flawscope.pictures.files import upright_size
from flawscope.results import drawing
from flawscope.station.review import Flagged, Session, proposed_mask
from flawscope.station.web.templates import HEADERS, WORDS, chosen, rendered, static_files, texts

HOSTS = ("127.0.0.1", "localhost")
MOST_SIDE = 3200  # pixels of a picture as it is shown
QUALITY = 88  # of WebP, 0..100
MOST_BYTES = 8 * 1024**2  # of a request: a decision, perhaps with a mask

Answer = tuple[str, bytes]  # media type, body


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
        self._skipped: set[int] = set()  # only until the next start
        try:
            self.server = _Server((HOSTS[0], port), partial(_Handler, self))
        except OSError as error:
            raise InputError(f"port {port} cannot be used: {error.strerror}; choose another --port") from None
        self.url = f"http://{HOSTS[0]}:{self.server.server_address[1]}/{self.token}/"

    def serve(self) -> None:
        """Answer requests until the review ends."""
        try:
            self.server.serve_forever(poll_interval=0.2)
        finally:
            self.server.server_close()

    def stop(self) -> None:
        """End the review; called from another thread than `serve`."""
        self.server.shutdown()

    # ---- answers, as a station gives them: inspections are pictures, by their numbers from 1

    def page(self, language: str, theme: str | None) -> Answer:
        """Return the page; language: as the browser accepts it."""
        spoken, root = texts(chosen(None, language)), f"/{self.token}"
        done = [{"item": self._item(k), "verdict": verdict} for k, verdict in self.session.decided().items()]
        script = {
            **{"texts": spoken.sections(*WORDS, "review"), "product": self.title, "person": ""},
            **{"api": f"{root}/api", "data": {"only": None, "done": done}},
        }
        about = {"page": "review", "product": self.title, "person": None, "bar": "", "alone": True}
        rights = {"may_judge": True, "may_audit": False, "may_change": False, "account": False}
        text = rendered("review", spoken, script, root=root, theme=theme, **about, **rights)
        return "text/html; charset=utf-8", text.encode(errors="replace")

    def get(self, path: str, query: Mapping[str, str]) -> Answer:
        """Return the answer for a path below the token, except the page's own. KeyError for an unknown
        one."""
        match path.split("/"):
            case ["static", *name]:
                data, _, media = static_files()["/".join(name)]
                return media, data
            case ["api"] | ["api", "review"]:
                return _json(self._waiting(int(query.get("limit", "0")), int(query.get("after", "0"))))
            case ["api", "inspections", number, layer]:
                return self._layer(self._number(number), layer, int(query.get("side", f"{MOST_SIDE}")))
        raise KeyError(path)

    def post(self, path: str, sent: dict[str, Any]) -> Answer:
        """Do what a page asks. KeyError for an unknown path, FlawscopeError where it cannot be done."""
        match path.split("/"):
            case ["api", "done"]:
                threading.Thread(target=self.stop).start()  # after this answer
                return _json({})
            case ["api", "inspections", text, "verdict"]:
                number, verdict, mask = self._number(text), sent.get("verdict"), sent.get("mask")
                self._skipped.discard(number)
                if verdict == "undo":
                    self.session.undo(number)
                elif verdict == "skip":
                    self._skipped.add(number)
                else:
                    drawn = None if mask is None else _mask_of(str(mask), self._size(number))
                    self.session.decide(number, str(verdict), drawn)
                return _json(self._item(number))
        raise KeyError(path)

    def _number(self, text: str) -> int:
        """Return the number of a picture, from 0. KeyError where there is none."""
        if not text.isdecimal() or not 0 < int(text[:20]) <= len(self.session.pictures):
            raise KeyError(text)
        return int(text) - 1

    def _waiting(self, limit: int, after: int) -> dict[str, Any]:
        """Return pictures without a decision, from a number on, and the total of such pictures."""
        done = self.session.decided().keys() | self._skipped
        waiting = [number for number in range(len(self.session.pictures)) if number not in done]
        items = [self._item(number) for number in waiting if number >= after][:limit]
        return {"inspections": items, "waiting": len(waiting), "problems": []}

    def _item(self, number: int) -> dict[str, Any]:
        """Return a picture as the page's script knows it."""
        one = self.session.pictures[number]
        height, width = self._size(number)
        p_value = "" if one.row.p_value is None else f"p {one.row.p_value:.3f} · "
        return {
            **{"id": number + 1, "name": one.name, "picture": one.path.is_file(), "near": False},
            **{"width": width, "height": height, "note": ""},
            **{"severity": one.row.severity, "decision": one.row.decision},
            "detail": f"{p_value}score {one.row.score:.4g}",
        }

    def _size(self, number: int) -> tuple[int, int]:
        try:
            with Image.open(self.session.pictures[number].path) as image:
                return upright_size(image)
        except Exception:  # it cannot be shown: nobody draws on it
            return 1, 1

    def _layer(self, number: int, layer: str, side: int) -> Answer:
        one, file = self.session.pictures[number], io.BytesIO()
        if layer == "mask":
            drawn = self.session.mask_of(number)
            mask = read_mask(drawn) if drawn.is_file() else proposed_mask(one)
            drawing.save_png(file, np.zeros(self._size(number), np.bool_) if mask is None else mask)
            return "image/png", file.getvalue()
        picture = {"view": _photo, "overlay": _found}[layer](one)
        most = min(max(side, 1), MOST_SIDE, max(picture.shape[:2]))
        drawing.fitted(picture, (most, most)).save(file, "WEBP", quality=QUALITY, method=2)
        return "image/webp", file.getvalue()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *request: Any) -> None:
        """Ignore a browser that turned to the next picture and does not wait for this one."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(*request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be idle

    def __init__(self, review: Review, *rest: Any):
        self.review = review
        super().__init__(*rest)

    def do_GET(self) -> None:
        url, path = urlsplit(self.path), self._asked()
        if path is None:
            self._refuse(403, "not here")
        elif path:
            self._answer(lambda: self.review.get(path, dict(parse_qsl(url.query))))
        else:
            theme = re.search(r"\btheme=(\w+)", self.headers.get("Cookie", ""))
            language = self.headers.get("Accept-Language", "")
            self._answer(lambda: self.review.page(language, theme and theme[1]))

    def do_POST(self) -> None:
        path, length = self._asked(), self.headers.get("Content-Length", "")
        own = self.headers.get("Origin") in (None, f"http://{self.headers.get('Host')}")
        self.close_connection = True  # the body may stay unread
        if path is None or not own or self.headers.get_content_type() != "application/json":
            self._refuse(403, "not here")
        elif not length.isdecimal() or int(length) > MOST_BYTES:
            self._refuse(400, "this is not what the page sends")
        else:
            sent = self.rfile.read(int(length))
            self._answer(lambda: self.review.post(path, _object(sent)))

    def _asked(self) -> str | None:
        """Return the path without the token; None where the request is not from the page."""
        token, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        known = secrets.compare_digest(token.encode(), self.review.token.encode())
        return path if known and host in HOSTS else None

    def _answer(self, make: Callable[[], Answer]) -> None:
        try:
            answer = make()
        except KeyError:
            self._refuse(404, "there is no such page")
        except InputError as error:
            self._refuse(409, str(error))
        except ValueError:
            self._refuse(400, "this is not what the page sends")
        except (FlawscopeError, OSError, MemoryError) as error:
            self._refuse(507, one_line(error))
        else:
            self._send(200, answer)

    def _refuse(self, status: int, text: str) -> None:
        self._send(status, _json({"error": text}))

    def _send(self, status: int, answer: Answer) -> None:
        media, body = answer
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        is_drawn = media == "image/webp"  # a picture does not change
        self.send_header("Cache-Control", "private, max-age=3600" if is_drawn else "no-store")
        for name, value in {**HEADERS, "Referrer-Policy": "no-referrer"}.items():  # the address has the token
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing: the terminal is for the person."""


def _photo(one: Flagged) -> NDArray[np.uint8]:
    """Return the picture alone, [H, W, 3]."""
    return to_eight_bits(decode(one.path))


def _found(one: Flagged) -> NDArray[np.uint8]:
    """Return the picture with the run's overlay; without one, with its regions."""
    if one.overlay is not None:
        return np.asarray(Image.open(one.overlay).convert("RGB"))
    mask = proposed_mask(one)
    return _photo(one) if mask is None else drawing.contour(_photo(one), mask)


def _mask_of(sent: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask that a person drew, [H, W], from a PNG in base64; a smaller one is enlarged."""
    mask = read_mask(base64.b64decode(sent, validate=True))
    if not mask.any():
        raise InputError("the outline is empty: draw where the defect is, or discard it")
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST), np.bool_)


def _object(sent: bytes) -> dict[str, Any]:
    """Return a JSON object. ValueError where it is none."""
    found = json.loads(sent)
    if not isinstance(found, dict):
        raise ValueError
    return found


def _json(value: dict[str, Any]) -> Answer:
    return "application/json", json.dumps(value).encode()
