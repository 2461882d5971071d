"""PatchCore's inference path: embed patches, find the nearest good patches, make score and map."""

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

# Powers p of (sum of x^p)^(1/p), by which maps are joined for sharp contours: 1 gives the sum, 2 the norm,
# infinity the maximum
STAGES_POWER = 1.5  # for stages at one size: sharper where stages agree, and a single stage still counts
SIZES_POWER = 2.5  # for sizes: a region that one size shows is not blurred by the noise of the others
MAX_CONFIRMED = 256 * 2**20  # bytes of bank elements to compare with a picture's patches in fp32, at most
# Number of patches, and of bank elements, that are multiplied at once
BLOCK = 1024  # 4 MiB of products, whose minimum is taken in the cache
EXPORTED_BLOCK = 128  # bank elements; an exported graph multiplies them with all of its some thousand patches
GPU_BLOCK = 8192  # 256 MiB of products: to start a product takes longer than a small product


class Model(PatchDetector):
    """The PatchCore detector (Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022).

    It sees a picture at a single size or at several sizes. The smallest size has one memory bank; a larger
    size has a bank for each stage of the backbone. With several sizes, the images come at the largest, and
    the branches reduce them. The maps of the banks are brought to the same scale by the mean and the spread
    of good pictures' maps (`normal`), and joined (`fuse`).

    Attributes:
        normal: Scale of each bank, `[banks, 4]`: mean and spread of good pictures' map values, mean and
            standard deviation of their scores. The spread is the distance from the mean to the values'
            99th percentile; for a second backbone, to the usual maximum of a map.
    """

    METHOD = METHOD
    config: Config
    normal: Tensor

    def __init__(
        self,
        config: Config,
        backbone: Backbone,
        roi: Tensor | None = None,
        second_backbone: Backbone | None = None,
    ):
        super().__init__(config, backbone, roi, second_backbone)
        # until the fit sets them: mean and spread of map values, mean and standard deviation of scores
        self.register_buffer("normal", torch.tensor([[0.0, 1.0, 0.0, 1.0]]).repeat(len(self.branches), 1))
        self.eval()

    def branch(self, spec: BranchSpec) -> BankBranch:
        """Build a branch with an empty memory bank."""
        return BankBranch(self.config, self.backbone_of(spec), spec, self.roi)

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
        for branch, patches in zip(self.branches, self.parts(features), strict=True):
            valid_mask = branch.valid_mask(inside)
            relative = patches - branch.centre
            branch_distances = branch.search(relative, valid_mask)
            distances.append(branch_distances)
            if not self.score_is_map_maximum:
                scores.append(self.picture_score.of_pictures(branch, relative, branch_distances, valid_mask))
        return self.combine(scores, distances, inside)

    def residuals(self, images: Tensor) -> Tensor:
        """Return the differences of patches from their nearest bank elements, at the largest size.

        All branches of this size are resized to the finest of their grids, and joined.
        """
        pairs = zip(self.branches, self.parts(self.embed(images)), strict=True)
        largest_size = self.config.network_sizes[-1]
        chosen_pairs = [(branch, patches) for branch, patches in pairs if branch.size == largest_size]
        grid = max((branch.grid for branch, _ in chosen_pairs), key=math.prod)
        cells = []
        for branch, patches in chosen_pairs:
            differences = (patches - branch.nearest(patches)).transpose(1, 2).unflatten(2, branch.grid)
            if branch.grid != grid:
                differences = F.interpolate(differences, grid, mode="bilinear")
            cells.append(differences)
        return torch.cat(cells, 1)

    def combine(
        self, scores: list[Tensor], distances: list[Tensor], inside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Combine all branches' image scores `[B]` and patch distances `[B, P]`.

        Args:
            scores: Image scores of each branch; not used where the score is the joined map's maximum.
            distances: Patch distances of each branch.
            inside: The pixels that count, `[B, H, W]` bool; None: those of the region of interest.

        Returns:
            Scores `[B]` and maps `[B, H, W]`.
        """
        maps = [branch.anomaly_map(values) for branch, values in zip(self.branches, distances, strict=True)]
        maps = self.scale_maps(maps)
        is_single = len(maps) == 1
        joined = maps[0] if is_single else self.fuse(maps)
        counted = self.roi if inside is None else inside
        # pixels that do not count get 0, the lowest value, as if their patches were in the bank
        joined = torch.where(counted, joined, maps[0].new_zeros(()))
        if not is_single and self.config.tile is None:
            joined = self.sharpen(joined, maps, counted)
        if self.score_is_map_maximum:
            return joined.flatten(1).amax(1), joined
        if not is_single:
            scores = [
                (branch_scores - self.normal[v, 2]) / self.normal[v, 3]  # mean and standard deviation
                for v, branch_scores in enumerate(scores)
            ]
        return torch.stack(scores).amax(0), joined

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        """Bring the maps of all banks to the same scale, and fuse them; a single map does not change."""
        return maps[0] if len(maps) == 1 else self.fuse(self.scale_maps(maps))

    def scale_maps(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Bring the maps of all banks to the same scale; a single map does not change."""
        if len(maps) == 1:
            return [*maps]
        return [
            (bank_map - self.normal[v, 0]) / self.normal[v, 1]  # mean and spread
            for v, bank_map in enumerate(maps)
        ]

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        """Join the maps of all banks, which are on the same scale.

        The joined map is the root of the sum of the values' squares; negative values, which are below the
        mean of good pictures, count as 0. The map of a second backbone is not in the sum: it amplifies the
        joined map.
        """
        first_backbone_maps = torch.stack(
            [bank_map for branch, bank_map in zip(self.branches, maps, strict=True) if not branch.second]
        )
        joined = first_backbone_maps.clamp(min=0).square().sum(0).sqrt()
        return self.amplify(joined, maps)

    def amplify(self, joined: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Multiply a joined map by √(1 + v²), where v is the map of a second backbone, if there is one.

        v is 1 where that map is as large as the usual maximum of a good picture's map.

        Args:
            joined: The joined map of the other banks.
            maps: The maps of all banks, on the same scale.
        """
        for branch, bank_map in zip(self.branches, maps, strict=True):
            if branch.second:
                return joined * (1 + bank_map.clamp(min=0).square()).sqrt()
        return joined

    def sharpen(self, joined: Tensor, maps: Sequence[Tensor], counted: Tensor) -> Tensor:
        """Sharpen joined maps `[B, H, W]`; their maxima do not change.

        The maps of one size are joined first, then the sizes. The exponents differ from those of `fuse`. The
        map of a second backbone amplifies the result.

        Args:
            joined: The joined maps.
            maps: The maps of all banks, on the same scale.
            counted: The pixels that count, bool; the others become 0.
        """
        maps_by_size: dict[tuple[int, int], list[Tensor]] = {}
        for branch, bank_map in zip(self.branches, maps, strict=True):
            if not branch.second:
                maps_by_size.setdefault(branch.size, []).append(bank_map.clamp(min=0))
        # with the factor, the sum of n equal maps is √n times a map, as in `fuse`
        size_maps = [
            power_sum(stage_maps, STAGES_POWER) * len(stage_maps) ** (1 / 2 - 1 / STAGES_POWER)
            for stage_maps in maps_by_size.values()
        ]
        sharp = self.amplify(power_sum(size_maps, SIZES_POWER), maps) * counted
        joined_maximum = joined.flatten(1).amax(1)[:, None, None]
        sharp_maximum = sharp.flatten(1).amax(1)[:, None, None]
        tiny = torch.finfo(sharp_maximum.dtype).tiny  # no division by 0
        return sharp * (joined_maximum / sharp_maximum.clamp(min=tiny))

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
        """Return `[B]` bool: whether a picture's score rests on a tie, by any bank (`PictureScore.ties`).

        Args:
            features: Features of pictures from `embed`.
            inside: The pixels that count, from the method `inside`.
        """
        if self.score_is_map_maximum:
            return super().ties(features, inside)
        has_tie = torch.zeros(len(features), dtype=torch.bool)
        for branch, patches in zip(self.branches, self.parts(features), strict=True):
            relative = patches - branch.centre
            valid_mask = branch.valid_mask(inside)
            distances = branch.search(relative, valid_mask)
            has_tie |= self.picture_score.ties(branch, relative, distances, valid_mask).cpu()
        return has_tie

    # ---- artefact

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a model file's tensors; raise InputError where a bank does not fit the settings."""
        # the banks first: `load_state_dict` wants tensors of the file's sizes
        for i, branch in enumerate(self.branches):
            branch.load_bank(tensors[f"views.{i}.bank"], tensors[f"views.{i}.table"])
        super().fill(tensors)


# ------------------------------------------------------------------------------------------- one size


class BankBranch(PatchBranch):
    """Branch with a memory bank: PatchCore at a single picture size.

    The elements are stored relative to their mean, which keeps fp32 distances accurate. Numbers of the
    nearest elements of each element are stored, too, so that Eq. 7 needs no search.

    Attributes:
        centre: Mean of the absolute elements, `[D]`.
        bank: Elements m relative to `centre`, `[M, D]`.
        norms: |m|² of the elements, `[M]`.
        table: Numbers of each element's b nearest elements, itself first, `[M, b]`.
        screen: Faster search for an exported graph; None: the plain search.
    """

    centre: Tensor
    bank: Tensor
    norms: Tensor
    table: Tensor

    def __init__(self, config: Config, backbone: Backbone, spec: BranchSpec, roi: Tensor):
        dimensions = None if spec.second else config.dimensions
        super().__init__(config, backbone, spec, roi, dimensions)
        self.config = config
        self.register_buffer("centre", torch.zeros(self.embedding.width))
        self.register_buffer("bank", torch.zeros(0, self.embedding.width))
        self.register_buffer("norms", torch.zeros(0), persistent=False)
        self.register_buffer("table", torch.zeros(0, 1, dtype=torch.int32))
        self.screen: ByteScreen | None = None

    # ---- the memory bank

    def set_bank(self, bank: Tensor) -> None:
        """Install a memory bank `[M, D]` of absolute features."""
        with workers(bank.device) as map_blocks:  # fixed blocks: the same bits with any number of threads
            sums = map_blocks(lambda block: block.sum(0), bank.split(BLOCK))
        self.centre = torch.stack(sums).sum(0) / len(bank)
        self._install(bank - self.centre)

    def extend_bank(self, new_elements: Tensor) -> None:
        """Add absolute features `[K, D]` to the bank; no bit of the old elements changes."""
        self._install(torch.cat([self.bank, new_elements - self.centre]))

    def _install(self, bank: Tensor) -> None:
        self._set_elements(bank)
        if SCORES[self.config.score].needs_table:
            self.table = neighbour_table(bank, min(self.config.neighbours, len(bank)))

    def load_bank(self, bank: Tensor, table: Tensor) -> None:
        """Take over the bank and the table of a model file; raise InputError if they do not fit `config`."""
        is_bank_valid = (
            bank.dim() == 2 and bank.shape[-1:] == self.centre.shape[-1:] and math.prod(bank.shape) > 0
        )
        if not is_bank_valid or not self._is_table_valid(table, len(bank)):
            raise InputError("the model's memory bank does not fit its configuration: fit anew")
        self._set_elements(bank)
        self.table = table

    def _is_table_valid(self, table: Tensor, bank_size: int) -> bool:
        if SCORES[self.config.score].needs_table and len(table) != bank_size:
            return False
        return not table.numel() or 0 <= int(table.min()) <= int(table.max()) < bank_size

    def _set_elements(self, bank: Tensor) -> None:
        self.bank = bank
        self.norms = (bank * bank).sum(-1)
        self.screen = None

    def for_export(self) -> None:
        """Build the screen with which an exported graph searches, if the bank is large enough for it."""
        is_large = len(self.bank) >= MIN_BANK
        has_finite_norms = bool(self.norms.isfinite().all())
        # bytes of the elements that are compared with a picture's patches in fp32
        confirmed_bytes = len(self.inside) * KEPT_GROUPS * GROUP_SIZE * self.bank.shape[1] * 4
        can_screen = is_large and has_finite_norms and confirmed_bytes <= MAX_CONFIRMED
        self.screen = ByteScreen(self.bank) if can_screen else None

    # ---- patches to distances and scores

    def search(self, features: Tensor, valid_mask: Tensor, norms: Tensor | None = None) -> Tensor:
        """Return each patch's distance `[B, P]` to its nearest bank element; 0 if the patch does not count.

        Args:
            features: Patches `[B, P, D]`, relative to `centre`.
            valid_mask: Which patches count, 1 or 0, from the method `valid_mask`.
            norms: |m|² of the bank's elements, infinite for elements to be ignored; None: `self.norms`.
        """
        batch_size, patch_count, width = features.shape
        queries = features.reshape(-1, width)
        if self.screen is not None and norms is None and torch.compiler.is_exporting():
            smallest_terms = self.screen(queries, self.bank, self.norms, self.nearest_square)
        else:
            smallest_terms = self.nearest_square(queries, norms)
        # |x - m|² = |x|² + (|m|² - 2xm)
        distances = (smallest_terms + (queries * queries).sum(1)).clamp(min=0).sqrt()
        return distances.view(batch_size, patch_count) * valid_mask

    def nearest_square(self, queries: Tensor, norms: Tensor | None = None) -> Tensor:
        """Return the smallest |m|² - 2xm of each query: the part of |x - m|² that depends on element m.

        Blocks of products stay in the CPU's cache: the `[N, M]` products are never in memory.

        Args:
            queries: Queries x, `[N, D]`.
            norms: |m|² of the elements, infinite for elements to be ignored; None: `self.norms`.

        Returns:
            The smallest values, `[N]`.
        """
        norms = self.norms if norms is None else norms
        if torch.compiler.is_exporting():
            # an exported graph takes any number of queries, so that only the bank is divided into blocks
            return torch.cat([smallest(products(queries, norms, self.bank, EXPORTED_BLOCK))])
        block = GPU_BLOCK if queries.device.type == "cuda" else BLOCK
        return torch.cat([smallest(products(part, norms, self.bank, block)) for part in queries.split(block)])

    def nearest(self, features: Tensor) -> Tensor:
        """Return the absolute bank element nearest to each absolute patch: `[B, P, D]`.

        Of elements at the same distance, the first is returned.
        """
        queries = (features - self.centre).flatten(0, 1)
        block_minima = []
        block_indices = []  # the minima's positions within their blocks
        for block_products in products(queries, self.norms, self.bank):
            minima, indices = block_products.min(1)
            block_minima.append(minima)
            block_indices.append(indices)
        block = torch.stack(block_minima).argmin(0)
        # number in the bank: the start of the nearest block, and the position within it
        index = block * BLOCK + torch.stack(block_indices).gather(0, block[None])[0]
        return (self.bank[index] + self.centre).view_as(features)


def power_sum(maps: Sequence[Tensor], p: float) -> Tensor:
    """Return (the sum of x^p)^(1/p) over maps x, whose values are 0 or more; p is half of an odd number."""
    if len(maps) == 1:
        return maps[0]
    # x^p is the product of √x and int(p) factors x: `pow` takes several times as long
    powers = (reduce(torch.mul, [values] * int(p), values.sqrt()) for values in maps)
    return reduce(torch.add, powers).pow(1 / p)


def products(queries: Tensor, norms: Tensor, bank: Tensor, block: int = BLOCK) -> Iterator[Tensor]:
    """Yield |m|² - 2xm of queries x and elements m: the part of |x - m|² that depends on m.

    Args:
        queries: Queries x, `[N, D]`.
        norms: |m|² of the elements, `[M]`.
        bank: Elements m, `[M, D]`.
        block: Number of elements at a time.

    Yields:
        Values `[N, block]` of the queries and a block of elements; the last block may be smaller.
    """
    for block_norms, elements in zip(norms.split(block), bank.split(block), strict=True):
        yield torch.addmm(block_norms, queries, elements.T, alpha=-2)


def smallest(blocks: Iterable[Tensor]) -> Tensor:
    """Return the smallest value of each row over all blocks; one block at a time is in the cache."""
    return reduce(torch.minimum, (block.amin(-1) for block in blocks))


def neighbour_table(bank: Tensor, b: int) -> Tensor:
    """Return the numbers of every bank element's `b` nearest elements, itself first: `[M, b]` int32."""
    norms = (bank * bank).sum(1)
    block_rows = BLOCK // 4

    def rows_from(start: int) -> Tensor:
        elements = bank[start : start + block_rows]
        terms = torch.addmm(norms, elements, bank.T, alpha=-2)  # |m|² - 2xm orders elements m by distance
        rows = torch.arange(len(elements), device=bank.device)
        # the element itself comes first, whatever the rounding, and also before an equal element
        terms[rows, start + rows] = -torch.inf
        return terms.topk(b, largest=False, sorted=True).indices.int()

    with workers(bank.device) as map_starts:
        return torch.cat(map_starts(rows_from, range(0, len(bank), block_rows)))
