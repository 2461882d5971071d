"""The search by bytes finds what the plain search finds: against float64 and against its own promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flawscope.methods.patchcore.model import Model
from flawscope.methods.patchcore.quantized_search import (
    ELEMENT_MAX,
    GROUP_SIZE,
    HALF_MARGIN,
    MIN_BANK,
    QUERY_MAX,
    ByteScreen,
    group_minima,
)
from flawscope.methods.patchcore.record import Config

COUNT = MIN_BANK + 77  # the last block is not full
WIDTH = 24


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def clustered(count, width):
    centres = normal(20, width, seed=1) * 10
    return centres[torch.arange(count) % 20] + 0.1 * normal(count, width, seed=2)


def alike(count, width):
    """Elements that differ by less than a step: bytes cannot tell which is the nearest."""
    return 10.0 + 1e-3 * normal(count, width, seed=3)


def one_far(count, width):
    """The step is that of the largest element, far too long for the others."""
    bank = normal(count, width, seed=6)
    bank[count // 2] *= 1e4
    return bank


def one_large_feature(count, width):
    bank = normal(count, width, seed=7)
    bank[:, 0] *= 1000
    return bank


BANKS = {
    "random": lambda n, d: normal(n, d, seed=8),
    "clustered": clustered,
    "alike": alike,
    "one far": one_far,
    "one large feature": one_large_feature,
    "duplicated": lambda n, d: normal(7, d, seed=9)[torch.arange(n) % 7],
    "all equal": lambda n, d: torch.full((n, d), 3.0),
    "all zero": lambda n, d: torch.zeros(n, d),
    "tiny": lambda n, d: normal(n, d, seed=10) * 1e-12,
    "huge": lambda n, d: normal(n, d, seed=11) * 1e12,
    "whole numbers": lambda n, d: torch.randint(-9, 10, (n, d), generator=generator(12)).float(),
}


def queries_for(bank):
    """On elements, near them, between them, in the middle, and ever farther away."""
    count, width = bank.shape
    scale = float(bank.std()) + 1e-12
    chosen = bank[torch.randint(0, count, (60,), generator=generator(20))]
    noise = normal(60, width, seed=21) * scale
    far = [noise[:10] * factor for factor in (1, 10, 1e3, 1e5)]
    return torch.cat(
        [chosen, chosen + 0.03 * noise, chosen + 0.5 * noise, (chosen + chosen.flip(0)) / 2, *far, 0 * far[0]]
    )


class Searched:
    """A screen over a bank, and what it left to the plain search."""

    def __init__(self, bank):
        self.bank, self.norms = bank, bank.square().sum(1)
        self.screen = ByteScreen(bank)
        self.unsure: list[Tensor] = []

    def plain(self, queries):
        self.unsure.append(queries)
        return (self.norms - 2.0 * (queries @ self.bank.T)).amin(1)

    def __call__(self, queries):
        self.unsure.clear()
        return self.screen(queries, self.bank, self.norms, self.plain)

    @property
    def left(self):
        """One query is there for the engines that cannot work on none."""
        return sum(map(len, self.unsure)) - 1


def exact(queries, bank):
    """The smallest |m|² - 2xm in float64, and what fp32's rounding of it may be."""
    q, m = queries.double(), bank.double()
    all_ = m.square().sum(1) - 2.0 * (q @ m.T)
    best, which = all_.min(1)
    return best, 4e-6 * (q.square().sum(1) + m[which].square().sum(1)) + 1e-37


def assert_exact(found, queries, bank):
    expected, rounding = exact(queries, bank)
    away = (found.double() - expected).abs()
    assert bool((away <= rounding).all()), float((away / rounding).max())


WIDTHS = (1, 2, 15, 16, 17, 152, 337)


@pytest.mark.parametrize(
    ("name", "width"), [*((n, WIDTH) for n in BANKS), *(("clustered", w) for w in WIDTHS)]
)
def test_it_finds_the_nearest_in_any_bank_of_any_width(name, width):
    bank = BANKS[name](COUNT, width)
    queries, searched = queries_for(bank), Searched(bank)
    assert_exact(searched(queries), queries, bank)
    assert searched.screen.weights(bank).shape[1] % 16 == 0


