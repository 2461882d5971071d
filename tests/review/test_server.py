"""The page is given out to the browser that was sent here, and to nobody else."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from flawscope.errors import InputError
from flawscope.review import DEFECT, FINE, Session
from flawscope.review.server import Review

pytest.importorskip("jinja2")


@pytest.fixture
def review(session: Session) -> Iterator[Review]:
    review = Review(session, "results")
    thread = threading.Thread(target=review.serve)
    thread.start()
    yield review
    review.stop()
    thread.join(5)
    assert not thread.is_alive()


def ask(
    review: Review, path: str, sent: Any = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """`path` is below the token, or absolute. Sends JSON where there is something to send."""
    parts = urlsplit(review.url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10)
    whole = path if path.startswith("/") else parts.path + path
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if sent is None:
        connection.request("GET", whole, headers=given)
    else:
        given = {"Content-Type": "application/json", **given}
        connection.request("POST", whole, sent if isinstance(sent, bytes) else json.dumps(sent), given)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_the_page_has_its_pictures_and_nothing_from_outside(review: Review) -> None:
    status, headers, body = ask(review, "")
    text = body.decode()
    assert status == 200
    assert "a/part" in text
    assert "//" not in text.replace("// ", "").replace("</", "").split("<script>")[0]
    assert headers["Referrer-Policy"] == "no-referrer"
    for kind in ("photo", "found"):
        status, headers, body = ask(review, f"{kind}/0")
        assert (status, headers["Content-Type"], body[:4]) == (200, "image/webp", b"RIFF")
    assert review.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path", ["/", "/wrong/", "/wrong/photo/0", "photo/99", "photo/-1", "photo/x", "../x", "x"]
)
def test_other_paths_show_nothing(review: Review, path: str) -> None:
    status, _, body = ask(review, path)
    assert status in (403, 404)
    assert len(body) < 100


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # a name that was made to point here
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Content_Type": "text/plain"},  # what a form of another page could send without being asked
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)
def test_other_pages_decide_nothing_even_with_the_token(review: Review, headers: dict[str, str]) -> None:
    assert ask(review, "decide", {"number": 0, "decision": FINE}, **headers)[0] == 403
    assert ask(review, "undo", {}, **headers)[0] == 403
    assert ask(review, "done", {}, **headers)[0] == 403
    assert review.session.decided() == {}
    assert ask(review, "")[0] == 200  # it still runs


def test_decisions_are_made_and_taken_back(review: Review) -> None:
    status, _, body = ask(review, "decide", {"number": 1, "decision": DEFECT})
    assert (status, json.loads(body)) == (200, {"number": 1, "decided": {"1": DEFECT}})
    assert (review.session.out / "defect/b_part.png").is_file()
    assert json.loads(ask(review, "undo", {})[2]) == {"number": 1, "decided": {}}
    assert json.loads(ask(review, "undo", {})[2])["number"] is None


@pytest.mark.parametrize(
    "sent", [b"", b"{", b"[]", b'{"number": "x"}', b'{"decision": "good"}', b"null", b" " * 2000]
)
def test_what_no_page_sends_is_refused(review: Review, sent: bytes) -> None:
    assert ask(review, "decide", sent)[0] == 400
    assert ask(review, "decide", {"number": 99, "decision": FINE})[0] == 409
    assert ask(review, "decide", {"number": 0, "decision": "../x"})[0] == 409
    assert review.session.decided() == {}


def test_what_cannot_be_kept_is_said_to_the_page(review: Review) -> None:
    review.session.pictures[0].path.unlink()
    status, _, body = ask(review, "decide", {"number": 0, "decision": FINE})
    assert status == 409
    assert "any more" in json.loads(body)["error"]
    assert ask(review, "photo/0")[0] == 410


def test_the_page_can_end_it(session: Session) -> None:
    review = Review(session, "results")
    thread = threading.Thread(target=review.serve)
    thread.start()
    assert ask(review, "done", {})[0] == 200
    thread.join(5)
    assert not thread.is_alive()


def test_a_browser_that_goes_away_is_no_error(review: Review, capfd: pytest.CaptureFixture[str]) -> None:
    """It is not interested in a picture any more: the connection is reset while it is sent."""
    parts = urlsplit(review.url)
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", parts.port or 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(f"GET {parts.path}photo/0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        connection.close()
    assert ask(review, "")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_one_line(review: Review, session: Session) -> None:
    with pytest.raises(InputError, match="--port"):
        Review(session, "results", int(review.server.server_address[1]))
