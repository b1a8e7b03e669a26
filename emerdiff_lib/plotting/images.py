"""Images with labels, PCA of features, grids of maps, attention over images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA

from ..evaluation.metrics import contingency_table
from ..evaluation.regions import sample_labels
from .folder import keep
from .style import LINE, POINTS, SMALL, TEXT, WIDTHS, figsize
from .text import least_width, wrap

MAP = "magma"  # responses and attention: dark where there is none
PANEL = 1.05  # inches that an image of a gallery is wide at least, where two columns allow it
GAP = 0.06  # inches between panels
TINY = 6.0  # points of titles that need it


def match_segments(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Segments of one image by several methods, renumbered so that those that match share a number, and so a colour.

    Each map (H, W) is matched with the first, one to one, for the largest sum of IoU (Hungarian method). What matches nothing
    gets a number that the first has not; pairs with an IoU below 0.1 do not count as matches.
    """
    first = np.unique(maps[0], return_inverse=True)[1]
    matched = [first]
    for labels in maps[1:]:
        own = np.unique(labels, return_inverse=True)[1]
        shared = contingency_table(own, first, None, first.max() + 1)
        iou = shared / (shared.sum(1, keepdims=True) + shared.sum(0) - shared)
        rows, columns = linear_sum_assignment(iou, maximize=True)
        numbers = np.full(len(shared), -1)
        numbers[rows] = np.where(iou[rows, columns] >= 0.1, columns, -1)
        numbers[numbers < 0] = len(iou.T) + np.arange((numbers < 0).sum())
        matched.append(numbers[own])
    return matched


def pca_image(features: np.ndarray) -> np.ndarray:
    """The first three principal components of (h, w, d) features as RGB, (h, w, 3) in [0, 1]."""
    height, width, depth = features.shape
    flat = np.asarray(features).reshape(-1, depth)
    if not np.ptp(flat, axis=0).any():
        return np.zeros((height, width, 3))
    components = PCA(min(3, *flat.shape), random_state=0).fit_transform(flat)
    low, high = np.percentile(components, (1, 99), axis=0)
    scaled = np.clip((components - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1]))).reshape(height, width, 3)


def attention_overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """An image in grey, (H, W, 3) uint8, coloured where it is attended to: the map (h, w) ≥ 0 is scaled to its largest value."""
    image, attention = np.asarray(image), np.asarray(attention, float)
    # the cells stay visible: attention is no finer than its grid
    attention = sample_labels(attention, image.shape[:2])
    share = np.clip(attention / max(attention.max(), 1e-12), 0, 1)[..., None]
    grey = image.mean(-1, keepdims=True) * 0.6 + 100
    hot = 255 * mpl.colormaps["inferno"](0.3 + 0.6 * share[..., 0])[..., :3]
    return ((1 - 0.85 * share) * grey + 0.85 * share * hot).clip(0, 255).astype(np.uint8)


def show(
    ax: Axes, image: np.ndarray, title: str = "", width: float | None = None, size: float = TEXT
) -> Axes:
    """An image without ticks under its title; (h, w) arrays get the colours of responses.

    Args:
        width: inches that a line of the title may take; by default, as wide as the axes.
        size: of the title, in points.
    """
    image = np.asarray(image)
    keep(ax, image)
    if image.ndim == 3 and image.dtype.kind == "f":
        image = image.clip(0, 1)
    ax.imshow(image, cmap=MAP, interpolation="none")
    width = width or ax.get_position().width * ax.figure.get_figure(root=True).get_figwidth()
    ax.set_title(wrap(title, width, size), fontsize=size, pad=3)
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def gallery(
    images: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int | None = None,
    width: float | None = None,
) -> Figure:
    """Images in a grid, row by row: every row is equally high, whatever the images' shapes, and titles fit their columns.

    Args:
        images: arrays (h, w, 3), or (h, w) maps, each in its own proportions.
        columns: images in a row; without a number, all, or up to seven in rows of one length.
        width: of the figure, 1, 1.5 or 2 columns of a paper; without one, the least that gives every image an inch.
    """
    columns = columns or -(-len(images) // -(-len(images) // 7))
    rows = range(0, len(images), columns)
    return _grid([images[i : i + columns] for i in rows], [titles[i : i + columns] for i in rows], (), width)


def grid_of_maps(
    maps: Sequence[Sequence[np.ndarray]],
    rows: Sequence[str],
    columns: Sequence[str],
    width: float | None = None,
) -> Figure:
    """Images or maps by two things: ``maps[i][j]`` under ``columns[j]``, beside ``rows[i]``. Each map has its own scale.

    Args:
        width: of the figure, as in :func:`gallery`.
    """
    return _grid(maps, [columns], rows, width)


def headline(figure: Figure, text: str) -> None:
    """What a gallery or a grid of maps shows, above it: the figure grows by its lines, so that images keep their size."""
    text = wrap(text, figure.get_figwidth(), TEXT)
    figure.suptitle(text, fontsize=TEXT)
    figure.set_figheight(figure.get_figheight() + (text.count("\n") + 1) * LINE * TEXT / POINTS + GAP)


def _grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[Sequence[str]],
    names: Sequence[str],
    width: float | None,
) -> Figure:
    """Rows of one height with titles above their images and a name on their left; columns are as wide as their widest image."""
    shapes = [[np.shape(image)[1] / np.shape(image)[0] for image in row] for row in rows]
    shares = np.array([max(column) for column in zip_longest(*shapes, fillvalue=0.0)])
    width = width or next((w for w, inches in WIDTHS.items() if inches >= len(shares) * PANEL), 2)
    inches, _ = figsize(width)
    for size in (TEXT, SMALL, TINY):  # the largest at which no word is broken
        for lines in range(9 if any(names) else 1):  # of names: the more there are, the lower are the rows
            side = lines * LINE * size / POINTS + GAP
            high = (inches - side - len(shares) * GAP) / shares.sum()
            if max((wrap(name, high, size).count("\n") for name in names), default=0) < lines:
                break
        needed = [(least_width(name, size), high) for name in names]
        room = shares * high - GAP / 2
        needed += [(least_width(one, size), at) for row in titles for one, at in zip(row, room, strict=False)]
        if all(least <= most for least, most in needed):
            break
    wrapped = [[wrap(one, at, size) for one, at in zip(row, room, strict=False)] for row in titles]
    tallest = [max((one.count("\n") + 1 for one in row if one), default=0) for row in wrapped]
    # rather too little than too much: heights then limit all images alike, and the slack lies between them
    text = sum((1.2 * lines - 0.2) * size + 3 for lines in tallest if lines) / POINTS
    figure, axes = plt.subplots(
        *(len(rows), len(shares)),
        figsize=(inches, len(rows) * (high + GAP) + text),
        width_ratios=shares,
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=GAP / 2, h_pad=GAP / 2, wspace=0, hspace=0)
    for i, row in enumerate(rows):
        for ax in axes[i, len(row) :]:
            ax.set_axis_off()
        above = wrapped[i] if i < len(wrapped) else []
        for ax, image, title in zip_longest(axes[i, : len(row)], row, above, fillvalue=""):
            show(ax, image, title, inches, size)
            ax.set_anchor("N")  # wherever the layout leaves room, titles stand above it
        if any(names):
            axes[i, 0].set_anchor("NW")  # so that names stand in one line
            axes[i, 0].set_ylabel(wrap(names[i], high, size), fontsize=size)
    return figure
