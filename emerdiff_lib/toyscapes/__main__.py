"""A sheet of scenes beside their labels, and how fast they are drawn: ``python -m emerdiff_lib.toyscapes``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from .scenes import PALETTE, SPLITS, Toyscapes


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--count", type=int, default=24, help="scenes to draw")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("runs/toyscapes.png"))
    args = parser.parse_args(argv)
    start = time.perf_counter()
    scenes = [Toyscapes(args.split)[i] for i in range(args.count)]
    print(f"{args.count / (time.perf_counter() - start):.0f} scenes per second on one core")
    rows = []
    for first in range(0, args.count - args.columns + 1, args.columns):
        chosen = scenes[first : first + args.columns]
        rows += [
            np.hstack([np.asarray(s.image) for s in chosen]),
            np.hstack([PALETTE[s.labels] for s in chosen]),
        ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
