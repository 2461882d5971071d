"""What may be secret in an address is shown to nobody, wherever in it the secret stands."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("sqlalchemy")
pytest.importorskip("httpx")

from flawscope.errors import FlawscopeError
from flawscope_station.client.messages import normalize_url as of_station
from flawscope_station.settings.sinks import read_mqtt, read_sinks
from flawscope_station.settings.sources import CameraSourceSettings, read_source, redact_camera_address
from flawscope_station.settings.station import Settings, read_settings
from flawscope_station.settings.values import redact_address, redact_text
from flawscope_station.store.database import Database

words = st.from_regex(r"Q[A-Z0-9]{6,12}Q", fullmatch=True)  # no other text has them
secrets = st.lists(words, min_size=1, max_size=3)
places = st.sampled_from(
    [
        "{scheme}://{0}@mes.example:99/x",
        "{scheme}://anna:{0}@mes.example",
        "{scheme}://{0}:{0}@mes.example/a",
        "{scheme}://anna:{0}",
        "{scheme}://mes.example/services/T0/{0}",
        "{scheme}://mes.example/{0}/b?x=1",
        "{scheme}://mes.example/a?token={0}&b=1",
        "{scheme}://mes.example?{0}=1",
        "{scheme}://mes.example/a#{0}",
        "{scheme}://mes.example:port/{0}",
        "{scheme}://[::1/{0}",
        "anna:{0}@mes.example/a",
    ]
)


def said(call: Any, *values: Any) -> str:
    """What it answers, or the error's text."""
    try:
        return repr(call(*values))
    except FlawscopeError as error:
        return str(error)


@settings(deadline=None)
@given(secrets, st.sampled_from("/@:?#&=;%\\ .-"), places)
def test_no_place_of_an_address_gives_a_secret_away(parts: list[str], mark: str, place: str) -> None:
    assume(mark != "@" or not place.endswith(":{0}"))  # behind an @ at the end stands the host

    def address(scheme: str) -> str:
        return place.format(mark.join(parts), scheme=scheme)

    def of_sinks(one: str) -> list[str]:
        return [sink.label for sink in read_sinks([{"webhook": one}], Path())]

    def of_broker(one: str) -> str:
        found = read_mqtt(one, Path())
        return "" if found is None else found.label

    def of_database(one: str) -> list[str]:
        return [Database(Settings(database=one).url).name]

    texts = [redact_address(address("https")), redact_camera_address(address("rtsp"))]
    texts += [said(of_sinks, address(scheme)) for scheme in ("https", "ftp")]
    texts += [
        said(read_sinks, sinks, Path()) for sinks in ([address("https")], [{"webhook": [address("x")]}])
    ]
    texts.append(said(read_sinks, [{"webhook": address("https")}] * 2, Path()))
    texts += [said(of_broker, address(scheme)) for scheme in ("mqtt", "h")]
    for source in (address("rtsp"), {address("rtsp"): 1}, {"camera": address("rtsp"), "every": "often"}):
        texts.append(said(read_source, source, Path()))
    texts += [repr(CameraSourceSettings(address("rtsp"))), CameraSourceSettings(address("rtsp")).display_name]
    texts += [said(of_database, address(scheme)) for scheme in ("postgresql", "mysql")]
    texts.append(said(lambda: redact_address(of_station(address("http")))))
    texts.append(redact_text(f"Cannot POST {address('https')}: 404", address("https")))
    assert not [text for text in texts for part in parts if part in text]


def test_host_and_port_are_shown() -> None:
    assert redact_address("https://hooks.slack.com/services/T0/B0/XX") == "https://hooks.slack.com/…"
    assert redact_address("mqtt://192.0.2.7:1883") == "mqtt://192.0.2.7:1883"
    assert (
        redact_text("no route to mes.example", "https://mes.example/a/example") == "no route to mes.example"
    )


@pytest.mark.parametrize(
    "line", ["camera: x: {}", "sinks: [{{webhook: {}}}", "near: [{}]", "{}: 1", "a: *{}"]
)
def test_a_settings_file_that_is_wrong_is_not_quoted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(line.format("https://anna:hunter2@mes.example/hunter2") + "\n")
    with suppress(FlawscopeError):
        read_settings(path)
    assert "hunter2" not in said(read_settings, path)
