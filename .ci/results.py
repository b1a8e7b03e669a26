"""RESULTS.md from the committed manifests, and whether README agrees with it: ``python .ci/results.py``.

``notebooks/results`` holds one manifest for each study (``NN_name.json``, see ``emerdiff_lib.runs.manifest``) and ``seeds.json``,
the list of the Toyscapes images that have been evaluated. The same files give the same text. Every number in passages of the
README that are marked as results is looked up there:

    <!-- results: 06_evaluation -->EmerDiff is 9.2 points ahead.<!-- /results -->
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from emerdiff_lib import EmerDiffPipeline
from emerdiff_lib._version import CITATION
from emerdiff_lib.files import write_atomically
from emerdiff_lib.runs.manifest import read_manifest

ROOT = Path(__file__).parents[1]

LEDGER = "seeds.json"
CONFIRMATION = "kept for confirmations"  # the state of seeds that no study may use until it is changed
_NUMBER = re.compile(
    r"(?:(?<![\w)\]])[+\-−])?(?<![\w.])\d+(?:[ ,]\d{3}(?!\d))*(?:\.\d+)?(?:e[+\-]?\d+)?(?![\w])"
)
_PASSAGE = re.compile(r"<!-- results: (.*?) -->(.*?)<!-- /results -->", re.DOTALL)
_NO_RESULT = re.compile(  # code, targets of links, comments, and numbers that are names
    r"```.*?```|`[^`]*`|\]\([^)]*\)|<!--.*?-->|<[^>]*>"
    r"|\b(?:Tables?|Figs?\.|Figure|[Nn]otebooks?|[Ss]ections?|Stable Diffusion|SD)[ \u00a0]\d[\d.]*(?:[–-]\d+)?",
    re.DOTALL,
)


def read_folder(folder: Path | str) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """All manifests of a folder by their names in order, and the list of the seeds already evaluated.

    Raises:
        FileNotFoundError: if the folder has no ``seeds.json``.
        ValueError: if a file is no manifest.
    """
    folder = Path(folder)
    if not (folder / LEDGER).exists():
        raise FileNotFoundError(
            f"{folder} is no folder of results: it has no {LEDGER}, the list of the seeds already evaluated."
        )
    manifests = {
        path.stem: read_manifest(path) for path in sorted(folder.glob("*.json")) if path.name != LEDGER
    }
    return manifests, json.loads((folder / LEDGER).read_text(encoding="utf-8"))


def parse_seeds(text: str) -> list[int]:
    """The seeds of ``"0-99, 200"``; ValueError for text of another form."""
    seeds: list[int] = []
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("-")
        seeds.extend(range(int(first), int(last or first) + 1))
    return seeds


def unlisted_seeds(
    manifests: Mapping[str, Mapping[str, Any]], ledger: Iterable[Mapping[str, str]]
) -> list[str]:
    """Sentences about studies whose images the ledger does not list as evaluated; empty if all is well."""
    evaluated = {s for entry in ledger if entry["state"] != CONFIRMATION for s in parse_seeds(entry["seeds"])}
    faults = []
    for name, manifest in manifests.items():
        for what, seeds in manifest["seeds"].items():
            if missing := [seed for seed in parse_seeds(seeds) if seed not in evaluated]:
                faults.append(f"{name} looked at scene {missing[0]} ({what}); add {seeds} to {LEDGER}.")
    return faults


def render(
    manifests: Mapping[str, Mapping[str, Any]],
    ledger: Iterable[Mapping[str, str]],
    defaults: Mapping[str, Any],
) -> str:
    """RESULTS.md as text; ``defaults`` are the bundled model's settings, which are not repeated in every section."""
    lines = [
        "# Results",
        "",
        "Generated from the manifests in `notebooks/results/`, not written by hand. After running a study again, copy its",
        "`manifest.json` there and run `python .ci/results.py`.",
        "",
        f"Cite: {CITATION.removesuffix('.').replace('; segmented by', '; measured by')}.",
        "",
        "Shares are in percent and differences in points unless a table says otherwise. Everything is on Toyscapes, a toy "
        "world, with its bundled model unless a section names another.",
        "",
        "## Seeds already evaluated",
        "",
        "An image whose result has been read can no longer test a choice made afterwards. Choices are made on validation "
        "scenes (1000-1999); each claim that rests on one is confirmed once on scenes 500-699.",
        "",
        *_markdown(pd.DataFrame(ledger, columns=["seeds", "state", "for"])),
    ]
    for name, manifest in manifests.items():
        lines += ["", *_section(name, manifest, defaults)]
    return "\n".join(lines) + "\n"


