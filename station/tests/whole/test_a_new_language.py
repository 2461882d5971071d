"""A new language is its texts and a row: a copy of the packages has one more, with half of its texts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

import flawscope
import flawscope_station
from station_helpers import NAME, Served, free_port, inspected

ROW = '"fr": "Français"'
PREFIX = "Po polsku: "


def write_half(assets: Path) -> tuple[int, int]:
    """Write half of the texts of each section in Polish. Return how many, and of how many."""
    english = yaml.safe_load((assets / "texts/en.yaml").read_text(encoding="utf-8"))
    half = {}
    for name, section in english.items():
        known = list(section.items())[::2]
        half[name] = {key: f"{PREFIX}{text}" for key, text in known}
    (assets / "texts/pl.yaml").write_text(yaml.safe_dump(half, allow_unicode=True), encoding="utf-8")
    return sum(map(len, half.values())), sum(map(len, english.values()))


@pytest.fixture(name="copy")
def copy_fixture(tmp_path):
    """The packages with the row, in a folder for PYTHONPATH; how many texts are missing, and of how many. The
    page of challenge parts has no Polish at all."""
    folder = tmp_path / "src"
    for package in (flawscope, flawscope_station):
        shutil.copytree(next(iter(package.__path__)), folder / package.__name__)
    templates = folder / "flawscope/pages/templates.py"
    text = templates.read_text(encoding="utf-8")
    assert text.count(ROW) == 1
    templates.write_text(text.replace(ROW, f'{ROW}, "pl": "Polski"'), encoding="utf-8")
    pages, web = folder / "flawscope/pages/assets", folder / "flawscope_station/web/assets"
    challenge = yaml.safe_load((web / "texts/challenge.yaml").read_text(encoding="utf-8"))["en"]
    counts = [write_half(pages), write_half(web), (0, sum(map(len, challenge.values())))]
    known, total = map(sum, zip(*counts, strict=True))
    return folder, total - known, total


def test_half_a_language_is_english_for_the_rest_and_says_so(copy, tmp_path, parts, model_file):
    folder, missing, total = copy
    environment = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    told = f"Polski: {missing} of {total} texts missing, shown in English"
    settings = tmp_path / "station.yaml"
    settings.write_text(
        f"store: {tmp_path}/store\ndevice: cpu\nthreads: 1\nproducts:\n  {NAME}:\n    model: {model_file}\n"
    )
    call = [sys.executable, "-m", "flawscope", "station", "check", str(settings)]
    check = subprocess.run(call, capture_output=True, text=True, timeout=120, env=os.environ | environment)
    assert (check.returncode, check.stdout) == (0, ""), "no fault"
    assert check.stderr.count(told) == 1
    served = Served([str(settings)], free_port(), environment)
    try:
        served.start()
        assert served.said().count(told) == 1
        headers = {"Accept-Language": "pl"}
        with httpx.Client(base_url=served.url, headers=headers, timeout=60) as client:
            inspected(client, parts[0])
            for page in ("live", "review", "history", "trends", "models", "problems", "inspections/1"):
                answer = client.get(f"/{NAME}/{page}")
                assert answer.status_code == 200, page
                shown = answer.text
                assert '<html lang="pl"' in shown, page
                assert PREFIX in shown, page
                assert re.search(r">Polski</button> <span[^>]*>(Po polsku: )?" + str(missing), shown), page
                assert re.search(r">(Language|Theme|Colours|Menu|Skip to the content)<", shown), page
            challenge = client.get(f"/{NAME}/challenge")
            report = client.get(
                f"/api/v1/products/{NAME}/shift-report",
                params={"since": "2026-01-01T00:00:00Z", "until": "2026-12-31T00:00:00Z"},
            )
            english = client.get(f"/{NAME}/live", headers={"Accept-Language": "en"})
        assert "Challenge parts" in challenge.text
        assert PREFIX in report.text
        assert PREFIX not in english.text
        assert f">{missing} texts are missing and shown in English<" in english.text
    finally:
        served.close()
