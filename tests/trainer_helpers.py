"""Trainers of EfficientAD on few pictures."""

from flawscope.methods.good_pictures import GoodPictures
from flawscope.methods.task import Task
from flawscope.methods.training.efficientad.model import create
from flawscope.methods.training.efficientad.presets import PRESETS
from flawscope.methods.training.efficientad.record import Config
from flawscope.methods.training.efficientad.trainer import Trainer
from flawscope.methods.training.efficientad.training_pictures import (
    TeacherOutputs,
    natural_pictures,
)
from flawscope.progress import ignore_progress

PLENTY = 2**30
FORGETTING = PRESETS["quick"]  # the student starts as the teacher, and forgets


def trainer_of(settings, shots, *, rooms=(PLENTY, PLENTY), step=ignore_progress, roi=None, **changes):
    """A trainer for all of `shots`, with so many bytes for pictures and for the teacher's outputs."""
    config = Config(**{**settings, "border": 0, "natural": "none", **changes})
    model, _ = create(config, roi)
    images = GoodPictures(shots.__getitem__, len(shots), rooms[0])
    taught = TeacherOutputs(model, images, images.read(ignore_progress), rooms[1])
    taught.measure(ignore_progress)
    task = Task(images.load, range(len(shots)), rate=0.05, step=step)
    return Trainer(model, images, taught, natural_pictures(config.natural), task)
