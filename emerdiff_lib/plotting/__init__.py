"""Figures from arrays and tables, never from pipelines: one style, colours that all can tell apart, labels that do not collide.

``use_style()`` once, then images (:func:`show`, :func:`gallery`, …), charts (:func:`line_with_bands`, :func:`heatmap`, …) or
axes of your own in ``figsize(columns)``; ``save_figure(figure, path)`` for a paper,
or ``FigureFolder(folder)`` for all of a notebook's figures, with what was plotted, and tables for LaTeX.
"""

from ..colours import colourise, overlay, segment_palette
from .charts import class_legend, heatmap, intervals, line_with_bands, shared_legend, stage_bars
from .folder import FigureFolder
from .images import attention_overlay, gallery, grid_of_maps, headline, match_segments, pca_image, show
from .paper_tables import paper_table
from .style import CHART_COLOURS, FOUND, NEUTRAL, figsize, looks, save_figure, use_style
from .text import full_text
