"""Draws the README's table of figures, and the table of accuracy in measurements.md, from the results files.

python docs/figures.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README, MEASUREMENTS = ROOT / "README.md", ROOT / "docs" / "measurements.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
PRODUCTS = {"transistor": "transistors", "toothbrush": "toothbrushes", "pcb": "bare boards", "lens": "lenses"}
MORE_PRODUCTS = {"commutator": "commutators", "cookie": "cookies", "fabric": "fabric"}
PRESETS = {"small": "`small`", "default": "default", "accurate": "`accurate`"}
METRICS = {"image_auroc": 4, "image_f1": 3, "au_pro": 3, "pixel_ap": 3}  # and the digits that are shown
Cells = dict[str, Any]


def cells(name: str, begins: str = "") -> Cells:
    """Cells of a results file whose name begins so."""
    found = json.loads((ROOT / "bench" / "results" / name).read_text(encoding="utf-8"))["cells"]
    return {key: cell for key, cell in found.items() if key.startswith(begins)}


def source(name: str, of: Cells) -> str:
    """The link to a file, and the commits at which these cells of it were measured."""
    commits = sorted({cell["_"]["commit"] for cell in of.values()})
    return f"[{name}](bench/results/{name}), {', '.join(commits)}"


def alarms(name: str, product: str) -> tuple[str, str]:
    """Good pictures of the parts that were left out, called anomalous; and their source."""
    from flawscope.calibration.threshold import Calibration

    found = {key: cell for key, cell in cells(name, f"{product}/").items() if "fold " in key}
    decided = []
    for cell in found.values():
        known = tuple(cell["calibration"])
        decided.append(Calibration(known, known, 0.0, 0.05).is_anomalous(cell["held_out"]))
    count, total = sum(int(one.sum()) for one in decided), sum(map(len, decided))
    return f"{count} of {total} {PRODUCTS[product]} ({100 * count / total:.1f} %)", source(name, found)


def promise() -> tuple[str, str]:
    first, second = (alarms("calibration-default.json", product) for product in ("toothbrush", "transistor"))
    text = f"target 5 %: {first[0]}, {second[0]}, good ones not learnt from, called anomalous"
    commits = ", ".join(one[1].partition(", ")[2] for one in (first, second))
    return text, f"{first[1].partition(', ')[0]}, {commits}"


def parity() -> tuple[str, str]:
    found = cells("parity.json")
    assert not any(cell["decisions"] for cell in found.values())
    largest = f"{max(cell['score'] for cell in found.values()):.1e}".replace("e-0", "e-")
    text = f"scores differ by {largest} at most, no decision differs"
    return f"{text} (256 px, and the default before today's)", source("parity.json", found)


def megabytes(which: str) -> int:
    return int(cells("peers.json")[f"install/{which}"]["mib"])


def installed() -> tuple[str, str]:
    ours, theirs = "flawscope core", "anomalib, to predict"
    both = cells("peers.json", f"install/{ours}") | cells("peers.json", f"install/{theirs}")
    text = f"{megabytes(ours):,} MiB installed; anomalib 2.7.0: {megabytes(theirs):,} MiB"
    return text, source("peers.json", both)


def fit() -> tuple[str, str]:
    found = cells("peers.json", "patchcore/toothbrush/fit")
    (cell,) = found.values()
    ours, theirs = (cell["seconds"][name]["median"] for name in ("flawscope", "anomalib"))
    pictures = round(cell["anomalib"]["bank"][0] / (0.1 * 32 * 32))  # a tenth of their patches
    text = f"{pictures} pictures at 256 px: {ours:.1f} s; anomalib 2.7.0: {theirs:.0f} s"
    return f"{text}, same backbone, size and ratio, side by side", source("peers.json", found)


def picture() -> tuple[str, str]:
    found = cells("peers.json", "latency/toothbrush")
    (cell,) = found.values()
    ours, theirs = (
        1000 * cell["seconds"][f"openvino/{name}"]["median"] for name in ("flawscope", "anomalib")
    )
    return f"OpenVINO in fp32: {ours:.1f} ms; anomalib 2.7.0: {theirs:.1f} ms", source("peers.json", found)


ROWS = {
    promise: "**The threshold keeps its promise.** It comes from good pictures alone, never from test labels",
    parity: "**The exported model is the fitted model.** `export` writes nothing where both differ",
    installed: "**Predicting needs no torch**",
    fit: "**A fit takes seconds on a CPU**, with the exact coreset",
    picture: "**A picture takes milliseconds on a CPU**, from path to answer",
}


def of_products(found: Cells) -> Cells:
    """The cell of each product."""
    return {cell["of"]["category"]: cell for cell in found.values()}


def accuracy() -> str:
    found = cells("accuracy-default.json", "test/")
    judged = of_products(found)
    shown = [f"{judged[name]['metrics']['image_auroc']:.4f} on {PRODUCTS[name]}" for name in PRODUCTS]
    where = source("accuracy-default.json", found)
    return (
        f"Accuracy of the default: image AUROC {', '.join(shown[:2])} of MVTec AD, {', '.join(shown[2:])} "
        f"({where}; [three settings](docs/measurements.md#patchcore-accuracy))."
    )


def figures() -> Iterator[str]:
    yield "| | measured | results, commit |"
    yield "|---|---|---|"
    for row, what in ROWS.items():
        yield f"| {what} | {' | '.join(row())} |"
    yield ""
    yield accuracy()


def means(judged: Cells, products: Sequence[str]) -> str:
    found = (
        sum(judged[product]["metrics"][metric] for product in products) / len(products) for metric in METRICS
    )
    shown = (f"{mean:.{digits}f}" for mean, digits in zip(found, METRICS.values(), strict=True))
    return " / ".join(one.removeprefix("0") for one in shown)


def presets() -> Iterator[str]:
    judged = [of_products(cells(f"accuracy-{preset}.json", "test/")) for preset in PRESETS]
    every = PRODUCTS | MORE_PRODUCTS
    rows = {shown: [name] for name, shown in PRODUCTS.items()} | {"mean of these four": [*PRODUCTS]}
    rows |= {shown: [name] for name, shown in MORE_PRODUCTS.items()} | {"mean of all": [*every]}
    yield f"| | {' | '.join(PRESETS.values())} | false alarms of each |"
    yield "|---|---|---|---|---|"
    for what, products in rows.items():
        alarms = [one[products[0]]["false_alarms"] for one in judged]
        counts = f"{', '.join(str(one['alarms']) for one in alarms)} of {alarms[0]['images']}"
        columns = [what, *(means(one, products) for one in judged), counts if len(products) == 1 else "-"]
        yield f"| {' | '.join(columns)} |"


TABLES = {README: figures, MEASUREMENTS: presets}


def drawn(page: Path) -> str:
    """A page with the figures of the files."""
    text = page.read_text(encoding="utf-8")
    shown = BEGIN + "\n" + "\n".join(TABLES[page]()) + "\n\n" + END
    if page == README:
        text = re.sub(r"\*\*[\d.]+ GB\*\*", f"**{megabytes('flawscope') / 1024:.1f} GB**", text)
    return re.sub(f"{BEGIN}.*{END}", lambda _: shown, text, flags=re.S)


if __name__ == "__main__":
    for page in TABLES:
        page.write_text(drawn(page), encoding="utf-8")
