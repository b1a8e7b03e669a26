"""A network's diagram, from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

from .charts import legend_below
from .style import SMALL

PLAIN, ATTENTIVE = "#EDEDED", "#A6D2EC"  # without and with attention: light and less light in grey, too
ARROW = {"arrowstyle": "-|>", "color": "0.45", "linewidth": 0.8, "mutation_scale": 7}
ARROW |= {"shrinkA": 0, "shrinkB": 0}
HEIGHT, WIDTH = 0.56, 1.9  # of a block; levels are 1 apart
INWARD = 0.4  # by which each level is nearer to the middle than the one above
ROOM = 0.85  # from the innermost blocks to the middle


def unet_diagram(ax: Axes, levels: Sequence[Mapping[str, Any]], middle: Mapping[str, Any]) -> Axes:
    """A U-Net's resolutions from the finest, at the top, to the coarsest: down on the left, up on the right.

    A figure of ``figsize(2, 0.4)`` has room for four levels and the middle. Blocks with attention are blue, as the legend says.

    Args:
        levels: a mapping per resolution, with "grid": (rows, columns) of cells, and "channels"; "down" and "up", the names
            of the two blocks; "down_attention" and "up_attention", how many layers of attention they have; "note", a word
            on what is read there, written beside the block on the right.
        middle: the block at the bottom, with "name" and "attention".
    """
    last = len(levels) - 1
    sides = [WIDTH / 2 + ROOM + INWARD * (last - i) for i in range(last + 1)]
    for i, (level, side) in enumerate(zip(levels, sides, strict=True)):
        _unet_block(ax, -side, -i, level["down"], level["down_attention"])
        _unet_block(ax, side, -i, level["up"], level["up_attention"])
        _arrow(ax, (WIDTH / 2 - side, -i), (side - WIDTH / 2, -i), linestyle=(0, (4, 2)))
        rows, columns = level["grid"]
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        _text(ax, 0, -i, f"{rows} × {columns} cells\n{level['channels']} channels", bbox=behind)
        _text(ax, side + WIDTH / 2 + 0.1, -i, level["note"], ha="left")
        if i < last:
            x = (side + sides[i + 1]) / 2
            _arrow(ax, (-x, -i - HEIGHT / 2), (-x, -i - 1 + HEIGHT / 2))
            _arrow(ax, (x, -i - 1 + HEIGHT / 2), (x, -i - HEIGHT / 2))
    _unet_block(ax, 0, -last - 1, middle["name"], middle["attention"])
    corner, bottom = (sides[-1], -last - HEIGHT / 2), (WIDTH / 2, -last - 1)
    turn = "angle,angleA={},angleB={}".format
    _arrow(ax, (-corner[0], corner[1]), (-bottom[0], bottom[1]), connectionstyle=turn(-90, 0))
    _arrow(ax, bottom, corner, connectionstyle=turn(0, -90))
    noted = 1.6 if any(level["note"] for level in levels) else 0.1
    ax.set(xlim=(-sides[0] - WIDTH / 2 - 0.1, sides[0] + WIDTH / 2 + noted), ylim=(-last - 1.6, 0.6))
    ax.set_axis_off()
    boxes = [Patch(facecolor=colour, edgecolor="0.4", linewidth=0.5) for colour in (ATTENTIVE, PLAIN)]
    legend_below(ax.figure.get_figure(root=True), boxes, ["block with attention", "block without"])
    return ax


def _unet_block(ax: Axes, x: float, y: float, name: str, attention: int) -> None:
    layers = f"\n{attention} attention layer{'s' if attention > 1 else ''}" if attention else ""
    look = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": ATTENTIVE if attention else PLAIN}
    corner = x - WIDTH / 2, y - HEIGHT / 2
    ax.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, edgecolor="0.4", **look))
    _text(ax, x, y, name + layers)


def _text(ax: Axes, x: float, y: float, text: str, **look: Any) -> None:
    ax.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": SMALL} | look)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
    ax.annotate("", end, start, arrowprops=ARROW | look)
