"""Forms as clients write them: names of files in each way that is in use, and parts without a name."""

import httpx
import pytest

from flawscope_station.web.uploads import name_file
from station_helpers import NAME

INSPECTIONS = f"/api/v1/products/{NAME}/inspections"
PNG = b"image/png"
FILES = {
    b"form-data; name=files; filename*=UTF-8''gr%C3%B6%C3%9Fe.png": "größe.png",  # requests, urllib3
    b"form-data; name=files; filename=\"g.png\"; filename*=utf-8'de'gr%C3%B6%C3%9Fe.png": "größe.png",
    b"form-data; name=files; filename*=\"UTF-8''a%22b.png\"": "a_b.png",
    b"form-data; name=files; filename*=iso-8859-1''gr%F6.png": "grö.png",
    b'form-data; name=files; filename="A+B.png"': "A+B.png",
    b"form-data; name=files": "unnamed",  # curl -F files=<a.png
    b"form-data; name=files; filename*=klingon''a.png; filename=b.png": "b.png",
}


def form(disposition, data, kind):
    body = b"--x\r\nContent-Disposition: " + disposition + b"\r\nContent-Type: " + kind + b"\r\n\r\n" + data
    return {
        "content": body + b"\r\n--x--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=x"},
    }


def test_a_file_is_known_however_its_name_is_written(running, parts):
    with httpx.Client(base_url=running.url, timeout=60) as http:
        for disposition, name in FILES.items():
            answer = http.post(INSPECTIONS, **form(disposition, parts[0], PNG))
            assert answer.status_code == 201, (disposition, answer.text)
            (result,) = answer.json()["results"]
            assert result["inspection"]["name"] == name
        field = http.post(INSPECTIONS, **form(b"form-data; name=files", b"hello", b"text/plain"))
        assert (field.status_code, "has no file" in field.text) == (422, True)


@pytest.mark.parametrize("wrong", [b"", b"form-data", b"form-data; filename*=''", b"form-data; filename*=x"])
def test_what_is_no_name_stays_as_it_is(wrong):
    assert name_file(wrong, b"text/plain") == wrong
