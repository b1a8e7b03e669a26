"""Figures from arrays and tables, never from pipelines: one style, colours that all can tell apart, labels that do not collide.

``use_style()`` once, then pictures (:func:`show`, :func:`gallery`, …), charts (:func:`line_with_bands`, :func:`heatmap`, …) or
axes of your own in ``figsize(columns)``; ``save_figure(figure, path)`` for a paper,
or ``FigureFolder(folder).show(name)`` for all of a notebook's, with the numbers behind them.
"""

from . import paper
from .charts import fate_bars, heatmap, intervals, line_with_bands
from .colours import CHART_COLOURS, FOUND, LOST, NEUTRAL, VISIONS, segment_palette, simulate
from .diagrams import transformer_diagram, unet_diagram
from .folder import FigureFolder
from .legends import class_legend, legend_below, shared_legend
from .pictures import (
    attention_on_picture,
    attention_overlay,
    colourise,
    gallery,
    grid_of_maps,
    kmeans_steps,
    overlay,
    pca_image,
    show,
)
from .scatter import front
from .style import COLUMN, COLUMN_WIDE, STYLE, figsize, looks, save_figure, use_style
from .text import full_text, layer_name, literal, plain_markdown, wrap

__all__ = [
    "CHART_COLOURS",
    "COLUMN",
    "COLUMN_WIDE",
    "FOUND",
    "FigureFolder",
    "LOST",
    "NEUTRAL",
    "STYLE",
    "VISIONS",
    "attention_on_picture",
    "attention_overlay",
    "class_legend",
    "colourise",
    "fate_bars",
    "figsize",
    "front",
    "full_text",
    "gallery",
    "grid_of_maps",
    "heatmap",
    "intervals",
    "kmeans_steps",
    "layer_name",
    "legend_below",
    "line_with_bands",
    "literal",
    "plain_markdown",
    "looks",
    "overlay",
    "paper",
    "pca_image",
    "save_figure",
    "segment_palette",
    "shared_legend",
    "show",
    "simulate",
    "transformer_diagram",
    "unet_diagram",
    "use_style",
    "wrap",
]
