"""Writes the tables of station/connections.md from station/connections.yaml.

python station/connections.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PAGE, SHEETS = HERE / "connections.md", HERE / "connections.yaml"
BEGIN, END = "<!-- sheets -->", "<!-- end of sheets -->"
TITLES = {"Sources, PLCs, sinks": ("source", "plc", "sink"), "Forms of labels": ("label",)}


def read_sheets() -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
    """Returns the rules by kind, and the sheets by connection."""
    known = yaml.safe_load(SHEETS.read_text(encoding="utf-8"))
    rules = {kind: rules for kinds, rules in known["rules"].items() for kind in kinds.split(", ")}
    return rules, known["connections"]


def write_tables(rules: Mapping[str, Mapping[str, str]], sheets: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of the tables, and what is not meant for whom."""
    for title, kinds in TITLES.items():
        own = {name: sheet for name, sheet in sheets.items() if sheet["kind"] in kinds}
        yield from ("", f"## {title}", "")
        yield f"| | {' | '.join(sheet['title'] for sheet in own.values())} |"
        yield f"|---|{'---|' * len(own)}"
        for rule, text in rules[kinds[0]].items():
            marks = ("✓" if rule in sheet["done"] else "–" for sheet in own.values())
            yield f"| {text} | {' | '.join(marks)} |"
        yield from ("", "–, because:", "")
        for sheet in own.values():
            reasons = [f"*{rule.replace('_', ' ')}*: {why}" for rule, why in sheet["exempt"].items()]
            if reasons:
                yield f"- **{sheet['title']}.** {'. '.join(reasons)}."


def make_page(text: str) -> str:
    """Returns the page with the tables of today."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    lines = "\n".join(write_tables(*read_sheets()))
    return f"{before}{BEGIN}\n{lines}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(make_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
