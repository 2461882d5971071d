"""K-means over whole feature maps, and residuals, against scikit-learn and against the definitions."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from flawscope.errors import InputError
from flawscope.methods.training.pictures import Moments
from flawscope.methods.training.prnet import prototypes
from flawscope.methods.training.prnet.prototypes import (
    channel_std,
    gram_matrix,
    k_means,
    k_means_plus_plus,
    leave_one_out_residual,
    lloyd,
    nearest_prototype,
    residual,
)
from flawscope.testing.case import torch_threads


def groups(count, shape=(3, 4, 6), kinds=6, seed=0, apart=3.0):
    """Maps around a few centres, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    centres = 20 + apart * torch.randn(kinds, *shape, generator=generator)
    return centres[torch.arange(count) % kinds] + torch.randn(count, *shape, generator=generator)


def products_of(maps):
    flat = maps.double().flatten(1)
    flat = flat - flat.mean(0)
    return flat @ flat.T


@pytest.mark.parametrize("apart", [3.0, 0.1])
def test_lloyd_finds_what_scikit_learn_finds_from_the_same_points(apart):
    from sklearn import cluster as cluster_module

    maps = groups(80, apart=apart)
    flat = maps.flatten(1).double().numpy()
    picks = [3, 4, 11, 29, 30, 57, 62, 79]
    with np.errstate(all="ignore"):
        theirs = cluster_module.KMeans(
            len(picks), init=flat[picks], n_init=1, tol=0, algorithm="lloyd", max_iter=300
        ).fit(flat)
    assignment, history = lloyd(products_of(maps), picks, 300)
    assert assignment.tolist() == theirs.labels_.tolist()
    assert history[-1] == pytest.approx(theirs.inertia_, rel=1e-9)


def test_the_objective_and_the_prototypes_are_what_they_are_called():
    maps = groups(70)
    found = k_means(maps.__getitem__, len(maps), seed=3)
    assert found.prototypes.shape == (7, 3, 4, 6)
    assert found.prototypes.dtype == torch.float32
    assert found.assignment.unique().tolist() == list(range(7))
    apart = (maps - found.prototypes[found.assignment]).double().square().sum()
    assert found.objective == pytest.approx(float(apart), rel=1e-6)
    for k in range(7):
        torch.testing.assert_close(found.prototypes[k], maps[found.assignment == k].mean(0))
    torch.testing.assert_close(nearest_prototype(maps, found.prototypes), found.assignment)
    assert not found.prototypes.is_inference()
    assert found.iterations == len(found.history)


@pytest.mark.parametrize("seed", range(5))
def test_the_objective_never_rises(seed):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(90, 2, 3, 3, generator=generator)
    products = products_of(maps)
    picks = k_means_plus_plus(products, 9, np.random.default_rng(seed))
    _, history = lloyd(products, picks, 100)
    assert len(history) > 2
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(history))


@pytest.mark.parametrize("picks", [[0, 0, 0], [5, 5, 1]])
def test_centroids_without_points_get_some(picks):
    assignment, history = lloyd(products_of(groups(12)), picks, 50)
    assert assignment.unique().tolist() == [0, 1, 2]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(history))


def test_neither_blocks_nor_threads_nor_memory_change_the_result(monkeypatch):
    maps = groups(50)
    monkeypatch.setattr(prototypes, "BLOCK", 8)
    plain = k_means(maps.__getitem__, 50, restarts=3)
    monkeypatch.setattr(prototypes, "MAX_HELD_BYTES", 1)  # one block at a time
    asked = []

    def load(numbers):
        asked.append(len(numbers))
        return maps[numbers]

    with torch_threads(3):
        other = k_means(load, 50, restarts=3)
    assert max(asked) <= 8
    assert torch.equal(plain.prototypes, other.prototypes)
    assert plain.history == other.history


def test_gram_gives_the_distances(monkeypatch):
    monkeypatch.setattr(prototypes, "BLOCK", 8)
    monkeypatch.setattr(prototypes, "SLICE", 16)
    maps = groups(20) + 1000  # a large mean takes no digits away
    products = gram_matrix(maps.__getitem__, torch.arange(20))
    squares = products.diagonal()
    found = squares[:, None] + squares - 2 * products
    flat = maps.double().flatten(1)
    torch.testing.assert_close(found, torch.cdist(flat, flat).square(), rtol=1e-5, atol=1e-3)


