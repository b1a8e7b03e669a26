"""The explorer as an application: ``python -m emerdiff_lib.explorer`` serves it alone, in a browser, by Voilà.

Whoever opens it needs the token that is printed, and requests under another host's name are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ..datasets.images import one_image
from ..loading import check_device, check_dtype, locate

OPTIONS = (
    "--token",  # a random one, or JUPYTER_TOKEN
    "--Voila.tornado_settings={'allow_remote_access': False}",  # Host has to be this machine
    "--MappingKernelManager.cull_interval=60",  # kernels end with their pages
    "--MappingKernelManager.cull_idle_timeout=300",
    "--theme=light",
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m emerdiff_lib.explorer",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="", help="folder or hub id; empty: what suits the image")
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
    if not 0 <= args.port < 65536:
        sys.exit(f"--port={args.port} is not possible; it is a number from 0 to 65535.")
    try:  # what can be wrong is said before anything is served
        sample = one_image(args.image)
        assert sample.image
        model = args.model or sample.model
        locate(model), check_device(args.device), check_dtype(args.dtype)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    given = vars(args) | {"model": model, "folder": os.getcwd()}  # paths are meant from here
    os.environ["EMERDIFF_EXPLORER"] = json.dumps(given)
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), f"--port={args.port}", *OPTIONS]
    sys.stdout.flush()
    # signals go to the server, which ends its kernels
    os.execv(sys.executable, command + ["--no-browser"] * args.no_browser)


if __name__ == "__main__":
    main()
