"""Writes the results folder of a run: a table, a JSON file for each input, a summary, and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from flawscope.artefact.files import atomic_write
from flawscope.results.folder import PictureWriter
from flawscope.results.prediction import Prediction
from flawscope.results.table import OutputFiles, TableWriter, Unjudged, write_error

PREDICTIONS_FOLDER, TABLE_NAME, SUMMARY_NAME = "predictions", "results.csv", "results.json"
PARTS_TABLE_NAME = "parts.csv"  # a row for each part, where the model decides on parts
MAX_MAP_BYTES = 256 << 20  # bytes of maps that are kept for a page, of the most severe predictions


def refuse_foreign(out: Path, *names: str) -> None:
    """InputError where a file of somebody else has the name of a run's main file or is one of `names`."""
    own = OutputFiles(out)
    for name in (TABLE_NAME, SUMMARY_NAME, *names):
        own.refuse_foreign(name)


class ResultsFolder:
    """Results folder. Files of an earlier run are removed, of which `say` gets a line; files of others stay.
    InputError where one of them has the name of a file that is to be written.

    shown: predictions for a page with their maps, at most `MAX_MAP_BYTES` bytes of them, most severe first.

    Args:
        root, maps, animation: as `PictureWriter` takes them. products, aligned: as `TableWriter` takes them.
    """

    def __init__(
        self,
        out: Path,
        root: Path | None,
        say: Callable[[str], None],
        *,
        maps: str = "png16",
        animation: str = "none",
        products: bool = False,
        aligned: bool = False,
    ):
        self.out, self.pictures = out, PictureWriter(out, root, maps, animation)
        self.own = self.pictures.own
        self.own.remove_earlier(say)
        self.own.path(SUMMARY_NAME)  # refused now if it cannot be written
        self.table = TableWriter(self.own.path(TABLE_NAME), products=products, aligned=aligned)
        self._severe: list[tuple[float, int, Prediction]] = []
        self._count = self._bytes = 0

    def add(self, result: Prediction | Unjudged, *, details: bool = True) -> None:
        """Writes an input's row of the table and, with `details`, its JSON file. FlawscopeError: the disk
        is full."""
        self.table.add_result(result)
        if details:
            if isinstance(result, Prediction):
                self._keep_severest(result)
            name = self.pictures.name(Path(result.path or "picture"))
            self._write_json(f"{PREDICTIONS_FOLDER}/{name}.json", result.to_dict())

    @property
    def shown(self) -> list[Prediction]:
        return [prediction for _, _, prediction in sorted(self._severe, reverse=True)]

    def finish(self) -> None:
        """Completes the table."""
        self.table.close()

    def write_summary(self, facts: dict[str, Any]) -> None:
        """Writes the summary, `results.json`."""
        with atomic_write(self.own.path(SUMMARY_NAME)) as file:
            file.write(f"{json.dumps(facts, indent=1, allow_nan=False)}\n".encode())

    def _keep_severest(self, prediction: Prediction) -> None:
        self._count += 1
        alone = prediction.map.copy()  # not a part of a batch, all of which would be kept
        heappush(self._severe, (prediction.severity, -self._count, replace(prediction, map=alone)))
        self._bytes += alone.nbytes
        while self._bytes > MAX_MAP_BYTES:
            self._bytes -= heappop(self._severe)[2].map.nbytes

    def _write_json(self, name: str, document: dict[str, Any]) -> None:
        path = self.own.path(name)
        try:
            path.write_text(f"{json.dumps(document, allow_nan=False)}\n", encoding="utf-8")
        except OSError as error:
            raise write_error(self.out, error) from None
