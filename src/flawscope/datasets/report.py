"""What a check of a data set found: for people as lines, for machines as a dict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from flawscope.progress import counted

SEVERITIES = ("error", "warning", "note")
SHOWN = 5  # findings of one code that `lines` spells out
SHOWN_ALIKE = 1  # of nearly the same pictures, where they are more than that


@dataclass(frozen=True)
class Finding:
    """`code` names the fault for machines; paths are relative to the category's folder."""

    severity: str  # "error", "warning" or "note"
    code: str
    subject: str
    message: str
    remedy: str
    others: tuple[str, ...] = ()  # the further pictures that take part, such as the copies

    def line(self) -> str:
        return f"{self.severity}: {self.subject}: {self.message}; {self.remedy}"


@dataclass(frozen=True)
class Report:
    root: str
    category: str
    layout: str
    counts: tuple[tuple[str, str, int], ...]  # split, kind, pictures
    sizes: tuple[tuple[int, int, int], ...]  # width, height, pictures; most frequent first
    modes: tuple[tuple[str, int], ...]  # "colour", "grey", "16-bit grey", ...; most frequent first
    findings: tuple[Finding, ...]  # errors first

    @property
    def ok(self) -> bool:
        """No errors. Warnings deserve a look, notes inform."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def totals(self) -> dict[str, int]:
        return {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """Only what JSON knows."""
        return {
            "root": self.root,
            "category": self.category,
            "layout": self.layout,
            "ok": self.ok,
            "counts": [{"split": s, "kind": k, "pictures": n} for s, k, n in self.counts],
            "sizes": [{"width": w, "height": h, "pictures": n} for w, h, n in self.sizes],
            "modes": [{"mode": m, "pictures": n} for m, n in self.modes],
            "totals": self.totals,
            "findings": [{**asdict(f), "others": list(f.others)} for f in self.findings],
        }

    def lines(self, shown: int = SHOWN) -> list[str]:
        """Text for people. Of each kind of finding the first `shown` are spelt out."""
        text = [f"{self.category} ({self.layout} layout) in {self.root}"]
        splits = {split for split, _, _ in self.counts}
        for split, kind, number in self.counts:
            place = f"{split:<10} " if len(splits) > 1 else ""
            text.append(f"  {place}{kind:<20} {number:>6}")
        if self.sizes:
            sizes = ", ".join(f"{w}x{h} ({n})" for w, h, n in self.sizes[:SHOWN])
            more = f" and {len(self.sizes) - SHOWN} more" if len(self.sizes) > SHOWN else ""
            text.append(f"  sizes: {sizes}{more}")
            text.append(f"  pixels: {', '.join(f'{m} ({n})' for m, n in self.modes)}")
        text += self._finding_lines(shown)
        if not self.findings:
            text.append("nothing found")
        else:
            text.append(", ".join(counted(n, s) for s, n in self.totals.items() if n))
        return text

    def _finding_lines(self, shown: int) -> Iterator[str]:
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault((finding.severity, finding.code), []).append(finding)
        for (severity, code), group in groups.items():
            few = min(shown, SHOWN_ALIKE) if code.startswith("nearly") and len(group) > shown else shown
            yield from (finding.line() for finding in group[:few])
            if len(group) > few:
                yield f"{severity}: {code}: {len(group) - few} more of these; --json lists all"
