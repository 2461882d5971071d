"""The settings that name a data base, and the password that is kept beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from station_helpers import Served, free_port

from flawscope.errors import InputError
from flawscope.station.settings.station import Settings, read_settings
from flawscope.station.store.database import Database
from flawscope.station.store.records import Store

URL = "postgresql://line@db.example/station?sslmode=require"
PASSWORD = "p@ss:/w%rd ä"


def with_file(text: str | bytes | None, folder: Path, database: str | None = URL) -> Settings:
    """Settings in a file, and the password beside them."""
    if text is not None:
        (folder / "secret").write_bytes(text.encode() if isinstance(text, str) else text)
    line = f"database: {database}\n" if database else ""
    (folder / "station.yaml").write_text(f"products: {{}}\n{line}password_file: secret\n")
    return read_settings(folder / "station.yaml")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_password_comes_from_the_file_beside_the_settings(tmp_path: Path, end: str) -> None:
    settings = with_file(PASSWORD + end, tmp_path)
    assert settings.url == (
        "postgresql+psycopg://line:p%40ss%3A%2Fw%25rd%20%C3%A4@db.example/station?sslmode=require"
    )
    database = Database(settings.url)
    assert database.engine.url.password == PASSWORD
    assert PASSWORD not in database.name
    assert "p%40ss" not in database.name
    (tmp_path / "secret").write_text("another")
    assert ":another@" in settings.url, "it is read again"


@pytest.mark.parametrize(
    ("text", "database", "why"),
    [
        (None, URL, r"cannot read .*secret: No such file"),
        ("", URL, r"secret holds nothing: write the password"),
        ("\n", URL, r"secret holds nothing"),
        ("one\ntwo\n", URL, r"secret holds more than a line of text"),
        (b"\xff\xfe", URL, r"secret is no text"),
        ("secret", None, r"password_file is PostgreSQL's: name its `database`"),
        ("secret", "postgresql://line:here@db/x", r"a user and no password"),
        ("secret", "postgresql://db/x", r"write `database` as postgresql://user@host/name"),
        ("secret", "postgresql:///x?host=/run/line@home", r"write `database` as postgresql://user@host/name"),
    ],
)
def test_a_password_that_cannot_be_had_is_one_line(
    tmp_path: Path, text: str | bytes | None, database: str | None, why: str
) -> None:
    with pytest.raises(InputError, match=rf"station.yaml: setting .*{why}") as caught:
        with_file(text, tmp_path, database)
    assert "\n" not in str(caught.value)
    assert "here" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with pytest.raises(InputError, match="secret: Is a directory"):
        with_file(None, tmp_path)
    (tmp_path / "secret").rmdir()
    if os.name == "posix" and os.geteuid() != 0:
        (tmp_path / "secret").touch(mode=0)
        with pytest.raises(InputError, match="secret: Permission denied"):
            with_file(None, tmp_path)


def test_a_station_signs_in_to_a_postgresql_that_wants_a_password(
    own_postgres: Any, model_file: Path, tmp_path: Path
) -> None:
    """A real one, with SCRAM; also what its programs ask is answered from the file."""
    from flawscope.station.store.backup import backup

    own_postgres._say(f"CREATE ROLE line LOGIN PASSWORD '{PASSWORD}'")
    own_postgres._say("CREATE DATABASE line OWNER line")
    access = own_postgres.data / "pg_hba.conf"
    access.write_text(f"local line line scram-sha-256\n{access.read_text()}")
    own_postgres._call("pg_ctl", "-D", own_postgres.data, "reload")
    path = tmp_path / "station.yaml"
    path.write_text(
        f"products: {{plate: {model_file}}}\npassword_file: secret\n"
        f"database: postgresql://line@/line?host={own_postgres.folder}\n"
    )
    (tmp_path / "secret").write_text("wrong")
    served = Served([str(path), "--device", "cpu", "--threads", "1"], free_port())
    with pytest.raises(AssertionError, match=r"it ended.*password authentication failed"):
        served.start()
    assert len(served.said().splitlines()) == 1
    assert "wrong" not in served.said()
    (tmp_path / "secret").write_text(f"{PASSWORD}\n")
    served.start()
    served.kill()
    settings = read_settings(path)
    assert backup(settings, tmp_path / "b.tar").products == 1
    database = Database(settings.url)
    assert Store(database).add_product("plate") == 1
    database.close()


@pytest.mark.parametrize(("wrong", "right"), [("product", "products"), ("keeep", "keep"), ("prt", "port")])
def test_an_unknown_setting_gets_the_nearest_of_all(tmp_path: Path, wrong: str, right: str) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(f"{wrong}:\n  plate: part.onnx\n")
    with pytest.raises(InputError, match=rf"unknown setting {wrong}; did you mean {right}\?"):
        read_settings(path)
