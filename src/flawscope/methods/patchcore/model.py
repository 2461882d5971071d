"""PatchCore's inference path: embed the patches, find their nearest good patches, make score and map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from flawscope.errors import InputError
from flawscope.methods.detector import Operator
from flawscope.methods.features.backbone import Backbone
from flawscope.methods.method import deferred
from flawscope.methods.patch_detector import PatchBranch, PatchDetector
from flawscope.methods.patchcore.quantized_search import (
    GROUP_SIZE,
    KEPT_GROUPS,
    MIN_BANK,
    ByteScreen,
    onnx_translations,
)
from flawscope.methods.patchcore.record import METHOD, Config
from flawscope.methods.patchcore.scores import SCORES, PictureScore
from flawscope.methods.settings import BranchSpec
from flawscope.methods.threads import workers

# Powers p of (sum of x^p)^(1/p), by which outlines are drawn: 1 is the sum, 2 the norm, infinity the largest
STAGES_POWER = 1.5  # of stages at one size: sharper where they agree, and one alone still counts
SIZES_POWER = 2.5  # of sizes: what one sees is not blurred by the noise of the others
MAX_CONFIRMED = 256 * 2**20  # bytes of bank elements that a picture's patches are compared with in fp32
BLOCK = 1024  # patches x bank elements multiplied at once: 4 MiB of products, minimum taken in the cache
EXPORTED_BLOCK = 128  # bank elements, in an exported graph, whose queries are some thousand
GPU_BLOCK = 8192  # on a GPU, 256 MiB: starting a product costs more than a small one


class Model(PatchDetector):
    """The PatchCore detector (Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022).

    It sees a picture at a single size or at several. The smallest size has a memory bank; larger sizes have a
    bank for each stage of the backbone. With several sizes the picture comes at the largest, and is reduced
    here for the others. The maps of the banks are brought to the same scale by the mean and the spread of
    good pictures' maps (`normal`), and joined (`fuse`).
    """

    METHOD = METHOD
    config: Config
    # [maps, 4]: mean of good pictures' map values and how far the highest 1 % lie above it, of a second
    # backbone how far their usual maximum does; mean and standard deviation of their scores
    normal: Tensor

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        roi: Tensor | None = None,
        second_backbone: Backbone | None = None,
    ):
        super().__init__(config, backbone, roi, second_backbone)
        self.register_buffer("normal", torch.tensor([[0.0, 1.0, 0.0, 1.0]]).repeat(len(self.branches), 1))
        self.eval()

    def branch(self, spec: BranchSpec) -> BankBranch:
        """Build a branch with an empty memory bank."""
        return BankBranch(self.config, self.backbones[spec.second], spec, self.roi)

    @property
    def picture_score(self) -> PictureScore:
        """Record of the setting `score`."""
        return SCORES[self.config.score]

    @property
    def score_is_map_maximum(self) -> bool:
        """Whether a score is its map's maximum, by the setting `score`."""
        return self.picture_score.is_map_maximum

    # ---- scores

    def score(self, features: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turn patch features `[B, P, D]` into scores `[B]` and maps `[B, H, W]`."""
        scores = []
        distances = []
        for branch, part in zip(self.branches, self.parts(features), strict=True):
            valid_mask = branch.valid_mask(inside)
            relative = part - branch.centre
            distances.append(branch.search(relative, valid_mask))
            if not self.score_is_map_maximum:
                scores.append(self.picture_score.of_pictures(branch, relative, distances[-1], valid_mask))
        return self.combine(scores, distances, inside)

    def residuals(self, images: Tensor) -> Tensor:
        """Return patches of the largest size minus their nearest bank elements, on its finest grid."""
        pairs = zip(self.branches, self.parts(self.embed(images)), strict=True)
        largest = [(branch, part) for branch, part in pairs if branch.size == self.config.network_sizes[-1]]
        grid = max((branch.grid for branch, _ in largest), key=math.prod)
        cells = []
        for branch, part in largest:
            away = (part - branch.nearest(part)).transpose(1, 2).unflatten(2, branch.grid)
            cells.append(away if branch.grid == grid else F.interpolate(away, grid, mode="bilinear"))
        return torch.cat(cells, 1)

    def combine(
        self, scores: list[Tensor], distances: list[Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Combine all branches' image scores `[B]` and patch distances `[B, P]`.

        Args:
            scores: Image scores of each branch; unused where the score is the joined map's maximum.
            distances: Patch distances of each branch.
            inside: The pixels that count, `[B, H, W]` bool; None: those of the region of interest.

        Returns:
            Scores `[B]` and maps `[B, H, W]`.
        """
        maps = [branch.anomaly_map(d) for branch, d in zip(self.branches, distances, strict=True)]
        normal = [self.normal[v] for v in range(len(maps))]
        maps = self.scaled(maps)
        counted = self.roi if inside is None else inside
        # pixels that do not count get the lowest value of a map, as if every patch were in the bank
        drawn = torch.where(counted, self.fuse(maps) if len(maps) > 1 else maps[0], maps[0].new_zeros(()))
        if len(maps) > 1 and self.config.tile is None:
            drawn = self.outlined(drawn, maps, counted)
        if self.score_is_map_maximum:
            return drawn.flatten(1).amax(1), drawn
        if len(maps) > 1:
            scores = [(s - n[2]) / n[3] for s, n in zip(scores, normal, strict=True)]
        return torch.stack(scores).amax(0), drawn

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        """Bring the maps of all banks to the same scale, and fuse them; a single map does not change."""
        return maps[0] if len(maps) == 1 else self.fuse(self.scaled(maps))

    def scaled(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Bring the maps of all banks to the same scale; a single map does not change."""
        if len(maps) == 1:
            return [*maps]
        normal = [self.normal[v] for v in range(len(maps))]
        return [(m - n[0]) / n[1] for m, n in zip(maps, normal, strict=True)]

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """Join the maps of all banks, which are on the same scale.

        The joined map is the root of the sum of squares of the values above an ordinary good picture's. The
        map of a second backbone raises it.
        """
        first = torch.stack(
            [distances for branch, distances in zip(self.branches, maps, strict=True) if not branch.second]
        )
        return self.raised(first.clamp(min=0).square().sum(0).sqrt(), maps)

    def raised(self, joined: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Raise the other banks' joined map by the map v of a second backbone: multiply it by √(1 + v²).

        v is 1 where it is as large as the usual maximum of a good picture's map.
        """
        for branch, distances in zip(self.branches, maps, strict=True):
            if branch.second:
                return joined * (1 + distances.clamp(min=0).square()).sqrt()
        return joined

    def outlined(self, drawn: Tensor, maps: Sequence[Tensor], counted: Tensor) -> Tensor:
        """Sharpen joined maps `[B, H, W]`; their maxima do not change.

        The stages of a size are joined before the sizes, by other powers than the norm's, and the map of a
        second backbone raises the result.

        Args:
            drawn: The joined maps.
            maps: The maps of all banks, on the same scale.
            counted: The pixels that count, bool; the others become 0.
        """
        at_sizes: dict[tuple[int, int], list[Tensor]] = {}
        for branch, distances in zip(self.branches, maps, strict=True):
            if not branch.second:
                at_sizes.setdefault(branch.size, []).append(distances.clamp(min=0))
        # on the norm's scale: as many equal maps have the same sum with any power
        sizes = [
            power_sum(stages, STAGES_POWER) * len(stages) ** (1 / 2 - 1 / STAGES_POWER)
            for stages in at_sizes.values()
        ]
        sharp = self.raised(power_sum(sizes, SIZES_POWER), maps) * counted
        highest, peak = (values.flatten(1).amax(1)[:, None, None] for values in (drawn, sharp))
        return sharp * (highest / peak.clamp(min=torch.finfo(peak.dtype).tiny))

    left_out = deferred("flawscope.methods.patchcore.leave_one_out:left_out")

    left_out_excess = deferred("flawscope.methods.patchcore.leave_one_out:left_out_excess")

    # ---- calibration and comparison of an exported model

    def for_export(self) -> None:
        """Prepare the search of all branches for an exported graph."""
        for branch in self.branches:
            branch.for_export()

    def operators(self) -> dict[Operator, Operator]:
        """Return the ONNX translation of the operator for products of bytes."""
        return onnx_translations()

    def ties(self, features: Tensor, inside: Tensor | None = None) -> Tensor:
        """Return, `[B]` bool, whether Eq. 6's farthest patch or its nearest element has a tie within 1e-5."""
        if self.score_is_map_maximum:
            return super().ties(features, inside)
        tied = torch.zeros(len(features), dtype=torch.bool)
        for branch, part in zip(self.branches, self.parts(features), strict=True):
            relative = part - branch.centre
            valid_mask = branch.valid_mask(inside)
            distances = branch.search(relative, valid_mask)
            tied |= self.picture_score.ties(branch, relative, distances, valid_mask).cpu()
        return tied

    # ---- artefact

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a model file's tensors; raise InputError where a bank does not fit the settings."""
        for i, branch in enumerate(self.branches):  # as large as the artefact says
            branch.load_bank(tensors[f"views.{i}.bank"], tensors[f"views.{i}.table"])
        super().fill(tensors)


# ------------------------------------------------------------------------------------------- one size


class BankBranch(PatchBranch):
    """PatchCore at a single picture size.

    The memory bank is kept relative to its mean (`centre`), which keeps fp32 distances accurate. Each
    element's `neighbours` nearest elements are kept too: Eq. 7 needs no separate search.
    """

    centre: Tensor  # [D]
    bank: Tensor  # [M, D]
    norms: Tensor  # [M], |m|²
    table: Tensor  # [M, b], nearest elements, itself first

    def __init__(self, config: Config, backbone: Backbone, spec: BranchSpec, roi: Tensor):
        super().__init__(config, backbone, spec, roi, None if spec.second else config.dimensions)
        self.config = config
        self.register_buffer("centre", torch.zeros(self.embedding.width))
        self.register_buffer("bank", torch.zeros(0, self.embedding.width))
        self.register_buffer("norms", torch.zeros(0), persistent=False)
        self.register_buffer("table", torch.zeros(0, 1, dtype=torch.int32))
        self.screen: ByteScreen | None = None

    # ---- the memory bank

    def set_bank(self, bank: Tensor) -> None:
        """Install a memory bank `[M, D]` of absolute features."""
        with workers(bank.device) as each:  # in fixed blocks: the same bytes with any number of threads
            sums = each(lambda block: block.sum(0), bank.split(BLOCK))
        self.centre = torch.stack(sums).sum(0) / len(bank)
        self._install(bank - self.centre)

    def extend_bank(self, more: Tensor) -> None:
        """Add absolute features `[K, D]`; the old elements do not change in any bit."""
        self._install(torch.cat([self.bank, more - self.centre]))

    def _install(self, bank: Tensor) -> None:
        self._set_elements(bank)
        if SCORES[self.config.score].needs_table:
            self.table = neighbour_table(bank, min(self.config.neighbours, len(bank)))

    def load_bank(self, bank: Tensor, table: Tensor) -> None:
        """Take over a `state_dict`'s bank and table; raise InputError if they do not fit `config`."""
        if (
            bank.dim() != 2
            or bank.shape[-1:] != self.centre.shape[-1:]
            or not math.prod(bank.shape)
            or (SCORES[self.config.score].needs_table and len(table) != len(bank))
            or (table.numel() and not 0 <= int(table.min()) <= int(table.max()) < len(bank))
        ):
            raise InputError("the model's memory bank does not fit its configuration: fit anew")
        self._set_elements(bank)
        self.table = table

    def _set_elements(self, bank: Tensor) -> None:
        self.bank, self.norms = bank, (bank * bank).sum(-1)
        self.screen = None

    def for_export(self) -> None:
        """Build the screen with which an exported graph searches, if the bank is large enough for it."""
        # with norms that are not finite there is no bound
        bounded = len(self.bank) >= MIN_BANK and bool(self.norms.isfinite().all())
        confirmed = len(self.inside) * KEPT_GROUPS * GROUP_SIZE * self.bank.shape[1] * 4  # bytes a picture
        self.screen = ByteScreen(self.bank) if bounded and confirmed <= MAX_CONFIRMED else None

    # ---- patches to distances and scores

    def search(self, features: Tensor, valid_mask: Tensor, norms: Tensor | None = None) -> Tensor:
        """Return each patch's distance `[B, P]` to its nearest bank element; 0 where it does not count.

        Args:
            features: Patches `[B, P, D]`, relative to `centre`.
            valid_mask: Which patches count, 1 or 0, from the method `valid_mask`.
            norms: |m|² of the bank, infinite for elements to be ignored; None: its own.
        """
        batch, patches, width = features.shape
        queries = features.reshape(-1, width)
        if self.screen is not None and norms is None and torch.compiler.is_exporting():
            best = self.screen(queries, self.bank, self.norms, self.nearest_square)
        else:
            best = self.nearest_square(queries, norms)
        distances = (best + (queries * queries).sum(1)).clamp(min=0).sqrt()
        return distances.view(batch, patches) * valid_mask

    def nearest_square(self, queries: Tensor, norms: Tensor | None = None) -> Tensor:
        """Return the smallest |m|² - 2xm `[N]` of queries x `[N, D]`: the part of |x - m|² that depends on m.

        It computes in blocks that stay in the CPU's cache: the `[N, M]` products never travel to memory.
        """
        norms = self.norms if norms is None else norms
        exported = torch.compiler.is_exporting()
        block = EXPORTED_BLOCK if exported else GPU_BLOCK if queries.device.type == "cuda" else BLOCK
        # an exported graph takes any number of pictures: its queries cannot be divided, its bank can
        parts = [queries] if exported else queries.split(block)
        return torch.cat([smallest(products(part, norms, self.bank, block)) for part in parts])

    def nearest(self, features: Tensor) -> Tensor:
        """Return the bank element nearest to each patch `[B, P, D]`, absolute; of equals the first."""
        queries = (features - self.centre).flatten(0, 1)
        squares, places = zip(
            *(part.min(1) for part in products(queries, self.norms, self.bank)), strict=True
        )
        block = torch.stack(squares).argmin(0)
        index = block * BLOCK + torch.stack(places).gather(0, block[None])[0]
        return (self.bank[index] + self.centre).view_as(features)


def power_sum(maps: Sequence[Tensor], p: float) -> Tensor:
    """Return (the sum of x^p)^(1/p) of maps x of 0 or more; p is half of an odd number."""
    if len(maps) == 1:
        return maps[0]
    # by products: `pow` takes several times as long
    powers = (reduce(torch.mul, [distances] * int(p), distances.sqrt()) for distances in maps)
    return reduce(torch.add, powers).pow(1 / p)


def products(queries: Tensor, norms: Tensor, bank: Tensor, block: int = BLOCK) -> Iterator[Tensor]:
    """Yield |m|² - 2xm of queries x and elements m: the part of |x - m|² that depends on m.

    Args:
        queries: Queries x, `[N, D]`.
        norms: |m|² of the elements, `[M]`.
        bank: Elements m, `[M, D]`.
        block: Number of elements at a time.

    Yields:
        Products `[N, block]`.
    """
    for square, part in zip(norms.split(block), bank.split(block), strict=True):
        yield torch.addmm(square, queries, part.T, alpha=-2)


def smallest(blocks: Iterable[Tensor]) -> Tensor:
    """Return the smallest value of each row of products, which are in the cache a block at a time."""
    return reduce(torch.minimum, (block.amin(-1) for block in blocks))


def neighbour_table(bank: Tensor, b: int) -> Tensor:
    """Return every bank element's `b` nearest elements, itself first: `[M, b]` int32."""
    norms = (bank * bank).sum(1)

    def rows(start: int) -> Tensor:
        part = bank[start : start + BLOCK // 4]
        square = torch.addmm(norms, part, bank.T, alpha=-2)
        elements = torch.arange(len(part), device=bank.device)
        square[elements, elements + start] = -torch.inf  # rounding or a twin must not put another first
        return square.topk(b, largest=False, sorted=True).indices.int()

    with workers(bank.device) as each:
        return torch.cat(each(rows, range(0, len(bank), BLOCK // 4)))
