"""The inference path against the paper's equations, written out here in float64."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from flawscope.errors import InputError
from flawscope.methods.features.backbone import load_backbone
from flawscope.methods.patch_detector import patches_in_region, reducing_matrix, smoothing_matrix
from flawscope.methods.patchcore.model import BLOCK, Model, neighbour_table
from flawscope.methods.patchcore.record import METHOD, Config
from flawscope.methods.patchcore.scores import reweight
from flawscope.methods.patchcore.selected_bank import distances_without


class Pixels(nn.Module):
    """A backbone whose only map is the picture at an eighth of its size: receptive field 8."""

    def shapes_at(self, size):
        return [(3, size[0] // 8, size[1] // 8)]

    def forward(self, images):
        return [F.avg_pool2d(images, 8)]


CONFIG = Config(size="32x48", stages=(2,), neighbourhood=1, score="reweighted")  # 4 x 6 patches of 3 numbers


def model_with(bank, roi=None, **options):
    model = Model(replace(CONFIG, **options), Pixels(), roi)
    model.branches[0].set_bank(bank)
    return model


def two_sizes(roi=None, **options):
    """Sees the picture with 2 x 3 and with 4 x 6 patches."""
    model = Model(replace(CONFIG, size="16x24+32x48", **options), Pixels(), roi)
    model.branches[0].set_bank(random(7, 3, seed=20))
    model.branches[1].set_bank(random(15, 3, seed=21))
    model.normal.copy_(torch.tensor([[0.5, 0.2, 1.0, 0.3], [0.7, 0.1, 2.0, 0.4]]))
    return model


def random(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def literal_score(patches, bank, b):
    """Eq. 6 and 7 for one picture [P, D], word by word."""
    patches, bank = patches.double(), bank.double()
    distances = torch.cdist(patches, bank)
    test_patch = distances.amin(1).argmax()
    nearest = distances[test_patch].argmin()
    around = torch.cdist(bank[nearest][None], bank)[0].argsort()[: min(b, len(bank))]
    if len(around) == 1:
        return float(distances[test_patch, nearest])
    weights = torch.softmax(distances[test_patch, around], 0)
    return float((1 - weights[around.tolist().index(int(nearest))]) * distances[test_patch, nearest])


@pytest.mark.parametrize("bank", [1, 2, 5, 9, 40])
@pytest.mark.parametrize("b", [1, 2, 9])
def test_equation_7(bank, b):
    features, elements = random(4, 24, 3, seed=1, scale=2), random(bank, 3, seed=bank)
    scores, _ = model_with(elements, neighbours=b).score(features)
    expected = [literal_score(picture, elements, b) for picture in features]
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)


def test_huge_distances_neither_overflow_nor_vanish():
    bank = random(12, 3, seed=2)
    features = random(2, 24, 3, seed=3)
    features[0, 5] = torch.tensor([1e4, -1e4, 3e3])
    scores, maps = model_with(bank).score(features)
    assert bool(scores.isfinite().all())
    assert bool(maps.isfinite().all())
    assert float(scores[0]) == pytest.approx(literal_score(features[0], bank, 9), rel=1e-4)
    assert reweight(torch.tensor([[1e4, 1e4, 1e4, 1e4]])).item() == pytest.approx(7.5e3)


@pytest.mark.parametrize("elements", [3, BLOCK, BLOCK + 1, 2 * BLOCK + 77])
def test_search_is_the_nearest_distance(elements):
    bank = random(elements, 3, seed=4) + 50  # far from zero: the centre must take that away
    model = model_with(bank)
    features = random(3, 24, 3, seed=5) + 50
    expected = torch.cdist(features.double(), bank.double()).amin(2)
    branch = model.branches[0]
    found = branch.search(features - branch.centre, branch.inside)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("elements", [1, 2, 9, 31, 32, 33, 700])
@pytest.mark.parametrize("b", [1, 4, 9])
def test_nearest_table(elements, b):
    bank = torch.randint(-60, 61, (elements, 4), generator=torch.Generator().manual_seed(elements)).float()
    bank[-1] = bank[0]  # a twin
    b = min(b, elements)
    table = neighbour_table(bank, b)
    assert table.shape == (elements, b)
    assert table.dtype == torch.int32
    assert table[:, 0].tolist() == list(range(elements))  # itself first
    assert all(len(set(row)) == b for row in table.tolist())
    distance = torch.cdist(bank.double(), bank.double())
    found = distance.gather(1, table.long())
    torch.testing.assert_close(found, distance.sort(1).values[:, :b], rtol=0, atol=1e-9)  # ties may swap


def left_half():
    roi = torch.zeros(32, 48, dtype=torch.bool)
    roi[:, :24] = True
    return roi


def test_a_patch_is_inside_when_its_cell_touches_the_region():
    roi = torch.zeros(32, 48, dtype=torch.bool)
    roi[15, 16] = True  # row 1, column 2 of cells of 8 pixels
    assert patches_in_region(roi, (4, 6)).nonzero().flatten().tolist() == [1 * 6 + 2]


@pytest.mark.parametrize("score", ["reweighted", "map"])
@pytest.mark.parametrize("with_roi", [False, True])
@pytest.mark.parametrize("rest", [1, 3, 30])
def test_without_is_the_score_of_a_model_that_never_had_them(score, with_roi, rest):
    bank, features = random(40, 3, seed=12), random(3, 24, 3, seed=13) * 2
    roi = left_half() if with_roi else None
    ignored = torch.ones(40, dtype=torch.bool)
    ignored[torch.randperm(40, generator=torch.Generator().manual_seed(rest))[:rest]] = False
    model = model_with(bank, roi, score=score)
    other = model_with(bank[~ignored], roi, score=score)
    scores, maps = other.score(features)
    for i, picture in enumerate(features):
        literal = torch.cdist(picture, bank[~ignored]).amin(1)
        branch = model.branches[0]
        distances = distances_without(branch, picture, ignored, branch.inside)
        torch.testing.assert_close(distances, literal * branch.inside, rtol=1e-4, atol=1e-5)
        score = model.picture_score.without(
            branch, picture, ignored, branch.inside, distances, branch.bank[:0]
        )
        found, drawn = model.combine([score[None]], [distances[None]])
        assert float(found) == pytest.approx(float(scores[i]), rel=1e-4)
        torch.testing.assert_close(drawn[0], maps[i], rtol=1e-4, atol=1e-5)


def test_nothing_left_without_the_ignored():
    branch = model_with(random(4, 3)).branches[0]
    with pytest.raises(InputError, match="at least two parts"):
        distances_without(branch, random(24, 3), torch.ones(4, dtype=torch.bool), branch.inside)


def test_extended_bank_keeps_its_elements_and_finds_the_new_ones():
    bank, more = random(20, 3, seed=14), random(7, 3, seed=15) + 30
    model = model_with(bank)
    branch = model.branches[0]
    before = branch.bank.clone()
    branch.extend_bank(more)
    assert torch.equal(branch.bank[:20], before)
    assert torch.equal(branch.table, neighbour_table(branch.bank, 9))
    torch.testing.assert_close(branch.norms, branch.bank.square().sum(1))
    scores, _ = model.score(more[[0, 1, 2, 3, 4, 5] * 4][None])
    assert float(scores) < 1e-3


def far_patch(*where, also=()):
    """A picture whose patches are all the bank's first element, but one, or two."""
    features = torch.zeros(1, 24, 3)
    features[0, 7] = torch.tensor(where)
    if also:
        features[0, 11] = torch.tensor(also)
    return features


