"""The client against a real station, also over a line that breaks."""

import io
import itertools
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from flawscope import load
from flawscope.errors import FlawscopeError, InputError
from flawscope_station import client as client_module
from flawscope_station.client import Client, RefusedError
from flawscope_station.client.messages import parse
from flawscope_station.settings.station import ProductSettings
from flawscope_station.store.inspection import Inspection


@pytest.fixture(name="client")
def client_fixture(common):
    """Of the station that the tests of this file share."""
    with Client(common.url) as made:
        yield made


@pytest.fixture(scope="module")
def model(model_file):
    return load(model_file, device="cpu", threads=1)


class Line(httpx.BaseTransport):
    """Does with each request what `script` says, then lets all pass: `refuse` it unread by the station,
    `lose` the answer, or answer with a status, `503:7` with Retry-After: 7. seen: keys."""

    def __init__(self, *script: str):
        self.script, self.seen, self._station = [*script], list[str](), httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.headers.get("Idempotency-Key", ""))
        act = self.script.pop(0) if self.script else "pass"
        if act == "refuse":
            raise httpx.ConnectError("nobody listens")
        if act not in ("pass", "lose"):
            status, _, wait = act.partition(":")
            return httpx.Response(int(status), headers={"Retry-After": wait} if wait else {})
        answer = self._station.handle_request(request)
        if act == "lose":
            raise httpx.RemoteProtocolError("it hung up")
        return answer


@pytest.fixture
def over(common):
    """`over("lose", tries=3)`: a client over a line that breaks so, and the line."""
    with ExitStack() as stack:

        def one(*script: str, **how: Any) -> tuple[Client, Line]:
            made = stack.enter_context(Client(common.url, **how))
            made._http._transport = line = Line(*script)
            return made, line

        yield one


@pytest.fixture
def waits(monkeypatch):
    """Seconds that the client would have waited."""
    waited: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", waited.append)
    return waited


@pytest.mark.parametrize(
    "script",
    [["lose"], ["lose", "refuse", "lose"], ["503:0", "lose", "502", "504"], ["refuse", "503", "lose"]],
)
def test_a_picture_is_inspected_once_however_often_the_line_breaks(client, over, parts, waits, script):
    sender, broken = over(*script)
    found = sender.inspect(parts[0], "plate", " ".join(script))
    assert client.inspection(found.id) == found
    assert [one.id for one in client.search(file=" ".join(script))] == [found.id]
    assert len(broken.seen) == len(script) + 1
    assert len(set(broken.seen)) == 1
    assert broken.seen[0]


def test_every_picture_has_a_key_of_its_own(over, parts):
    sender, plain = over()
    one, other = sender.inspect(parts[0], "plate"), sender.inspect(parts[0], "plate")
    again = [sender.inspect(parts[0], "plate", key="mine") for _ in range(2)]
    assert one.id != other.id
    assert one.picture == other.picture
    assert len(set(plain.seen[:2])) == 2
    assert plain.seen[2:] == ["mine", "mine"]
    assert again[0] == again[1]


def test_it_waits_as_long_as_the_station_says_else_longer_each_time(over, parts, waits):
    over("503:7", "503:7", "503:1000", "503:soon")[0].inspect(parts[0], "plate")
    assert 7 <= min(waits[:2]) < max(waits[:2]) <= 9, "clients that wait alike come back together"
    assert 60 <= waits[2] <= 75
    assert waits[3] < 5
    waits.clear()
    over(*["refuse"] * 4)[0].inspect(parts[0], "plate")
    assert len(waits) == 4
    assert all(later > 1.3 * earlier for earlier, later in itertools.pairwise(waits))


