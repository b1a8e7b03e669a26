"""What travels to other processes, and what every one of them has to set up alike."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ..loading import load_pipeline
from ..pipeline import EmerDiffPipeline
from .identity import model_identity

WORKER_NUMBER = "EMERDIFF_WORKER"  # environment variable: which of several processes on one machine this is


@dataclass(frozen=True)
class PipelineByName:
    """A pipeline that is loaded again where it arrives, and must turn out to be the same one.

    Attributes:
        name, device, dtype: for :func:`~emerdiff_lib.loading.load_pipeline`.
        identity: :func:`~.identity.model_identity` of the original.
    """

    name: str
    device: str
    dtype: str
    identity: dict[str, Any]

    @classmethod
    def of(cls, pipe: EmerDiffPipeline) -> PipelineByName:
        """Raises a ValueError for a pipeline that cannot be loaded by name."""
        if pipe.model_name == EmerDiffPipeline.model_name:
            raise ValueError(
                "This pipeline was put together by hand, and other processes load it by name: use workers=1, or save it with "
                "save_pretrained and load the folder."
            )
        dtype = str(pipe.unet.dtype).removeprefix("torch.")
        return cls(pipe.model_name, str(pipe.device), dtype, model_identity(pipe))

    def load(self) -> EmerDiffPipeline:
        """The pipeline, on this process's share of the devices.

        Raises:
            ValueError: if what the name stands for is not what it was.
        """
        pipe = load_pipeline(self.name, own_device(self.device), self.dtype)
        if model_identity(pipe) != self.identity:
            raise ValueError(
                f"{self.name} is no longer the model that this run was started with (or was changed after it had been "
                "loaded); other processes load it by name: use workers=1, or save it as it is and start again."
            )
        return pipe


def own_device(device: str) -> str:
    """ "cuda" and "cuda:0" become the GPU of this worker where there are several, by its number."""
    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    number = os.environ.get(WORKER_NUMBER)
    return device if number is None or count < 2 else f"cuda:{int(number) % count}"


def set_threads(threads: int) -> None:
    """As many threads as the process that started the run has, since the last digits of results depend on it."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
