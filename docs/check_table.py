"""Prints the table of data checks in Markdown: it stands in the site's troubleshooting.md.

python docs/check_table.py
"""

from __future__ import annotations

from collections.abc import Iterator

from flawscope.errors.data_checks import CHECKS


def rows() -> Iterator[str]:
    """Yields the lines of the table, by code."""
    yield "| code | line | kind | what to do |"
    yield "|---|---|---|---|"
    for check in CHECKS.values():
        lines = ", ".join(f"`{line}`" for line in check.line)
        yield f"| {check.code} | {lines} | {check.kind} | {check.remedy} |"


if __name__ == "__main__":
    print("\n".join(rows()))
