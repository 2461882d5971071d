"""Draw the packages and their imports: `python docs/draw_packages.py` writes images/packages.svg.

A package here is a folder or module directly in src/flawscope. Each stands one layer above the highest that
it imports. Nothing is imported here: the arrows are read from the source.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "flawscope"
PICTURE = Path(__file__).parent / "images" / "packages.svg"
NOT_PACKAGES = ("__init__", "__main__", "_lazy", "_version")

WIDTH, MARGIN, LABEL = 860, 12, 80  # pixels; LABEL: space for a layer's name at the left
BOX_HEIGHT, LAYER_HEIGHT, GAP = 38, 76, 22
SWEEPS = 40
CHARACTER = 8.4  # the width of one, at most
STYLE = """
  text { font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #16302e }
  .layer { font: 12px system-ui, sans-serif; fill: #64748b }
  .package { fill: #e0f2f1; stroke: #00796b; stroke-width: 1.2 }
  .torch { fill: #ffedd5; stroke: #c2410c; stroke-width: 1.2 }
  .arrow { fill: none; stroke: #64748b; stroke-width: 1.1; opacity: .6 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e2f3f1 }
    .layer { fill: #94a3b8 }
    .package { fill: #134e4a; stroke: #5eead4 }
    .torch { fill: #7c2d12; stroke: #fdba74 }
    .arrow { stroke: #94a3b8; opacity: .7 }
  }
"""


def package_of(path: Path) -> str:
    """The package that a source file belongs to."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """The packages that a source file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "flawscope":
            names = [f"flawscope.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("flawscope."))


def arrows() -> dict[str, set[str]]:
    """Each package with the packages that it imports."""
    files = [path for path in SOURCE.rglob("*.py") if package_of(path) not in NOT_PACKAGES]
    found: dict[str, set[str]] = {package_of(path): set() for path in files}
    for path in files:
        package = package_of(path)
        found[package] |= {name for name in imported(path) if name in found and name != package}
    return found


def needs_torch() -> set[str]:
    """Packages with a module that imports torch when it is imported."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if "torch" in {name.split(".")[0] for name in names}:
                found.add(package_of(path))
    return found


def layers(graph: dict[str, set[str]]) -> list[list[str]]:
    """Packages by layer, the ground first. ValueError: some import each other in a circle."""
    placed: dict[str, int] = {}
    while len(placed) < len(graph):
        ready = [name for name in graph if name not in placed and graph[name] <= placed.keys()]
        if not ready:
            raise ValueError(
                f"packages in or above a circle: {', '.join(sorted(graph.keys() - placed.keys()))}"
            )
        placed.update(
            {package: max((placed[below] + 1 for below in graph[package]), default=0) for package in ready}
        )
    return [sorted(r for r in graph if placed[r] == k) for k in range(max(placed.values()) + 1)]


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that do not follow from others, so that the picture can be read."""

    def below(package: str) -> set[str]:
        return graph[package].union(*(below(r) for r in graph[package]))

    return {
        package: {r for r in graph[package] if not any(r in below(o) for o in graph[package])}
        for package in graph
    }


def routed(
    rows: list[list[str]], graph: dict[str, set[str]]
) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Rows and steps from one row to the next below. An arrow over several rows passes through bends in those
    between, named "package>below#row", so that it has space beside the boxes."""
    level = {package: k for k, row in enumerate(rows) for package in row}
    wide = [list(row) for row in rows]
    steps: list[tuple[str, str]] = []
    for package in sorted(graph):
        for below in sorted(graph[package]):
            way = [package]
            for k in range(level[package] - 1, level[below], -1):
                way.append(f"{package}>{below}#{k}")
                wide[k].append(way[-1])
            steps += pairwise([*way, below])
    return wide, steps


def width_of(name: str) -> float:
    return 6 if ">" in name else len(name) * CHARACTER + 26


def spread(row: list[str], wanted: dict[str, float]) -> dict[str, float]:
    """Centres from left to right, near the wanted ones, without overlap and inside the picture."""
    halves = [width_of(name) / 2 for name in row]
    steps = [0.0, *(left + GAP + right for left, right in pairwise(halves))]
    at = [wanted[name] for name in row]
    for k in range(1, len(row)):
        at[k] = max(at[k], at[k - 1] + steps[k])
    away = sum(at[k] - wanted[row[k]] for k in range(len(row))) / len(row)  # all were moved to the right
    at[0] = max(at[0] - away, LABEL + halves[0])
    for k in range(1, len(row)):
        at[k] = max(at[k] - away, at[k - 1] + steps[k])
    at[-1] = min(at[-1], WIDTH - MARGIN - halves[-1])
    for k in reversed(range(len(row) - 1)):
        at[k] = min(at[k], at[k + 1] - steps[k + 1])
    return dict(zip(row, at, strict=True))


def places(rows: list[list[str]], steps: list[tuple[str, str]]) -> dict[str, float]:
    """The centre of every box and bend. Sweeps up and down bring what is connected above each other."""
    near: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for above, below in steps:
        near[above].append(below)
        near[below].append(above)
    middle = (LABEL + WIDTH) / 2
    at = {name: middle + (k - len(row) / 2) * 90 for row in rows for k, name in enumerate(row)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            wanted = {name: sum(at[n] for n in near[name]) / len(near[name]) for name in row}
            if sweep < SWEEPS // 2:  # later the order stays, and only distances change
                row.sort(key=lambda name: (wanted[name], name))
            at.update(spread(row, wanted))
    return at


def svg() -> str:
    graph = arrows()
    rows = layers(graph)
    wide, steps = routed(rows, direct(graph))
    at = places(wide, steps)
    top = {name: MARGIN + (len(wide) - 1 - k) * LAYER_HEIGHT for k, row in enumerate(wide) for name in row}
    height = 2 * MARGIN + (len(rows) - 1) * LAYER_HEIGHT + BOX_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="The packages of flawscope, each above those that it imports">',
        f"<style>{STYLE}</style>",
    ]
    for above, below in steps:
        x, y, to, end = at[above], top[above] + BOX_HEIGHT, at[below], top[below]
        half = (y + end) / 2
        through = f"V{end + BOX_HEIGHT}" if ">" in below else ""
        lines.append(
            f'<path class="arrow" d="M{x:.1f} {y}C{x:.1f} {half} {to:.1f} {half} {to:.1f} {end}{through}"/>'
        )
    torch = needs_torch()
    for k, row in enumerate(rows):
        y = MARGIN + (len(rows) - 1 - k) * LAYER_HEIGHT
        lines.append(f'<text class="layer" x="{MARGIN}" y="{y + 24}">layer {k + 1}</text>')
        for package in sorted(row):
            kind, width = "torch" if package in torch else "package", width_of(package)
            lines.append(
                f'<rect class="{kind}" x="{at[package] - width / 2:.1f}" y="{y}" width="{width:.1f}" '
                f'height="{BOX_HEIGHT}" rx="7"/>'
                f'<text x="{at[package]:.1f}" y="{y + 24}" text-anchor="middle">{package}</text>'
            )
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    PICTURE.write_text(svg(), encoding="utf-8")
    graph = arrows()
    print(f"{PICTURE.relative_to(ROOT)}: {len(graph)} packages, {sum(map(len, graph.values()))} arrows")


if __name__ == "__main__":
    main()
