"""Tables for a paper: the columns that fit one of its columns, the best in bold, for LaTeX with booktabs and graphicx."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from pandas.io.formats.style import Styler

from ..evaluation.tables import TABLE
from ..settings import check_known
from .style import POINTS, TEXT, WIDTHS
from .text import text_width, wrap

MARKS = "Best in bold; underlined: within the 95 % interval of the best."
SPACE = 4.0  # points on either side of a cell
ROMAN = 0.8  # as wide as the figures' letters are LaTeX's
HEADER = 0.7  # inches that a line of a header may take
SMALLEST = 6.0  # points to which a table of TEXT points is shrunk at most, if its columns are not chosen
LOWER = {TABLE[name] for name in ("variation_of_information", "seconds")}
HIGHER = {*TABLE.values(), "IoU", "mIoU"} - LOWER - {TABLE["segments"]}
START = (
    f"\\footnotesize\\setlength{{\\tabcolsep}}{{{SPACE:g}pt}}\n"
    "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n\\begin{tabular}"
)
BREAK = " \\\\ "
HTML_MARKS = "font-weight: bold", "text-decoration: underline"  # of the best, and of what its interval holds
LATEX_MARKS = "textbf:--rwrap", "underline:--rwrap"
# Signs that LaTeX's text fonts lack, or have something else in the place of, and what they are in mathematics
SIGNS = "−±×≤≥<>|→·²⁻⁺₀₁₂ᵢₖαβελµμστ"
LATEX = r"- \pm \times \le \ge < > | \to \cdot ^2 ^- ^+ _0 _1 _2 _i _k \alpha \beta \varepsilon \lambda \mu \mu \sigma \tau"
MATHEMATICS = {ord(sign): f"${latex}$" for sign, latex in zip(SIGNS, LATEX.split(), strict=True)}


def paper_table(table: pd.DataFrame, columns: Sequence[str] = (), for_latex: bool = False) -> Styler:
    """A table to be shown: of each score, the best is bold, and what lies within its interval is underlined.

    Args:
        table: a row per method; its ``attrs["intervals"]``, if there are any, are {column: {row: [low, high]}}, as
            :func:`~emerdiff_lib.evaluation.tables.summarise` gives them. Numbers have three digits at most.
        columns: to keep, in this order; empty: from the left, as many as a column of a paper holds.

    Raises:
        ValueError: for a column that the table has not.
    """
    names = [str(name or "") for name in table.index.names]
    flat = table if isinstance(table.index, pd.RangeIndex) else table.reset_index(names=names)
    digits = {name: _digits(flat[name]) for name in flat if is_numeric_dtype(flat[name])}
    formats = {name: f"{{:.{decimals}f}}" for name, decimals in digits.items()}
    kept = [check_known("column", name, table) for name in columns]
    if not kept:
        inches = [_width(name, flat[name].map(formats.get(name, "{}").format)) for name in flat]
        first = flat.shape[1] - table.shape[1]  # of the columns that are no names of rows
        fits = int((np.cumsum(inches) <= WIDTHS[1] * TEXT / SMALLEST).sum()) - first
        kept = list(table)[: max(1, fits)]

    def marks(column: pd.Series) -> list[str]:
        name = str(column.name)
        bold, underline = LATEX_MARKS if for_latex else HTML_MARKS
        sign = -1 if name in LOWER else 1
        values = (sign * column).round(digits[name])
        if name.split(",")[0] not in HIGHER | LOWER or values.isna().all():
            return [""] * len(values)
        ends = (
            table.attrs.get("intervals", {}).get(name, {}).get(table.index[values.argmax()], [sign * np.inf])
        )
        least = min(sign * end for end in ends)
        return [bold if one == values.max() else underline if one >= least else "" for one in values]

    shown = flat[[*(name for name in flat if name not in table), *kept]]
    style = shown.style.hide(axis="index").apply(marks, subset=[name for name in kept if name in digits])
    return style.format(formats, na_rep="–", escape="latex" if for_latex else None)


def latex(table: pd.DataFrame, columns: Sequence[str] = (), caption: str = "", label: str = "") -> str:
    """The same for LaTeX: never wider than a column of the paper, to which a wider choice of columns is shrunk."""
    style = paper_table(table, columns, for_latex=True)
    style.format_index(_stacked, axis=1, escape="latex")
    sides = "".join("r" if is_numeric_dtype(kind) else "l" for kind in style.data.dtypes)
    text = style.to_latex(
        column_format=sides, position="t", position_float="centering", hrules=True, label=label
    )
    if caption:
        caption = f"{caption}. {MARKS}" if "\\underline" in text else caption
        caption = re.sub(r"([&%$#_{}])", r"\\\1", caption)
        text = text.replace("\\label", f"\\caption{{{caption}}}\n\\label")
    text = re.sub("(.)\u0302", r"$\\hat{\1}$", text).translate(MATHEMATICS)
    text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
    return text.replace(r"\begin{tabular}", START).replace(r"\end{tabular}", r"\end{tabular}}")


def _stacked(name: str) -> str:
    lines = wrap(name.replace(" \\%", "~\\%"), HEADER, TEXT).split("\n")
    return lines[0] if len(lines) == 1 else f"\\shortstack{{{BREAK.join(lines)}}}"


def _width(name: str, cells: pd.Series) -> float:
    """Inches that a column takes at TEXT points."""
    lines = [*cells, *wrap(name, HEADER, TEXT).split("\n")]
    return ROMAN * max(text_width(line, TEXT) for line in lines) + 2 * SPACE / POINTS


def _digits(values: pd.Series) -> int:
    """Decimals of a column: three significant digits of its largest number, without those that are 0 in all."""
    known = values.dropna().astype(float)
    most = min(max(2 - int(np.floor(np.log10(max(known.abs().max(), 0.01)))), 0), 3) if len(known) else 0
    return next((some for some in range(most) if np.allclose(known, known.round(some), atol=1e-9)), most)
