"""Training the detector: its losses, that it learns, and that it goes on where it stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flawscope.methods.training.efficientad.record import RECEPTIVE_FIELD, STRIDE
from flawscope.methods.training.efficientad.trainer import Batch, _hard_loss, _window_starts
from flawscope.methods.training.efficientad.training_pictures import (
    DefectOutputs,
    GeneratedPictures,
    recolour,
)
from trainer_helpers import FORGETTING, trainer_of


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(1,), (2, 4, 32, 31)])
def test_the_hardest_are_those_at_or_above_the_quantile(shape, share):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))).square()
    exact = values.double().numpy()
    expected = exact[exact >= np.quantile(exact, share)].mean()
    assert float(_hard_loss(values, share)) == pytest.approx(expected, rel=1e-5)


def whole(trainer, image, index):
    """A batch of one picture, seen whole."""
    return Batch(image[None], image[None], trainer.teacher_outputs[index][0][None], None, [(0, 0)], None)


def test_losses_are_the_papers(quick_settings, shots):
    """With the networks run one by one, as in inference."""
    trainer = trainer_of(quick_settings, shots[:1], window=None, hard=0.9)
    model, half = trainer.model, trainer.model.channels
    drawn = GeneratedPictures().draw((253, 253), np.random.default_rng(0))
    strange = torch.from_numpy(drawn).permute(2, 0, 1)
    changed = recolour(shots[0], 0, 0.8)
    batch = replace(whole(trainer, shots[0], 0), recoloured=changed[None], natural=strange[None])
    with torch.no_grad():
        found = trainer.losses(trainer.networks, batch, 0)

        def seen(network, image):
            mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            shape = (1, 3, 1, 1)
            return network((image - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))

        def taught(image):
            return (seen(model.teacher, image) - model.mean[:, None, None]) / model.std[:, None, None]

        squares = (taught(shots[0][None]) - seen(model.student, shots[0][None])[:, :half]).square()
        limit = np.quantile(squares.double().numpy(), 0.9)
        rebuilt = seen(model.autoencoder, changed[None])
        expected = [
            squares[squares >= limit].mean(),
            seen(model.student, strange[None].float() / 255)[:, :half].square().mean(),
            (rebuilt - taught(changed[None])).square().mean(),
            (rebuilt - seen(model.student, changed[None])[:, half:]).square().mean(),
        ]
    for a, b in zip(found, expected, strict=True):
        assert float(a) == pytest.approx(float(b), rel=3e-3)  # the teacher's outputs are kept in fp16


def test_the_autoencoder_learns_from_the_student_too(quick_settings, shots):
    trainer = trainer_of(quick_settings, shots[:1])
    *_, of_student = trainer.losses(trainer.networks, trainer.batch(0), 0)
    of_student.backward()
    for network in trainer.networks:
        assert all(bool(p.grad.abs().sum() > 0) for p in network.parameters() if p.grad is not None)
        assert any(p.grad is not None for p in network.parameters())
    assert all(p.grad is None for p in trainer.model.teacher.parameters())


@pytest.mark.parametrize(("cells", "window"), [(64, 32), (64, 64), (56, 31), (65, 32), (256, 32), (33, 32)])
def test_windows_cover_every_cell_about_equally_often(cells, window):
    starts = _window_starts(cells, window)
    seen = np.zeros(cells, int)
    for start in starts:
        assert 0 <= start <= cells - window
        seen[start : start + window] += 1
    assert seen.min() == 1
    assert len(starts) == -(-cells // window)


def test_every_picture_comes_once_before_any_comes_again(quick_settings, shots):
    trainer = trainer_of(quick_settings, shots, batch=2)
    batches = [trainer.batch(step).images for step in range(12)]
    drawn = [k for batch in batches for image in batch for k in range(3) if torch.equal(image, shots[k])]
    epochs = [tuple(drawn[k : k + 3]) for k in range(0, 24, 3)]
    assert all(sorted(epoch) == [0, 1, 2] for epoch in epochs)
    assert len(set(epochs)) > 2


def test_a_window_is_the_part_of_the_picture_that_its_outputs_see(quick_settings, shots):
    """Also across the border: of the part the teacher says what it says there of the whole picture."""
    trainer = trainer_of(quick_settings, shots[:1], border=8, window=45)
    places = set()
    for step in range(6):
        batch = trainer.batch(step)
        places |= set(batch.cells)
        part = trainer._cut_windows(batch.images, batch.cells)
        side = RECEPTIVE_FIELD + 3 * STRIDE
        assert part.shape == (1, 3, side, side)
        with torch.no_grad():
            mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            seen = (part - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
            outputs = trainer.model.teacher(seen)
        torch.testing.assert_close(outputs.half(), batch.targets, rtol=2e-3, atol=1e-3)
    assert len(places) > 3


def strips(shots):
    """The middle of each, the rest padding: another part of each picture counts."""
    marked = []
    for k, shot in enumerate(shots):
        first, last = 60 + 20 * k, 150 + 10 * k
        image = shot.clone()
        image[:, :first], image[:, last:] = shot[:, first : first + 1], shot[:, last - 1 : last]
        padding = torch.ones(256, dtype=torch.bool)
        padding[first:last] = False
        image[:, padding] = -1 - image[:, padding]
        marked.append(image)
    return marked


@pytest.mark.parametrize("limit", ["padding", "region"])
def test_only_what_counts_is_measured_and_learnt(quick_settings, shots, limit):
    """Teacher statistics, places of windows and losses."""
    roi = torch.zeros(256, 256, dtype=torch.bool)
    roi[40:100, 100:160] = True
    padded = limit == "padding"
    pictures = strips(shots) if padded else shots
    trainer = trainer_of(
        quick_settings, pictures, roi=None if padded else roi, keep_aspect=padded, batch=3, hard=0.5
    )
    taught, model = trainer.teacher_outputs, trainer.model
    cells = [taught.valid_mask(i) for i in range(3)]
    values = torch.cat([taught[i][0].double()[:, mask] for i, mask in enumerate(cells)], 1)  # [C, N]
    assert 0 < values.shape[1] < 3 * 56 * 56
    torch.testing.assert_close(model.mean.double(), values.mean(1), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(model.std.double(), values.std(1, correction=0), rtol=2e-3, atol=1e-4)
    for step in range(8):
        batch = trainer.batch(step)
        assert bool(batch.valid_mask.flatten(1).any(1).all())
        assert float(batch.images.min()) >= 0  # no marks
    assert not bool(batch.valid_mask.all())
    with torch.no_grad():
        found = trainer.losses(trainer.networks, batch, 0)
        other = batch.targets.clone()
        other.permute(0, 2, 3, 1)[~batch.valid_mask] += 50
        same = trainer.losses(trainer.networks, replace(batch, targets=other), 0)
        all_of_it = trainer.losses(trainer.networks, replace(batch, valid_mask=None), 0)
    assert torch.equal(torch.stack(found), torch.stack(same))
    assert not torch.allclose(torch.stack(found), torch.stack(all_of_it))


def test_defects_are_unlearnt_and_the_rest_is_learnt(quick_settings, shots):
    trainer = trainer_of(quick_settings, shots[:2], **FORGETTING)
    learnt, taught = torch.full((1, 2, 3, 3), 3.0), torch.full((1, 2, 3, 3), 5.0)
    anywhere, within = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    anywhere[0, :, :2], within[0, :, 0] = True, True
    learnt[0, :, :, 0], taught[0, :, :, 1] = 7.0, 99.0  # a defect; one is near
    hard, penalty = trainer._student_losses(learnt, taught, None, DefectOutputs(anywhere, within))
    assert (float(hard), float(penalty)) == (4.0, 49.0)
    everywhere = DefectOutputs(torch.ones_like(anywhere), within)
    assert float(trainer._student_losses(learnt, taught, None, everywhere)[0]) == 0
    nothing_counts = trainer._student_losses(
        learnt, taught, torch.zeros_like(within), DefectOutputs(anywhere, within)
    )
    assert [float(v) for v in nothing_counts] == [0, 0]