def test_with_whole_numbers_it_is_the_plain_search_bit_for_bit():
    """fp32 is exact there."""
    bank = BANKS["whole numbers"](COUNT, WIDTH)
    queries = torch.randint(-15, 16, (500, WIDTH), generator=generator(31)).float()
    searched = Searched(bank)
    found = searched(queries)
    assert searched.left < len(queries)
    assert torch.equal(found, searched.plain(queries))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_is_no_number_is_what_the_plain_search_makes_of_it(value):
    bank = clustered(COUNT, WIDTH)
    queries = bank[:5].clone()
    queries[1, 3] = value
    searched = Searched(bank)
    found = searched(queries)
    torch.testing.assert_close(found[1], searched.plain(queries)[1], equal_nan=True)
    others = [0, 2, 3, 4]
    assert_exact(found[others], queries[others], bank)


def test_few_queries_like_the_bank_are_left_to_the_plain_search():
    """Else there would be nothing gained."""
    spread = 1.0 / torch.arange(1, 49)
    bank = normal(COUNT, 48, seed=40) * spread
    searched = Searched(bank)
    searched(bank[:400] + 0.05 * normal(400, 48, seed=41) * spread)
    assert searched.left < 40


def test_what_all_elements_lose_alike_is_not_trusted():
    """All are rounded to the same number and so have one bound. Only the loss that is allowed for says that
    one of a group that is not kept may be nearer."""
    step = 1.0 / ELEMENT_MAX
    for whole in range(10, 40):
        bank = torch.full((MIN_BANK, 1), (whole + 0.3) * step)
        bank[-1], bank[50 * whole] = 1.0, (whole + 0.45) * step
        query = torch.full((1, 1), (whole + 2) * step)
        assert_exact(Searched(bank)(query), query, bank)


def rounded(searched, queries):
    """Squared distances [N, M] of rounded queries and elements in steps, from the parts that the screen is
    made of, and what both lose, |e_x| [N] and |e_m| [M], in steps."""
    screen, bank = searched.screen, searched.bank
    turned, elements = queries @ screen.rotation, bank @ screen.rotation
    whole = turned.round().clamp(-QUERY_MAX, QUERY_MAX)
    columns = screen.weights(bank).long().unflatten(2, (GROUP_SIZE, -1))  # [blocks, K, of a group, groups]
    rows = columns.permute(0, 3, 2, 1).flatten(0, 2)[: len(bank)]
    longer = torch.cat([whole.long(), screen.tail.long().expand(len(queries), -1)], 1)
    squares = whole.long().square().sum(1)[:, None] + 4 * (longer @ rows.T + int(screen.middle))
    even = -2.0 * rows[:, : bank.shape[1]]
    assert torch.equal(squares.double(), torch.cdist(whole.double(), even.double()).square().round())
    lost = [
        (exactly - near).double().square().sum(1).sqrt()
        for exactly, near in ((turned, whole), (elements, even))
    ]
    return squares.double(), *lost


def must_be_below(searched, queries):
    screen, bank = searched.screen, searched.bank.double()
    squares, lost, of_elements = rounded(searched, queries)
    assert bool((of_elements <= screen.max_error).all())
    distance = torch.cdist(queries.double(), bank, compute_mode="donot_use_mm_for_euclid_dist") / screen.step
    lost = (1.0 + 1e-5) * lost[:, None] + screen.max_error
    assert bool(((squares + screen.rounding).sqrt() >= distance - lost).all())
    assert bool((squares.sqrt() <= distance + lost).all())


@pytest.mark.parametrize("name", BANKS)
def test_the_bound_holds_also_where_an_engine_rounds_to_the_other_side(name, monkeypatch):
    """Elements' bytes are made anew where the file is opened, and sums in another order end elsewhere."""
    bank = BANKS[name](COUNT, WIDTH)
    searched = Searched(bank)
    must_be_below(searched, queries_for(bank))
    steps = bank @ searched.screen.rotation / 2.0
    near = (steps - steps.floor() - 0.5).abs() < HALF_MARGIN
    other = torch.where(near, steps.floor() + steps.ceil() - steps.round(), steps.round())
    assert int((other != steps.round()).sum()) > 10 or name != "random"
    other = other.clamp(-ELEMENT_MAX, ELEMENT_MAX)
    monkeypatch.setattr(searched.screen, "_quantise", lambda _: other)
    must_be_below(searched, queries_for(bank))


