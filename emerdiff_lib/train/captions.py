"""Captions from label maps: ``python -m emerdiff_lib.train.captions --dataset camvid --root … --images FOLDER``.

Writes ``metadata.jsonl`` for :mod:`emerdiff_lib.train`: which classes a picture shows, the most frequent first. That is all of
the labels that gets into a model so trained.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..datasets import open_dataset
from ..datasets.base import FileDataset
from ..files import write_atomically


def caption(labels: np.ndarray, names: list[str], ignore_index: int | None, least: float = 0.005) -> str:
    """Names of the classes that cover at least a share of ``least`` of the picture, the largest first, joined by "and"."""
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    order = [k for k in np.argsort(-shares, kind="stable") if k < len(names) and k != ignore_index]
    return " and ".join(names[k] for k in order if shares[k] >= least)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="as notebook 06 names them")
    parser.add_argument("--root", required=True, help="folder with the data set's official layout")
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--images", type=Path, required=True, help="the folder that --images of the trainer names"
    )
    parser.add_argument("--class-names", nargs="*", help="instead of the data set's own, in their order")
    parser.add_argument("--output", type=Path, required=True, help="metadata.jsonl")
    args = parser.parse_args(argv)
    data, lines = open_dataset(args.dataset, args.root, args.split), []
    if not isinstance(data, FileDataset):
        raise ValueError(
            f"--dataset={args.dataset!r} is no folder of pictures; choose one that is read from files."
        )
    names = args.class_names or list(data.class_names)
    for index in tqdm(range(len(data)), desc="captions"):
        sample = data[index]
        path = os.path.relpath(os.path.realpath(data.pairs[index][1]), os.path.realpath(args.images))
        text = caption(sample.labels, names, data.ignore_index)
        lines.append(json.dumps({"file_name": path, "text": text}))
    write_atomically(args.output, "\n".join(lines) + "\n")
    print(f"{len(lines)} captions in {args.output}.")


if __name__ == "__main__":
    main()
