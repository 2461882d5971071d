"""Metadata in OpenVINO's .xml, with OpenVINO as the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flawscope.runtime import openvino_xml as metadata

KEY = "flawscope"
NET = b'<?xml version="1.0"?>\n<net name="n"><layers/><rt_info>\n\t<a value="1" />\n\t</rt_info></net>'


@pytest.mark.parametrize("text", ["", "\"<>&'", "a  b", '{"a": ["\\u00fc\\n", 1e-7]}', "x" * 3_000_000])
def test_what_is_written_openvino_reads_and_keeps(text: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from flawscope.runtime.openvino import core, engine

    ov, path = engine(), tmp_path / "m.xml"
    x = ov.opset8.parameter([-1, 4], np.float32, name="x")
    model = ov.Model([ov.opset8.relu(x)], [x], "m")
    model.set_rt_info("somebody", ["author"])
    ov.save_model(model, path, compress_to_fp16=False)
    body = metadata.prepared(path.read_bytes(), KEY)
    assert body == path.read_bytes()
    path.write_bytes(metadata.written(body, {KEY: text, f"{KEY}.more": "2"}, KEY))
    loaded = core().read_model(path)
    assert loaded.get_rt_info([KEY, "manifest"]).value == text
    assert loaded.get_rt_info([KEY, "more"]).value == "2"
    assert loaded.get_rt_info(["author"]).value == "somebody"
    ov.save_model(loaded, path, compress_to_fp16=False)
    assert metadata.read(path.read_bytes(), KEY) == {KEY: text, f"{KEY}.more": "2"}


def test_the_body_does_not_depend_on_our_entries() -> None:
    once = metadata.written(NET, {KEY: "1"}, KEY)
    twice = metadata.written(metadata.body(once, KEY), {KEY: "2", f"{KEY}.x": "<3>"}, KEY)
    assert metadata.body(NET, KEY) == metadata.body(once, KEY) == metadata.body(twice, KEY) == NET
    assert metadata.read(twice, KEY) == {KEY: "2", f"{KEY}.x": "<3>"}
    assert metadata.read(NET, KEY) == {}


def test_a_place_is_made_where_there_is_none() -> None:
    for end in (b"</net>", b"<rt_info/></net>"):
        body = metadata.prepared(b"<net><layers/>" + end, KEY)
        assert metadata.read(metadata.written(body, {KEY: "1"}, KEY), KEY) == {KEY: "1"}
        assert metadata.prepared(body, KEY) == body


def test_what_another_kind_of_file_brought_along_goes() -> None:
    brought = b'<framework><flawscope value="1"/><flawscope.sha256 value="2" /><b value="3"/></framework>'
    data = NET.replace(b"</rt_info>", brought + b"</rt_info>")
    with pytest.raises(ValueError, match="second"):
        metadata.body(data, KEY)
    body = metadata.prepared(data, KEY)
    assert b"flawscope" not in body
    assert b'<framework><b value="3"/></framework>' in body


def test_what_is_no_such_file_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    good = metadata.written(NET, {KEY: "1", f"{KEY}.samples": "2"}, KEY)
    for cut in range(len(good)):
        with pytest.raises(ValueError):
            metadata.read(good[:cut], KEY)
    bomb = b'<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + k, b"&%c;" % (97 + k) * 10) for k in range(12)
    )
    for wrong in (
        b"",
        b"PK\x03\x04 a zip",
        good.decode().encode("utf-16"),
        b"<model></model>",
        b"<net>" + b"<a>" * 100_000,
        bomb + b']><net><rt_info><flawscope><manifest value="&m;"/></flawscope></rt_info></net>',
        b'<!DOCTYPE net SYSTEM "http://localhost/x.dtd">' + NET.partition(b"\n")[2],
        good.replace(b"<manifest", b'<manifest value="0" /><manifest'),
        good.replace(b"<samples value", b"<samples worth"),
        good.replace(b'value="1" />', b'value="&unknown;" />'),
    ):
        with pytest.raises(ValueError):
            metadata.read(wrong, KEY)
    for name, value in (("LIMIT", len(good) - 1), ("MOST_ELEMENTS", 5), ("DEEPEST", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(metadata, name, value)
            with pytest.raises(ValueError, match="too"):
                metadata.read(good, KEY)


def test_a_declared_encoding_is_not_looked_up() -> None:
    """Python would import a module of that name."""
    assert metadata.read(metadata.written(NET, {KEY: "1"}, KEY).replace(b"?>", b' encoding="rot13"?>'), KEY)


@pytest.mark.parametrize(
    ("inside", "odd"),
    [
        (b'<data strides="1, 2147483647" axis="-1" shape="?,3" max="3.4028234663852886e+38" />', ""),
        (b'<data element_type="f32" offset="9999999999" size="8589934592" />', ""),  # a large .bin
        (b"<body/>", "loops"),
        (b"<then_body/>", "loops"),
        (b'<data strides="1, 4294967296" />', "settings"),
        (b'<data group="-99999999999999999999" />', "settings"),
    ],
)
def test_what_openvino_would_not_survive_is_found(inside: bytes, odd: str) -> None:
    data = NET.replace(b"<layers/>", b"<layers><layer>%s</layer></layers>" % inside)
    assert metadata.odd(data, KEY).partition(" ")[0] == odd
