"""Figures as files: PDF and PNG in their own size, with the numbers they show, and tables for LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from ..files import folder_path
from .paper_tables import latex, paper_table
from .style import save_figure


def keep(ax: Axes, data: pd.DataFrame | np.ndarray) -> None:
    """Hand over what is being plotted on an axes, for :class:`FigureFolder` to write beside the figure."""
    vars(ax).setdefault("plotted", []).append(data)


class FigureFolder:
    """Shows figures, and keeps them in a folder if there is one: ``NAME.pdf``, ``NAME.png`` and what was plotted.

    What the functions of this package plot is in ``NAME.csv`` (tables, with the panel's title as "panel") and ``NAME.npz``
    (images and maps, as "panel_0_0" …).

    Args:
        folder: made at once, before any work; "": figures are shown only.
        prefix: of all names, such as a notebook's number.

    Raises:
        ValueError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path | str = "", prefix: str = ""):
        self.folder = folder_path("figures_dir", str(folder)) if str(folder) else None
        self.prefix = f"{prefix}-" if prefix else ""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.folder).close()
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(
                f"figures_dir={str(folder)!r} cannot be written to ({reason}); choose another."
            ) from error

    def show(self, name: str, figure: Figure | None = None, data: pd.DataFrame | None = None) -> None:
        """Keep the current figure, or the given one, and show it.

        Args:
            data: the table that was plotted, if other functions than this package's did it.
        """
        figure = figure or plt.gcf()
        if self.folder is not None:
            path = _vacated(self.folder / f"{self.prefix}{name}", ".png", ".csv", ".npz", ".pdf")
            tables, arrays = [] if data is None else [data], {}
            for number, ax in enumerate(figure.axes):
                for i, plotted in enumerate(getattr(ax, "plotted", ())):
                    if isinstance(plotted, pd.DataFrame):
                        tables.append(plotted.assign(panel=ax.get_title() or ax.get_ylabel() or str(number)))
                    else:
                        arrays[f"panel_{number}_{i}"] = plotted
            for suffix in (".pdf", ".png"):
                save_figure(figure, path.with_suffix(suffix))
            if tables:
                pd.concat(tables).to_csv(path.with_suffix(".csv"), index=False)
            if arrays:
                np.savez_compressed(path.with_suffix(".npz"), **arrays)
        plt.show()

    def table(self, name: str, table: pd.DataFrame, caption: str = "", columns: Sequence[str] = ()) -> Styler:
        """Keep a table as ``NAME.tex`` (:func:`~.paper_tables.latex`; "tab:NAME" is its label) and all of it as ``NAME.csv``.

        Returns:
            the same table for display, as :func:`~.paper_tables.paper_table` makes it.
        """
        if self.folder is not None:
            path = _vacated(self.folder / f"{self.prefix}{name}", ".csv", ".tex")
            table.to_csv(path.with_suffix(".csv"))
            path.write_text(latex(table, columns, caption, f"tab:{name}"), "utf-8")
        return paper_table(table, columns).set_uuid(name)


def _vacated(stem: Path, *suffixes: str) -> Path:
    """A path with the last of the suffixes; what was there of all of them is gone, of a link not its target."""
    for suffix in suffixes:
        path = Path(f"{stem}{suffix}")
        if path.is_dir() and not path.is_symlink():
            raise ValueError(f"{path} is a folder and in the way; move it, or choose another figures_dir.")
        path.unlink(missing_ok=True)
    return path
