"""The explorer as an application: ``python -m emerdiff_lib.explorer`` serves it alone, in a browser, by Voilà."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

NOTEBOOK = Path(__file__).parent / "application.ipynb"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m emerdiff_lib.explorer",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="toyscapes", help="name, diffusers folder or hub id")
    parser.add_argument("--image", default="toyscapes:7", help="what is shown first")
    parser.add_argument("--device", default="", help="empty: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--no-browser", action="store_true", help="only serve")
    args = parser.parse_args(argv)
    if find_spec("voila") is None:
        sys.exit(
            "The application is served by Voilà, which is not installed: pip install 'emerdiff-workbook[app]'."
        )
    command = [sys.executable, "-m", "voila", str(NOTEBOOK), f"--port={args.port}", "--theme=light"]
    command += ["--no-browser"] if args.no_browser else []
    for name in ("model", "image"):  # Voilà runs the notebook where it lies
        if (path := Path(getattr(args, name)).expanduser()).exists():
            setattr(args, name, str(path.absolute()))
    own = {f"EMERDIFF_{name.upper()}": getattr(args, name) for name in ("model", "image", "device", "dtype")}
    return subprocess.run(command, env=os.environ | own, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
