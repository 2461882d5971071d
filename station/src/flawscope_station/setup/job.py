"""Jobs of the process beside the station that makes models and tries them: torch is loaded there alone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flawscope.artefact import tried
from flawscope.methods import options
from flawscope_station.learning.jobs import FIT
from flawscope_station.learning.process import ProgressCallback
from flawscope_station.setup.draft import checkpoints_of_views

if TYPE_CHECKING:
    from flawscope import Predictor

UNUSUAL_COUNT = 8  # good pictures that look most unlike the others
OVERLAY_SIDE = 900  # pixels of the longer side of a picture that is tried


def run_job(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Run a job and return its results.

    Args:
        job: `do`: fit or try; `threads`, `device`; the other keys as the functions below use them.
        step: gets the name of a stage, the steps that are done, and the steps in all.

    Raises:
        InputError: it cannot be done.
    """
    import torch

    torch.set_num_threads(job["threads"])
    return {FIT: _fit, "try": _try}[job["do"]](job, step)


def _fit(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Fit and save the model that `flawscope fit` of the same folder makes, and return its measurements.

    The model and the examples from before are replaced when all of this is done.
    """
    from flawscope import fitting, open_dataset
    from flawscope.artefact import checkpoint_path, rates

    model = Path(job["model"])
    examples = Path(job["examples"])
    new_model = model.with_stem(f".new-{model.stem}")
    new_examples = examples.with_name(f"{examples.name}-new")
    checkpoint = checkpoint_path(model)
    if "auto" in job["given"]:
        made = _fit_auto(job, model, step)
    else:
        made = fitting.fit(
            open_dataset(job["pictures"], good="all"),  # somebody chose them, whatever they are called
            device=job["device"],
            checkpoint=checkpoint,
            resume=job["resume"],
            step=step,
            **job["given"],
        )
    made.save(new_model)
    models = [*made.products.values()]  # of several views one each
    drawn = _draw_examples(models, new_examples, step)
    new_model.replace(model)
    shutil.rmtree(examples, ignore_errors=True)
    new_examples.replace(examples)
    for path in (checkpoint, *checkpoints_of_views(checkpoint)):
        path.unlink(missing_ok=True)
    promise = rates.promise_of(made.facts)
    offered = rates.describe_rates(made.facts)
    found = next(offer["found"] for offer in offered if offer["rate"] == made.facts.rate)
    manifests = [manifest.manifest for manifest in models]
    return {
        "promise": promise.text,
        **rates.promise_facts(made.facts),
        "interval": [*promise.interval] if promise.is_made else None,
        "rates": offered,
        "threshold": models[0].calibration.score_threshold if len(models) == 1 else None,
        "pictures": sum(picture.role in ("train", "calibration") for picture in made.facts.pictures),
        "found": found,
        "odd": _unusual_pictures(models),
        "failures": list(made.failures),
        "notes": [line for manifest in manifests for line in manifest.notes],
        "questions": [*dict.fromkeys(line for manifest in manifests for line in manifest.questions)],
        "seconds": sum(manifest.facts["seconds_total"] for manifest in manifests),
        "examples": drawn,
        "search": search_facts(manifests[0].facts),
    }


def _unusual_pictures(models: Sequence[Predictor]) -> list[dict[str, Any]]:
    """Return the good pictures that look most unlike the others of their view, the suspicious ones first."""
    reasons = {suspect.name: suspect.reason for model in models for suspect in model.suspects}
    judged = []
    for model in models:
        for row in model.manifest.pictures:
            if not row.counted or row.score is None:
                continue
            severity = float(model.calibration.severity(row.score))
            judged.append((row.name in reasons, severity, row.name, row.score))
    judged.sort(reverse=True)
    ranked = judged[: max(UNUSUAL_COUNT, len(reasons))]
    return [{"name": name, "score": score, "reason": reasons.get(name)} for _, _, name, score in ranked]


def _fit_auto(job: dict[str, Any], model: Path, step: ProgressCallback) -> Predictor:
    """Fit with the settings that the pictures need; trials for the model before are used again."""
    from flawscope import fitting, open_dataset

    given = dict(job["given"])
    minutes = given.pop("auto")
    began = time.monotonic()
    first: float | None = None  # when the first setting was tried

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal first
        if stage.startswith(tried.TRYING):  # nobody knows how many settings are tried: the time is known
            now = time.monotonic()
            first = first or now
            stage = tried.TRYING
            done = round(now - first)
            total = round(60 * minutes - (first - began))
        step(stage, done, total)

    return fitting.fit_auto(
        open_dataset(job["pictures"], good="all"),
        minutes=minutes,
        earlier=model,
        device=job["device"],
        step=tell,
        **given,
    )


def search_facts(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings that were tried before the fit; None: none were."""
    from flawscope import fitting

    choice = fitting.Choice.from_facts(facts)
    if choice is None:
        return None
    trials = [
        {
            "seen": _seen(trial.flags),
            "false_alarms": [*trial.false_alarms],
            "found": [*trial.found],
            "milliseconds": round(1000 * trial.seconds),
        }
        for trial in choice.shown()
        if trial.rounds
    ]
    return {
        "chosen": _seen(choice.flags),
        "reason": choice.reason,
        "options": dict(fitting.Recipe.from_flags(choice.flags).options),
        "trials": trials,
        "ended": all(trial.was_ended for trial in choice.trials),
    }


def _seen(flags: str) -> list[dict[str, str]]:
    """Return how pictures are seen: texts of the pages, by key, with a value."""
    from flawscope import fitting

    choices = {option.name for option in options.NEW_PRODUCT if option.form and option.form.choices}
    found = []
    for name, value in fitting.Recipe.from_flags(flags).options.items():
        is_choice = name in choices
        key = f"{name}_{value}" if is_choice else name
        found.append({"key": key, "value": "" if value is True or is_choice else str(value)})
    return found or [{"key": "given", "value": ""}]


def _draw_examples(models: Sequence[Predictor], folder: Path, step: ProgressCallback) -> list[dict[str, Any]]:
    """Draw simulated defects on pictures, each in a ring; return which the model finds, missed ones first."""
    from flawscope import fitting
    from flawscope_station.inspecting.renderings import encode_webp

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = []
    drawn = [example for model in models for example in fitting.draw_defect_examples(model, step)]
    for number, example in enumerate(drawn):
        name = f"{number}.webp"
        (folder / name).write_bytes(encode_webp(example.picture))
        found.append({"file": name, "size": example.size, "found": example.is_found})
    return sorted(found, key=lambda drawn_example: drawn_example["found"])


def _try(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Judge pictures with the model; return decisions, scores, and pictures with outlines."""
    from flawscope.errors import FlawscopeError
    from flawscope.predictor import router
    from flawscope.results import drawing
    from flawscope_station.inspecting.memory import MemoryBudget
    from flawscope_station.inspecting.renderings import encode_webp, reduce_picture

    predictor = router.load(job["model"], device=job["device"])
    memory = MemoryBudget(0)
    found = []
    for done, (name, data) in enumerate(job["sent"]):
        step("try", done, len(job["sent"]))
        try:
            view = None if predictor.views is None else predictor.views.parse(name).view
            result = predictor.predict(data, product=view)
            drawn = drawing.contour(*result.over(reduce_picture(data, name, OVERLAY_SIDE, memory)))
        except FlawscopeError as error:
            found.append({"name": name, "error": str(error).replace(f"({len(data)} bytes)", name)})
            continue
        answer = {"decision": result.decision, "score": result.score, "severity": result.severity}
        found.append({"name": name, **answer, "overlay": encode_webp(drawn)})
    return {"results": found}
