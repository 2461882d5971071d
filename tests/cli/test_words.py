"""Words of a call as cmd, PowerShell and shells of Unix leave them, and numbers with decimal commas."""

import pytest

from flawscope.calibration.threshold import parse_false_alarm_rate
from flawscope.cli.common import parse_length, parse_minutes
from flawscope.cli.words import clean_words
from flawscope.config import convert_value
from flawscope.errors import InputError, decimal_point
from flawscope.pictures.defect_size import parse_pixels

WORDS = {
    "'.*'": ".*",  # cmd knows no single quotes
    "--group='(.*)_1'": "--group=(.*)_1",
    '"C:\\my parts\\a.png"': "C:\\my parts\\a.png",  # "Copy as path", into quotes of PowerShell
    "“.*”": ".*",
    "„.*“": ".*",
    "--out=~/found": "--out=/home/anna/found",
    "~/parts": "/home/anna/parts",
    "~": "/home/anna",
    "--out=~": "--out=/home/anna",
    # these are meant as they stand
    "it's": "it's",
    "'": "'",
    "a~b": "a~b",
    "~backup.png": "~backup.png",
    "--set=name='0'": "--set=name='0'",
    "--group=": "--group=",
    "": "",
}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_what_its_writer_meant(word):
    assert clean_words(["predict", word]) == ["predict", WORDS[word]]


def test_a_file_of_that_very_name_is_meant(tmp_path):
    for name in ("'a'", "~"):
        (tmp_path / name).mkdir()
    assert clean_words(["'a'", "~"]) == ["'a'", "~"]


@pytest.mark.parametrize("cut", [["--data", "'my", "new", "parts'"], ["--data='my", "new", "parts'"]])
def test_a_text_that_cmd_cut_at_its_spaces_is_told(run, cut):
    code, _, error = run("fit", *cut, "--out", "m.safetensors")
    assert code == 2
    assert 'is no quote of this shell, which cut the text: write "my new parts"' in error


def test_the_home_folder_of_an_option(run, monkeypatch, tmp_path, onnx_path, drawn):
    monkeypatch.setenv("HOME", str(tmp_path))
    some = next((drawn / "plate/test/good").glob("*.png"))
    assert run("predict", onnx_path, f"'{some}'", "--out=~/found.csv", "--quiet")[0] == 0
    assert (tmp_path / "found.csv").is_file()


@pytest.mark.parametrize(
    ("read", "text", "number"),
    [
        (parse_false_alarm_rate, "0,05", 0.05),
        (parse_false_alarm_rate, "5,5%", 0.055),
        (parse_false_alarm_rate, "5,5 %", 0.055),
        (parse_minutes, "1,5", 1.5),
        (parse_length, "0,0125", 0.0125),
        (parse_pixels, "10,5px", 10.5),
        (lambda text: convert_value(text, float), "0,1", 0.1),
    ],
)
def test_a_number_may_have_a_decimal_comma(read, text, number):
    assert read(text) == pytest.approx(number)


def test_a_thousand_and_a_list_are_no_decimal_commas():
    for text in ("1,000", "12,500", "1,2,3", "256,512", "a,5"):
        assert decimal_point(text) == text
    with pytest.raises(InputError, match="'1,000' is not a rate"):
        parse_false_alarm_rate("1,000")
