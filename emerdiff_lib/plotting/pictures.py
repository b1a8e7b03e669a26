"""Pictures with labels, PCA of features, grids of maps, attention over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from ..evaluation.regions import boundaries
from .colours import segment_palette
from .style import LINE, POINTS, SMALL, TEXT, WIDTHS, figsize
from .text import wrap

MAP = "magma"  # responses and attention: dark where there is none
PANEL = 1.05  # inches that a picture of a gallery is wide at least, where two columns allow it
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
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray | None = None,
    opacity: float = 0.5,
    ignore_index: int | None = None,
) -> np.ndarray:
    """Image (H, W, 3) uint8 with its labels (H, W) laid over it and their boundaries drawn in white."""
    image = np.asarray(image)
    if image.shape[:2] != np.shape(labels):
        raise ValueError(
            f"Labels are {np.shape(labels)}, the image {image.shape[:2]}: they must be of one size."
        )
    mixed = (1 - opacity) * image + opacity * colourise(labels, palette, ignore_index)
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
    """A picture in grey, (H, W, 3) uint8, coloured where it is attended to: the map (h, w) ≥ 0 is scaled to its largest value."""
    image, attention = np.asarray(image), np.asarray(attention, float)
    height, width = image.shape[:2]
    # the cells stay visible: attention is no finer than its grid
    rows = np.arange(height) * attention.shape[0] // height
    columns = np.arange(width) * attention.shape[1] // width
    share = np.clip(attention / max(attention.max(), 1e-12), 0, 1)[np.ix_(rows, columns)][..., None]
    grey = image.mean(-1, keepdims=True) * 0.6 + 100
    hot = 255 * mpl.colormaps["inferno"](0.3 + 0.6 * share[..., 0])[..., :3]
    return ((1 - 0.85 * share) * grey + 0.85 * share * hot).clip(0, 255).astype(np.uint8)


def attention_on_picture(ax: Axes, image: np.ndarray, attention: np.ndarray, title: str = "") -> Axes:
    """Shows :func:`attention_overlay` with the range of the map under its title."""
    return show(ax, attention_overlay(image, attention), title)


def show(ax: Axes, picture: np.ndarray, title: str = "", **kwargs) -> Axes:
    """A picture without ticks under its title, which is wrapped to its width; (h, w) arrays get the colours of responses."""
    width = ax.get_position().width * ax.figure.get_figure(root=True).get_figwidth()
    return _show(ax, picture, wrap(title, width), **kwargs)


def _show(ax: Axes, picture: np.ndarray, title: str, size: float = TEXT, **kwargs) -> Axes:
    picture = np.asarray(picture)
    if picture.ndim == 2:
        kwargs = {"cmap": MAP} | kwargs
    elif picture.dtype.kind == "f":
        picture = picture.clip(0, 1)
    ax.imshow(picture, interpolation="nearest", **kwargs)
    ax.set_title(title, fontsize=size, pad=3)
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def gallery(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    columns: int | None = None,
    width: float | None = None,
    **kwargs,
) -> Figure:
    """Pictures in a grid, row by row, with room for their titles, which are wrapped to their width.

    Args:
        pictures: arrays (h, w, 3), or (h, w) maps, in the proportions of the first.
        columns: pictures in a row; without a number, all, or up to seven in rows of one length.
        width: of the figure, 1, 1.5 or 2 columns of a paper; without one, the least that gives every picture an inch.
        kwargs: for ``imshow``.
    """
    if not len(pictures):
        raise ValueError("A gallery needs at least one picture; there is none.")
    columns = columns or -(-len(pictures) // -(-len(pictures) // 7))
    rows = -(-len(pictures) // columns)
    inches, panel = _widths(columns, width)
    size = TEXT if panel >= 0.8 else SMALL
    wrapped = [wrap(title, panel, size) for title in titles]
    row_lines = [_lines(wrapped[i * columns : (i + 1) * columns]) for i in range(rows)]
    height, width = np.shape(pictures[0])[:2]
    tall = (
        rows * (panel * height / width + GAP) + sum(LINE * n * size + 4 * (n > 0) for n in row_lines) / POINTS
    )
    figure, axes = _panels(rows, columns, (inches, tall))
    for i, ax in enumerate(axes.flat):
        if i < len(pictures):
            _show(ax, pictures[i], wrapped[i] if i < len(wrapped) else "", size, **kwargs)
        else:
            ax.set_axis_off()
    return figure


def grid_of_maps(
    maps: Sequence[Sequence[np.ndarray]],
    rows: Sequence[str],
    columns: Sequence[str],
    width: float | None = None,
    **kwargs,
) -> Figure:
    """Maps by two parameters: ``maps[i][j]`` under ``columns[j]``, beside ``rows[i]``. Each map has its own scale.

    Args:
        width: of the figure, as in :func:`gallery`.
        kwargs: for ``imshow``; ``vmin`` and ``vmax`` give all maps one scale.
    """
    inches, panel = _widths(len(columns), width, margin=SIDE)
    titles = [wrap(column, panel) for column in columns]
    h, w = np.shape(maps[0][0])[:2]
    tall = len(rows) * (panel * h / w + GAP) + (LINE * TEXT * _lines(titles) + 4) / POINTS
    figure, axes = _panels(len(rows), len(columns), (inches, tall))
    for i, row in enumerate(rows):
        for j, title in enumerate(titles):
            _show(axes[i][j], maps[i][j], title if i == 0 else "", **kwargs)
        axes[i][0].set_ylabel(wrap(row, panel * h / w), fontsize=TEXT)
    return figure


def kmeans_steps(
    label_maps: Sequence[np.ndarray], image: np.ndarray | None = None, columns: int | None = None
) -> Figure:
    """Label maps (h, w) of k-means after each of its steps, with the share of the cells that each step moved.

    Args:
        label_maps: the first is the start.
        image: shown before them.
    """
    palette = segment_palette(int(max(np.max(labels) for labels in label_maps)) + 1)
    pictures = [palette[np.asarray(labels)] for labels in label_maps]
    titles = ["start"]
    for i, (before, after) in enumerate(zip(label_maps, label_maps[1:], strict=False), start=1):
        titles.append(f"step {i}:\n{np.mean(np.asarray(before) != np.asarray(after)):.1%} moved")
    if image is not None:
        pictures, titles = [np.asarray(image), *pictures], ["image", *titles]
    return gallery(pictures, titles, columns)


def _widths(columns: int, width: float | None, margin: float = 0.0) -> tuple[float, float]:
    """Inches of a figure with so many pictures in a row, beside ``margin`` inches, and of each picture."""
    if width is None:
        width = next((w for w, inches in WIDTHS.items() if inches - margin >= columns * PANEL), 2)
    inches, _ = figsize(width)
    return inches, (inches - margin) / columns - GAP


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Axes (rows, columns) of pictures that stand close, however much room their titles take."""
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed")
    figure.get_layout_engine().set(w_pad=GAP / 2, h_pad=GAP / 2, wspace=0, hspace=0)
    return figure, axes


def _lines(titles: Sequence[str]) -> int:
    """Lines of the longest title."""
    return max((title.count("\n") + 1 for title in titles if title), default=0)
