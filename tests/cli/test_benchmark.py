"""`flawscope benchmark`: what it writes and prints, and how failures and wrong calls are told."""

import sys


def test_without_torch_it_says_so_before_it_begins(answer, drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    call = ("benchmark", "--data", drawn, "--out", tmp_path / "out")
    answer(*call, code=2, said="fitting needs timm: pip install ")
    assert not (tmp_path / "out").exists()
