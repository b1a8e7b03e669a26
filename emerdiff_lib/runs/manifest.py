"""A study's results as one small JSON file that says how they were made; RESULTS.md is generated from these."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..files import write_atomically

KEYS = ("title", "question", "command", "settings", "seeds", "tables", "notes")


def write_manifest(
    path: Path | str,
    *,
    title: str,
    question: str,
    command: str,
    settings: Mapping[str, Any],
    seeds: Mapping[str, Iterable[int]],
    tables: Mapping[str, pd.DataFrame],
    notes: Iterable[str] = (),
) -> Path:
    """Write the manifest of a study; folders that ``path`` lacks are made.

    Args:
        title, question: of the study.
        command: the shell command that makes these numbers again.
        settings: what the numbers depend on, flat (``Settings.to_dict()``, parameters of the notebook).
        seeds: of the Toyscapes images that were looked at, by what they were for; {} where images come from elsewhere.
        tables: from caption to table; shares in percent. Numbers are kept to six significant digits, and so are the
            ``attrs["intervals"]`` that a table has (:func:`~emerdiff_lib.evaluation.tables.summarise`).
        notes: sentences for the reader, in Markdown.

    Raises:
        TypeError, ValueError: JSON does not know something in it, such as infinity.
    """
    path = Path(path)
    content = {
        "title": title,
        "question": question,
        "command": command,
        "settings": _plain(settings),
        "seeds": {name: format_seeds(value) for name, value in seeds.items()},
        "tables": {caption: _table(frame) for caption, frame in tables.items()},
        "notes": list(notes),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    # one line for each row of a table, so that a change of a number is a change of a line
    rows = re.compile(r"\[\n {3,}([^\[\]{}]*?)\n +\]")
    text = rows.sub(lambda row: "[" + re.sub(r",\n\s+", ", ", row[1]) + "]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text + "\n")
    return path


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The keywords that :func:`write_manifest` would write the same file from, seeds as text.

    Args:
        path: of the file, or of the folder of a run that has its ``manifest.json``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no manifest.
    """
    path = Path(path).expanduser()
    path = path / "manifest.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no manifest at {path.absolute()}; name a run's output_dir.")
    with suppress(ValueError, TypeError, LookupError, AttributeError):
        content, tables = json.loads(path.read_text(encoding="utf-8")), {}
        for name, table in content["tables"].items():
            frame = pd.DataFrame(table["rows"], columns=table["columns"])
            tables[name] = frame.set_index(table["columns"][: table["index"]]) if table["index"] else frame
            tables[name].attrs |= {key: table[key] for key in ("intervals",) if key in table}
        if set(content) == set(KEYS):
            return {**content, "tables": tables}
    raise ValueError(
        f"{path} is no manifest, which holds {', '.join(KEYS)} and nothing else; move it, or name another folder."
    )


def format_seeds(seeds: Iterable[int]) -> str:
    """``"0-99, 200"`` from any seeds."""
    numbers = np.unique(list(map(int, seeds)))
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs if len(run))


def _plain(value: Any) -> Any:
    """``value`` as what JSON knows: numpy's numbers as Python's, floats to six digits, NaN as null."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if value is pd.NA else value


def _table(frame: pd.DataFrame) -> dict[str, Any]:
    """Rows with the index' levels in front, and how many these are; an index that only counts is left out."""
    counts = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    flat = frame if counts else frame.reset_index(names=[level or "" for level in frame.index.names])
    rows = [_plain(row) for row in flat.itertuples(index=False, name=None)]
    table = {"columns": _plain(list(flat)), "index": 0 if counts else frame.index.nlevels, "rows": rows}
    return table | {key: _plain(frame.attrs[key]) for key in ("intervals",) if frame.attrs.get(key)}
