"""What more training of ``streets`` gives: features of its checkpoints on photographs that it has not seen.

``python .ci/more_training.py CAMVID BSDS500 MANIFEST STEPS=FOLDER …``; results are kept in runs/more-training.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from emerdiff_lib import load_pipeline
from emerdiff_lib.baselines.upsamplers import guided_adaptive, upsampled_superpixels
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.datasets.berkeley import BSDS500
from emerdiff_lib.evaluation.berkeley import connected, ods_and_ois, region_scores
from emerdiff_lib.evaluation.intervals import interval, verdict, with_interval
from emerdiff_lib.evaluation.protocols import oracle
from emerdiff_lib.evaluation.regions import sample_labels
from emerdiff_lib.evaluation.tables import score
from emerdiff_lib.files import file_digest
from emerdiff_lib.pixels import Superpixels
from emerdiff_lib.runs.cached_map import cached_map
from emerdiff_lib.runs.keys import model_key, versions
from emerdiff_lib.runs.manifest import write_manifest

COUNTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24)
# photographs of Berkeley's train, for filtered queries and for pixel mode; every so many frames of CamVid's train
PHOTOGRAPHS, IN_PIXEL_MODE, HELD_OUT = range(0, 200, 4), range(0, 200, 16), 20
SHIPPED = "as shipped"


def superpixels_of(pipe: Any, image: Image.Image, seed: int, pixel: bool) -> Superpixels:
    coarse = pipe.cluster(image, mode="pixel", generator=torch.Generator().manual_seed(seed))
    if pixel:
        return pipe.probe(coarse).superpixels()
    small = np.asarray(image.resize(coarse.processing_size[::-1]))
    return upsampled_superpixels(coarse.queries, small, guided_adaptive)


def of_photograph(pipe: Any, data: BSDS500, pixel: bool, position: int) -> dict[str, list]:
    """{K: (people, 3) scores}"""
    photograph, scores = data[position], {}
    parts = superpixels_of(pipe, photograph.image, 0, pixel)
    for k in COUNTS:
        labels = sample_labels(connected(parts.segments(k)), photograph.annotations[0].shape)
        scores[str(k)] = region_scores(labels, photograph.annotations).tolist()
    return scores


def of_frame(pipe: Any, data: Any, pixel: bool, position: int) -> dict[str, Any]:
    """{"table", "boundary_f"} at 192 pixels and the model's K."""
    sample = data[position]
    size = 192, round(192 * sample.image.height / sample.image.width)
    image = sample.image.resize(size, Image.Resampling.LANCZOS)
    truth = np.asarray(Image.fromarray(sample.labels).resize(size, Image.Resampling.NEAREST))
    parts = superpixels_of(pipe, image, sample.seed, pixel)
    labels = sample_labels(parts.segments(pipe.resolve().num_masks), truth.shape)
    embeddings = np.zeros((labels.max() + 1, 1), np.float32)
    one = score(labels, truth, embeddings, 0.0, len(data.class_names), data.ignore_index, data.background)
    return {"table": one["table"], "boundary_f": one["boundary_f"]}


def measure(pipe: Any, photographs: BSDS500, frames: Any, pixel: bool) -> dict[str, Any]:
    key = {"study": "more training", "pixel": pixel, "model": model_key(pipe), "versions": versions()}
    mapped = lambda job, samples, image_of, what: list(
        cached_map(job, samples, f"runs/more-training/{what}", key, image_of, label=what)
    )
    samples = {photographs.files[i].stem: i for i in (IN_PIXEL_MODE if pixel else PHOTOGRAPHS)}
    digest = lambda i: {"image": file_digest(photographs.files[i])}
    results = mapped(partial(of_photograph, pipe, photographs, pixel), samples, digest, "bsds500")
    results = [{k: np.array(people) for k, people in one.items()} for one in results]
    table = ods_and_ois(results).loc["covering"]
    measured = {"ODS": table["ODS"], "at K": table["at"], "OIS": table["OIS"]}
    measured["covering"] = np.array([one[table["at"]][:, 0].mean() for one in results])
    samples = {f"{i:03}": i for i in range(0, len(frames), HELD_OUT)}
    one_name = lambda i: {"image": frames[i].name}
    results = mapped(partial(of_frame, pipe, frames, pixel), samples, one_name, "camvid")
    measured["oracle mIoU"] = np.stack([oracle(one["table"]) for one in results])
    measured["boundary F"] = np.array([one["boundary_f"] for one in results])
    return measured


def main(camvid: str, berkeley: str, manifest: str, *named: str) -> None:
    photographs, frames = BSDS500(berkeley, "train"), open_dataset("camvid", camvid, "train")
    folders = {SHIPPED: "streets"} | dict(one.split("=", 1) for one in named)
    last = list(folders)[-1]
    rows, notes = {}, []
    for pixel, what in ((False, "query features + both filters"), (True, "EmerDiff-Pixel (ours)")):
        measured = {}
        for name, folder in folders.items():
            if pixel and name not in (SHIPPED, last):
                continue
            measured[name] = measure(load_pipeline(folder, progress=False), photographs, frames, pixel)
            here = measured[name]
            row = {
                "covering ODS": round(here["ODS"], 4),
                "at K": here["at K"],
                "covering OIS": round(here["OIS"], 4),
            }
            for which in ("covering", "oracle mIoU", "boundary F"):
                row[which] = round(100 * interval(here[which])[0], 2)
                if name != SHIPPED:
                    ends = [100 * end for end in interval(here[which], measured[SHIPPED][which])]
                    row[f"{which}, gained"] = f"{with_interval(*ends)}, {verdict(*ends[1:])}"
            rows[what, name] = row
            print(what, name, row, flush=True)
    table = pd.DataFrame(rows).T.rename_axis(["features", "further steps"]).drop(columns="covering")
    for (what, name), row in rows.items():
        if name == last:
            gained = "; ".join(
                f"{w} {row[f'{w}, gained']}" for w in ("covering", "oracle mIoU", "boundary F")
            )
            notes.append(f"{what}, after {name} further steps, minus {SHIPPED}, in points: {gained}.")
    write_manifest(
        manifest,
        title="What more training gives",
        question="Does streets, trained further on the same photographs, have better features?",
        command="python .ci/more_training.py CAMVID BSDS500 notebooks/results/more_training.json STEPS=FOLDER …",
        settings=load_pipeline("streets").resolve(mode="pixel").to_dict(),
        seeds={},
        tables={"Photographs of Berkeley's train, and CamVid's held-out frames": table},
        notes=notes,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
