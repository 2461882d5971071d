"""`flawscope.testing` notices a method that breaks its promises, and says which."""

import pytest
import torch

from flawscope.errors import FlawscopeError
from flawscope.methods.patchcore.model import Model
from flawscope.testing import Case, checks_for

score, embed, combine = Model.score, Model.embed, Model.combine


def by_batch(self, features, inside=None):
    scores, maps = score(self, features, inside)
    return scores * (1 + 1e-4 * len(features)), maps


def everywhere(self, scores, distances, inside=None):
    return combine(self, scores, distances, torch.ones_like(self.roi))


def of_all(self, features, inside=None):
    """Maps know what counts, scores do not."""
    return features.flatten(1).norm(dim=1), score(self, features, inside)[1]


def inverted(self, images):
    return embed(self, torch.where(images < 0, images, 1 - images))


def not_left_out(self, features, group, kept, inside=None):
    return self.score(features, inside)


def unmarked(self, images):
    return images


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("score", by_batch, "any_batch"),
        ("score", lambda *given: [part.double() for part in score(*given)], "answers_have_their_form"),
        ("combine", everywhere, "region_of_interest"),
        ("combine", everywhere, "padding"),
        ("score", of_all, "region_of_interest"),
        ("score", of_all, "padding"),
        ("filled", unmarked, "padding"),
        ("embed", inverted, "saved_and_read"),
        ("left_out", not_left_out, "calibration_is_honest"),
        ("rebuild", lambda config, tensors: Model(None, None), "damaged_files_are_refused"),
    ],
)
def test_a_broken_promise_is_named(name, change, check, cases, monkeypatch):
    case = cases("patchcore")
    for variant in ("plain", "region", "padded"):
        case.fitted(variant)  # before the change
    monkeypatch.setattr(Model, name, change)
    with pytest.raises((AssertionError, AttributeError), match=rf"patchcore, {check}: |object"):
        one(check, case)(case)


ADDED = "return Fitted(held.scored(model)"


@pytest.mark.parametrize(
    ("method", "before", "after", "text"),
    [
        # it takes all pictures, or loads them itself
        ("meanpicture", "in images.numbers", "in range(task.count)", "picture 1?[0-9] is held out"),
        ("meanpicture", "images[i]", "task.load(i)", "learns from those that `task.divide` gives"),
        # it learns from the features by which it is calibrated
        (
            "meanpicture",
            ADDED,
            f"held.embed(model, held.numbers, lambda i, one, inside: model.mean.add_(one))\n    {ADDED}",
            "held_out_is_not_learnt: other pictures held out change what is learnt: mean",
        ),
        # its loss is of all cells
        ("redrawn", "errors[counted]", "errors", "outside_is_not_learnt: as much is learnt from outside"),
        ("redrawn", "errors[counted]", "errors", "padding_is_not_learnt: as much is learnt from padding"),
        # its network sees what lies outside of the region
        (
            "redrawn",
            "self.filled(images)",
            "images - images.mean((2, 3), keepdim=True)",
            "outside_is_not_learnt: pixels outside",
        ),
        # its map is 0 where nothing counts, and below 0 elsewhere
        (
            "redrawn",
            "self.bounded(features, inside)",
            "(features - 9) * self.region(inside)",
            "region_of_interest: a value outside is above the lowest inside",
        ),
        # it goes on from the checkpoint of any run with this seed
        (
            "redrawn",
            "run.train(trainer)",
            "trainer.learn(task.budget, run.checkpoint, {'seed': run.config.seed})",
            "resumes: other pictures: nothing was refused",
        ),
    ],
)
def test_who_learns_from_what_must_stay_unseen_is_refused_or_named(
    method, before, after, text, page_method, drawn
):
    settings = {"size": "64"} | ({"steps": 3, "batch": 2} if method == "redrawn" else {})
    case = Case(page_method(method, before, after), settings, drawn)
    check = text.partition(":")[0]
    with pytest.raises((AssertionError, FlawscopeError), match=text):
        one(check, case)(case) if check.isidentifier() else case.fit(samples=0)


def one(name, case):
    return next(check for check in checks_for(case.method) if check.name == name)
