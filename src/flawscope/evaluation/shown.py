"""An evaluation in a line, as a table of its pictures, and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from flawscope.datasets import Item
from flawscope.datasets.files import natural_key
from flawscope.errors import needs
from flawscope.progress import counted
from flawscope.results.kept import Evaluated
from flawscope.results.notebook import prediction_html, table
from flawscope.results.prediction import RIGHT, Prediction
from flawscope.results.table import Row, Unjudged

if TYPE_CHECKING:
    import pandas

    from flawscope.evaluation.evaluation import Evaluation

SHOWN = 6  # pictures in a notebook: the worst mistakes, then what was nearly one
LEFT_OUT = "left out: the model was fitted or calibrated on it"


def outcomes(result: Evaluation) -> Iterator[tuple[Item, Prediction | Unjudged]]:
    """Every test picture, in natural order of the paths, also what did not count."""
    apart = {item: Unjudged(str(item.path), LEFT_OUT) for item in result.left_out_items}
    apart |= {item: Unjudged(str(item.path), reason) for item, reason in result.unjudged}
    places = {picture.item: k for k, picture in enumerate(result.pictures)}
    for item in sorted([*apart, *places], key=lambda item: natural_key(item.path)):
        yield item, apart[item] if item in apart else result.pictures[places[item]].prediction


def dataframe(result: Evaluation) -> pandas.DataFrame:
    """A row for each test picture. InputError where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise needs("to_dataframe()", "pandas", extras="pandas") from None
    rows = []
    for item, outcome in outcomes(result):
        values = asdict(Row.of(outcome))
        path = values.pop("path") or str(item.path)
        rows.append({"path": path, "kind": item.kind, "defective": item.anomalous, **values})
    return pandas.DataFrame(rows)


def line(result: Evaluation) -> str:
    """What matters, for `repr`."""
    parts = [f"{result.category}: {result.method}", counted(result.images, "test picture")]
    for name, label in (("image_auroc", "image AUROC"), ("au_pro", "AU-PRO")):
        if (value := result.metrics.get(name)) is not None:
            parts.append(f"{label} {value:.4f}")
    return f"<Evaluation {', '.join(parts)}, false alarms {false_alarms(result)}>"


def false_alarms(result: Evaluation) -> str:
    """How many, with the 95 % interval of their rate."""
    known = result.false_alarms
    if known["measured"] is None:
        return "not measured: no good test pictures"
    (low, high), count = known["interval"], round(known["measured"] * known["images"])
    of = counted(known["images"], "good picture")
    return f"{count} of {of} ({low:.1%} to {high:.1%}, expected {known['expected']:.1%})"


def html(result: Evaluation, names: dict[str, str]) -> str:
    """For notebooks: the metrics, and the worst mistakes with picture, heat map and decision."""
    metrics = [(names.get(k, k), "n/a" if v is None else f"{v:.4f}") for k, v in result.metrics.items()]
    kinds = [(kind, str(v["images"]), str(v["anomalous"])) for kind, v in result.kinds.items()]
    head = table([(f"{result.category}: {result.method}", counted(result.images, "test picture"))])
    shown = "".join(
        prediction_html(one.prediction, f"{one.item.kind}{mistake(one)}") for one in _worst(result)
    )
    return (
        f"<div>{head}{table(metrics, ('metric', 'value'))}{table([('false alarms', false_alarms(result))])}"
        f"{table(kinds, ('kind', 'pictures', 'called anomalous'))}{shown}</div>"
    )


def mistake(one: Evaluated) -> str:
    """Of a picture that was judged wrongly."""
    return "" if one.outcome == RIGHT else f", {one.outcome}"


def _worst(result: Evaluation) -> list[Evaluated]:
    def margin(place: int) -> float:
        one = result.pictures[place]
        return abs(one.prediction.severity) * (-1 if one.outcome == RIGHT else 1)

    order = sorted(range(len(result.pictures)), key=lambda place: -margin(place))
    return [result.pictures[place] for place in order[:SHOWN]]
