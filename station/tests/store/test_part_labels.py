"""A part's number is kept whatever it holds: another one has another text, and each text can be printed."""

import pytest

from flawscope_station.store.inspection import MAX_LABEL_LENGTH, label_text, make_label

KEPT = {
    "4711": "4711",
    " 4711\r\n": "4711",
    "4711\0\0\0": "4711",
    "\x1d01040\x1d21A\x1e\x04": "␝01040␝21A␞␄",
    "a\0b\x7f": "a␀b␡",
    "a\u00a0b\u200b\u2028\x85": "a\\u00a0b\\u200b\\u2028\\u0085",
    "Teil\udce9": "Teil\\udce9",
    "Größe 7 – ünï 部品": "Größe 7 – ünï 部品",
    "": "",
}


@pytest.mark.parametrize("text", KEPT)
def test_a_label_is_kept_and_shown(text):
    kept = label_text(text)
    assert kept == KEPT[text] == label_text(kept)
    assert kept.isprintable()
    assert make_label(text, text, text) == (kept or None,) * 3


def test_long_labels_stay_apart():
    texts = ["9" * length for length in (100, 101, 500, 501, 100_000)] + ["9" * 600 + end for end in "AB"]
    kept = [label_text(text) for text in texts]
    assert len({*kept}) == len(texts)
    assert kept[:3] == texts[:3]
    assert max(map(len, kept)) == MAX_LABEL_LENGTH
    assert max(len(label_text("部" * 9000).encode()), len(label_text("\x1d" * 9000).encode())) < 2000
