"""Where do the words of a prompt look? Cross-attention probabilities as maps over the picture (Notebook 02).

The maps are those of DAAM (Tang et al., "What the DAAM", ACL 2023, arXiv 2210.04885) for a single timestep and layer, with
the noisy latents of a given picture in place of a generated one's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from ..evaluation.regions import cell_shares
from ..features import draw_noise
from ..pipeline import EmerDiffPipeline
from ..toyscapes import Scene, Toyscapes
from ..words import word_attention, word_positions

FILLERS = frozenset(
    ["a", "an", "the", "of", "and", "with", "at", "on", "in", "by", "is", "picture", "photo", "photograph"]
)
# Words of Toyscapes' captions that name one of its coarse classes
NOUNS = {
    "mountains": "mountain",
    "lake": "water",
    "sea": "water",
    "road": "road",
    "house": "building",
    "tree": "tree",
    "car": "car",
    "boat": "boat",
    "person": "person",
}


def content_words(prompt: str, most: int = 8) -> list[str]:
    """The words of a prompt that are about the picture, each once, in their order."""
    words = [word.strip(".,;:!?\"'()").lower() for word in prompt.split()]
    return [word for word in dict.fromkeys(words) if word and word not in FILLERS][:most]


@torch.no_grad()
def word_maps(
    pipe: EmerDiffPipeline,
    image: Image.Image,
    prompt: str,
    words: Iterable[str],
    timestep: int,
    layers: Sequence[str],
    draws: int = 8,
    seed: int = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """Attention of every place of ``image`` to each word, {layer: {word: (h, w) in [0, 1]}}, averaged over noise draws.

    A word is the sum of its tokens, wherever it stands in the prompt; words that do not stand in it are left out.
    """
    predictor, clean = pipe.predictor(prompt=prompt), pipe.encode(image)
    noise = draw_noise(clean, draws, torch.Generator().manual_seed(seed))
    noisy = predictor.add_noise(clean, noise, timestep)
    positions = {word: word_positions(pipe, prompt, word) for word in words}
    found = word_attention(predictor, noisy, timestep, layers)
    return {
        layer: {w: probabilities[..., where].sum(-1).numpy() for w, where in positions.items() if where}
        for layer, probabilities in found.items()
    }


def word_scores(
    pipe: EmerDiffPipeline,
    scenes: Sequence[Scene],
    timestep: int,
    layers: Sequence[str],
    draws: int = 8,
    seed: int = 0,
    nouns: Mapping[str, str] = NOUNS,
    progress: Callable[[Iterable], Iterable] = iter,
) -> pd.DataFrame:
    """Do the words of scenes' captions look at what they name?

    Returns:
        a row per scene, layer and word of ``nouns`` in the caption: ``scene`` (seed), ``layer``, ``word`` and ``auc``, the
        probability that a cell of the word's class gets more of its attention than any other cell: 0.5 by chance.
    """
    records = []
    for scene in progress(scenes):
        words = [word for word in content_words(scene.caption, most=100) if word in nouns]
        maps = word_maps(pipe, scene.image, scene.caption, words, timestep, layers, draws, seed)
        for layer, found in maps.items():
            for word, attention in found.items():
                index = Toyscapes.coarse_class_names.index(nouns[word])
                covered = cell_shares(scene.coarse_labels == index, attention.shape).ravel() >= 0.5
                if 0 < covered.sum() < covered.size:
                    auc = roc_auc_score(covered, attention.ravel())
                    records.append({"scene": scene.seed, "layer": layer, "word": word, "auc": float(auc)})
    return pd.DataFrame(records, columns=["scene", "layer", "word", "auc"])
