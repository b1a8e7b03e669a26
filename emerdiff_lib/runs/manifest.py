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
    seeds: Mapping[str, Iterable[int]],
    tables: Mapping[str, pd.DataFrame],
    notes: Iterable[str] = (),
) -> Path:
    """Write the manifest of a study; folders that ``path`` lacks are made.

    Args:
        title, question: what the study is called and asks.
        command: the shell command that makes these numbers again.
        settings: what the numbers depend on, flat (``Settings.to_dict()``, parameters of the notebook).
        seeds: of the Toyscapes images that were looked at, by what they were for; {} where images come from elsewhere.
        tables: from caption to table; shares in percent. Numbers are kept to six significant digits.
        notes: sentences for the reader, in Markdown.

    Raises:
        ValueError: if anything cannot be written as JSON, in one sentence that says where.
    """
    path = Path(path)
    content = {
        "title": title,
        "question": question,
        "command": command,
        "settings": {str(name): _plain(value, f"setting {name!r}") for name, value in settings.items()},
        "seeds": {str(name): format_seeds(value) for name, value in seeds.items()},
        "tables": {str(name): _table(frame, str(name)) for name, frame in tables.items()},
        "notes": [str(note) for note in notes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _layout(content))
    return path


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The keywords that :func:`write_manifest` would write the same file from, seeds as text; ValueError for no manifest."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) != set(KEYS):
        raise ValueError(f"{path} is no manifest: it has to hold {', '.join(KEYS)} and nothing else.")
    tables = {}
    for name, table in content["tables"].items():
        frame = pd.DataFrame(table["rows"], columns=table["columns"])
        tables[name] = frame.set_index(table["columns"][: table["index"]]) if table["index"] else frame
    return {**content, "tables": tables}


def parse_seeds(text: str) -> list[int]:
    """The seeds of ``"0-99, 200"``; ValueError for text of another form."""
    seeds: list[int] = []
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("-")
        seeds.extend(range(int(first), int(last or first) + 1))
    return seeds


def format_seeds(seeds: Iterable[int]) -> str:
    """``"0-99, 200"`` from any seeds."""
    runs: list[list[int]] = []
    for seed in sorted(set(map(int, seeds))):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _plain(value: Any, where: str) -> Any:
    """``value`` as what JSON knows: numpy's numbers as Python's, floats to six digits, NaN as null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float) and not math.isinf(value):
        return None if math.isnan(value) else float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple | range | np.ndarray):
        return [_plain(item, where) for item in value]
    if value is pd.NA or value is pd.NaT:
        return None
    raise ValueError(f"{where} is {value!r}, which JSON cannot hold; give finite numbers, text or lists.")


def _table(frame: pd.DataFrame, name: str) -> dict[str, Any]:
    plain_index = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    index = 0 if plain_index else frame.index.nlevels
    flat = frame if plain_index else frame.reset_index(names=[level or "" for level in frame.index.names])
    columns = [_plain(column, f"a column of {name!r}") for column in flat.columns]
    values = [[_plain(v, f"a cell of {name!r}") for v in flat[column].tolist()] for column in flat.columns]
    return {"columns": columns, "index": index, "rows": [list(row) for row in zip(*values, strict=True)]}


def _layout(content: dict[str, Any]) -> str:
    """JSON with one line for each row of a table, so that a change of a number is a change of a line."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    flat = re.compile(r"\[\n {3,}([^\[\]{}]*?)\n +\]")
    return flat.sub(lambda m: "[" + re.sub(r",\n\s+", ", ", m[1]) + "]", text) + "\n"
