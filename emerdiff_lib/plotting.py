"""Figures from arrays: pictures with labels, PCA of features, grids of maps. Never from pipelines."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sklearn.decomposition import PCA

from .evaluation.metrics import boundaries


def segment_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 colours for segments without names: well apart, neighbours in the list unlike each other."""
    colours = np.array([to_rgb(c) for c in sns.husl_palette(count, l=0.62, s=0.85)])
    stride = next((s for s in (7, 5, 3, 11, 13) if count % s), 1)
    return (colours[(np.arange(count) * stride) % count] * 255).astype(np.uint8)


def colourise(labels: np.ndarray, palette: np.ndarray | None = None) -> np.ndarray:
    """(H, W) integer labels → (H, W, 3) uint8."""
    palette = segment_palette(int(labels.max()) + 1) if palette is None else palette
    return palette[labels]


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray | None = None, opacity: float = 0.5
) -> np.ndarray:
    """Image (H, W, 3) uint8 with its labels laid over it and their boundaries drawn in white."""
    mixed = (1 - opacity) * np.asarray(image) + opacity * colourise(labels, palette)
    mixed[boundaries(labels)] = 255
    return mixed.astype(np.uint8)


def pca_image(features: np.ndarray) -> np.ndarray:
    """The first three principal components of (h, w, d) features as RGB, (h, w, 3) in [0, 1]."""
    height, width, depth = features.shape
    components = PCA(min(3, depth), random_state=0).fit_transform(np.asarray(features).reshape(-1, depth))
    low, high = np.percentile(components, (1, 99), axis=0)
    scaled = np.clip((components - low) / np.maximum(high - low, 1e-9), 0, 1)
    return np.pad(scaled, ((0, 0), (0, 3 - scaled.shape[1]))).reshape(height, width, 3)


def show(ax: Axes, picture: np.ndarray, title: str = "", **kwargs) -> Axes:
    """A picture without ticks; (h, w) arrays get the colour map of responses."""
    if np.ndim(picture) == 2:
        kwargs = {"cmap": "magma"} | kwargs
    ax.imshow(picture, interpolation="nearest", **kwargs)
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def gallery(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int | None = None,
    size: float = 2.0,
    **kwargs,
) -> Figure:
    """Pictures in a grid, row by row."""
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    height, width = np.shape(pictures[0])[:2]
    lines = 1 + max((title.count("\n") for title in titles), default=0)
    panel = size * height / width + 0.2 * lines
    fig, axes = plt.subplots(rows, columns, figsize=(size * columns, panel * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, picture in enumerate(pictures):
        show(axes.flat[i], picture, titles[i] if i < len(titles) else "", **kwargs)
        axes.flat[i].axis("on")
    fig.tight_layout(pad=0.4)
    return fig


def grid_of_maps(
    maps: Sequence[Sequence[np.ndarray]], rows: Sequence[str], columns: Sequence[str], size: float = 1.5
) -> Figure:
    """Maps by two parameters: ``maps[i][j]`` under ``columns[j]``, beside ``rows[i]``. Each map has its own scale."""
    fig, axes = plt.subplots(
        len(rows), len(columns), figsize=(size * len(columns) + 0.5, size * len(rows) + 0.3), squeeze=False
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            show(axes[i][j], maps[i][j], column if i == 0 else "")
        axes[i][0].set_ylabel(row, fontsize=9)
    fig.tight_layout(pad=0.3)
    return fig


def class_legend(
    ax: Axes, names: Sequence[str], palette: np.ndarray, present: np.ndarray | None = None, **kwargs
) -> None:
    """Names beside their colours; only the classes ``present`` if given."""
    ids = range(len(names)) if present is None else np.unique(present)
    handles = [Patch(facecolor=palette[i] / 255, edgecolor="0.4", label=names[i]) for i in ids]
    ax.legend(
        handles=handles,
        **({"fontsize": 8, "loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False} | kwargs),
    )
