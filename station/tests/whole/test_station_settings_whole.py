"""What a file of settings may say, and passwords that are kept beside it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flawscope.errors import FlawscopeError, InputError
from flawscope_station.client.messages import normalize_url as of_station
from flawscope_station.settings.sinks import read_broker, read_sinks
from flawscope_station.settings.sources import CameraSourceSettings, read_source, redact_camera_address
from flawscope_station.settings.station import Settings, read_settings
from flawscope_station.settings.values import read_as, redact_address, redact_text
from flawscope_station.store.database import Database
from flawscope_station.store.records import Store

PASSWORD = "p@ss:/w%rd ä"


def test_a_station_signs_in_to_a_postgresql_that_wants_a_password(postgres, tmp_path):
    """A real one, with SCRAM."""
    postgres._say(f"CREATE ROLE line LOGIN PASSWORD '{PASSWORD}'")
    postgres._say("CREATE DATABASE line OWNER line")
    access = postgres.data / "pg_hba.conf"
    access.write_text(f"local line line scram-sha-256\n{access.read_text()}")
    postgres._call("pg_ctl", "-D", postgres.data, "reload")
    path = tmp_path / "station.yaml"
    path.write_text(f"password_file: secret\ndatabase: postgresql://line@/line?host={postgres.folder}\n")
    (tmp_path / "secret").write_text("wrong")
    (tmp_path / "station").mkdir()
    with pytest.raises(InputError, match="password authentication failed") as caught:
        Database(read_settings(path).url).migrate()
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value)
    (tmp_path / "secret").write_text(f"{PASSWORD}\n")
    settings = read_settings(path)
    database = Database(settings.url)
    database.migrate()
    assert Store(database).add_product("plate") == 1
    database.close()


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


@settings(deadline=None, max_examples=20)
@given(secrets, st.sampled_from("/@:?#&=;%\\ .-"), places)
def test_no_place_of_an_address_gives_a_secret_away(parts, mark, place):
    assume(mark != "@" or not place.endswith(":{0}"))  # behind an @ at the end stands the host

    def address(scheme: str) -> str:
        return place.format(mark.join(parts), scheme=scheme)

    def of_sinks(one: str) -> list[str]:
        return [sink.label for sink in read_sinks([{"webhook": one}], Path())]

    def of_broker(one: str) -> str:
        found = read_broker(one, Path())
        return "" if found is None else found.label

    def of_database(one: str) -> list[str]:
        return [Database(read_as(Settings, {"database": one}, Path()).url).name]

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
