"""Names and texts that people write are what was written, in whichever encoding and whatever YAML makes of
them; what cannot be is refused in one line."""

import io

import pytest

from flawscope.pictures.text_files import load_yaml, read_text, read_yaml, text_lines, unquoted

NAMES = (
    "0012345 010 08 0 007 1 1.10 1.0 1.1.0 .5 5. +5 -5 1_000 1e3 1E3 1.0e3 1e-3 0x1F 0o17 0b101 12:30 6:00 "
    "7e 190:20:30 1:1.5 2026-11-29 2020-13-45 2026-11-29T06:00:00Z on On ON off no No NO n N yes Yes y Y "
    "true True TRUE false null Null NULL .inf -.INF .nan .NaN NaN inf <<< 1/2 50% 00 0.0 00000000 20261129"
)


def test_sixty_names_are_as_they_are_written():
    assert len(set(NAMES.split())) >= 60
    for name in NAMES.split():
        value = None if name.lower() == "null" else name
        text = f"{name}: 1\na: {name}\nb: [{name}]\nc: '{name}'"
        assert load_yaml(text) == {name: "1", "a": value, "b": [value], "c": name}
    assert load_yaml("{a: ~, b: , c: '', ~: 1, =: =}") == {"a": None, "b": None, "c": "", "~": "1", "=": "="}
    assert load_yaml("x: &x {a: 1, b: 2}\ny: {<<: *x, a: 3}")["y"] == {"a": "3", "b": "2"}


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_of_an_editor_or_of_powershell_is_read(tmp_path, codec):
    text = "name: größer\r\nlist: [ä.png]\r\n"
    (tmp_path / "a").write_bytes(text.encode(codec))
    assert read_text(tmp_path / "a") == text
    assert read_yaml(tmp_path / "a") == {"name": "größer", "list": ["ä.png"]}
    assert b"".join(text_lines(io.BytesIO(text.encode(codec)))) == text.encode()
    assert [*text_lines(io.BytesIO("".encode(codec)))] == []


@pytest.mark.parametrize("data", [b"gr\xf6\xdfer", "a: 1".encode("utf-16-le"), "a".encode("utf-32")])
def test_another_encoding_is_refused_with_the_remedy(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match=r"; save it as UTF-8$"):
        read_text(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            r'model: "C:\parts\a.onnx"',
            "escape character 'p', line 1; write a path in single quotes, or with /",
        ),
        (
            'a: 1\nmodel: "C:\\new\\t"',
            r"in double quotes \ is no part of a path, line 2; write a path in single",
        ),
        (r'folder: "\\server\share"', "write a path in single quotes, or with /"),
        ("name: “plate”", "“ is no quote of YAML, line 1; write ' or \""),
        ("‘name’: 1", "‘ is no quote of YAML"),
    ],
)
def test_quotes_that_yaml_reads_otherwise_are_named(text, said):
    with pytest.raises(ValueError) as caught:
        load_yaml(text)
    assert said in str(caught.value)


def test_other_quotes_and_paths_are_read():
    text = r"""{a: 'C:\new', b: C:\new, c: "C:\\new", d: "x\ty", e: "“a”", f: it's}"""
    path = "C:\\new"
    assert load_yaml(text) == {"a": path, "b": path, "c": path, "d": "x\ty", "e": "“a”", "f": "it's"}


def test_a_copied_path_loses_its_quotes():
    assert unquoted('"C:\\a b.png"') == "C:\\a b.png"
    assert [unquoted(text) for text in ("a.png", '"', "'a\"", "")] == ["a.png", '"', "'a\"", ""]
