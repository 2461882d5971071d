"""Review page for a folder of results, in a browser on the same machine.

Only this machine can connect. The address holds a random token, without which every request is refused: other
pages in the same browser can neither read nor decide anything. A request must name this machine as its host:
no other name can be made to point here.
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
from socket import socket
from socketserver import BaseServer
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flawscope.calibration.near_threshold import near_share
from flawscope.errors import FlawscopeError, InputError, one_line_message
from flawscope.pages.review.session import ReviewPicture, ReviewSession, proposed_mask
from flawscope.pages.templates import PAGES
from flawscope.pictures.channels import displayed
from flawscope.pictures.files import upright_size
from flawscope.pictures.masks import read_mask
from flawscope.results import drawing
from flawscope.types import Json

Request = socket | tuple[bytes, socket]  # type of a request in `socketserver`
Address = tuple[str, int]
ALLOWED_HOSTS = ("127.0.0.1", "localhost")
MAX_NUMBER_LENGTH = 20  # digits of a picture's number; Python refuses to convert very long texts
MAX_SIDE = 3200  # pixels of a picture on the page
WEBP_QUALITY = 88  # 0..100
MAX_REQUEST_BYTES = 8 * 1024**2  # of a decision with a mask

Response = tuple[str, bytes]  # media type, body


class ReviewServer:
    """Server of a review session, until `stop` or until the person ends the review in the page.

    Args:
        session: The session.
        title: Title of the page.
        port: Port to listen at; 0: any free port.

    Raises:
        InputError: The port is in use.
    """

    def __init__(self, session: ReviewSession, title: str, port: int = 0):
        self.session = session
        self.title = title
        self.token = secrets.token_urlsafe(24)
        self._skipped: set[int] = set()  # numbers of pictures; forgotten when the program ends
        try:
            self.server = _Server((ALLOWED_HOSTS[0], port), partial(_Handler, self))
        except OSError as error:
            raise InputError(f"port {port} cannot be used: {error.strerror}; choose another --port") from None
        self.url = f"http://{ALLOWED_HOSTS[0]}:{self.server.server_address[1]}/{self.token}/"

    def serve(self) -> None:
        """Answer requests until the review ends."""
        try:
            self.server.serve_forever(poll_interval=0.2)
        finally:
            self.server.server_close()

    def stop(self) -> None:
        """End the review. It must be called from another thread than `serve`."""
        self.server.shutdown()

    # ---- the part of the station's API that the page uses: `inspections` are the pictures, counted from 1

    def page(self, language: str, theme: str | None) -> Response:
        """Return the page.

        Args:
            language: Header Accept-Language of the browser.
            theme: Theme that the person chose; None: the browser's theme.
        """
        page_texts = PAGES.texts_for(chosen=None, accept_language=language)
        root = f"/{self.token}"
        done = []
        for number, verdict in self.session.decisions().items():
            done.append({"item": self._facts(number), "verdict": verdict})
        script_data = {
            "texts": page_texts.sections("common", "nav", "review"),
            "product": self.title,
            "person": "",
            "api": f"{root}/api",
            "data": {"only": None, "done": done, "near": near_share()},
        }
        context = {"page": "review", "product": self.title, "bar": "", "alone": True}
        html = PAGES.render("review", page_texts, script_data, root=root, theme=theme, **context)
        return "text/html; charset=utf-8", html.encode(errors="replace")

    def get(self, path: str, query: Mapping[str, str]) -> Response:
        """Return the answer to GET.

        Args:
            path: Path of the address after the token; not empty: `page` answers the empty path.
            query: Parameters by name.

        Raises:
            KeyError: The path is unknown.
        """
        match path.split("/"):
            case ["static", *name]:
                data, _, media = PAGES.static_files["/".join(name)]
                return media, data
            case ["api"] | ["api", "review"]:
                limit = int(query.get("limit", "0"))
                after = int(query.get("after", "0"))
                return _json_response(self._list_waiting(limit, after))
            case ["api", "inspections", number_text, layer]:
                side = int(query.get("side", MAX_SIDE))
                return self._render_layer(self._parse_number(number_text), layer, side)
        raise KeyError(path)

    def post(self, path: str, body: Json) -> Response:
        """Act on a POST, and return the answer.

        Args:
            path: Path of the address after the token.
            body: The parsed body.

        Raises:
            KeyError: The path is unknown.
            FlawscopeError: The decision cannot be recorded.
        """
        match path.split("/"):
            case ["api", "done"]:
                threading.Thread(target=self.stop).start()  # in a thread, so that the answer is still sent
                return _json_response({})
            case ["api", "inspections", number_text, "verdict"]:
                number = self._parse_number(number_text)
                verdict = body.get("verdict")
                mask = body.get("mask")
                self._skipped.discard(number)
                if verdict == "undo":
                    self.session.undo(number)
                elif verdict == "skip":
                    self._skipped.add(number)
                else:
                    drawn_mask = None if mask is None else _decode_mask(str(mask), self._picture_size(number))
                    self.session.decide(number, str(verdict), drawn_mask)
                return _json_response(self._facts(number))
        raise KeyError(path)

    def _parse_number(self, text: str) -> int:
        """Return the number of a picture, from 0, for its number on the page, from 1.

        Raises:
            KeyError: There is no such picture.
        """
        is_short_number = text.isdecimal() and len(text) <= MAX_NUMBER_LENGTH
        if not is_short_number or not 1 <= int(text) <= len(self.session.pictures):
            raise KeyError(text)
        return int(text) - 1

    def _list_waiting(self, limit: int, after: int) -> Json:
        """Return up to `limit` pictures that wait for a decision, and the number of all that wait.

        Args:
            limit: Largest number of pictures to return.
            after: Number of a picture, from 0; pictures before it are not returned.
        """
        done_numbers = self.session.decisions().keys() | self._skipped
        waiting = [number for number in range(len(self.session.pictures)) if number not in done_numbers]
        listed = [number for number in waiting if number >= after][:limit]
        items = [self._facts(number) for number in listed]
        return {"inspections": items, "waiting": len(waiting), "problems": []}

    def _facts(self, number: int) -> Json:
        """Return the facts of a picture in the form of the station's inspections, for the page's script."""
        picture = self.session.pictures[number]
        height, width = self._picture_size(number)
        p_value = "" if picture.row.p_value is None else f"p {picture.row.p_value:.3f} · "
        return {
            "id": number + 1,
            "name": picture.name,
            "picture": picture.path.is_file(),
            "near": picture.row.near == "true",
            "width": width,
            "height": height,
            "note": "",
            "severity": picture.row.severity,
            "decision": picture.row.decision,
            "detail": f"{p_value}score {picture.row.score:.4g}",
        }

    def _picture_size(self, number: int) -> tuple[int, int]:
        """Return the size (H, W) of a picture; (1, 1) if it cannot be read."""
        try:
            with Image.open(self.session.pictures[number].path) as image:
                return upright_size(image)
        except Exception:  # the page does not show the picture, and no mask is drawn on it
            return 1, 1

    def _render_layer(self, number: int, layer: str, side: int) -> Response:
        """Return a picture of the page.

        Args:
            number: Number of the picture, from 0.
            layer: "view", which is the picture without its findings; "overlay"; or "mask".
            side: Longer side in pixels, limited to that of the original and to `MAX_SIDE`; a mask always has
                the picture's size.

        Raises:
            KeyError: There is no such layer.
        """
        picture = self.session.pictures[number]
        file = io.BytesIO()
        if layer == "mask":
            mask_path = self.session.mask_path(number)
            mask = read_mask(mask_path) if mask_path.is_file() else proposed_mask(picture)
            if mask is None:
                mask = np.zeros(self._picture_size(number), np.bool_)
            drawing.save_png(file, mask)
            return "image/png", file.getvalue()
        self.session.note_shown(number)
        if layer == "view":
            image = displayed(picture.path)
        elif layer == "overlay":
            image = _draw_overlay(picture)
        else:
            raise KeyError(layer)
        max_side = min(max(side, 1), MAX_SIDE, max(image.shape[:2]))
        drawing.fit_into(image, (max_side, max_side)).save(file, "WEBP", quality=WEBP_QUALITY, method=2)
        return "image/webp", file.getvalue()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Request, client_address: Address) -> None:
        """Ignore that a connection was closed, as browsers do when the person goes to the next picture."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers requests of browsers for a `ReviewServer`."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be idle

    def __init__(self, review: ReviewServer, request: Request, client_address: Address, server: BaseServer):
        self.review = review
        super().__init__(request, client_address, server)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = self._authorized_path()
        if path is None:
            self._refuse(403, "not here")
        elif path:
            self._respond(lambda: self.review.get(path, dict(parse_qsl(url.query))))
        else:
            match = re.search(r"\btheme=(\w+)", self.headers.get("Cookie", ""))
            theme = match[1] if match else None
            language = self.headers.get("Accept-Language", "")
            self._respond(lambda: self.review.page(language, theme))

    def do_POST(self) -> None:
        path = self._authorized_path()
        length = self.headers.get("Content-Length", "")
        is_same_origin = self.headers.get("Origin") in (None, f"http://{self.headers.get('Host')}")
        self.close_connection = True  # the body may stay unread
        if path is None or not is_same_origin or self.headers.get_content_type() != "application/json":
            self._refuse(403, "not here")
        elif not length.isdecimal() or int(length) > MAX_REQUEST_BYTES:
            self._refuse(400, "this is not what the page sends")
        else:
            body = self.rfile.read(int(length))
            self._respond(lambda: self.review.post(path, _parse_object(body)))

    def _authorized_path(self) -> str | None:
        """Return the path after the token; None if the request has a wrong token or host."""
        token, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        host_and_port = self.headers.get("Host", "")
        host_before_port, _, _ = host_and_port.rpartition(":")
        host = host_before_port or host_and_port  # the header may lack the port
        has_token = secrets.compare_digest(token.encode(), self.review.token.encode())
        return path if has_token and host in ALLOWED_HOSTS else None

    def _respond(self, handle: Callable[[], Response]) -> None:
        """Send the response that `handle` returns; if it raises an error, send that with an HTTP status."""
        try:
            response = handle()
        except KeyError:
            self._refuse(404, "there is no such page")
        except InputError as error:
            self._refuse(409, str(error))
        except ValueError:
            self._refuse(400, "this is not what the page sends")
        except (FlawscopeError, OSError, MemoryError) as error:
            self._refuse(507, one_line_message(error))
        else:
            self._send(200, response)

    def _refuse(self, status: int, text: str) -> None:
        self._send(status, _json_response({"error": text}))

    def _send(self, status: int, response: Response) -> None:
        media_type, body = response
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        # browsers may keep pictures for an hour; masks and lists change with each decision
        is_picture = media_type == "image/webp"
        self.send_header("Cache-Control", "private, max-age=3600" if is_picture else "no-store")
        headers = PAGES.security_headers | {"Referrer-Policy": "no-referrer"}  # the address has the token
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print no log: the terminal is for the person."""


def _draw_overlay(picture: ReviewPicture) -> NDArray[np.uint8]:
    """Return the run's overlay, [H, W, 3]; if there is none, the picture with the contours of its mask."""
    if picture.overlay is not None:
        return np.asarray(Image.open(picture.overlay).convert("RGB"))
    mask = proposed_mask(picture)
    image = displayed(picture.path)
    return image if mask is None else drawing.contour(image, mask)


def _decode_mask(encoded: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a mask that a person drew.

    Args:
        encoded: PNG in base64.
        size: (H, W) to which the mask is resized.

    Returns:
        The mask, [H, W] bool.

    Raises:
        InputError: The mask is empty.
    """
    mask = read_mask(base64.b64decode(encoded, validate=True))
    if not mask.any():
        raise InputError("the outline is empty: draw where the defect is, or discard it")
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST), np.bool_)


def _parse_object(body: bytes) -> Json:
    """Parse a JSON object.

    Raises:
        ValueError: The text is no JSON object.
    """
    parsed = json.loads(body)
    if not isinstance(parsed, dict):
        raise ValueError
    return parsed


def _json_response(value: Json) -> Response:
    return "application/json", json.dumps(value).encode()
