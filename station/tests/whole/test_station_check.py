"""`flawscope station check`: what keeps a station from working is said before it starts."""

import socket
import sqlite3
from contextlib import closing

import pytest

from flawscope.cli import main
from station_helpers import free_port


def test_a_check_names_what_is_wrong_and_writes_nothing(tmp_path, model_file, capsys):
    with closing(socket.create_server(("127.0.0.1", 0))) as hub:
        there = f"http://127.0.0.1:{hub.getsockname()[1]}/secret"
        path = tmp_path / "station.yaml"
        good = f"store: {tmp_path}/store\nproducts:\n  plate:\n    model: {model_file}\n"
        path.write_text(f"{good}    sinks: [{{webhook: '{there}'}}]\n")
        assert main(["station", "check", str(path)]) == 0
        assert "4 things looked at, nothing wrong" in capsys.readouterr().err
        away = f"http://127.0.0.1:{free_port()}/secret"
        path.write_text(
            f"{good}    sinks: [{{webhook: '{away}', secret_file: no.txt}}]\n    folder: in\n"
            "    tolerances: none.yaml\n  cup: gone.onnx\n"
        )
        assert main(["station", "check", str(path)]) == 1
        said = capsys.readouterr().out.splitlines()
    places = ["product plate: tolerances", "product plate: folder", "product cup: model"]
    places += ["products.plate.sinks.1.webhook", "products.plate.sinks.1.secret_file"]
    assert all(any(line.startswith(place) for line in said) for place in places), said
    assert len(said) == len(places)
    assert "/secret" not in "".join(said), "an address may be a secret"
    assert not (tmp_path / "store").exists()


def test_settings_that_cannot_be_read_are_a_wrong_call(tmp_path, capsys):
    path = tmp_path / "station.yaml"
    path.write_text("productz: {}")
    assert main(["station", "check", str(path)]) == 2
    assert "did you mean products" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["a text", "a newer one"])
def test_a_data_base_that_cannot_be_used_is_said(tmp_path, kind, capsys):
    (tmp_path / "store").mkdir()
    file = tmp_path / "store/station.sqlite"
    if kind == "a text":
        file.write_text("no database, but a text of some length")
    else:
        with closing(sqlite3.connect(file)) as made:
            made.execute("CREATE TABLE alembic_version (version_num TEXT)")
            made.execute("INSERT INTO alembic_version VALUES ('9999')")
            made.commit()
    path = tmp_path / "station.yaml"
    path.write_text("store: store")
    assert main(["station", "check", str(path)]) == 1
    assert capsys.readouterr().out.startswith("database: ")