@pytest.mark.parametrize(("act", "said"), [("503:0", "503"), ("refuse", "cannot be reached")])
def test_after_the_last_try_it_says_why(over, parts, waits, act, said):
    sender, broken = over(*[act] * 9, tries=3)
    with pytest.raises(FlawscopeError, match=rf"^{sender.url}.*{said}") as caught:
        sender.inspect(parts[0], "plate")
    assert ("`flawscope serve` runs" in str(caught.value)) == (act == "refuse")
    assert not isinstance(caught.value, InputError)
    assert (len(broken.seen), len(waits)) == (3, 2)


def test_a_verdict_is_taken_once_however_often_the_line_breaks(client, over, parts, waits):
    found = client.inspect(parts[-1])
    client.verdict(found.id, "good")
    said = over("lose", "lose", "refuse")[0].verdict(found.id, "defect", product="plate")
    undone = over("lose")[0].verdict(found.id, "undo", product="plate")
    assert (said.verdict, undone.verdict) == ("defect", "good"), "no more is taken back"
    assert client.verdict(found.id, "undo").verdict is None
    with pytest.raises(RefusedError, match="no verdict to take back"):
        client.verdict(found.id, "undo")


def kinds(parts: list[bytes]) -> dict[str, Any]:
    with Image.open(io.BytesIO(parts[-1])) as image:
        colour = np.asarray(image.convert("RGB"))
        turned, exif = Image.fromarray(colour), Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        turned.save(buffer, "JPEG", quality=95, exif=exif)
        grey = np.asarray(image.convert("L"))
        return {
            "bytes": parts[-1],
            "colour": colour,
            "grey": grey,
            "deep grey": grey.astype(np.uint16) * 200,
            "float grey": (grey / 255).astype(np.float32),
            "palette": image.convert("P", palette=Image.Palette.ADAPTIVE),
            "cmyk": image.convert("CMYK"),
            "turned": Image.open(io.BytesIO(buffer.getvalue())),
            "transparent": np.dstack([colour, np.full(grey.shape, 200, np.uint8)]),
        }


def test_every_kind_of_picture_is_judged_as_the_model_does(client, model, parts, tmp_path):
    (tmp_path / "Teil ä 1.png").write_bytes(parts[0])
    given: dict[str, Any] = {**kinds(parts), "path": tmp_path / "Teil ä 1.png"}
    for kind, picture in given.items():
        expected, found = model.predict(picture), client.inspect(picture, name=None)
        assert found.score == pytest.approx(expected.score, rel=1e-5), kind
        assert found.decision == expected.decision, kind
        assert found.p_value == pytest.approx(expected.p_value)
        assert found.severity == pytest.approx(expected.severity, rel=1e-4)
        assert found.score_threshold == expected.score_threshold
        assert (found.height, found.width) == expected.geometry.picture_size, kind
        assert [one.to_dict() for one in found.regions] == [
            {**one.to_dict(), "peak": pytest.approx(one.peak, rel=1e-5)} for one in expected.regions
        ], kind
    assert found.name == "Teil ä 1.png"
    assert client.inspect(parts[0], name="A 7").name == "A 7"


