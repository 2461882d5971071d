"""What the models of one file share is asked of the mapping, and is checked before it is written."""

from dataclasses import replace
from pathlib import Path

import pytest

import flawscope
from flawscope.artefact.model_facts import ModelFacts
from flawscope.artefact.rates import describe_rates, promise_of
from flawscope.errors import InputError
from flawscope.predictor.router import read_facts

MODELS = Path(__file__).parents[1] / "fixtures/models"
VIEWS = MODELS / "views.safetensors"


@pytest.fixture(scope="module")
def views():
    return read_facts(VIEWS)


def with_rate(facts, name, rate):
    """Facts of which one model has another false-alarm rate."""
    one = facts.manifests[name]
    changed = replace(one, calibration=one.calibration.with_rate(rate))
    return replace(facts, manifests={**facts.manifests, name: changed})


def test_every_file_is_a_mapping_of_names_to_models(views):
    for path in sorted(MODELS.iterdir()):
        if path.suffix not in (".safetensors", ".onnx", ".zip"):
            continue
        facts = read_facts(path)
        model = flawscope.load(path, device="cpu")
        assert [*facts.manifests] == [*model.products], path
        assert (facts.kind, facts.views) == (model.kind, model.views), path
        assert model.facts.kind == facts.kind
        assert bool(facts.kind) == (facts.manifests.keys() != {""})
        assert facts.is_joint == (len(facts.manifests) > 1 and facts.views is None)
    assert (views.kind, [*views.manifests]) == ("view", ["fabric", "plate"])


def test_views_promise_one_rate_of_parts(views):
    promise = promise_of(views)
    collected = flawscope.load(VIEWS, device="cpu").parts()
    assert (promise.text, promise.by_part) == (collected.promise(), True)
    assert promise.rate == collected.expected_rate
    (known,) = views.known_parts().values()
    assert known.calibration.scores.tolist() == collected.calibration.scores.tolist()
    for row in describe_rates(views):
        assert row["expected"] == promise_of(views.with_rate(row["rate"])).rate
        assert row["threshold"] is None  # each view has its own


@pytest.mark.parametrize(("facts", "said"), [("rate", "false-alarm rates differ"), ("seed", "seeds differ")])
def test_what_views_share_is_checked_before_they_are_written(views, facts, said, tmp_path):
    model = flawscope.load(VIEWS, device="cpu")
    plate = model.products["plate"]
    if facts == "rate":
        other = plate.with_rate(0.2)
    else:
        other = plate.with_manifest(replace(plate.manifest, config={**plate.manifest.config, "seed": 9}))
    with pytest.raises(InputError, match=f"the views' {said}: fit all with the same"):
        model.with_product("plate", other).save(tmp_path / "views.safetensors")
    assert [*tmp_path.iterdir()] == []


def test_views_of_an_earlier_file_whose_rates_differ_decide_at_the_lowest(views):
    assert with_rate(views, "plate", 0.01).rate == 0.01
    assert with_rate(views, "plate", 0.3).rate == views.rate


def test_a_value_that_is_not_shared_is_no_value(views):
    with pytest.raises(InputError, match="the views' kinds of picture differ"):
        views.shared("kinds of picture", lambda manifest: id(manifest))
    assert ModelFacts.of(views) is views
