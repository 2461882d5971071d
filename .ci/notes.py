"""Release notes: the changelog's section of a version.

    python .ci/notes.py
    python .ci/notes.py 0.2.0

Without a version it is that of the package, or what is unreleased as long as that has no section of its own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## \[(?P<version>[^\]]+)\].*\n(?P<text>(?:(?!## \[).*\n?)*)", re.M)


def sections(changelog: str) -> dict[str, str]:
    """Text by version, newest first."""
    return {found["version"]: found["text"].strip() for found in SECTION.finditer(changelog)}


def notes(changelog: str, version: str | None, current: str) -> str:
    """The section of `version`; SystemExit where there is none, or nothing in it."""
    known = sections(changelog)
    chosen = version or (current if current in known else "Unreleased")
    if not known.get(chosen):
        raise SystemExit(f"CHANGELOG.md says nothing of {chosen}: it has {', '.join(known)}")
    return known[chosen]


def main() -> None:
    version = re.search(r'"(.+)"', (ROOT / "src/flawscope/_version.py").read_text(encoding="utf-8"))
    assert version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    print(notes(changelog, sys.argv[1] if len(sys.argv) > 1 else None, version[1]))


if __name__ == "__main__":
    main()
