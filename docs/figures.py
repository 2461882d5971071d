"""Draws the README's table of figures, and the table of accuracy in results.md, from the results files.

python docs/figures.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
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


def only_cell(name: str, begins: str) -> Any:
    """The one cell of a results file whose name begins so."""
    (cell,) = cells(name, begins).values()
    return cell


def source(name: str) -> str:
    """The link to a file, whose cells say at which commit they were measured."""
    return f"[{name}](bench/results/{name})"


def false_alarms(product: str, of: str) -> str:
    """Good pictures that were not learnt from and are called anomalous.

    Args:
        product: its name in the results.
        of: "fold ", the parts that were left out in turn, or "test", the data set's own test pictures.
    """
    from flawscope.calibration.threshold import Calibration

    every = cells("calibration-default.json", f"{product}/")
    found = {key: cell for key, cell in every.items() if f"/{of}" in key}
    count = total = 0
    for cell in found.values():
        known = tuple(cell["calibration"])
        decided = Calibration(known, known, 0.0, 0.05).is_anomalous(cell["held_out"])
        count += int(decided.sum())
        total += len(decided)
    return f"{count} of {total} {PRODUCTS[product]} ({100 * count / total:.1f} %)"


def rate() -> tuple[str, str]:
    shown = [
        false_alarms(product, of) for of in ("fold ", "test") for product in ("toothbrush", "transistor")
    ]
    text = (
        f"left-out good pictures: {shown[0]}, {shown[1]}. MVTec's test pictures: {shown[2]}, **{shown[3]}**: "
        "`evaluate` reports that the rate was not kept"
    )
    return text, source("calibration-default.json")


def parity() -> tuple[str, str]:
    found = cells("parity.json")
    assert not any(cell["decisions"] for cell in found.values())
    largest = f"{max(cell['score'] for cell in found.values()):.1e}".replace("e-0", "e-")
    text = f"scores differ by {largest} at most, no decision; 256 px, and an earlier default"
    return text, source("parity.json")


def megabytes(which: str) -> int:
    return int(cells("peers.json")[f"install/{which}"]["mib"])


def installed() -> tuple[str, str]:
    ours, theirs = "flawscope core", "anomalib, to predict"
    both = cells("peers.json", f"install/{ours}") | cells("peers.json", f"install/{theirs}")
    without_torch = int(both[f"install/{theirs}"]["mib_without_torch"])
    torch = megabytes(theirs) - without_torch
    text = f"{megabytes(ours):,} MiB; anomalib {without_torch:,} MiB and torch ({torch:,} MiB with CUDA)"
    return text, source("peers.json")


def fit() -> tuple[str, str]:
    cell = only_cell("peers.json", "patchcore/toothbrush/fit")
    ours, theirs = (cell["seconds"][name] for name in ("flawscope", "anomalib"))
    pictures = round(cell["anomalib"]["bank"][0] / (0.1 * 32 * 32))  # a tenth of their patches
    text = (
        f"{pictures} pictures, 256 px: {ours['median']:.1f} s (median of {len(ours['all'])}); "
        f"anomalib {theirs['median']:.0f} s (once)"
    )
    return text, source("peers.json")


def picture() -> tuple[str, str]:
    cell = only_cell("peers.json", "latency/toothbrush")
    medians = {name: 1000 * seconds["median"] for name, seconds in cell["seconds"].items()}
    text = (
        f"{medians['openvino/flawscope']:.1f} ms; anomalib {medians['openvino/anomalib']:.1f} ms, "
        f"as shipped (bf16) {medians['openvino as shipped/anomalib']:.1f} ms"
    )
    return text, source("peers.json")


def outline() -> tuple[str, str]:
    cell = only_cell("peers.json", "patchcore/toothbrush/test")
    pairs = [
        f"{name} {cell['flawscope'][key]:.3f} / {cell['anomalib'][key]:.3f}"
        for name, key in (("image AUROC", "image_auroc"), ("AU-PRO", "au_pro"), ("pixel AP", "pixel_ap"))
    ]
    return f"flawscope / anomalib: {', '.join(pairs)}", source("peers.json")


ROWS = {
    rate: "False alarms at a nominal 5 %",
    parity: "Exported against fitted model",
    installed: "Installed, to predict",
    fit: "Fit on a CPU",
    picture: "One picture, OpenVINO in fp32",
    outline: "**Behind**: anomalib's settings (256 px), toothbrushes",
}


def of_products(found: Cells) -> Cells:
    """The cell of each product."""
    return {cell["of"]["category"]: cell for cell in found.values()}


def accuracy() -> str:
    found = cells("accuracy-default.json", "test/")
    judged = of_products(found)
    shown = [f"{judged[name]['metrics']['image_auroc']:.4f} on {PRODUCTS[name]}" for name in PRODUCTS]
    return f"Image AUROC of the default: {', '.join(shown)} ({source('accuracy-default.json')})."


def figures() -> Iterator[str]:
    yield "| | measured | file |"
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


TABLES = {README: figures, RESULTS: presets}


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
