"""The paper's figures in their shape: ``paper.overview(shown)`` is its Figure 2, of arrays that a model once made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from .colours import segment_palette
from .pictures import attention_overlay, colourise, gallery, grid_of_maps, overlay, pca_image, show
from .style import COLUMN_WIDE, SMALL, figsize

PLACEMENTS = {"after_projection": "after the projection", "before_projection": "before the projection"}


@dataclass(frozen=True)
class Shown:
    """A picture and what the method makes of it, as :func:`emerdiff_lib.experiments.paper_figures.segment` gives it.

    Attributes:
        pixels: (H, W, 3) uint8; ``truth``: (H, W) classes and their ``palette``, where they are known.
        queries: (h, w, d); ``masks``: (K, h, w) bool; ``maps``: their difference maps (K, H', W').
        labels: (H, W) by the paper's assignment; ``bilinear``: the masks enlarged; ``pixel``: pixel mode's segments.
    """

    pixels: np.ndarray
    queries: np.ndarray
    masks: np.ndarray
    maps: np.ndarray
    labels: np.ndarray
    bilinear: np.ndarray
    pixel: np.ndarray
    truth: np.ndarray | None = None
    palette: np.ndarray | None = None

    def largest(self, count: int) -> list[int]:
        """Indices of the largest masks."""
        return [int(k) for k in np.argsort(-self.masks.sum((1, 2)), kind="stable")[:count]]


def teaser(pictures: Sequence[Shown]) -> Figure:
    """Pictures above their segments, for the top of a paper's first page."""
    above = [one.pixels for one in pictures]
    below = [overlay(one.pixels, one.pixel) for one in pictures]
    return gallery(above + below, columns=len(pictures), width=2)


def examples(pictures: Sequence[Shown]) -> Figure:
    """Figure 1: pictures and the paper's segmentation maps in flat colours."""
    above = [one.pixels for one in pictures]
    below = [colourise(one.labels) for one in pictures]
    return gallery(above + below, columns=len(pictures), width=2)


def overview(shown: Shown) -> Figure:
    """Figure 2: from the picture by queries and k-means to coarse masks, by modulated denoising to difference maps and labels."""
    masks = shown.largest(3)
    palette = segment_palette(len(shown.masks))
    coarse = palette[shown.masks.argmax(0)]
    figure = plt.figure(figsize=figsize(2, height=2.3))
    figure.set_layout_engine("none")
    places = {
        "picture": (0.01, 0.30, 0.13),
        "queries, PCA": (0.205, 0.30, 0.13),
        "coarse masks": (0.43, 0.30, 0.13),
        "segments": (0.86, 0.30, 0.13),
    }
    content = [shown.pixels, pca_image(shown.queries), coarse]
    content.append(overlay(shown.pixels, shown.labels))
    ratio = COLUMN_WIDE / 2.3
    axes = {}
    for (title, (left, bottom, width)), what in zip(places.items(), content, strict=True):
        axes[title] = figure.add_axes((left, bottom, width, width * ratio))
        show(axes[title], what, title)
    small = 0.08
    for row, k in enumerate(masks):
        one = figure.add_axes((0.67, 0.68 - 0.325 * row, small, small * ratio))
        show(one, shown.maps[k], f"mask {k}")
        _arrow(figure, axes["coarse masks"], one, "±λ" if row == 0 else "")
        _arrow(figure, one, axes["segments"], "argmax" if row == 0 else "")
    _arrow(figure, axes["picture"], axes["queries, PCA"], "$t_f$")
    _arrow(figure, axes["queries, PCA"], axes["coarse masks"], "k-means")
    return figure


def _arrow(figure: Figure, first: Axes, second: Axes, text: str) -> None:
    """From the right of one picture to the left of another."""
    patch = ConnectionPatch(
        (1.03, 0.5),
        (-0.03, 0.5),
        "axes fraction",
        "axes fraction",
        axesA=first,
        axesB=second,
        arrowstyle="->",
        color="0.4",
    )
    figure.add_artist(patch)
    if text:
        a, b = first.get_position(), second.get_position()
        x, y = (a.x1 + b.x0) / 2, max(a.y0 + a.height / 2, b.y0 + b.height / 2) + 0.015
        figure.text(x, y, text, ha="center", va="bottom", fontsize=SMALL)


def difference_maps(shown: Shown, count: int = 5) -> Figure:
    """Figure 3: which pixels move when one coarse mask is pushed; above the mask, below its difference map."""
    masks = shown.largest(count)
    above = [attention_overlay(shown.pixels, shown.masks[k].astype(float)) for k in masks]
    below = [shown.maps[k] for k in masks]
    titles = [f"mask {k}" for k in masks] + [""] * len(masks)
    return gallery(above + below, titles, columns=len(masks), width=2)


def comparison(pictures: Sequence[Shown]) -> Figure:
    """Figure 4: enlarged masks beside modulated denoising, and the truth where it is known."""
    columns = ["picture", "masks, enlarged", "EmerDiff", "pixel mode"]
    columns += ["true classes"] if all(one.truth is not None for one in pictures) else []
    rows = []
    for one in pictures:
        maps = [one.bilinear, one.labels, one.pixel]
        row = [one.pixels, *(overlay(one.pixels, labels) for labels in maps)]
        if "true classes" in columns:
            row.append(overlay(one.pixels, one.truth, one.palette))
        rows.append(row)
    return grid_of_maps(rows, [""] * len(rows), columns, 2)


def numbers_of_masks(found: Mapping[int, Shown]) -> Figure:
    """Figure 8: one picture cut into more and more masks; above enlarged, below by modulated denoising."""
    above = [overlay(one.pixels, one.bilinear) for one in found.values()]
    below = [overlay(one.pixels, one.labels) for one in found.values()]
    return grid_of_maps([above, below], ["enlarged", "EmerDiff"], [f"K = {k}" for k in found], 2)


def placements(shown: Shown, found: Mapping[str, np.ndarray], count: int = 4) -> Figure:
    """Figure 14: the offset added after the attention's output projection, or before it: difference maps of the same masks.

    Args:
        found: {one of :data:`PLACEMENTS`: (K, H, W) difference maps}.
    """
    masks = shown.largest(count)
    rows = [[maps[k] for k in masks] for maps in found.values()]
    names = [PLACEMENTS.get(name, name) for name in found]
    above = [attention_overlay(shown.pixels, shown.masks[k].astype(float)) for k in masks]
    return grid_of_maps([above, *rows], ["mask", *names], [f"mask {k}" for k in masks], 2)