@pytest.mark.parametrize(
    ("bank", "features", "tied"),
    [
        ([[0, 0, 0], [2, 0, 0]], far_patch(1, 0, 0), True),  # in the middle between two
        ([[0, 0, 0], [2, 0, 0]], far_patch(1 - 1e-6, 0, 0), True),
        ([[0, 0, 0], [2, 0, 0]], far_patch(1 - 1e-4, 0, 0), False),
        ([[0, 0, 0], [0, 0, 0]], far_patch(1, 0, 0), False),  # twins: the same score whichever it is
        ([[0, 0, 0]], far_patch(1, 0, 0), False),
        ([[0, 0, 0]], far_patch(1, 0, 0, also=(0, 1, 0)), True),  # two patches equally far
        ([[0, 0, 0]], far_patch(1, 0, 0, also=(0, 1 - 1e-6, 0)), True),
        ([[0, 0, 0]], far_patch(1, 0, 0, also=(0, 1 - 1e-4, 0)), False),
        ([[0, 0, 0], [9, 9, 9]], far_patch(1, 0, 0), False),
    ],
)
def test_a_choice_between_equals_is_a_tie(bank, features, tied):
    model = model_with(torch.tensor(bank, dtype=torch.float32))
    other = far_patch(3, 2, 1)  # beside it in the batch
    assert model.ties(torch.cat([other, features, other])).tolist() == [False, tied, False]
    model = model_with(torch.tensor(bank, dtype=torch.float32), score="map")
    assert model.ties(features).tolist() == [False]  # nothing is chosen


