"""Coded modulation: a few passes that carry all masks at once, each with signs ±1, instead of one pass per mask.

Where responses are small they add up, so a pass that shifts several masks shows the signed sum of what each alone would do.
Codes with orthogonal columns tell up to as many masks apart as there are passes; when there are more masks, those that share
a code are told apart by where they are.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import hadamard
from scipy.ndimage import distance_transform_cdt


def code_matrix(masks: torch.Tensor, passes: int) -> torch.Tensor:
    """(passes, K) signs, columns of a Hadamard matrix handed out so that masks that touch get different ones.

    Args:
        masks: (K, h, w) bool.
        passes: a power of two.

    Raises:
        ValueError: for any other number of passes.
    """
    if passes < 1 or passes & (passes - 1):
        raise ValueError(f"coded_passes={passes} is not possible; choose a power of two: 4, 8, 16 …")
    closeness = torch.from_numpy(np.exp2(-_distances(masks))).flatten(1)
    contact = closeness @ masks.flatten(1).double().T
    contact = (contact + contact.T).numpy()
    code = np.full(len(masks), -1)
    for k in np.argsort(-contact.sum(1), kind="stable"):  # greedy colouring, the best connected mask first
        code[k] = np.argmin([contact[k, code == c].sum() for c in range(passes)])
    return torch.from_numpy(hadamard(passes)[:, code]).float()


def neighbourhoods(masks: torch.Tensor, size: tuple[int, int], reach: int = 1) -> torch.Tensor:
    """(K, *size) in [0, 1]: 1 on each mask and the cells within ``reach`` of it, bilinear beyond."""
    near = torch.from_numpy(_distances(masks) <= reach).float()
    return F.interpolate(near[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _distances(masks: torch.Tensor) -> np.ndarray:
    """(K, h, w) chessboard distance in cells to each mask."""
    return np.stack([distance_transform_cdt(~mask, metric="chessboard") for mask in masks.numpy()]).astype(
        float
    )