def test_of_too_many_pictures_a_seeded_part_is_looked_at():
    maps = groups(60)
    first, again = (k_means(maps.__getitem__, 60, limit=20, seed=1) for _ in range(2))
    assert len(first.pictures) == 20
    assert len(first.prototypes) == 2
    assert first.pictures.tolist() == sorted(set(first.pictures.tolist()))
    assert torch.equal(first.pictures, again.pictures)
    assert not torch.equal(first.pictures, k_means(maps.__getitem__, 60, limit=20, seed=2).pictures)


def test_bad_features_are_refused():
    maps = groups(5)
    maps[2, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="finite"):
        k_means(maps.__getitem__, 5)
    with pytest.raises(InputError, match="one good picture"):
        k_means(maps.__getitem__, 0)


def test_residuals_against_brute_force():
    maps, few = groups(9, seed=1), groups(4, seed=0)
    std = torch.tensor([0.5, 1.0, 4.0])
    found = residual(maps, few, std)
    for one, picture in zip(found, maps, strict=True):
        own = min(few, key=lambda p: float((p - picture).square().sum()))
        for c in range(3):
            torch.testing.assert_close(one[c], (picture[c] - own[c]) ** 2 / std[c] ** 2)
    assert not residual(few, few, std).any()


def test_residuals_without_the_picture_itself():
    """Against prototypes that were averaged anew without it; also of pictures that were changed."""
    maps = groups(26, kinds=3)
    maps[25] += 50  # alone in its cluster
    members = k_means(maps.__getitem__, 26, restarts=3)
    few, sizes = members.prototypes, members.assignment.bincount()
    assert sizes.min() == 1
    std = torch.tensor([0.5, 1.0, 4.0])
    changed = maps.clone()
    changed[::2, :, 1:3] += 4
    found = leave_one_out_residual(changed, few, std, maps, members.assignment, sizes)
    for i, picture in enumerate(changed):
        anew = []
        for k in range(len(few)):
            others = [j for j in range(26) if j != i and members.assignment[j] == k]
            if others:
                anew.append(maps[others].mean(0))
        expected = residual(picture[None], torch.stack(anew), std)[0]
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-3)
    assert residual(maps, few, std)[25].max() < 1e-6 < found[25].min()


def test_what_does_not_count_decides_nothing():
    """Neither which prototype is the nearest nor a residual, with the picture's own share or without."""
    generator = torch.Generator().manual_seed(4)
    features, prototypes = (torch.randn(n, 3, 4, 6, generator=generator) for n in (5, 4))
    counted = (torch.rand(5, 1, 4, 6, generator=generator) > 0.4).float()
    std, originals = torch.rand(3, generator=generator) + 0.5, features + 0.1
    clusters, sizes = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([3, 2, 1, 4])
    wild = torch.where(counted > 0, features, 1e3 * torch.randn(features.shape, generator=generator))
    distances = ((features[:, None] - prototypes) * counted[:, None]).square().flatten(2).sum(2)
    assert torch.equal(nearest_prototype(wild, prototypes, counted), distances.argmin(1))
    assert not torch.equal(nearest_prototype(wild, prototypes), distances.argmin(1))
    plain = residual(wild, prototypes, std, counted)
    wanted = ((features - prototypes[distances.argmin(1)]) / std.view(-1, 1, 1)).square() * counted
    torch.testing.assert_close(plain, wanted, rtol=1e-4, atol=1e-5)
    same = (prototypes, std, originals, clusters, sizes)
    without = [leave_one_out_residual(f, *same, valid_mask=counted) for f in (features, wild)]
    torch.testing.assert_close(without[0], without[1], rtol=1e-4, atol=1e-5)
    assert float((without[0] * (1 - counted)).abs().max()) == 0


def moments_of(maps):
    moments = Moments()
    moments.add(maps.transpose(0, 1).flatten(1).T)
    return moments


def test_a_channel_that_never_moves_does_not_divide_by_zero():
    maps = groups(5)
    maps[:, 1] = 7.0
    spread = channel_std(moments_of(maps))
    assert 0 < spread[1] < 0.01 * spread[0]
    assert channel_std(moments_of(torch.ones(2, 3, 4, 4))).tolist() == [1, 1, 1]