def test_what_cannot_be_sent_is_said_before(client, tmp_path):
    before = client.product().inspections
    with pytest.raises(InputError, match=r"cannot read picture .*none\.png: No such file"):
        client.inspect(tmp_path / "none.png")
    with pytest.raises(InputError, match="deep colour picture"):
        client.inspect(np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(InputError, match="a mask is an array"):
        client.verdict(1, "defect", mask=np.zeros((3, 3)))
    assert client.product().inspections == before


def test_the_search_turns_pages(running, parts, monkeypatch):
    client = Client(running.url)
    monkeypatch.setattr(client_module, "PAGE_SIZE", 3)
    made = [client.inspect(parts[k % len(parts)], name=f"p{k}.png") for k in range(8)]
    client.verdict(made[2].id, "good")
    assert list(client.search())[1:5] == made[6:2:-1]
    assert [one.id for one in client.search()] == [one.id for one in reversed(made)]
    anomalous = [one.id for one in made if one.is_anomalous]
    assert sorted(one.id for one in client.search(decision="anomalous")) == anomalous
    assert anomalous
    assert [one.id for one in client.search(verdict="good")] == [made[2].id]
    assert [one.id for one in client.search(file="p3.png")] == [made[3].id]
    assert [one.id for one in client.search(since=made[5].at, file="p*")] == [m.id for m in made[:4:-1]]
    assert list(client.search(until=made[0].at, version=1)) == []


def test_everything_else_that_a_station_can_be_asked(open_station, model_file, other_model, parts):
    """What the station does then is tested with its API; here that it is asked for."""
    both = {name: ProductSettings(str(model_file)) for name in ("left", "right")}
    with Client(open_station(products=both).url) as client:
        with pytest.raises(InputError, match="name one of left, right"):
            client.inspect(parts[0])
        found = client.inspect(parts[-1], "right")
        assert (found.product, [one.name for one in client.products()]) == ("right", ["left", "right"])
        mask = np.zeros((found.height, found.width), np.bool_)
        mask[10:20, 30:50] = True
        said = client.verdict(found.id, "defect", mask=mask, note="tief", product="right")
        assert (said.verdict, said.note, said.has_mask) == ("defect", "tief", True)
        where = f"products/right/inspections/{found.id}/mask"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(client._http.get(where).content))) > 0, mask)
        (first,) = client.versions("right")
        added = client.add_version(other_model, "right")
        assert (added.active, first.active) == (False, True)
        assert client.activate("right", added.id).version == added.id == client.product("right").version
        assert client.inspect(parts[0], "right").version == added.id


def test_what_is_not_there_is_said(client, common, parts):
    for call in (
        lambda: client.inspect(parts[0], "plat/../e"),
        lambda: client.versions("plat"),
        lambda: list(client.search("plat")),
    ):
        with pytest.raises(RefusedError, match=rf"^{common.url}: there is no"):
            call()
    with pytest.raises(RefusedError, match="there is no inspection 9999"):
        client.inspection(9999)
    for url in ("", "http://", "ftp://here", "http://a b", "http://here:99999", "http://x?y"):
        with pytest.raises(InputError, match="is no address of a station"):
            Client(url)


def test_a_token_is_wanted_and_checked(running, parts, tmp_path):
    token = running.station.access.tokens.add("line", "operator")
    for unknown in (None, "fls_no"):
        with Client(running.url, unknown) as client, pytest.raises(RefusedError, match="station token add"):
            client.inspect(parts[0], "plate")
    with Client(running.url, token=f"{token}\n") as client:
        found = client.inspect(parts[0])
        with pytest.raises(RefusedError, match="line is operator; this needs engineer"):
            client.activate(None, found.version)
    with pytest.raises(InputError, match="the token is none"):
        Client(running.url, token="two words")


def test_somebody_else_there():
    for status, said in {200: "otherwise than a station", 301: "it is at https://there"}.items():
        answer = httpx.Response(status, headers={"Location": "https://there.example/"}, text="<html>welcome")
        with Client("http://127.0.0.1:9") as client:
            client._http._transport = httpx.MockTransport(lambda request, answer=answer: answer)
            with pytest.raises(FlawscopeError, match=said):
                client.products()


def test_an_answer_of_another_version(client, parts):
    """Fields that are new are handed on, missing ones are said."""
    one = client.inspect(parts[0])
    data = client._http.get(f"products/plate/inspections/{one.id}").json()
    newer = parse(Inspection, {**data, "colour": "red"})
    assert (newer.colour, newer.score) == ("red", one.score)
    assert parse(Inspection, data) == one
    for name in ("score", "at"):
        with pytest.raises(FlawscopeError, match=f"has no {name}: update"):
            parse(Inspection, {k: v for k, v in data.items() if k != name})
    with pytest.raises(FlawscopeError, match="has another decision: update"):
        parse(Inspection, {**data, "decision": "perhaps"})
