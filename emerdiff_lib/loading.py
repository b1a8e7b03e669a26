"""One call from what people type (a name, a device, a dtype) to a pipeline that works in silence."""

from __future__ import annotations

from pathlib import Path

from .checkpoints import check_device, check_dtype
from .pipeline import EmerDiffPipeline


def load_pipeline(
    model: str | Path = "toyscapes", device: str = "", dtype: str = "float32", progress: bool = False
) -> EmerDiffPipeline:
    """A pipeline on a device.

    Args:
        model: as for :meth:`EmerDiffPipeline.from_pretrained`.
        device: "cpu", "cuda", "cuda:1", "mps" …; empty: a GPU if there is one.
        dtype: "float32", "bfloat16" or "float16".
        progress: bars over masks and inversion steps.

    Raises:
        FileNotFoundError, ValueError: one sentence that names the faulty value and the possible ones; device and dtype
            are looked at before anything is loaded.
    """
    where, kind = check_device(device), check_dtype(dtype)
    pipe = EmerDiffPipeline.from_pretrained(model, dtype=kind).to(where)
    pipe.set_progress_bar_config(disable=not progress, leave=False)
    return pipe