def _section(name: str, manifest: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    settings = manifest["settings"]
    own = settings.get("model", "toyscapes") != "toyscapes"
    changed = {k: v for k, v in settings.items() if own or k not in defaults or defaults[k] != v}
    kept = {k: v for k, v in settings.items() if k not in changed}
    lines = [f"## {name}: {manifest['title']}", "", f"*{manifest['question']}*", ""]
    lines += ["```bash", manifest["command"], "```", ""]
    if manifest["seeds"]:
        lines.append(
            "- Scenes: " + "; ".join(f"{seeds} ({what})" for what, seeds in manifest["seeds"].items())
        )
    lines.append("- Settings beside the defaults: " + (_assignments(changed) or "none"))
    if kept:
        lines.append("- Defaults at that time, as they are now: " + _assignments(kept))
    for caption, table in manifest["tables"].items():
        named = table.index.names != [None]
        lines += ["", f"**{caption}**", "", *_markdown(table.reset_index() if named else table)]
    if manifest["notes"]:
        lines += ["", *(f"- {note}" for note in manifest["notes"])]
    return lines


def _assignments(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={json.dumps(value, ensure_ascii=False)}`" for name, value in settings.items())


def _markdown(table: pd.DataFrame) -> list[str]:
    """A Markdown table; numbers of a column are rounded alike and stand to the right."""
    columns = [_cells(table.iloc[:, i].tolist()) for i in range(table.shape[1])]
    numeric = [_is_numeric(table.iloc[:, i].tolist()) for i in range(table.shape[1])]
    header = [_escaped(column) for column in table.columns]
    rows = [header, ["---:" if right else "---" for right in numeric], *zip(*columns, strict=True)]
    return [f"| {' | '.join(row)} |" for row in rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_numeric(values: list[Any]) -> bool:
    held = [v for v in values if not (v is None or (isinstance(v, float) and math.isnan(v)))]
    return bool(held) and all(map(_is_number, held))


def _cells(values: list[Any]) -> list[str]:
    """One column's text: whole numbers as they are, the others with as many decimals as suit the largest of them."""
    sizes = [abs(v) for v in values if _is_number(v) and v]
    if all(float(size).is_integer() for size in sizes):
        return [
            f"{value:.0f}".replace("-", "−") if _is_number(value) else _escaped(value) for value in values
        ]
    together = (
        max(sizes) <= 1e4 * min(sizes) and max(sizes) > 1e-3
    )  # else no number of decimals suits them all

    def cell(value: Any) -> str:
        if not _is_number(value):
            return _escaped(value)
        text = f"{value:.{_decimals(max(sizes))}f}" if together or not value else _alone(value)
        return text.replace("-", "−", 1) if value < 0 else text

    return [cell(value) for value in values]


def _decimals(size: float) -> int:
    return max(1, 2 - math.floor(math.log10(size)))


def _alone(value: float) -> str:
    """Three digits, as a power of ten where it is small."""
    return f"{value:.{_decimals(abs(value))}f}" if abs(value) > 1e-3 else f"{value:.2e}"


def _escaped(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_escaped, value))
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


# -- numbers of the README ----------------------------------------------------------------------------------------------


def missing_numbers(text: str, results: str) -> list[str]:
    """Numbers in the marked passages of ``text`` that the named sections of ``results`` do not hold, with their passages.

    A number may be rounded further than in the results (below 10, not to a whole one), and its sign may be left out. Code,
    targets of links and numbers of tables, figures, notebooks and versions do not count.

    Raises:
        ValueError: if a passage names no section, or is not closed.
    """
    sections = {part.split(":", 1)[0]: part for part in re.split(r"^## ", results, flags=re.MULTILINE)[1:]}
    passages = _PASSAGE.findall(text)
    if len(passages) != text.count("<!-- results:") or len(passages) != text.count("<!-- /results -->"):
        raise ValueError(
            "A passage that starts with <!-- results: NAME --> has to end with <!-- /results -->."
        )
    missing = []
    for names, passage in passages:
        named = [name.strip() for name in names.split(",")]
        if unknown := [name for name in named if name not in sections]:
            raise ValueError(f"RESULTS.md has no section {unknown[0]!r}; there are {', '.join(sections)}.")
        held = _NUMBER.findall("\n".join(sections[name] for name in named))
        for number in _NUMBER.findall(_NO_RESULT.sub(" ", passage)):
            if not any(_agrees(number, other) for other in held):
                missing.append(f"{number} ({names})")
    return missing


def _agrees(number: str, held: str) -> bool:
    (value, decimals, signed), (other, others, _) = _parsed(number), _parsed(held)
    if not signed:
        value, other = abs(value), abs(other)
    if value == other:
        return True
    coarse = decimals < others and (decimals > 0 or abs(value) >= 10)
    return coarse and abs(value - other) <= 0.5 * 10.0**-decimals + 1e-9 * abs(other)


def _parsed(number: str) -> tuple[float, int, bool]:
    """Value, decimals, and whether it bears a sign."""
    plain = number.replace("−", "-").replace(" ", "").replace(",", "")
    mantissa, _, exponent = plain.partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return float(plain), decimals, plain[0] in "+-"


def main() -> None:
    manifests, ledger = read_folder(ROOT / "notebooks" / "results")
    if faults := unlisted_seeds(manifests, ledger):
        sys.exit("\n".join(faults))
    text = render(manifests, ledger, EmerDiffPipeline.from_pretrained("toyscapes").default_settings())
    write_atomically(ROOT / "RESULTS.md", text)
    print(f"RESULTS.md: {len(manifests)} studies")
    if missing := missing_numbers((ROOT / "README.md").read_text(encoding="utf-8"), text):
        sys.exit(f"README.md has numbers that RESULTS.md does not: {', '.join(missing)}")


if __name__ == "__main__":
    main()
