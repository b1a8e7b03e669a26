"""The explorer as an application: ``python -m emerdiff_lib.explorer`` serves it alone, in a browser, by Voilà."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..datasets.images import one_image

WORDS = """# EmerDiff explorer

Pick an image and settings, press *Compute*, then click, drag and paint: segments, the cells behind a pixel, the pixels behind
a cell, the answer to a mask of your own. Compute the other side with other settings to compare."""


def notebook(model: str, image: str, device: str, dtype: str) -> dict[str, Any]:
    """What Voilà serves: a sentence and a workbench, as nbformat has it."""
    code = (
        "from emerdiff_lib import load_pipeline\nfrom emerdiff_lib.explorer import Workbench\n\n"
        f"Workbench(load_pipeline({model!r}, {device!r}, {dtype!r}), {image!r})"
    )
    words = {"cell_type": "markdown", "id": "words", "metadata": {}, "source": WORDS}
    bench = {"cell_type": "code", "id": "workbench", "metadata": {}, "source": code}
    bench |= {"execution_count": None, "outputs": []}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": [words, bench], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m emerdiff_lib.explorer",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default="",
        help="a diffusers folder or hub id; empty: the bundled one that suits the image",
    )
    parser.add_argument("--image", default="sample:temple", help="what is shown first")
    parser.add_argument("--device", default="", help="empty: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--no-browser", action="store_true", help="only serve")
    args = parser.parse_args(argv)
    if find_spec("voila") is None:
        sys.exit(
            "The application is served by Voilà, which is not installed: pip install 'emerdiff-workbook[app]'."
        )
    try:
        args.model = args.model or one_image(args.image).model
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    for name in ("model", "image"):  # Voilà runs the notebook where it lies
        if (path := Path(getattr(args, name)).expanduser()).exists():
            setattr(args, name, str(path.absolute()))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "explorer.ipynb"
        path.write_text(json.dumps(notebook(args.model, args.image, args.device, args.dtype)), "utf-8")
        command = [sys.executable, "-m", "voila", str(path), f"--port={args.port}", "--theme=light"]
        command += ["--no-browser"] if args.no_browser else []
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
