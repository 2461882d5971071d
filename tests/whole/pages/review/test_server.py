"""The page is given out to the browser that was sent here, and to nobody else."""

import base64
import http.client
import io
import json
import re
import socket
import struct
import threading
from contextlib import suppress
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from flawscope.errors import InputError
from flawscope.pages.review.server import ReviewServer
from flawscope.pages.review.session import DEFECT, GOOD
from flawscope.pictures.masks import read_mask


@pytest.fixture
def review(session):
    review = ReviewServer(session, "results")
    thread = threading.Thread(target=review.serve)
    thread.start()
    yield review
    review.stop()
    thread.join(5)
    assert not thread.is_alive()


def ask(review, path, sent=None, **headers):
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


def verdict(review, number, word, **more):
    """Of the picture with this number, from 0; pages count from 1."""
    sent = {"verdict": word, "mask": None, "note": "", **more}
    status, _, body = ask(review, f"api/inspections/{number + 1}/verdict", sent)
    return status, json.loads(body)


def test_the_page_has_its_pictures_and_nothing_from_outside(review):
    status, headers, body = ask(review, "", Accept_Language="de")
    text = body.decode()
    assert status == 200
    assert '<html lang="de"' in text
    own = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert len(own) > 4
    for address in own:
        if "/static/" in address:
            assert ask(review, address)[0] == 200
    assert not [one for one in own if "//" in one or one.startswith("http")]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    (script,) = re.findall(r'<script type="application/json" id="page">(.*?)</script>', text, re.DOTALL)
    assert json.loads(script)["data"]["near"] == 1.0, "it says how many good ones are offered"
    waiting = json.loads(ask(review, "api/review?limit=2&reader=x")[2])
    assert [one["name"] for one in waiting["inspections"]] == ["a/part", "b/part"]
    assert (waiting["inspections"][0]["detail"], waiting["waiting"]) == ("p 0.100 · score 0.9", 3)
    later = json.loads(ask(review, "api/review?limit=9&after=2")[2])
    assert [one["id"] for one in later["inspections"]] == [3]
    for kind in ("view", "overlay"):
        status, headers, body = ask(review, f"api/inspections/1/{kind}?side=320")
        assert (status, headers["Content-Type"], body[:4]) == (200, "image/webp", b"RIFF")
    assert read_mask(ask(review, "api/inspections/1/mask")[2]).shape == (48, 64)
    assert review.server.server_address[0] == "127.0.0.1"


def test_other_paths_show_nothing(review):
    paths = [f"api/inspections/{one}" for one in ("99/view", "0/view", "-1/view", "x/view", "1/x")]
    paths += ["/", "/wrong/", "/wrong/api/review", "../x", "x", "api/review?limit=x"]
    for path in (*paths, "static/", "static/../pages.py", "static/base.html.j2"):
        status, _, body = ask(review, path)
        assert status in (400, 403, 404), path
        assert len(body) < 100


def test_other_pages_decide_nothing_even_with_the_token(review):
    """A name that was made to point here, another page, and what its form could send without being asked."""
    kinds = [{"Content_Type": kind} for kind in ("text/plain", "application/x-www-form-urlencoded")]
    hosts = [{"Host": host} for host in ("evil.example", "evil.example:80")]
    for headers in (*kinds, *hosts, {"Origin": "http://evil.example"}):
        assert ask(review, "api/inspections/1/verdict", {"verdict": GOOD}, **headers)[0] == 403
        assert ask(review, "api/done", {}, **headers)[0] == 403
    assert review.session.decisions() == {}
    assert ask(review, "")[0] == 200  # it still runs


def test_decisions_are_made_and_taken_back(review):
    assert verdict(review, 1, DEFECT)[0] == 200
    assert (review.session.out / "defect/b_part.png").is_file()
    assert verdict(review, 2, "skip")[0] == 200
    waiting = json.loads(ask(review, "api/review?limit=9")[2])
    assert ([one["id"] for one in waiting["inspections"]], waiting["waiting"]) == ([1], 1)
    for number in (1, 1, 2):
        assert verdict(review, number, "undo")[0] == 200
    assert review.session.decisions() == {}
    assert json.loads(ask(review, "api/review?limit=9")[2])["waiting"] == 3


def test_an_outline_that_is_drawn_is_kept(review):
    drawn, file = np.zeros((24, 32), np.uint8), io.BytesIO()  # half as large as the picture
    drawn[5, 7] = 255
    Image.fromarray(drawn).save(file, "PNG")
    sent = base64.b64encode(file.getvalue()).decode()
    assert verdict(review, 0, DEFECT, mask=sent)[0] == 200
    mask = read_mask(ask(review, "api/inspections/1/mask")[2])
    assert (mask.shape, np.argwhere(mask).tolist()) == ((48, 64), [[10, 14], [10, 15], [11, 14], [11, 15]])
    assert verdict(review, 1, DEFECT, mask="x")[0] == 400
    assert verdict(review, 1, DEFECT, mask=base64.b64encode(b"no picture").decode())[0] == 409
    assert review.session.decisions() == {0: DEFECT}


def test_what_no_page_sends_is_refused(review):
    for sent in (b"", b"{", b"[]", b"null", b" " * 9_000_000):
        with suppress(ConnectionError):  # what is too long is not read
            assert ask(review, "api/inspections/1/verdict", sent)[0] == 400
    assert (verdict(review, 99, GOOD)[0], verdict(review, 0, "../x")[0]) == (404, 409)
    assert ask(review, "api/inspections/1/verdict", {"number": "x"})[0] == 409
    assert review.session.decisions() == {}


def test_what_cannot_be_kept_is_said_to_the_page(review):
    review.session.pictures[0].path.unlink()
    status, said = verdict(review, 0, GOOD)
    assert (status, "is it there" in said["error"]) == (409, True)
    assert ask(review, "api/inspections/1/view")[0] == 409


def test_the_page_can_end_it_and_a_port_that_is_taken_is_said(session):
    review = ReviewServer(session, "results")
    with pytest.raises(InputError, match="--port"):
        ReviewServer(session, "results", int(review.server.server_address[1]))
    thread = threading.Thread(target=review.serve)
    thread.start()
    assert ask(review, "api/done", {})[0] == 200
    thread.join(5)
    assert not thread.is_alive()


def test_a_browser_that_goes_away_is_no_error(review, capfd):
    """It is not interested in a picture any more: the connection is reset while it is sent."""
    parts = urlsplit(review.url)
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", parts.port or 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        head = f"GET {parts.path}api/inspections/1/view HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        connection.sendall(head.encode())
        connection.close()
    assert ask(review, "")[0] == 200
    assert capfd.readouterr().err == ""
