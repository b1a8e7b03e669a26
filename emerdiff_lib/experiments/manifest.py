"""A study's results as one small JSON file that says how they were made; RESULTS.md is generated from these."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
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
    seeds: Mapping[str, str | int | Iterable[int]] | str | int | Iterable[int],
    tables: Mapping[str, pd.DataFrame],
    notes: Iterable[str] = (),
) -> Path:
    """Write the manifest of a study; folders that ``path`` lacks are made.

    Args:
        title: what the study is called.
        question: what it asks, one sentence.
        command: the shell command that makes these numbers again.
        settings: what the numbers depend on, flat (``Settings.to_dict()``, parameters of the notebook).
        seeds: seeds of the Toyscapes pictures that were looked at (never positions in a split): ``range(100)``,
            ``[3, 7]``, ``"0-99, 200-211"``, or a dictionary from what they were for to any of these. ``{}`` where the
            pictures come from elsewhere.
        tables: from caption to table; shares in percent, as they are to be read. A named or a labelled index is kept.
            Numbers are kept to six significant digits.
        notes: sentences for the reader, in Markdown.

    Raises:
        ValueError: if anything cannot be written as JSON, in one sentence that says where.
    """
    path = Path(path)
    if isinstance(seeds, str | int) or not isinstance(seeds, Mapping):
        seeds = {"pictures": seeds}
    content = {
        "title": title,
        "question": question,
        "command": command,
        "settings": {str(name): _plain(value, f"setting {name!r}") for name, value in settings.items()},
        "seeds": {str(name): format_seeds(parse_seeds(value)) for name, value in seeds.items()},
        "tables": {str(name): _table(frame, str(name)) for name, frame in tables.items()},
        "notes": [str(note) for note in notes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _layout(content))
    return path


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The keywords that :func:`write_manifest` would write the same file from; tables are data frames again.

    Raises:
        ValueError: if the file is no manifest.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict) or set(content) != set(KEYS):
        raise ValueError(f"{path} is no manifest: it has to hold {', '.join(KEYS)} and nothing else.")
    tables = {}
    for name, table in content["tables"].items():
        frame = pd.DataFrame(table["rows"], columns=table["columns"])
        tables[name] = frame.set_index(table["columns"][: table["index"]]) if table["index"] else frame
    return {**content, "tables": tables}


def parse_seeds(seeds: str | int | Iterable[int]) -> list[int]:
    """Sorted seeds from ``7``, ``range(100)``, ``[3, 7]`` or ``"0-99, 200-211"``.

    Raises:
        ValueError: for text of another form.
    """
    if isinstance(seeds, int | np.integer):
        return [int(seeds)]
    if not isinstance(seeds, str):
        return sorted({int(seed) for seed in seeds})
    found: set[int] = set()
    for part in filter(None, (part.strip() for part in seeds.split(","))):
        match = re.fullmatch(r"(\d+)(?:\s*[-–]\s*(\d+))?", part)
        if match is None:
            raise ValueError(f'seeds {seeds!r} are not of the form "0-99, 200": write numbers and ranges.')
        first, last = int(match[1]), int(match[2] or match[1])
        found.update(range(first, last + 1))
    return sorted(found)


def format_seeds(seeds: Iterable[int]) -> str:
    """``"0-99, 200"`` from any seeds."""
    runs: list[list[int]] = []
    for seed in parse_seeds(seeds):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _plain(value: Any, where: str) -> Any:
    """``value`` as what JSON knows: numpy's numbers as Python's, floats to six digits, NaN as null."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"{where} is infinite, which JSON cannot hold; leave it out or say it in words.")
        return None if math.isnan(value) else float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple | range | np.ndarray):
        return [_plain(item, where) for item in value]
    raise ValueError(
        f"{where} is a {type(value).__name__}, which JSON cannot hold; give numbers, text or lists."
    )


def _table(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    if isinstance(frame.columns, pd.MultiIndex):
        raise ValueError(f"table {name!r} has columns of several levels; join their names into one.")
    plain_index = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    index = 0 if plain_index else frame.index.nlevels
    flat = frame if plain_index else frame.reset_index(names=[level or "" for level in frame.index.names])
    columns = [_plain(column, f"a column of {name!r}") for column in flat.columns]
    if len(set(map(str, columns))) < len(columns):
        raise ValueError(f"table {name!r} has two columns of one name among {columns}.")
    values = [[_plain(v, f"a cell of {name!r}") for v in flat[column].tolist()] for column in flat.columns]
    return {"columns": columns, "index": index, "rows": [list(row) for row in zip(*values, strict=True)]}


def _layout(content: dict[str, Any]) -> str:
    """JSON with one line for each row of a table, so that a change of a number is a change of a line."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    flat = re.compile(r"\[\n {3,}([^\[\]{}]*?)\n +\]")
    return flat.sub(lambda m: "[" + re.sub(r",\n\s+", ", ", m[1]) + "]", text) + "\n"
