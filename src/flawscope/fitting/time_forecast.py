"""Foretells how long a fit and a later picture take, before the long work starts, by timing some first views.

The times of a view are the method's (`Method.predict_times`), how many views there are follows from tiles,
parts and lights. Times are of this machine, as busy as it is: within half and twice of what it takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from flawscope.errors import pluralize
from flawscope.fitting.light_calibration import count_drawn
from flawscope.fitting.simulated_defects import TIME_SHARE
from flawscope.fitting.training_views import TrainingTiles, ViewSet, held_out_views
from flawscope.methods.detector import BATCH, Detector
from flawscope.methods.method import Method
from flawscope.methods.settings import PictureSettings
from flawscope.methods.task import Task
from flawscope.methods.threads import workers
from flawscope.progress import format_duration
from flawscope.views.defect_size import DEFAULT_SIZE

LONG_FIT, LONG_PICTURE = 120.0, 1.0  # seconds from which on a shorter way is named
LARGE_SIZE = 1.1 * DEFAULT_SIZE**2  # pixels; of a form not quite as many


@dataclass(frozen=True)
class TimeForecast:
    """Forecast of the views that there are, and of the seconds that they take.

    views: learnt from. judged: good ones that are judged in calibration, in all lights. per_picture: views of
    a picture that is judged. fit_seconds: without a training's steps. in_steps: there is one.
    """

    pictures: int
    views: int
    judged: int
    per_picture: float
    fit_seconds: float
    picture_seconds: float
    remedy: str
    in_steps: bool

    def describe(self) -> str:
        """Line for a person."""
        learnt = pluralize(self.views, "view")
        of_pictures = f" of {pluralize(self.pictures, 'picture')}" if self.views != self.pictures else ""
        text = f"the fit, which learns from {learnt}{of_pictures} and judges {self.judged:,}"
        if self.in_steps:
            text = f"judging {self.judged:,} of {learnt}{of_pictures} after the training's steps"
        text = (
            f"time: {_about(self.fit_seconds)} for {text}; "
            f"{_about(self.picture_seconds)} for a picture later "
            f"({pluralize(max(1, round(self.per_picture)), 'view')})"
        )
        long = self.fit_seconds > LONG_FIT or self.picture_seconds > LONG_PICTURE
        return f"{text}. {self.remedy}" if long and self.remedy else text


def forecast(
    method: Method,
    model: Detector,
    task: Task,
    views: ViewSet,
    lights: int,
    *,
    pictures: int,
    check: bool,
) -> TimeForecast | None:
    """Times some first views, and foretells the rest; None for methods that cannot tell, and where no picture
    can be read.

    Args:
        task: in views.
        views: of the pictures.
        lights: number of other lights in which the rate is kept.
        pictures: how many there are.
        check: simulated defects are judged too.
    """
    if method.predict_times is None:
        return None
    first = range(min(BATCH, task.count))
    loaded = [image for image in map(task.load, first) if image is not None]
    if not loaded:
        return None
    images, predict = torch.stack(loaded).to(model.roi.device), method.predict_times
    with workers(model.roi.device) as each:  # one thread, as the fit's
        times = each(lambda given: predict(model, task, given), [images])[0]
    per_picture = sum(views.judged_counts) / max(1, pictures)
    judged = views.count_judged() if isinstance(views, TrainingTiles) else task.count
    if method.holds_out:
        judged = min(task.count, held_out_views(views.judged_counts))
    more = lights and lights * min(judged, count_drawn(task.count, len({*task.groups}), lights, task.rate))
    seconds = task.count * times.learning + judged * times.judging + more * times.leaving_out
    judged += more
    threads = torch.get_num_threads() if model.roi.device.type == "cpu" else 1
    seconds = seconds / threads * (1 + TIME_SHARE * check)
    each_picture = per_picture * times.judging / max(1, threads)
    remedy = _remedy(model.config, lights)
    return TimeForecast(
        pictures, task.count, judged, per_picture, seconds, each_picture, remedy, method.learns_in_steps
    )


def _about(seconds: float) -> str:
    text = format_duration(seconds)
    return text if text.startswith("less") else f"about {text}"


def _remedy(config: PictureSettings, lights: int) -> str:
    """Sentence on what takes less time, of the settings that make it long."""
    if config.tile is not None:
        return (
            "Twice the --min-defect, or twice the scale, leaves a quarter of the views; --tile alone, at "
            "the pictures' own resolution, is faster than --min-defect where that enlarges"
        )
    if lights:
        return "Without --light it takes about half as long"
    if math.prod(config.network_size) > LARGE_SIZE:
        return "Half the --size takes about a quarter"
    return ""
