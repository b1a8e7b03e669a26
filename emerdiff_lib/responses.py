"""Responses of an image to many small probe masks: what is computed from them needs no network any more.

A mask's response is the signed change of the image when the mask is modulated at t_m. Responses of small masks add up to those
of larger ones, so that one set of them serves every K, every grouping and every stroke of a brush. And they give every
pixel a weight for each probe mask: with these it gets a feature of its own, instead of that of one mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from .assignment import assign_bilinear
from .clustering import mask_embeddings, shares_of_cells
from .pixels import ADAPTIVE, COLOUR, DIMENSIONS, FLOOR, Superpixels, feature_superpixels, label_shares
from .refinement import pixel_adaptive, refine, resize_maps
from .settings import real, whole
from .stages import CoarseMasks

_FALLBACK = 1e-6  # weight of plain lengths, which decide where nothing else is left
_PIXELS = 2**16  # whose responses are decoded at a time


@dataclass(repr=False)
class ImageResponses(CoarseMasks):
    """The image's signed responses to each of P small masks, quantised to a byte, beside what the stage before has.

    The square root of a response is what is rounded, so that weak ones keep their proportions: with u = ``|r| / scale``, the
    error is at most (√u + 1/508) · scale / 127.

    Attributes:
        parts: (P, h, w) bool, a partition of the grid.
        codes: (P, 3, H, W) int8 at the processing size (where latents were compared: of their channels and size);
            r = sign(code) · (code / 127)² · scale.
        scales: (P,) float32, the largest ``|r|`` of each part.
    """

    parts: torch.Tensor = field(kw_only=True)
    codes: torch.Tensor = field(kw_only=True)
    scales: torch.Tensor = field(kw_only=True)
    _superpixels: dict[float, Superpixels] = field(default_factory=dict, compare=False, init=False)

    def __setattr__(self, name: str, value: object) -> None:
        """What was found from values that are changed is found anew."""
        super().__setattr__(name, value)
        vars(self).get("_superpixels", {}).clear()

    # -- masks: their responses -------------------------------------------------------------------------------------------

    def responses_to(self, masks: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Signed responses (K, 3, H, W) float32 to any masks, groups or strokes (K, h, w), at any resolution.

        A mask that covers a part in parts is given that share of its response.
        """
        masks = torch.as_tensor(masks).float()
        if masks.ndim != 3:
            raise ValueError(f"masks have shape (K, h, w), not {tuple(masks.shape)}.")
        parts = self.parts.float().flatten(1)
        shares = shares_of_cells(masks, self.grid).flatten(1) @ parts.T / parts.sum(1)
        added = [torch.einsum("kp,pcn->kcn", shares, some) for some in self.decoded()]
        return torch.cat(added, 2).unflatten(2, self.codes.shape[2:])

    def difference_maps(self, masks: torch.Tensor | np.ndarray) -> torch.Tensor:
        """dᵏ (K, H, W) float32 of any masks (Eq. 4): the length of their responses, at the processing size."""
        return resize_maps(torch.linalg.vector_norm(self.responses_to(masks), dim=1), self.processing_size)

    def decoded(self) -> Iterator[torch.Tensor]:
        """(P, 3, n) float32 signed responses of some pixels after the other, row by row."""
        for codes in self.codes.flatten(2).split(_PIXELS, dim=2):
            root = codes.float() / 127
            yield root * root.abs() * self.scales[:, None, None]

    # -- pixels: weights and features -------------------------------------------------------------------------------------

    def weights(self) -> Iterator[torch.Tensor]:
        """(P, n) float32 :func:`shares` of every part in some pixels of the codes after the other, row by row.

        Weighted by how like a pixel's colour is to that of the part's nearest cell, 1 for the same.
        """
        cells = F.adaptive_avg_pool2d(self.guide, self.grid).flatten(1)
        colours = F.interpolate(self.guide[None], size=self.codes.shape[2:], mode="area")[0].flatten(1)
        for some, seen in zip(self.decoded(), colours.split(_PIXELS, dim=1), strict=True):
            unlike = torch.cdist(cells.T, seen.T).square()
            nearest = torch.stack([unlike[part].amin(0) for part in self.parts.flatten(1)])
            yield shares(some, torch.exp(-nearest / (2 * COLOUR**2)))

    def features(
        self,
        values: torch.Tensor | np.ndarray | None = None,
        guide_radius: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """F(p) = Σ w(p) v / Σ w(p): (H, W, d) float32, any coarse features at every pixel, refined along the image's edges.

        Args:
            values: (h, w, d) at any resolution: other layers, text-aligned embeddings, an array of one's own; the queries
                by default.
            guide_radius: of a guided filter, in heights of a cell, 0 for none; by default the settings'.
            size: (height, width) of the result; the image's own by default. ``processing_size`` saves memory, and is what
                the features are computed at.
        """
        values = self.queries if values is None else torch.as_tensor(values).float()
        features = self._spread(self.part_features(values), guide_radius)
        return resize_maps(features.permute(2, 0, 1), size or self.size).permute(1, 2, 0)

    def part_features(self, values: torch.Tensor) -> torch.Tensor:
        """(P, d): mean of coarse features (h, w, d) over each part's cells."""
        if values.ndim != 3:
            raise ValueError(f"values have shape (h, w, d), not {tuple(values.shape)}.")
        planes = shares_of_cells(values.permute(2, 0, 1), self.grid)
        return mask_embeddings(planes.permute(1, 2, 0), self.parts)

    def _spread(self, values: torch.Tensor, guide_radius: float | None = None) -> torch.Tensor:
        """(P, d) values of parts → (H, W, d) of pixels."""
        radius = self.settings.guide_radius if guide_radius is None else guide_radius
        planes = torch.cat([values.T @ some for some in self.weights()], 1).unflatten(1, self.codes.shape[2:])
        planes = refine(planes, self.guide, self.cell, 0.0, radius)
        return pixel_adaptive(planes, self.guide, ADAPTIVE).permute(1, 2, 0)

    def superpixels(self, guide_radius: float | None = None) -> Superpixels:
        """Connected regions of like features, from which segments for any K follow in milliseconds; found once.

        Args:
            guide_radius: of the filter of the features; by default the settings'.
        """
        radius = self.settings.guide_radius if guide_radius is None else guide_radius
        if radius not in self._superpixels:
            values = self.part_features(self.queries)
            centred = values - values.mean(0)
            axes = torch.linalg.svd(centred, full_matrices=False)[2][:DIMENSIONS]
            features = self._spread(centred @ axes.T, radius)
            self._superpixels[radius] = feature_superpixels(features, self.cell)
        return self._superpixels[radius]

    def segments(self, num_segments: int, guide_radius: float | None = None) -> np.ndarray:
        """(H, W) int32 segments at the image's own size, the largest first; fewer than K only of very plain images.

        Raises:
            ValueError: if ``num_segments`` is not a whole number of at least 1.
        """
        whole(1)("num_segments", num_segments)
        labels = torch.from_numpy(self.superpixels(guide_radius).segments(num_segments))
        return assign_bilinear(labels == torch.arange(int(labels.max()) + 1)[:, None, None], self.size)

    def segment_at(self, point: tuple[float, float], granularity: float = 0.5) -> np.ndarray:
        """(H, W) bool at the image's own size: what lies at a point, finer or coarser; a coarser one holds all finer ones.

        Args:
            point: (x, y) in pixels of the image.
            granularity: from 0, the superpixel there, to 1, all that it is joined to in the end; of R superpixels, neighbours
                without contrast join until R^(1 − granularity) are left.

        Raises:
            ValueError: a point outside of the image, or another granularity.
        """
        (x, y), (height, width) = point, self.size
        x, y = real(0, width)("x", x), real(0, height)("y", y)
        superpixels = self.superpixels()
        count = round(len(superpixels.areas) ** (1 - real(0, 1)("granularity", granularity)))
        labels = superpixels.joined(count)
        rows, columns = np.arange(height) * len(labels) // height, np.arange(width) * labels.shape[1] // width
        enlarged = labels[rows[:, None], columns[None]]
        return enlarged == enlarged[min(int(y), height - 1), min(int(x), width - 1)]

    def cells_of(self, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Of segments (H, W) 0 … K−1: the (K, h, w) bool cells that lie in each for the most part, and (K, d) mean queries."""
        areas = label_shares(labels, self.grid)
        cells = areas.argmax(0) == torch.arange(len(areas))[:, None, None]
        return cells, mask_embeddings(self.queries, areas)


def quantise(responses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, C, H, W) float → (P, C, H, W) int8 codes and (P,) float32 scales on the CPU; see :class:`ImageResponses`."""
    scales = responses.abs().amax((1, 2, 3)).clamp(min=1e-12)
    root = (responses.abs() / scales[:, None, None, None]).sqrt() * 127
    return (root.round() * responses.sign()).to(torch.int8).cpu(), scales.float().cpu()


def shares(responses: torch.Tensor, likeness: torch.Tensor) -> torch.Tensor:
    """(P, C, n) signed responses → (P, n) each part's share in every pixel: their lengths above what all parts have in common.

    Shares of a pixel sum to 1; they are equal where none stands out.

    Args:
        likeness: (P, n) factors in [0, 1]; where they leave nothing, lengths count as they are.
    """
    length = torch.linalg.vector_norm(responses, dim=1)
    above = (length - FLOOR * length.mean(0)).clamp(min=0) * likeness + _FALLBACK * length
    above[:, above.sum(0) == 0] = 1
    return above / above.sum(0)
