"""Images with labels, PCA of features, grids of maps, attention over images."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from ..evaluation.regions import boundaries
from .folder import keep
from .style import LINE, POINTS, SMALL, TEXT, WIDTHS, figsize, segment_palette
from .text import wrap

MAP = "magma"  # responses and attention: dark where there is none
PANEL = 1.05  # inches that an image of a gallery is wide at least, where two columns allow it
GAP = 0.06  # inches between panels
SIDE = 0.2  # inches for the names of rows
VOID = (64, 64, 64)


def colourise(
    labels: np.ndarray, palette: np.ndarray | None = None, ignore_index: int | None = None
) -> np.ndarray:
    """(H, W) integer labels → (H, W, 3) uint8.

    Args:
        palette: (n, 3) uint8; :func:`segment_palette` without one.
        ignore_index: label of pixels that count as nothing, painted dark grey.

    Raises:
        ValueError: for a label without a colour.
    """
    labels = np.asarray(labels)
    known = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    low, high = (int(labels[known].min()), int(labels[known].max())) if known.any() else (0, 0)
    palette = segment_palette(high + 1) if palette is None else np.asarray(palette)
    if low < 0 or high >= len(palette):
        wrong = low if low < 0 else high
        raise ValueError(
            f"Label {wrong} has no colour: the palette is for 0 to {len(palette) - 1}; pass a longer one, or "
            f"ignore_index={wrong} if it stands for nothing."
        )
    coloured = palette[np.where(known, labels, 0)]
    coloured[~known] = VOID
    return coloured


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray | None = None, ignore_index: int | None = None
) -> np.ndarray:
    """Image (H, W, 3) uint8 with the colours of its labels (H, W) half laid over it, their boundaries in white."""
    mixed = (np.asarray(image, float) + colourise(labels, palette, ignore_index)) / 2
    mixed[boundaries(np.asarray(labels))] = 255
    return mixed.astype(np.uint8)


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
    height, width = image.shape[:2]
    # the cells stay visible: attention is no finer than its grid
    rows = np.arange(height) * attention.shape[0] // height
    columns = np.arange(width) * attention.shape[1] // width
    share = np.clip(attention / max(attention.max(), 1e-12), 0, 1)[np.ix_(rows, columns)][..., None]
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
    side: float = 0.0,
) -> Figure:
    """Images in a grid, row by row, with room for their titles, which are wrapped to their width.

    Args:
        images: arrays (h, w, 3), or (h, w) maps, in the proportions of the first.
        columns: images in a row; without a number, all, or up to seven in rows of one length.
        width: of the figure, 1, 1.5 or 2 columns of a paper; without one, the least that gives every image an inch.
        side: inches to leave free on the left.
    """
    columns = columns or -(-len(images) // -(-len(images) // 7))
    rows = -(-len(images) // columns)
    if width is None:
        width = next((w for w, inches in WIDTHS.items() if inches - side >= columns * PANEL), 2)
    inches, _ = figsize(width)
    panel = (inches - side) / columns - GAP
    size = TEXT if panel >= 0.8 else SMALL
    lines = [wrap(title, panel, size).count("\n") + 1 if title else 0 for title in titles]
    tallest = [max(lines[i * columns : (i + 1) * columns], default=0) for i in range(rows)]
    height, width = np.shape(images[0])[:2]
    room = sum(LINE * n * size + 4 * (n > 0) for n in tallest) / POINTS
    height = rows * (panel * height / width + GAP) + room
    figure, axes = plt.subplots(rows, columns, figsize=(inches, height), squeeze=False, layout="compressed")
    figure.get_layout_engine().set(w_pad=GAP / 2, h_pad=GAP / 2, wspace=0, hspace=0)
    for ax in axes.flat[len(images) :]:
        ax.set_axis_off()
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        show(ax, image, titles[i] if i < len(titles) else "", panel, size)
    return figure


def grid_of_maps(
    maps: Sequence[Sequence[np.ndarray]],
    rows: Sequence[str],
    columns: Sequence[str],
    width: float | None = None,
) -> Figure:
    """Maps by two parameters: ``maps[i][j]`` under ``columns[j]``, beside ``rows[i]``. Each map has its own scale.

    Args:
        width: of the figure, as in :func:`gallery`.
    """
    figure = gallery([one for row in maps for one in row], columns, len(columns), width, SIDE)
    for name, ax in zip(rows, figure.axes[:: len(columns)], strict=True):
        ax.set_ylabel(wrap(name, figure.get_figheight() / len(rows) - GAP), fontsize=TEXT)
    return figure
