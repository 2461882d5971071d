"""Jobs of the process that makes models and tries them. Torch is loaded only in that process."""

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

UNUSUAL_COUNT = 8  # good pictures that are listed as most unlike the others, if fewer are suspicious
OVERLAY_SIDE = 900  # pixels of the longer side of a trial's picture


def run_job(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Run a job and return its results.

    Args:
        job: `do`: `fit` or `try`; `threads`: number of Torch's threads; `device`; and the keys that `_fit` or
            `_try` describes.
        step: Called with the name of a stage, the number of steps that are done, and the number of all steps.

    Raises:
        InputError: The job cannot be done.
    """
    import torch

    torch.set_num_threads(job["threads"])
    return _fit(job, step) if job["do"] == FIT else _try(job, step)


def _fit(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Fit and save a model, as `flawscope fit` of the same folder does, and return its measurements.

    An earlier model and its examples are replaced only when everything has succeeded.

    Args:
        job: `pictures`, `model` and `examples`: paths of the pictures' folder, of the model file and of the
            examples' folder; `given`: the options of the fit; `resume`: continue an interrupted training;
            `device`.
        step: Called with the progress, as in `run_job`.
    """
    from flawscope import fitting, open_dataset
    from flawscope.artefact import checkpoint_path, rates

    model = Path(job["model"])
    examples = Path(job["examples"])
    new_model = model.with_stem(f".new-{model.stem}")
    new_examples = examples.with_name(f"{examples.name}-new")
    checkpoint = checkpoint_path(model)
    if "auto" in job["given"]:
        fitted = _fit_auto(job, model, step)
    else:
        fitted = fitting.fit(
            open_dataset(job["pictures"], good="all"),  # a person chose them, whatever their names are
            device=job["device"],
            checkpoint=checkpoint,
            resume=job["resume"],
            step=step,
            **job["given"],
        )
    fitted.save(new_model)
    models = [*fitted.products.values()]  # one model for each view, where parts have several views
    examples_facts = _draw_examples(models, new_examples, step)
    new_model.replace(model)
    shutil.rmtree(examples, ignore_errors=True)
    new_examples.replace(examples)
    for path in (checkpoint, *checkpoints_of_views(checkpoint)):
        path.unlink(missing_ok=True)
    facts = fitted.facts
    promise = rates.promise_of(facts)  # the expected rate of false alarms
    offered_rates = rates.describe_rates(facts)
    chosen_rate = next(offered_rate for offered_rate in offered_rates if offered_rate["rate"] == facts.rate)
    manifests = [model_of_view.manifest for model_of_view in models]
    questions = [line for manifest in manifests for line in manifest.questions]
    return {
        "promise": promise.text,
        **rates.promise_facts(facts),
        "interval": [*promise.interval] if promise.is_made else None,
        "rates": offered_rates,
        "threshold": models[0].calibration.score_threshold if len(models) == 1 else None,
        "pictures": sum(picture.role in ("train", "calibration") for picture in facts.pictures),
        "found": chosen_rate["found"],  # simulated defects that the model finds
        "odd": _unusual_pictures(models),
        "failures": list(fitted.failures),
        "notes": [line for manifest in manifests for line in manifest.notes],
        "questions": [*dict.fromkeys(questions)],  # views may have the same questions
        "seconds": sum(manifest.facts["seconds_total"] for manifest in manifests),
        "examples": examples_facts,
        "search": search_facts(manifests[0].facts),
    }


def _unusual_pictures(models: Sequence[Predictor]) -> list[dict[str, Any]]:
    """Return the good pictures that are most unlike the others of their view.

    Suspicious pictures are first, each with its reason; then follow other pictures, up to `UNUSUAL_COUNT` in
    all. Both groups are sorted by severity, the highest first.
    """
    reasons = {suspect.name: suspect.reason for model in models for suspect in model.suspects}
    ranking = []
    for model in models:
        for row in model.manifest.pictures:
            if not row.counted or row.score is None:
                continue
            is_suspicious = row.name in reasons
            severity = float(model.calibration.severity(row.score))
            ranking.append((is_suspicious, severity, row.name, row.score))
    ranking.sort(reverse=True)  # suspicious pictures first, as True is greater than False
    top = ranking[: max(UNUSUAL_COUNT, len(reasons))]
    return [{"name": name, "score": score, "reason": reasons.get(name)} for _, _, name, score in top]


def _fit_auto(job: dict[str, Any], model: Path, step: ProgressCallback) -> Predictor:
    """Try settings, and fit with those that suit the pictures best.

    Args:
        job: As for `_fit`; its option `auto` is the number of minutes for trials.
        model: File of the earlier model; its trials are not repeated.
        step: Called with the progress, as in `run_job`.
    """
    from flawscope import fitting, open_dataset

    fit_options = dict(job["given"])
    minutes = fit_options.pop("auto")
    start_time = time.monotonic()
    trials_start: float | None = None

    def report_step(stage: str, done: int, total: int) -> None:
        """Report the progress of trials in seconds, because the number of settings to try is unknown."""
        nonlocal trials_start
        if not stage.startswith(tried.TRYING):
            step(stage, done, total)
            return
        time_now = time.monotonic()
        trials_start = trials_start or time_now
        # what was done before the first trial uses up a part of the minutes
        trial_seconds = 60 * minutes - (trials_start - start_time)
        step(tried.TRYING, round(time_now - trials_start), round(trial_seconds))

    return fitting.fit_auto(
        open_dataset(job["pictures"], good="all"),
        minutes=minutes,
        earlier=model,
        device=job["device"],
        step=report_step,
        **fit_options,
    )


def search_facts(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the trials of settings that came before a fit, in the form of the API; None: there were none.

    Args:
        facts: Facts in the manifest of the fitted model.
    """
    from flawscope import fitting

    choice = fitting.Choice.from_facts(facts)
    if choice is None:
        return None
    trials = [
        {
            "seen": _describe_options(trial.flags),
            "false_alarms": [*trial.false_alarms],
            "found": [*trial.found],
            "milliseconds": round(1000 * trial.seconds),
        }
        for trial in choice.shown()
        if trial.rounds  # without rounds there is no result
    ]
    return {
        "chosen": _describe_options(choice.flags),
        "reason": choice.reason,
        "options": dict(fitting.Recipe.from_flags(choice.flags).options),
        "trials": trials,
        "ended": all(trial.was_ended for trial in choice.trials),
    }


def _describe_options(flags: str) -> list[dict[str, str]]:
    """Return a text for each option of a trial, as its `key` among the page's texts and a `value` to insert.

    Args:
        flags: Options of the command line that change the network's input; empty: pictures are used as they
            are.
    """
    from flawscope import fitting

    # options with a fixed list of values
    choice_options = {option.name for option in options.NEW_PRODUCT if option.form and option.form.choices}
    descriptions = []
    for name, value in fitting.Recipe.from_flags(flags).options.items():
        if name in choice_options:  # the page has a text for each value
            descriptions.append({"key": f"{name}_{value}", "value": ""})
        else:
            descriptions.append({"key": name, "value": "" if value is True else str(value)})
    return descriptions or [{"key": "given", "value": ""}]  # "given": pictures are used as they are


def _draw_examples(models: Sequence[Predictor], folder: Path, step: ProgressCallback) -> list[dict[str, Any]]:
    """Write pictures with simulated defects, each marked by a ring, into a new folder.

    Return for each picture its `file`, the `size` of the defect, and whether the defect is `found`. Missed
    defects are first.
    """
    from flawscope import fitting
    from flawscope_station.inspecting.renderings import encode_webp

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    examples = [example for model in models for example in fitting.draw_defect_examples(model, step)]
    facts = []
    for number, example in enumerate(examples):
        name = f"{number}.webp"
        (folder / name).write_bytes(encode_webp(example.picture))
        facts.append({"file": name, "size": example.size, "found": example.is_found})
    return sorted(facts, key=lambda example_facts: example_facts["found"])


def _try(job: dict[str, Any], step: ProgressCallback) -> dict[str, Any]:
    """Judge pictures with a model; return decisions, scores, and pictures with contours.

    If a picture cannot be judged, its result has the error.

    Args:
        job: `model`: path of the model file; `sent`: name and content of each picture; `device`.
        step: Called with the progress, as in `run_job`.
    """
    from flawscope.errors import FlawscopeError
    from flawscope.predictor import router
    from flawscope.results import drawing
    from flawscope_station.inspecting.memory import MemoryBudget
    from flawscope_station.inspecting.renderings import encode_webp, reduce_picture

    predictor = router.load(job["model"], device=job["device"])
    memory = MemoryBudget(0)  # 0: one large picture is decoded at a time
    results: list[dict[str, Any]] = []
    for done, (name, data) in enumerate(job["sent"]):
        step("try", done, len(job["sent"]))
        try:
            view = None if predictor.views is None else predictor.views.parse(name).view
            prediction = predictor.predict(data, product=view)
            small_picture = reduce_picture(data, name, OVERLAY_SIDE, memory)
            heat_picture, marked_pixels, colour = prediction.over(small_picture)
            overlay = drawing.contour(heat_picture, marked_pixels, colour)
        except FlawscopeError as error:
            # the decoder knows no file name: its errors say "(N bytes)"
            message = str(error).replace(f"({len(data)} bytes)", name)
            results.append({"name": name, "error": message})
            continue
        results.append(
            {
                "name": name,
                "decision": prediction.decision,
                "score": prediction.score,
                "severity": prediction.severity,
                "overlay": encode_webp(overlay),
            }
        )
    return {"results": results}
