"""Execute notebooks with their defaults, in order, and write them back as they are committed: ``python .ci/execute.py 05 07``.

Outputs stay; progress bars, warnings (shown here instead) and everything that is this machine's or this minute's go. What a
notebook leaves as manifest.json in its output folder is copied to notebooks/results/. A notebook that fails is left as it was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"


def is_kept(output: nbformat.NotebookNode) -> bool:
    """Neither a warning nor a progress bar; a widget that is a page as well stays as the page."""
    data = output.get("data", {})
    is_widget = data.pop(WIDGET, None) is not None
    return output.get("name") != "stderr" and (not is_widget or "text/html" in data)


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without stderr, widgets, times and versions; tags and alt texts of figures ("mystnb") stay; in place."""
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags", "mystnb") if key in cell.metadata}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if is_kept(output)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "name": "python"},
    }
    return notebook


def execute(path: Path, results: Path, cwd: Path = ROOT) -> str:
    """Execute one notebook in place and keep its manifest; returns what it wrote to stderr.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; then nothing is written.
    """
    notebook = nbformat.read(path, 4)
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(cwd)}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    warnings = "".join(output.text for output in outputs if output.get("name") == "stderr")
    nbformat.write(cleaned(notebook), path)
    parameters = papermill.inspect_notebook(path)
    if "output_dir" in parameters:
        manifest = cwd / str(parameters["output_dir"]["default"]).strip("'\"") / "manifest.json"
        if manifest.exists():
            shutil.copyfile(manifest, results / f"{path.stem}.json")
    return warnings


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="beginnings of the notebooks' names; all of them by default")
    args = parser.parse_args(argv)
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if unknown := [n for n in args.names if not any(path.name.startswith(n) for path in paths)]:
        sys.exit(
            f"No notebook begins with {unknown[0]!r}; there are {', '.join(path.stem for path in paths)}."
        )
    for path in paths:
        if not args.names or path.name.startswith(tuple(args.names)):
            start = time.perf_counter()
            warnings = execute(path, ROOT / "notebooks" / "results")
            print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
            print(warnings, file=sys.stderr, end="")


if __name__ == "__main__":
    main()
