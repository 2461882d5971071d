"""A sink from outside: a line in a CSV file for each inspection."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from flawscope_station.plugins import INSPECTION, Plugin, Sink, UndeliveredError

COLUMNS = ("id", "at", "product", "part", "batch", "decision", "score")


@dataclass(frozen=True)
class CsvSettings:
    file: str


class CsvFile(Sink):
    def __init__(self, settings, pictures):
        self.path, self._known = Path(settings.file), None

    def send(self, message):
        if message.type != INSPECTION:
            return
        try:
            if self._known is None:  # what came before the last end may come again
                self._known = set()
                if self.path.exists():
                    with self.path.open(newline="") as file:
                        self._known = {row["id"] for row in csv.DictReader(file)}
            if message.id in self._known:
                return
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow({**message.data, "id": message.id})
                file.flush()
                os.fsync(file.fileno())  # the station takes it for delivered
        except OSError as error:
            raise UndeliveredError(f"it cannot be written: {error.strerror}") from None
        self._known.add(message.id)


CSV = Plugin("csv", CsvSettings, CsvFile, paths=("file",))
