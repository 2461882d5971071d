"""Addresses as people write them: passwords of cameras with any signs, and names of the station."""

import pytest

from flawscope.errors import InputError
from flawscope_station.settings.sources import check_address, quote_password, read_source
from flawscope_station.settings.station import read_settings

ADDRESSES = {
    "rtsp://admin:pa#ss@192.0.2.20/s": "rtsp://admin:pa%23ss@192.0.2.20/s",
    "rtsp://admin:1#2@cam:554/s": "rtsp://admin:1%232@cam:554/s",
    "rtsp://admin:p@ss#1@cam/s": "rtsp://admin:p%40ss%231@cam/s",
    "rtsp://admin:a/b@cam/s": "rtsp://admin:a%2Fb@cam/s",
    "rtsp://admin:what?@cam/s": "rtsp://admin:what%3F@cam/s",
    # these are read as they stand
    "rtsp://admin:pa%23ss@cam/s": "",
    "rtsp://admin:pass@cam/s?a=b@c": "",
    "rtsp://192.0.2.20:554/user@1": "",
    "rtsp://admin@cam/s": "",
    "/dev/video0": "",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_may_have_any_sign(address):
    quoted = quote_password(address)
    assert quoted == (ADDRESSES[address] or address)
    check_address(quoted)


def test_a_camera_of_the_settings_is_read_so_and_its_password_is_shown_nowhere(tmp_path):
    source = read_source({"camera": "rtsp://admin:pa#ss@cam/s"}, tmp_path)
    assert source.url == "rtsp://admin:pa%23ss@cam/s"
    assert "pa" not in source.display_name


def test_what_is_no_address_names_the_file_of_the_password(tmp_path):
    with pytest.raises(InputError, match="password with signs such as # or @ into a file"):
        read_source({"camera": "rtsp://admin:pass#1"}, tmp_path)


@pytest.mark.parametrize("public", ["https://plant.example/inspect", "plant.example/a/b"])
def test_a_name_of_the_station_has_no_path(tmp_path, public):
    (tmp_path / "station.yaml").write_text(f"public: [{public}]\n")
    with pytest.raises(InputError, match=r"needs one of its own, or a port: write line3\.example"):
        read_settings(tmp_path / "station.yaml")
    for right in ("line3.example", "https://line3.example/", "line3.example:8443"):
        (tmp_path / "station.yaml").write_text(f"public: ['{right}']\n")
        assert read_settings(tmp_path / "station.yaml").public == (right,)
