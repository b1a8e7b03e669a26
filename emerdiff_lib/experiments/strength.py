"""Which λ suits which picture, and whether it can be told without labels (the paper's open question)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_dilation, uniform_filter
from scipy.stats import spearmanr
from skimage.color import rgb2gray
from skimage.filters import sobel
from skimage.segmentation import find_boundaries

from ..evaluation.regions import boundaries, find_regions
from ..toyscapes import Scene, Toyscapes
from .ablation_tables import level

FEWEST = 5  # scenes that say anything about a kind of picture
HINTS = ("response", "margin", "agreement", "edge contrast")
STANDING = ("building", "tree", "car", "boat", "person")  # coarse classes that are objects
LIGHTS = ("at day", "at sunset", "at night", "on a grey day")  # how a caption ends


def label_free_hints(
    image: Image.Image, difference_maps: np.ndarray, labels: np.ndarray, bilinear: np.ndarray
) -> dict[str, float]:
    """What a rule for λ could go by, without labels.

    Args:
        image: the picture, RGB.
        difference_maps: (K, h, w), unfiltered, at any size.
        labels: (H, W) of the method; ``bilinear`` (H, W) of the same coarse masks upsampled. Both at the picture's size.

    Returns:
        - "response": mean over the pixels of the largest difference, in [0, √3].
        - "margin": mean of (largest − second) / largest difference, in [0, 1].
        - "agreement": share of pixels that keep the label of the bilinear masks.
        - "edge contrast": mean gradient of the image on the segments' boundaries over that of the whole image.
    """
    ordered = np.sort(difference_maps, 0)
    first, second = ordered[-1], ordered[-2] if len(ordered) > 1 else np.zeros_like(ordered[-1])
    gradient = sobel(rgb2gray(np.asarray(image.convert("RGB"))))
    edges = find_boundaries(labels)
    return {
        "response": float(first.mean()),
        "margin": float(((first - second) / np.maximum(first, 1e-8)).mean()),
        "agreement": float((labels == bilinear).mean()),
        "edge contrast": float(gradient[edges].mean() / max(gradient.mean(), 1e-8)) if edges.any() else 0.0,
    }


def kind_of_picture(scene: Scene) -> dict[str, str | float]:
    """What a Toyscapes scene is like.

    Returns:
        "time of day" as its caption ends, "object size" (median share of the picture of an object of a class in
        :data:`STANDING`, 0 without any) and "texture contrast" (RMS of brightness less its 5 × 5 mean, away from boundaries, in
        [0, 1]).
    """
    standing = [Toyscapes.coarse_class_names.index(name) for name in STANDING]
    areas = [r.area for r in find_regions(scene.coarse_labels, 0.0005, 1.0) if r.class_index in standing]
    grey = np.asarray(scene.image.convert("L")) / 255.0
    inside = ~binary_dilation(boundaries(scene.labels), iterations=3)
    texture = (grey - uniform_filter(grey, 5))[inside]
    return {
        "time of day": next(light for light in LIGHTS if scene.caption.endswith(light)),
        "object size": float(np.median(areas)) if areas else 0.0,
        "texture contrast": float(np.sqrt(np.square(texture).mean())) if inside.any() else 0.0,
    }


def by_picture(strengths: dict[float, list[dict]], scenes: Iterable[Scene]) -> pd.DataFrame:
    """A row per scene and λ.

    Args:
        strengths: {λ: results of :class:`.ablations.Study`, scene by scene}.
        scenes: the same scenes, in the same order.

    Returns:
        "seed", "λ", "mIoU" (oracle, of the one picture) and "boundary F" in points, "layer RMS", the label-free hints of
        :func:`label_free_hints`, and the kind of picture as :func:`kind_of_picture` tells it.
    """
    rows = []
    for index, scene in enumerate(scenes):
        kind = kind_of_picture(scene)
        for value, results in strengths.items():
            one = results[index]
            scores = {"mIoU": level([one], "oracle mIoU"), "boundary F": level([one], "boundary F")}
            row = {"seed": scene.seed, "λ": value} | scores | {"layer RMS": one["layer_rms"]}
            rows.append(row | one["hints"] | kind)
    return pd.DataFrame(rows)


def groups(pictures: pd.DataFrame) -> dict[str, pd.Series]:
    """{way to group: group of every row of :func:`by_picture`'s table}: the time of day, small or large objects, little or much
    texture, each split at the median picture."""
    first = pictures.drop_duplicates("seed")
    halves = lambda name, low, high: pictures[name].gt(first[name].median()).map({False: low, True: high})
    return {
        "time of day": pictures["time of day"],
        "object size": halves("object size", "small objects", "large objects"),
        "texture contrast": halves("texture contrast", "little texture", "much texture"),
    }


def best_by_kind(pictures: pd.DataFrame, draws: int = 500, seed: int = 0) -> pd.DataFrame:
    """A row per kind of picture: "scenes", the λ that is best for them on average ("best λ"), and the λs that are the best of
    at least 2.5 % of ``draws`` resamplings of the scenes ("could be", "" of fewer than :data:`FEWEST` scenes); then the mean
    mIoU of every λ, in points."""
    rng, rows = np.random.default_rng(seed), {}
    wide = pictures.pivot(index="seed", columns="λ", values="mIoU")
    for name, group in groups(pictures).items():
        of_scene = group.groupby(pictures["seed"]).first()
        for kind in dict.fromkeys(group):
            part = wide[(of_scene == kind).reindex(wide.index)]
            samples = rng.integers(0, len(part), (draws, len(part)))
            winners = wide.columns[part.to_numpy()[samples].mean(1).argmax(1)]
            likely = [value for value in wide.columns if (winners == value).mean() >= 0.025]
            mean, could_be = part.mean(), ", ".join(f"{v:g}" for v in likely) if len(part) >= FEWEST else ""
            found = {"scenes": len(part), "best λ": mean.idxmax(), "could be": could_be}
            rows[name, kind] = found | {f"λ {value:g}": mean[value] for value in mean.index}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["pictures by", "kind"])


def rules(pictures: pd.DataFrame, usual: float = 10.0) -> pd.DataFrame:
    """Mean scores in points of rules for λ, a row each.

    The same λ for all; "relative norm", ``usual`` in proportion to the layer's RMS; the λ with the largest or smallest hint;
    "best in hindsight" by mIoU, which no rule can beat. ``pictures`` is :func:`by_picture`'s table.
    """
    grid = np.sort(pictures["λ"].unique())
    wanted = usual * pictures["layer RMS"] / pictures.drop_duplicates("seed")["layer RMS"].median()
    nearest = grid[np.abs(np.log(grid)[None] - np.log(wanted.to_numpy())[:, None]).argmin(1)]
    chosen = {f"λ = {value:g}": pictures[pictures["λ"] == value] for value in grid}
    chosen["relative norm"] = pictures[pictures["λ"] == nearest]
    for hint in HINTS:
        chosen[f"largest {hint}"] = pictures.loc[pictures.groupby("seed")[hint].idxmax()]
        chosen[f"smallest {hint}"] = pictures.loc[pictures.groupby("seed")[hint].idxmin()]
    chosen["best in hindsight"] = pictures.loc[pictures.groupby("seed")["mIoU"].idxmax()]
    table = pd.DataFrame({name: rows[["mIoU", "boundary F"]].mean() for name, rows in chosen.items()}).T
    return table.assign(**{"median λ": {name: rows["λ"].median() for name, rows in chosen.items()}})


def describe(pictures: pd.DataFrame, usual: float = 10.0) -> list[str]:
    """What the tables say of λ, in sentences."""
    scores, kinds = rules(pictures, usual)["mIoU"], best_by_kind(pictures)
    fixed = pictures.groupby("λ")["mIoU"].mean()
    optimum, hindsight = fixed.idxmax(), scores["best in hindsight"]
    flat = fixed.index[fixed > fixed.max() - 1]
    labelled = scores.index.str.startswith("λ = ") | (scores.index == "best in hindsight")
    rule = scores[~labelled].idxmax()
    best = pictures.loc[pictures.groupby("seed")["mIoU"].idxmax()]
    spread = best["layer RMS"].max() / best["layer RMS"].min() - 1
    sentences = [
        f"λ = {optimum:g} is the best fixed λ; within one point of it are {', '.join(f'{v:g}' for v in flat)}.",
        f"The best λ of each picture, in hindsight, gives {hindsight - fixed.max():+.1f} points over it; part of that is chance.",
        f"The best rule without labels is “{rule}”: {scores[rule] - fixed.max():+.1f} points.",
        f"The layer's RMS differs by {100 * spread:.0f} % between the pictures with the largest and the smallest.",
    ]
    if best["λ"].nunique() > 1 and best["layer RMS"].nunique() > 1 and len(best) > 3:
        rank = spearmanr(best["layer RMS"], best["λ"])
        sentences.append(
            f"Its rank correlation with a picture's best λ is {rank.statistic:+.2f} (p = {rank.pvalue:.2f})."
        )
    told = kinds.loc[kinds["could be"] != "", "could be"].groupby(level=0, sort=False)
    shared = {way: set.intersection(*(set(words.split(", ")) for words in part)) for way, part in told}
    different = [way for way, values in shared.items() if not values]
    if different:
        sentences.append(f"Pictures need different λs by {', '.join(different)} (column “could be”).")
    elif shared:
        sentences.append("No way of grouping the pictures gives groups that need different λs.")
    return sentences