def test_outside_the_region_nothing_ties():
    bank, features = torch.zeros(1, 3), far_patch(1, 0, 0)
    features[0, 0], features[0, 5] = torch.tensor([0.0, 2, 0]), torch.tensor([0.0, 0, 2])
    assert model_with(bank).ties(features).tolist() == [True]
    assert model_with(bank, left_half()).ties(features).tolist() == [False]  # patch 5 is on the right


@pytest.mark.parametrize(
    ("whole", "size"), [((64, 96), (48, 64)), ((64, 64), (16, 63)), ((37, 50), (20, 11)), ((33, 40), (33, 8))]
)
def test_reduced_as_pillow_does_it(whole, size):
    image = torch.rand(whole, generator=torch.Generator().manual_seed(whole[0])).numpy()
    expected = np.asarray(Image.fromarray(image, mode="F").resize(size[::-1], Image.Resampling.BILINEAR))
    rows, columns = (reducing_matrix(s, w) for s, w in zip(size, whole, strict=True))
    found = rows @ torch.from_numpy(image) @ columns.T
    assert float((found - torch.from_numpy(expected.copy())).abs().max()) < 1e-5


def test_each_size_sees_the_reduced_picture():
    model = two_sizes()
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(22))
    small = np.stack(
        [
            np.asarray(Image.fromarray(c, mode="F").resize((24, 16), Image.Resampling.BILINEAR))
            for c in image[0].numpy()
        ]
    )
    expected = torch.cat(
        [F.avg_pool2d(i, 8).flatten(2).transpose(1, 2) for i in (torch.from_numpy(small)[None], image)], dim=1
    )
    assert model.patches == [6, 24]
    torch.testing.assert_close(model.embed(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("score", ["reweighted", "map"])
def test_combine_joins_standardised_values(score):
    model = two_sizes(left_half(), score=score, sigma=2.0)
    distances = [random(3, 6, seed=23).abs(), random(3, 24, seed=24).abs()]
    scores = [random(3, seed=25).abs(), random(3, seed=26).abs()]
    found, drawn = model.combine(scores, distances)
    for i in range(3):
        maps = []
        for grid, sigma, d in (((2, 3), 4.0, distances[0][i]), ((4, 6), 2.0, distances[1][i])):
            # sigma counts pixels of the size that is seen, the map is drawn at the largest
            rows, columns = (smoothing_matrix(n, g, sigma) for n, g in zip((32, 48), grid, strict=True))
            maps.append(rows @ d.view(grid) @ columns.T)
        first, second = (maps[0] - 0.5) / 0.2, (maps[1] - 0.7) / 0.1
        joined = torch.hypot(first.clamp(min=0), second.clamp(min=0))
        joined[:, 24:] = 0.0  # as if every patch were in the bank
        sharp = (first.clamp(min=0) ** 2.5 + second.clamp(min=0) ** 2.5) ** (1 / 2.5)
        sharp[:, 24:] = 0.0
        joined = sharp * (joined.max() / sharp.max())  # the outline is another, as high
        torch.testing.assert_close(drawn[i], joined, rtol=1e-4, atol=1e-4)
        expected = max((float(scores[0][i]) - 1.0) / 0.3, (float(scores[1][i]) - 2.0) / 0.4)
        assert float(found[i]) == pytest.approx(float(joined.max()) if score == "map" else expected, rel=1e-4)


class TwoStages(Pixels):
    """A second map of five numbers a patch, of the picture at a sixteenth of its size."""

    def shapes_at(self, size):
        return [(3, size[0] // 8, size[1] // 8), (5, size[0] // 16, size[1] // 16)]

    def forward(self, images):
        small = F.avg_pool2d(images, 16)
        return [F.avg_pool2d(images, 8), torch.cat([small, small[:, :2] ** 2], dim=1)]


class Coarse(TwoStages):
    """Its second map alone."""

    def shapes_at(self, size):
        return super().shapes_at(size)[1:]

    def forward(self, images):
        return super().forward(images)[1:]


def test_stages_apart_have_grids_and_banks_of_their_own_at_the_larger_sizes():
    seen = {"size": "16x24+32x48", "stages": (2, 3)}
    model = Model(replace(CONFIG, **seen, score="map", sigma=0.0), TwoStages())
    assert [branch.grid for branch in model.branches] == [(2, 3), (4, 6), (2, 3)]
    assert [branch.embedding.width for branch in model.branches] == [8, 3, 5]
    banks = random(11, 8, seed=21), random(7, 3, seed=22), random(9, 5, seed=23)
    for branch, bank in zip(model.branches, banks, strict=True):
        branch.set_bank(bank)
    normal = torch.tensor([[0.4, 0.3], [0.5, 0.2], [0.7, 0.1]])
    model.normal[:, :2] = normal
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(24))
    scores, drawn = model(images)
    joined, fine, coarse = (part + 0 for part in model.parts(model.embed(images)))
    assert torch.equal(fine, F.avg_pool2d(images, 8).flatten(2).transpose(1, 2))
    for i in range(len(images)):
        maps = []
        for patches, grid, bank, (mean, spread) in zip(
            (joined, fine, coarse), [(2, 3), (4, 6), (2, 3)], banks, normal.tolist(), strict=True
        ):
            away = torch.cdist(patches[i], bank).amin(1).view(1, 1, *grid)
            resized = F.interpolate(away, size=(32, 48), mode="bilinear", align_corners=False)
            maps.append((resized[0, 0] - mean) / spread)
        coarse_look, *fine_look = (one.clamp(min=0) for one in maps)
        both = sum(one**1.5 for one in fine_look) ** (2 / 3) / 2 ** (1 / 6)
        sharp = (coarse_look**2.5 + both**2.5) ** (1 / 2.5)
        highest = torch.stack(maps).clamp(min=0).square().sum(0).sqrt().max()
        torch.testing.assert_close(drawn[i], sharp * (highest / sharp.max()), rtol=1e-4, atol=1e-4)
        assert float(scores[i]) == pytest.approx(float(drawn[i].max()))


def test_a_second_backbone_raises_what_the_others_see():
    seen = {"size": "16x24+32x48", "stages": (2, 3), "second_backbone": "vit_patch8", "second_stages": (3,)}
    model = Model(replace(CONFIG, **seen, score="map"), TwoStages(), None, Coarse())
    assert [(branch.size, branch.second) for branch in model.branches][-1] == ((16, 24), True)
    distances = [
        random(2, branch.inside.numel(), seed=30 + v).abs() for v, branch in enumerate(model.branches)
    ]
    model.normal[:, :2] = torch.tensor([[0.4, 0.3], [0.5, 0.2], [0.7, 0.1], [0.6, 0.4]])
    scores, drawn = model.combine([], distances)
    pairs = zip(model.branches, distances, strict=True)
    maps = model.scale_maps([branch.anomaly_map(values) for branch, values in pairs])
    raised = (1 + maps[3].clamp(min=0) ** 2).sqrt()
    norm = sum(one.clamp(min=0) ** 2 for one in maps[:3]).sqrt()
    torch.testing.assert_close(scores, (norm * raised).amax((1, 2)))
    blind = [*maps[:3], torch.zeros_like(maps[3])]
    wanted = model.sharpen(norm, blind, model.roi) * raised
    peaks = [one.amax((1, 2))[:, None, None] for one in (drawn, wanted)]
    torch.testing.assert_close(drawn, wanted * peaks[0] / peaks[1])


def test_stages_are_seen_in_the_order_of_the_backbone():
    """Models were fitted so, however their stages are listed."""
    seen = [Config(size="64+96", stages=stages).branch_specs for stages in ((2, 3), (3, 2))]
    assert seen[0] == seen[1]


def test_outlines_decide_nothing_and_are_those_of_the_norm_in_tiles():
    distances = [random(3, 6, seed=23).abs(), random(3, 24, seed=24).abs()]
    models = [two_sizes(left_half(), score="map", sigma=2.0, tile=tile) for tile in (None, (32, 48))]
    whole, in_tiles = (model.combine([], distances) for model in models)
    maps = zip(models[1].branches, distances, strict=True)
    norm = models[1].join([branch.anomaly_map(one) for branch, one in maps]) * left_half()
    torch.testing.assert_close(whole[0], norm.amax((1, 2)), rtol=1e-6, atol=0)
    assert not torch.allclose(whole[1], norm)
    torch.testing.assert_close(in_tiles[1], norm)
    blank = two_sizes(left_half(), score="map")
    scores, drawn = blank.combine([], [torch.zeros(1, 6), torch.zeros(1, 24)])  # below every good map
    assert not scores.any()
    assert not drawn.any()


def test_settings_are_the_same_on_their_way_through_a_file():
    assert METHOD.parse_stored(asdict(Config())) == Config()
    assert METHOD.parse_stored({"of_a_later_version": 1, "count": None}) == Config()


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ({"layers": "each"}, "the model's layers is 'each', which is gone: fit anew"),
        ({"fusion": "norm"}, "the model's fusion is 'norm', which is gone: fit anew"),
        ({"score": "top"}, "setting score: 'top' is not one of reweighted, map"),
    ],
)
def test_files_that_are_no_longer_read_say_so(stored, text):
    with pytest.raises(InputError, match=text):
        Model.rebuild({"size": "32", **stored}, {"roi": torch.ones(32, 32, dtype=torch.bool)})


@pytest.fixture(scope="module")
def real_model():
    config = Config(size="48x64+64x96", score="reweighted")
    backbone, _ = load_backbone(config.backbone, config.stages, config.network_size)
    model = Model(config, backbone)
    images = torch.rand(8, 3, 64, 96, generator=torch.Generator().manual_seed(16))
    with torch.inference_mode():
        parts = model.parts(model.embed(images))
        for branch, part in zip(model.branches, parts, strict=True):
            branch.set_bank(part.flatten(0, 1)[::5] + random(1, branch.embedding.width, seed=17))
        model.normal.copy_(torch.tensor([5.0, 2.0, 6.0, 3.0]) * torch.arange(1, 1 + len(parts))[:, None])
    return model, images


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("roi", lambda t: t[:32]),
        ("views.0.bank", lambda t: t[:0]),
        ("views.0.bank", lambda t: t[:10]),
        ("views.0.table", lambda t: t + 10**6),
        ("views.0.table", lambda t: -1 - t),
        ("views.0.bank", lambda t: t[:, 1:]),
    ],
)
def test_tensors_that_contradict_the_configuration_are_refused(real_model, name, spoil, monkeypatch):
    model, _ = real_model
    monkeypatch.setattr("flawscope.methods.patch_detector.empty_backbone", lambda *_: model.backbone)  # slow
    tensors = dict(model.state_dict())
    tensors[name] = spoil(tensors[name])
    with pytest.raises(InputError, match="does not fit"):
        Model.rebuild(asdict(model.config), tensors)