@pytest.mark.parametrize("width", [1, 15, 16, WIDTH, 152])
@pytest.mark.parametrize("name", BANKS)
def test_two_products_of_bytes_fit_16_bits(name, width):
    """Processors without VNNI add products of adjacent rows in 16 bits; engines add 128 to a query."""
    bank = BANKS[name](MIN_BANK, width)
    screen = Searched(bank).screen
    weights = screen.weights(bank).long()
    assert int(weights[:, :width].abs().max()) <= ELEMENT_MAX
    smallest, largest = (torch.full((weights.shape[1],), 128 + top) for top in (-QUERY_MAX, QUERY_MAX))
    smallest[width:] = largest[width:] = 128 + screen.tail.long()  # the same for every query
    ends = torch.stack([weights * end[:, None] for end in (smallest, largest)])
    lowest, highest = ends.amin(0), ends.amax(0)
    assert int((highest[:, :-1] + highest[:, 1:]).max()) <= 2**15 - 1
    assert int((lowest[:, :-1] + lowest[:, 1:]).min()) >= -(2**15)


class Unshuffled(nn.Module):
    """A backbone that only sorts pixels: 8 x 8 of them are a patch's 192 features."""

    def shapes_at(self, size):
        return [(192, size[0] // 8, size[1] // 8)]

    def forward(self, images):
        return [F.pixel_unshuffle(images, 8)]


def picture(count, seed):
    """Smooth, so that patches resemble each other as real ones do. 70: of the bank."""
    small = torch.rand(count, 3, 4, 6, generator=generator(seed))
    fine = torch.rand(count, 3, 32, 48, generator=generator(seed + 1))
    return 0.9 * F.interpolate(small, size=(32, 48), mode="bilinear") + 0.1 * fine


@pytest.fixture(scope="module")
def model():
    made = Model(replace(Config(size="32x48", neighbourhood=1, stages=(2,)), sigma=1.0), Unshuffled())
    made.branches[0].set_bank(made.embed(picture(100, 70)).flatten(0, 1))
    made.for_export()
    return made


def images():
    shown = picture(9, 80)
    shown[7, :, :16] = 1.0 - shown[7, :, :16]
    return shown


@pytest.fixture
def exporting(monkeypatch):
    """What is computed is what an exported graph will hold."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)


def test_scores_are_those_of_the_plain_search(model, request):
    asked = []
    forward = ByteScreen.forward
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ByteScreen, "forward", lambda *given: asked.append(1) or forward(*given))
        scores, maps = model(images())
        assert not asked  # in torch it would gain nothing
        request.getfixturevalue("exporting")
        found, drawn = model(images())
    assert asked == [1]
    torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(drawn, maps, rtol=1e-5, atol=1e-5)


def test_it_is_made_for_export_from_a_number_of_elements_on(model):
    branch = model.branches[0]
    other = Model(model.config, Unshuffled())
    bank = branch.bank + branch.centre
    for count in (MIN_BANK - 1, MIN_BANK):
        other.branches[0].set_bank(bank[:count])
        assert other.branches[0].screen is None
        other.for_export()
        assert (other.branches[0].screen is not None) == (count == MIN_BANK)
    other.branches[0].extend_bank(bank[MIN_BANK:])  # that of the smaller bank would be wrong
    assert other.branches[0].screen is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_bank_that_is_no_numbers_has_none(value):
    """From a damaged file: there would be no end of digits."""
    model = Model(Config(size="32x48", neighbourhood=1, stages=(2,), score="map"), Unshuffled())
    bank = normal(COUNT, 192)
    bank[5, 7] = value
    model.branches[0].load_bank(bank, torch.zeros(0, 1, dtype=torch.int32))
    model.for_export()
    assert model.branches[0].screen is None


@pytest.fixture(scope="module")
def exported(model, shared):
    from flawscope.export import onnx_graph

    def fill(folder):
        steps = onnx_graph.trace(model)
        (folder / "model.onnx").write_bytes(onnx_graph.join_graphs(*steps).SerializeToString())

    return shared("screen", fill) / "model.onnx"


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def session(request, exported):
    """The exported graph in an engine: compiled once, which takes seconds."""
    from flawscope.runtime import ExportedSession, exported_engine

    return ExportedSession(exported_engine(request.param), exported.read_bytes(), "cpu")


@pytest.mark.parametrize("batch", [1, 2, 7, 9])
def test_the_exported_graph_finds_the_same(batch, session, model):
    with torch.inference_mode():
        expected = model(images()[:batch])
    found = session.run(images()[:batch].numpy())
    np.testing.assert_allclose(found[0], expected[0].numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1].numpy(), rtol=1e-4, atol=1e-5)


def test_the_exported_graph_falls_back_too(session, model):
    """Of features beyond the largest byte the groups that are kept need not hold the nearest."""
    odd = torch.rand(3, 3, 32, 48, generator=generator(1)) * 5 - 2
    branch = model.branches[0]
    with torch.inference_mode():
        expected = model(odd)
        features = (model.embed(odd) - branch.centre).flatten(0, 1)
        kept = branch.screen.search_groups(features, branch.bank, branch.norms)[0]
    assert bool((kept > branch.nearest_square(features) + 0.1).any())
    found = session.run(odd.numpy())
    np.testing.assert_allclose(found[0], expected[0].numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1].numpy(), rtol=1e-4, atol=1e-5)
    odd[1, 0, 0, 0] = float("nan")
    scores, maps = session.run(odd.numpy())
    if session.runtime == "onnxruntime":  # OpenVINO's minimum passes over NaN
        assert not np.isfinite(maps[1]).all()
    np.testing.assert_allclose(scores[[0, 2]], expected[0][[0, 2]].numpy(), rtol=1e-5)


def test_the_file_holds_the_bank_once_and_its_bytes_are_made_when_it_is_opened(exported, model, tmp_path):
    import onnx
    import onnxruntime

    proto = onnx.load(exported)
    bank = model.branches[0].bank
    held = [tensor for tensor in proto.graph.initializer if np.prod(tensor.dims) >= bank.numel()]
    assert [list(tensor.dims) for tensor in held] == [list(bank.shape)]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
    opened = onnx.load(tmp_path / "opened.onnx")
    constant = {tensor.name for tensor in opened.graph.initializer}
    for node in opened.graph.node:  # nothing is computed anew for every picture
        assert not node.input or not constant.issuperset(filter(None, node.input)), node.op_type
    rounded = [node for node in opened.graph.node if node.op_type == "Round"]
    assert len(rounded) <= 1  # the queries


class Minima(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, queries):
        return group_minima(queries, self.weights, GROUP_SIZE)


def test_engines_multiply_the_largest_bytes_exactly():
    """On every processor: those without VNNI add two products in 16 bits."""
    import onnxruntime

    from flawscope.export import onnx_graph
    from flawscope.methods.patchcore.quantized_search import onnx_translations

    weights = ELEMENT_MAX * (2 * torch.randint(0, 2, (2, 32, 64), generator=generator(62)) - 1)
    weights[:, :, 0], weights[:, :, 1] = ELEMENT_MAX, -ELEMENT_MAX
    weights[:, WIDTH + 1] = QUERY_MAX - 1  # the last digit
    weights[:, WIDTH + 2 :] = 0  # padding
    queries = torch.randint(-QUERY_MAX, QUERY_MAX + 1, (8, 32), generator=generator(63))
    queries[0], queries[1], queries[2:4, ::2] = QUERY_MAX, -QUERY_MAX, QUERY_MAX
    queries[:, WIDTH], queries[:, WIDTH + 1] = QUERY_MAX, 1  # the tail
    expected = (queries[:, None, None] * weights.transpose(1, 2)).sum(3).view(8, 2, GROUP_SIZE, -1)
    expected = expected.amin(2).flatten(1).numpy()

    module = Minima(weights.to(torch.int8))
    proto = onnx_graph.trace_module(module, {"queries": queries.float()}, ["minima"], onnx_translations())
    assert "QuantizeLinear" in {node.op_type for node in proto.graph.node}
    data, given = proto.SerializeToString(), {"queries": queries.float().numpy()}
    np.testing.assert_array_equal(onnxruntime.InferenceSession(data).run(None, given)[0], expected)
    from flawscope.runtime.openvino import PRECISION_HINTS, shared_core

    compiled = shared_core().compile_model(
        shared_core().read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": PRECISION_HINTS["fp32"]}
    )
    np.testing.assert_array_equal(compiled(given)[0], expected)
