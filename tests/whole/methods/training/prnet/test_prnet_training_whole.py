"""Training PRN: residuals, that it learns, and that it goes on where it stopped."""

import numpy as np
import torch

from flawscope.methods.task import Budget


def test_it_learns_to_find_defects(trainer_of):
    """On the pictures that it learns from, in draws that it has not seen."""
    from sklearn import metrics

    trainer = trainer_of(steps=30, batch=4, rate=3e-3, schedule="constant")
    drawn = [trainer.pictures.defective(k % 6, k % 2 == 0, np.random.default_rng([77, k])) for k in range(12)]
    images, masks = (torch.stack([getattr(d, name) for d in drawn]) for name in ("image", "mask"))

    def auroc():
        with torch.inference_mode():
            maps = trainer.model(images)[1]
        return float(metrics.roc_auc_score(masks.flatten().numpy() > 0, maps.flatten().numpy()))

    assert auroc() < 0.6
    trainer.learn(Budget(), None, {})
    losses = [point["loss"] for point in trainer.curve]
    assert np.mean(losses[-6:]) < 0.6 * np.mean(losses[:3])
    assert auroc() > 0.7
