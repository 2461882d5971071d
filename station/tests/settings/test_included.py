"""Settings that name other files and the environment."""

import pytest

from flawscope.errors import InputError
from flawscope_station.settings.station import read_settings


def test_a_file_includes_others_and_wins_over_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HUB", "hub.example")
    monkeypatch.setenv("PORT", "9000")
    (tmp_path / "plant").mkdir()
    (tmp_path / "plant/all.yaml").write_text(
        "near: 3\nlimits: {queue: 7, wait: 1 min}\nproducts: {lid: {model: null, deadline: 2 s}}\n"
    )
    (tmp_path / "plant/line.yaml").write_text("include: all.yaml\nnear: 2\nport: ${PORT}\n")
    (tmp_path / "station.yaml").write_text(
        "include: [plant/line.yaml]\nlimits: {queue: 9}\nproducts:\n"
        "  lid: {sinks: [{webhook: 'https://${HUB}/x/${PORT}'}]}\n  cup: {model: models/cup.onnx}\n"
    )
    found = read_settings(tmp_path / "station.yaml")
    assert (found.near, found.port, found.limits.queue, found.limits.wait) == (2.0, 9000, 9, 60.0)
    assert [*found.products] == ["lid", "cup"]
    assert (found.products["lid"].deadline, found.products["lid"].model) == (2.0, None)
    assert found.products["lid"].sinks[0].address == "https://hub.example/x/9000"
    assert found.products["cup"].model == str(tmp_path / "models/cup.onnx"), "of the file that was named"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("include: station.yaml", "includes itself"),
        ("include: {a: b}", "write a file, or a list of files"),
        ("include: gone.yaml", "cannot read config"),
        ("name: ${NOBODY_SET_THIS}", "is no variable of the environment"),
        ("name: ${}", "is no variable of the environment"),
    ],
)
def test_what_cannot_be_included_is_said_in_a_line(tmp_path, text, why):
    path = tmp_path / "station.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=why) as caught:
        read_settings(path)
    assert "\n" not in str(caught.value)
