"""A source from outside: a camera that shows the pictures of a folder in turn, one for each trigger."""

import itertools
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from flawscope.errors import InputError
from flawscope_station.plugins import RUNNING, Picture, Plugin, State, now


@dataclass(frozen=True)
class ReelSettings:
    folder: str
    pattern: str = "*.png"
    view: str | None = None


class Reel:
    def __init__(self, line, settings, number):
        self.line, self.number, self.view = line, number, settings.view
        self.state = State("camera", f"camera{number}", settings.folder, "trigger")
        paths = sorted(Path(settings.folder).glob(settings.pattern))
        if not paths:
            raise InputError(f"reel: no {settings.pattern} in {settings.folder}: name a folder of pictures")
        self._paths = itertools.cycle(paths)

    def start(self):
        self.state.change(RUNNING)

    def stop(self):
        pass  # nothing runs

    def next_shot(self, request=None):
        shot = Future()
        self.state.last = now()
        shot.set_result(next(self._paths))
        return shot

    def forget(self, waiting):
        pass  # it waits for nothing

    def picture(self, shot):
        self.state.taken += 1
        return Picture(shot.read_bytes(), shot.name, self.view)


REEL = Plugin("reel", ReelSettings, Reel, paths=("folder",))
