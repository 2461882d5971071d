"""Training PRN: residuals, that it learns, and that it goes on where it stopped."""

import numpy as np
import pytest
import torch

from flawscope.methods.good_pictures import GoodPictures
from flawscope.methods.task import Budget
from flawscope.methods.training.prnet.model import create
from flawscope.methods.training.prnet.network import prn_loss
from flawscope.methods.training.prnet.prototypes import leave_one_out_residual
from flawscope.methods.training.prnet.record import Config
from flawscope.methods.training.prnet.trainer import Batch
from flawscope.methods.training.prnet.training_pictures import ScaleFeatureCache
from flawscope.progress import ignore_progress

Pictures = list[np.ndarray]


def two_prototypes(trainer):
    """Pictures 0 to 2 belong to the first, 3 and 4 to the second; 5 to none, as where k-means looked at a
    part of them only."""
    belongs = torch.tensor([0, 0, 0, 1, 1, -1])
    for k, scale in enumerate(trainer.model.scales):
        maps = trainer.features.maps(torch.arange(6), k).float()
        scale.prototypes = torch.stack([maps[:3].mean(0), maps[3:5].mean(0)])
        trainer.assignments[k], trainer.cluster_sizes[k] = belongs, torch.tensor([3, 2])


def test_pictures_that_made_the_prototypes_are_learnt_as_if_they_had_not(trainer_of):
    trainer = trainer_of(original=1.0)
    two_prototypes(trainer)
    places = [0, 5, 4, -1, 3, 2]
    shown = [
        trainer.pictures.good(k) if k >= 0 else trainer.pictures.defective(0, True, np.random.default_rng(0))
        for k in places
    ]
    batch = Batch(
        torch.stack([one.image for one in shown]),
        torch.stack([one.mask for one in shown]),
        places,
        [torch.stack([trainer.features[k][scale] for k in places if k >= 0]) for scale in range(3)],
    )
    with torch.no_grad():
        maps = trainer.model.features(batch.images)
        found = trainer._compute_residuals(maps, [None] * 4, batch)
    for k, (scale, residuals) in enumerate(zip(trainer.model.scales, found, strict=True)):
        plain = scale.residuals(maps[k])
        for row, place in enumerate(batch.places):
            if place in (5, -1):  # it made no prototype, or is a seen picture
                assert torch.equal(residuals[row], plain[row])
                continue
            wanted = leave_one_out_residual(
                maps[k][row : row + 1],
                scale.prototypes,
                scale.std,
                trainer.features[place][k][None].float(),
                torch.tensor([0 if place < 3 else 1]),
                torch.tensor([3, 2]),
            )
            torch.testing.assert_close(residuals[row : row + 1], wanted, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(residuals[row], plain[row], rtol=1e-2)


@pytest.mark.parametrize("limit", ["padding", "region"])
def test_only_what_counts_is_measured(few, limit):
    """Means and spreads are of the cells that count; elsewhere the kept maps say nothing."""
    roi = torch.zeros(64, 64, dtype=torch.bool)
    roi[16:48] = True
    shots = [torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in few]
    if limit == "padding":
        shots = [torch.where(roi, shot, -1 - shot) for shot in shots]
    model, _ = create(
        Config(size="64", width=0.25, keep_aspect=limit == "padding"), None if limit == "padding" else roi
    )
    images = GoodPictures(shots.__getitem__, 6, 2**30)
    features = ScaleFeatureCache(model, images, images.read(ignore_progress), 2**30)
    features.measure(ignore_progress)
    with torch.inference_mode():
        maps = model.features(model.filled(torch.stack(shots)))
    for k, (scale, own) in enumerate(zip([*model.scales, model.last], maps, strict=True)):
        stride = 64 // own.shape[2]
        rows = [r for r in range(own.shape[2]) if roi[r * stride : (r + 1) * stride].any()]
        values = own[:, :, rows].double()
        torch.testing.assert_close(scale.mean.double(), values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        if k < 3:
            kept = features.maps(torch.arange(6), k).float()
            torch.testing.assert_close(kept[:, :, rows], own[:, :, rows], rtol=2e-3, atol=2e-3)
            others = [r for r in range(own.shape[2]) if r not in rows]
            mean = scale.mean.half().float().view(-1, 1, 1).expand_as(kept[:, :, others])
            assert torch.equal(kept[:, :, others], mean)


def test_the_loss_is_of_the_networks_map_and_the_mask(trainer_of):
    trainer = trainer_of(batch=4, extended=1.0, original=1.0, noise=0.0)
    batch = trainer.batch(0)
    batch.places = [-1] * 4  # all as new pictures are seen
    with torch.no_grad():
        (found,) = trainer.losses(trainer.networks, batch, 0)
        logits = trainer.model.embed(batch.images)[:, None]
        assert float(found) == pytest.approx(float(prn_loss(logits, batch.masks)), rel=1e-5)


def test_features_are_never_twice_the_same(trainer_of):
    """Standardised with noise of the deviation that is set, which a step's number alone decides."""
    trainer = trainer_of(batch=4, noise=0.5)
    images = trainer.batch(0).images
    with torch.no_grad():
        maps = trainer.model.features(images)
        plain = trainer.model.standardise(maps)
        first, again, next_one = (trainer._add_noise(maps, step) for step in (7, 7, 8))
    assert len(first) == 4
    for a, b, c, without in zip(first, again, next_one, plain, strict=True):
        assert torch.equal(a, b)
        added, others = (a - without).flatten(), (c - without).flatten()
        assert float(added.std()) == pytest.approx(0.5, rel=0.1)
        assert abs(float(added.mean())) < 0.05
        assert abs(float((added * others).mean())) < 0.25 * 0.15


def test_weights_decay_apart_from_the_gradients(trainer_of):
    """AdamW: where there is no gradient a weight shrinks by rate times decay in a step."""
    trainer = trainer_of(pictures=2, steps=1, rate=0.1, decay=0.5, schedule="constant")
    before = {k: v.detach().clone() for k, v in trainer.model.network.named_parameters()}
    trainer.losses = lambda networks, batch, step: [sum(p.sum() * 0 for p in networks[0].parameters())]
    trainer.learn(Budget(), None, {})
    for name, values in trainer.model.network.named_parameters():
        torch.testing.assert_close(values.detach(), before[name] * 0.95, rtol=1e-5, atol=1e-7)
