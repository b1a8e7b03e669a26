"""Text that fits: wrapped titles, whole layer names, tables without "…"."""

from __future__ import annotations

import re
from functools import lru_cache

import pandas as pd
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from .style import POINTS, TEXT


@lru_cache(maxsize=4096)
def text_width(text: str, size: float = TEXT) -> float:
    """Width in inches of one line of text, which may have $mathematics$, at ``size`` points."""
    path = TextPath((0, 0), text, size=size, prop=FontProperties()) if text.strip() else None
    return 0.0 if path is None else float(path.get_extents().width) / POINTS


def wrap(text: str, width: float, size: float = TEXT) -> str:
    """The text in lines of at most ``width`` inches at ``size`` points.

    Lines break at spaces (not before %), inside words only after . _ / - or · where a word alone is too wide, between letters
    where such a part still is (:func:`least_width`), never inside $mathematics$. Breaks that are there already stay.
    """
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    return "\n".join(_wrap_line(line, width, size) for line in text.split("\n"))


def least_width(text: str, size: float = TEXT) -> float:
    """Inches that a line needs so that :func:`wrap` breaks no part of a word."""
    return max(text_width(part, size) for word in [*_words(text), ""] for part in _parts(word))


def _words(text: str) -> list[str]:
    return re.findall(r"(?:\$[^$]*\$|[^ \n])+", text)


def _parts(word: str) -> list[str]:
    """Where a word may break: after . _ / - and ·, but not in mathematics."""
    return [word] if "$" in word else re.findall(r"[^._/·-]*[._/·-]?", word)


def _wrap_line(text: str, width: float, size: float) -> str:
    lines = [""]
    for word in _words(text):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for part in [word] if text_width(word, size) <= width else _parts(word):
            whole = "$" in part or text_width(part, size) <= width
            for bit in [part] if whole else part:
                if lines[-1] and text_width(lines[-1] + bit, size) > width:
                    lines.append("")
                lines[-1] += bit
    return "\n".join(line for line in lines if line)


class FullText:
    """A table that shows whole strings, in HTML and as text, with ``precision`` digits after the point of floats."""

    def __init__(self, frame: pd.DataFrame, precision: int) -> None:
        whole = {f"display.{name}": None for name in ("max_colwidth", "width", "max_rows", "max_columns")}
        with pd.option_context(whole | {"display.float_format": f"{{:.{precision}f}}".format}):
            self.text, self.html = frame.to_string(na_rep="–"), frame.to_html(na_rep="–")

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def full_text(frame: pd.DataFrame | pd.Series, precision: int = 2) -> FullText:
    """For display in a notebook: every row, column and string whole, so that names can be copied."""
    return FullText(frame.to_frame() if isinstance(frame, pd.Series) else frame, precision)
