"""The fast exact selection against the textbook loop, written out here with differences in float64."""

import numpy as np
import pytest
import torch

from flawscope.errors import InputError
from flawscope.methods.patchcore import coreset, quantized_search
from flawscope.methods.patchcore.coreset import select
from flawscope.methods.patchcore.quantized_search import ByteBound, PickBound
from flawscope.testing.case import torch_threads


def plain_loop(features, count, first=0, start=None):
    """Picks, and every point's distance to them. Ties go to the lowest index, no point twice."""
    points = features.double().numpy()
    distance = np.full(len(points), np.inf)
    free = np.ones(len(points), bool)
    for known in () if start is None else start.double().numpy():
        distance = np.minimum(distance, ((points - known) ** 2).sum(1))
    picks = []
    while len(picks) < count:
        new = first if start is None and not picks else int(np.argmax(np.where(free, distance, -1.0)))
        picks.append(new)
        free[new] = False
        distance = np.minimum(distance, ((points - points[new]) ** 2).sum(1))
    return picks, np.sqrt(distance)


def whole(seed, points, width, values):
    """Whole numbers, on which fp32 is exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-values, values + 1, (points, width), generator=generator).float()


def real(seed, points, width):
    return torch.randn(points, width, generator=torch.Generator().manual_seed(seed))


SMALL = {"POOL_SIZE": 16, "STRIDE": 3, "BATCH": 5, "ROWS": 7}  # so that every branch is taken with few points
ODD = {"POOL_SIZE": 9, "STRIDE": 64, "BATCH": 2, "ROWS": 1000}


@pytest.fixture(
    params=[(None, False), (SMALL, False), (ODD, False), (None, True), (SMALL, True)],
    ids=["full", "small", "odd", "full, bytes", "small, bytes"],
)
def sizes(request, monkeypatch):
    of, by_bytes = request.param
    for name, value in (of or {}).items():
        monkeypatch.setattr(coreset, name, value)
    if by_bytes:
        with_bytes(monkeypatch)
    else:
        monkeypatch.setattr(quantized_search, "is_faster", lambda: False)


def with_bytes(monkeypatch):
    """However few the points are, and on any processor."""
    if not quantized_search.sums_are_exact():
        pytest.skip("this processor multiplies no bytes exactly: nothing to install")
    for name, value in {
        "MIN_POINTS": 1,
        "MIN_PICKS": 1,
        "MAX_POINT_SHARE": 1.0,
        "PAIRS_PER_POINT": 1e9,
        "is_faster": lambda: True,
    }.items():
        monkeypatch.setattr(quantized_search, name, value)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize(
    ("points", "width", "values", "count", "first"),
    [
        (200, 6, 50, 60, 0),  # few ties
        (200, 2, 2, 150, 0),  # 25 different points: heavy ties, then duplicates only
        (120, 3, 1, 120, 119),  # all of them
        (90, 1, 3, 90, 4),  # seven values on a line
        (50, 4, 0, 20, 7),  # all equal
        (16, 3, 9, 9, 0),  # exactly one pool of SMALL
        (9, 3, 9, 9, 2),
        (1, 3, 9, 1, 0),
        (64, 5, 9, 1, 63),  # the first alone
    ],
)
def test_same_picks_as_the_plain_loop(points, width, values, count, first):
    features = whole(points + width, points, width, values)
    picks, distance = plain_loop(features, count, first)
    assert select(features, count, first=first).indices.tolist() == picks
    result = select(features, count, first=first)
    np.testing.assert_allclose(result.distances.numpy(), distance, rtol=1e-6)
    assert result.radius == result.distances.max()


def test_far_first_point_and_duplicates_never_pick_twice():
    # The first point is the origin of all norms: with norms near 1e9 rounding makes distances negative
    features = torch.cat([torch.full((1, 40), 5e3), real(1, 30, 40).repeat(4, 1) + 0.1])
    picks = select(features, len(features)).indices
    assert sorted(picks.tolist()) == list(range(len(features)))


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize(("points", "width", "count"), [(300, 8, 60), (400, 40, 100), (257, 3, 200)])
def test_covering_radius_on_real_features(points, width, count):
    features = real(points, points, width) * 3 + 100  # far from zero, as features after a ReLU are
    distance = plain_loop(features, count)[1]
    found = select(features, count)
    literal = (
        (features.double()[:, None] - features.double()[found.indices][None]).square().sum(2).amin(1).sqrt()
    )
    assert found.radius == pytest.approx(distance.max(), rel=1e-5)
    # norms relative to the first point cost accuracy near 0 only
    torch.testing.assert_close(found.distances.double(), literal, rtol=1e-4, atol=0.02)


OUTLIERS = real(4, 500, 24).masked_fill(real(5, 500, 24) > 2.5, 90.0)


@pytest.mark.parametrize(
    "features",
    [
        real(1, 700, 30),
        real(2, 700, 30) * torch.logspace(-3, 2, 30) + 100,  # of very different spread, far from zero
        torch.cat([real(3, 400, 152).abs() * 1e-4, real(3, 400, 152).abs() * 3]),  # near, and far
        OUTLIERS,
        torch.full((300, 5), 7.0),
        whole(6, 300, 3, 1),
    ],
    ids=["normal", "uneven", "near and far", "outliers", "alike", "whole"],
)
def test_bytes_miss_no_pair_that_is_nearer(monkeypatch, features):
    with_bytes(monkeypatch)
    rows = [slice(k, min(k + 128, len(features))) for k in range(0, len(features), 128)]
    picks = torch.randperm(len(features), generator=torch.Generator().manual_seed(7))[:60]
    bound = ByteBound(features, rows, lambda work, items: [work(item) for item in items])
    batch = bound.for_picks(features[picks])
    distances = torch.cdist(features.double(), features[picks].double()).square()
    so_far = distances[:, :30].amin(1)  # half of them were met before
    looked_at = 0
    for b, block in enumerate(rows):
        points, near = batch.pairs(b, so_far[block].float())
        found = torch.zeros(len(distances[block]), 60, dtype=torch.bool)
        found[points, near] = True
        margin = 1e-6 * (features[block].double().square().sum(1) + 1)[:, None]
        assert found[distances[block] < so_far[block][:, None] - margin].all()
        looked_at += len(points)
    if features.shape[1] == 30 and features.mean() < 1:
        assert looked_at < 0.5 * distances.numel(), "it is a bound of some use"


def test_bytes_change_the_covering_radius_by_rounding_alone(monkeypatch):
    features, groups = real(8, 3000, 64) + 3, torch.arange(3000) // 50
    monkeypatch.setattr(quantized_search, "is_faster", lambda: False)
    plain = select(features, 600, groups=groups)
    with_bytes(monkeypatch)
    asked = []
    pairs = PickBound.pairs
    monkeypatch.setattr(PickBound, "pairs", lambda self, *a: asked.append(pairs(self, *a)) or asked[-1])
    found = select(features, 600, groups=groups)
    assert found.radius == pytest.approx(plain.radius, rel=1e-5)
    assert sum(len(one[0]) for one in asked if one is not None) < 0.5 * 600 * 3000
    distance = torch.cdist(features.double(), features[found.indices].double())
    own = groups[:, None] == groups[found.indices][None]
    torch.testing.assert_close(found.distances.double(), distance.amin(1), rtol=1e-4, atol=0.02)
    literal = distance.masked_fill(own, torch.inf).amin(1)
    torch.testing.assert_close(found.leave_out.double(), literal, rtol=1e-4, atol=0.02)
    at = distance.gather(1, found.nearest.long()[:, None])[:, 0]
    torch.testing.assert_close(at, distance.amin(1), rtol=1e-4, atol=0.02)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("until", [0.0, 4.0, 1000.0])
@pytest.mark.parametrize(("begun", "of_groups"), [(0, False), (13, False), (13, True)])
def test_groups_and_a_start_change_distances_and_no_pick(until, begun, of_groups):
    """Every point knows the nearest pick, and how far those of other groups are."""
    features, start = whole(7, 90, 3, 8), whole(8, begun, 3, 8)
    groups = torch.arange(90) // 11  # runs of 11 lie across blocks of 7 rows
    start_groups = torch.arange(begun) - 6 if of_groups else torch.full((begun,), -1)  # some occur in both
    given = {"start": start, "start_groups": start_groups if of_groups else None}
    result = select(features, 40, groups=groups, until=until, **given)
    known = start if begun else None
    enough = (n for n in range(not begun, 40) if plain_loop(features, n, start=known)[1].max() <= until)
    assert result.indices.tolist() == plain_loop(features, next(enough, 40), start=known)[0]
    distance = torch.cdist(features.double(), torch.cat([start, features[result.indices]]).double())
    torch.testing.assert_close(result.distances.double(), distance.amin(1), rtol=1e-6, atol=0)
    at = distance.gather(1, result.nearest[:, None].long())[:, 0]
    torch.testing.assert_close(at, distance.amin(1), rtol=1e-6, atol=0)
    own = groups[:, None] == torch.cat([start_groups, groups[result.indices]])[None]
    others = distance.masked_fill(own, torch.inf).amin(1)
    torch.testing.assert_close(result.leave_out.double(), others, rtol=1e-6, atol=0)


@pytest.mark.parametrize("each", [1, 3, 40])
def test_groups_met_together_are_met_as_one_by_one(monkeypatch, each):
    """Bit for bit, whatever a block holds of them."""
    features = torch.cat([real(40, 700, 12), real(41, 20, 12).repeat(5, 1)])  # equal ones among them
    groups = torch.arange(800) // each
    found = []
    for runs in (-1, 10**9):
        monkeypatch.setattr(coreset, "MAX_RUNS", runs)
        found.append(select(features, 300, groups=groups, start=real(42, 30, 12), start_groups=groups[:30]))
    one, other = found
    for name in ("indices", "distances", "leave_out", "nearest"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_where_too_many_pairs_are_near_all_products_are_taken(monkeypatch):
    features, groups = real(9, 2000, 40), torch.arange(2000) // 50
    with_bytes(monkeypatch)
    found = [select(features, 300, groups=groups)]
    monkeypatch.setattr(quantized_search, "PAIRS_PER_POINT", 0)
    monkeypatch.setattr(coreset._Distances, "_update_pairs", None)
    found.append(select(features, 300, groups=groups))
    assert found[1].radius == pytest.approx(found[0].radius, rel=1e-5)


@pytest.mark.parametrize(("known", "radius"), [(0, 30.0), (40, 20.0), (40, 1.0), (40, 1e3)])
def test_what_is_not_covered_is_picked_as_by_the_plain_loop(known, radius):
    points, start = whole(1, 150, 6, 30), whole(2, known, 6, 30)
    points = torch.cat([points, points[:30]])  # some twice
    begun = start if known else None
    counts = range(len(points) + 1) if known else range(1, len(points) + 1)
    plain = (plain_loop(points, count, start=begun) for count in counts)
    wanted = next(picks for picks, away in plain if away.max() <= radius)
    assert coreset.cover(points, start, radius).tolist() == wanted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_features_that_are_not_finite_are_refused(value):
    features = real(3, 50, 8)
    features[20, 3] = value
    with pytest.raises(InputError, match="not finite"):
        select(features, 10)


def test_no_other_group_is_infinitely_far():
    result = select(whole(6, 30, 3, 6), 5, groups=torch.zeros(30, dtype=torch.long))
    assert torch.isinf(result.leave_out).all()


def test_thread_count_changes_no_bit(monkeypatch):
    monkeypatch.setattr(coreset, "ROWS", 64)
    features, groups = real(13, 700, 33) + 5, torch.arange(700) // 70
    results = []
    for threads in (1, 2, 3):
        with torch_threads(threads):
            results.append(select(features, 200, groups=groups))
    for other in results[1:]:
        assert torch.equal(results[0].indices, other.indices)
        assert torch.equal(results[0].distances, other.distances)
        assert torch.equal(results[0].leave_out, other.leave_out)


@pytest.mark.parametrize(("count", "first"), [(0, 0), (11, 0), (3, 10), (3, -1)])
def test_senseless_requests(count, first):
    with pytest.raises(InputError):
        select(whole(16, 10, 2, 5), count, first=first)
