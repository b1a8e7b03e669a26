"""Diagrams of networks, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

from .legends import legend_below
from .style import SMALL

PLAIN, ATTENTIVE = "#EDEDED", "#A6D2EC"  # without and with attention: light and less light in grey, too
ARROW = {
    "arrowstyle": "-|>",
    "color": "0.45",
    "linewidth": 0.8,
    "shrinkA": 0,
    "shrinkB": 0,
    "mutation_scale": 7,
}
HEIGHT, WIDTH = 0.56, 1.9  # of a block; levels are 1 apart
INWARD = 0.4  # by which each level is nearer to the middle than the one above
ROOM = 0.85  # from the innermost blocks to the middle


def unet_diagram(
    ax: Axes, levels: Sequence[Mapping[str, Any]], middle: Mapping[str, Any] | None = None
) -> Axes:
    """A U-Net's resolutions from the finest, at the top, to the coarsest: down on the left, up on the right.

    A figure of ``figsize(2, 0.4)`` has room for four levels and the middle. Blocks with attention are blue, as the legend says.

    Args:
        levels: a mapping per resolution, with "grid": (rows, columns) of cells, and "channels"; optionally "down" and "up",
            the names of the two blocks, "down_attention" and "up_attention", how many layers of attention they have, and
            "note", a word on what is read there, written beside the block on the right.
        middle: the block at the bottom, with "name" and "attention".

    Raises:
        ValueError: without a level, or for one without a grid or channels.
    """
    if not levels:
        raise ValueError("A U-Net needs at least one level; there is none.")
    for i, level in enumerate(levels):
        if missing := {"grid", "channels"} - level.keys():
            raise ValueError(
                f"Level {i} lacks its {' and '.join(sorted(missing))}; it has {', '.join(level) or 'nothing'}."
            )
    last = len(levels) - 1
    sides = [WIDTH / 2 + ROOM + INWARD * (last - i) for i in range(last + 1)]
    for i, (level, side) in enumerate(zip(levels, sides, strict=True)):
        _block(ax, -side, -i, level.get("down", ""), level.get("down_attention", 0))
        _block(ax, side, -i, level.get("up", ""), level.get("up_attention", 0))
        _arrow(ax, (WIDTH / 2 - side, -i), (side - WIDTH / 2, -i), linestyle=(0, (4, 2)))
        rows, columns = level["grid"]
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        label = f"{rows} × {columns} cells\n{level['channels']} channels"
        ax.text(0, -i, label, ha="center", va="center", fontsize=SMALL, bbox=behind)
        ax.text(side + WIDTH / 2 + 0.1, -i, level.get("note", ""), va="center", fontsize=SMALL)
        if i < last:
            x = (side + sides[i + 1]) / 2
            _arrow(ax, (-x, -i - HEIGHT / 2), (-x, -i - 1 + HEIGHT / 2))
            _arrow(ax, (x, -i - 1 + HEIGHT / 2), (x, -i - HEIGHT / 2))
    if middle is not None:
        _block(ax, 0, -last - 1, middle.get("name", ""), middle.get("attention", 0))
        _arrow(
            ax,
            (-sides[-1], -last - HEIGHT / 2),
            (-WIDTH / 2, -last - 1),
            connectionstyle="angle,angleA=-90,angleB=0",
        )
        _arrow(
            ax,
            (WIDTH / 2, -last - 1),
            (sides[-1], -last - HEIGHT / 2),
            connectionstyle="angle,angleA=0,angleB=-90",
        )
    noted = 1.6 if any(level.get("note") for level in levels) else 0.1
    ax.set(
        xlim=(-sides[0] - WIDTH / 2 - 0.1, sides[0] + WIDTH / 2 + noted),
        ylim=(-last - (middle is not None) - 0.6, 0.6),
    )
    ax.set_axis_off()
    boxes = [Patch(facecolor=colour, edgecolor="0.4", linewidth=0.5) for colour in (ATTENTIVE, PLAIN)]
    legend_below(ax.figure.get_figure(root=True), boxes, ["block with attention", "block without"])
    return ax


def transformer_diagram(
    ax: Axes, blocks: int, grid: tuple[int, int], channels: int, notes: Mapping[int, str] | None = None
) -> Axes:
    """A transformer's blocks from the first, left, to the last: all on one grid, all with attention.

    Args:
        blocks: how many; ``grid``: (rows, columns) of tokens; ``channels``: of each.
        notes: {block: a word on what is done there}, written below it.

    Raises:
        ValueError: without a block, or a note on one that there is none of.
    """
    notes = notes or {}
    if blocks < 1 or not set(notes) <= set(range(blocks)):
        raise ValueError(
            f"A transformer of {blocks} blocks cannot have notes on {list(notes)}; they count from 0."
        )
    for i in range(blocks):
        corner = (i - 0.5 + 0.1, -0.4)
        shape = FancyBboxPatch(
            corner, 0.8, 0.8, boxstyle="round,pad=0,rounding_size=0.08", facecolor=ATTENTIVE, edgecolor="0.4"
        )
        ax.add_patch(shape)
        ax.text(i, 0, str(i), ha="center", va="center", fontsize=SMALL)
        if i in notes:
            _arrow(ax, (i, -1.1), (i, -0.4))
            ax.text(i, -1.15, notes[i], ha="center", va="top", fontsize=SMALL)
    rows, columns = grid
    ax.set_title(
        f"{blocks} transformer_blocks on {rows} × {columns} tokens of {channels} channels", fontsize=SMALL
    )
    ax.set(xlim=(-0.6, blocks - 0.4), ylim=(-1.8, 0.6))
    ax.set_axis_off()
    return ax


def _block(ax: Axes, x: float, y: float, name: str, attention: int) -> None:
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    colour = ATTENTIVE if attention else PLAIN
    ax.add_patch(
        FancyBboxPatch(
            corner,
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour,
            edgecolor="0.4",
        )
    )
    layers = f"{attention} attention layer{'s' if attention > 1 else ''}" if attention else ""
    ax.text(x, y, "\n".join(filter(None, (name, layers))), ha="center", va="center", fontsize=SMALL)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
    ax.annotate("", end, start, arrowprops=ARROW | look)
