"""Figures as files: PDF and PNG in their own size, with the numbers behind them, and tables for LaTeX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .style import save_figure

WIDE = 7  # columns of a table that are too many for a column of a paper


class FigureFolder:
    """Shows figures, and keeps them in a folder if there is one: ``NAME.pdf``, ``NAME.png`` and what they were drawn from.

    Numbers are in ``NAME.csv``, pictures and maps in ``NAME.npz`` (:func:`data_of`).

    Args:
        folder: made at once, before any work; "": figures are shown only.
        prefix: of all names, such as a notebook's number.

    Raises:
        ValueError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path | str = "", prefix: str = ""):
        self.folder = Path(folder).expanduser() if str(folder) else None
        self.prefix = f"{prefix}-" if prefix else ""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".written"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(
                f"figures_dir={str(folder)!r} cannot be written to ({reason}); choose another."
            ) from error

    def path(self, name: str, suffix: str) -> Path:
        """Where a file of a figure or table is; names of letters, digits, "-" and "_" only."""
        if self.folder is None or not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"{name!r} is no name of a figure: letters, digits, '-' and '_', in a folder.")
        return self.folder / f"{self.prefix}{name}{suffix}"

    def show(self, name: str, figure: Figure | None = None) -> None:
        """Keep the current figure, or the given one, and show it."""
        figure = plt.gcf() if figure is None else figure
        if self.folder is not None:
            for suffix in (".pdf", ".png"):
                save_figure(figure, self.path(name, suffix))
            numbers, arrays = data_of(figure)
            for suffix in (".csv", ".npz"):
                self.path(name, suffix).unlink(missing_ok=True)
            if len(numbers):
                numbers.to_csv(self.path(name, ".csv"), index=False)
            if arrays:
                np.savez_compressed(self.path(name, ".npz"), **arrays)  # type: ignore[arg-type]
        plt.show()

    def table(self, name: str, table: pd.DataFrame, caption: str = "", digits: int = 1) -> None:
        """Keep a table as ``NAME.tex`` (booktabs; "tab:NAME" is its label) and ``NAME.csv``; one that is wider than the column
        is brought to its width (graphicx), and one of many columns spans both."""
        if self.folder is None:
            return
        table.to_csv(self.path(name, ".csv"))
        text = table.to_latex(
            escape=True,
            float_format=f"%.{digits}f",
            na_rep="--",
            caption=_latex(caption) or None,
            label=f"tab:{name}",
            position="t",
            multirow=False,
        )
        text = _typeset(text).replace(r"\begin{tabular}", SHRUNK + "\\begin{tabular}")
        text = text.replace(r"\end{tabular}", r"\end{tabular}}")
        if table.shape[1] + table.index.nlevels > WIDE:
            text = text.replace("{table}", "{table*}")
        self.path(name, ".tex").write_text(text, "utf-8")


SHRUNK = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
# Signs that LaTeX's text fonts lack, or have something else in the place of
SIGNS = {
    **{
        "−": "-",
        "±": r"\pm",
        "×": r"\times",
        "≤": r"\le",
        "≥": r"\ge",
        "<": "<",
        ">": ">",
        "|": "|",
        "→": r"\to",
    },
    **{"·": r"\cdot", "²": "^2", "⁻": "^-", "⁺": "^+", "₀": "_0", "₁": "_1", "₂": "_2", "ᵢ": "_i", "ₖ": "_k"},
    **{
        "α": r"\alpha",
        "β": r"\beta",
        "ε": r"\varepsilon",
        "λ": r"\lambda",
        "µ": r"\mu",
        "μ": r"\mu",
        "σ": r"\sigma",
    },
    **{"τ": r"\tau"},
}


def _typeset(text: str) -> str:
    text = re.sub("(.)\u0302", r"$\\hat{\1}$", text)
    return text.translate({ord(sign): f"${said}$" for sign, said in SIGNS.items()})


def _latex(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text


def data_of(figure: Figure) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """What a figure was drawn from, as it was given to matplotlib.

    Returns:
        a row per point, end of a line, corner of a band or bar ("panel", "series", "kind", "x", "y", with the names of ticks
        where an axis has names), and {"panel_0_0": picture or map}.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for number, ax in enumerate(figure.axes):
        panel = ax.get_title() or ax.get_ylabel() or str(number)
        for series, kind, points in _drawn(ax):
            shared = {"panel": panel, "series": series, "kind": kind}
            rows += [shared | {"x": x, "y": y} for x, y in np.asarray(points, float).reshape(-1, 2)]
        maps = [image.get_array() for image in ax.images]
        maps += [mesh.get_array() for mesh in ax.collections if isinstance(mesh, QuadMesh)]
        for i, found in enumerate(maps):
            if found is not None:
                arrays[f"panel_{number}_{i}"] = (
                    np.ma.filled(found.astype(float), np.nan) if np.ma.is_masked(found) else np.asarray(found)
                )
        for axis, name in ((ax.xaxis, "x"), (ax.yaxis, "y")):
            labels = {
                round(float(p), 6): t.get_text()
                for p, t in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            }
            for row in rows:
                if (
                    row["panel"] == panel
                    and (text := labels.get(round(float(row[name]), 6), ""))
                    and not _is_number(text)
                ):
                    row[f"{name} name"] = text.replace("\n", " ")
    return pd.DataFrame(rows), arrays


def _drawn(ax: Axes):
    """(series, kind, points (n, 2)) of everything in a panel that stands for numbers."""
    for line in ax.lines:
        yield str(line.get_label()), "point", line.get_xydata()
    for found in ax.collections:
        series = str(found.get_label())
        if isinstance(found, LineCollection):
            for segment in found.get_segments():
                yield series, "interval", segment
        elif isinstance(found, PathCollection):
            yield series, "point", found.get_offsets()
        elif isinstance(found, PolyCollection):
            for path in found.get_paths():
                yield series, "band", path.vertices
    for patch in ax.patches:
        if isinstance(patch, Rectangle):
            (x, y), w, h = patch.get_xy(), patch.get_width(), patch.get_height()
            yield str(patch.get_label()), "bar", [(x, y), (x + w, y + h)]


def _is_number(text: str) -> bool:
    try:
        float(text.replace("−", "-"))
    except ValueError:
        return False
    return True
