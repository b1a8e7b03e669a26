"""∂I/∂λ against finite differences of the lockstep engine, which never saw a derivative, in float64."""

import copy

import pytest
import torch

from emerdiff_lib import EmerDiffPipeline
from emerdiff_lib.experiments.tangents import image_tangents
from emerdiff_lib.inversion import Trajectory, draw_latents
from emerdiff_lib.modulation import modulated_latents, shortened, signed_offsets
from emerdiff_lib.settings import Perturbation

from .conftest import seeded
from .tiny_stable_diffusion import save


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save(folder)
    return EmerDiffPipeline.from_pretrained(folder)


def in_double(pipeline):
    parts = {
        name: copy.deepcopy(getattr(pipeline, name)).double() for name in ("unet", "vae", "text_encoder")
    }
    return EmerDiffPipeline(
        **parts,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        default_settings=pipeline.config.default_settings,
    )


@pytest.mark.parametrize("model", ["pipe", "tiny"])
@pytest.mark.parametrize("placement", ["after_projection", "before_projection"])
@torch.no_grad()
def test_tangents_are_the_limit_of_finite_differences(request, model, placement):
    pipeline = in_double(request.getfixturevalue(model))
    denoiser, used = pipeline.denoiser(), pipeline.resolve()
    side = 16  # smaller than either was made for, and quicker
    clean = torch.randn(
        1, pipeline.unet.config.in_channels, side, side, generator=seeded(), dtype=torch.float64
    )
    t_m = used.perturbation.modulation_timestep
    timesteps = [t for t in denoiser.timesteps if t <= t_m]
    trajectory = Trajectory("ddpm", timesteps, draw_latents(denoiser, clean, timesteps, seeded(1)), clean, 50)
    visited = shortened(timesteps, t_m, 2)
    perturbation = Perturbation(used.perturbation.modulation_layer, t_m, 1.0, placement)
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 2, 1:] = True, True

    def decode(latents):
        return pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample / 2 + 0.5

    found = image_tangents(denoiser, decode, trajectory, masks, perturbation, visited, chunk_size=1)
    errors = []
    for strength in (1e-2, 1e-3):
        rows = modulated_latents(
            denoiser, [trajectory], signed_offsets(masks, strength).double(), perturbation, visited
        )
        positive, negative = decode(rows[1:]).chunk(2)
        expected = (positive - negative) / (2 * strength)
        errors.append(float((found - expected).norm() / expected.norm()))
    assert found.abs().max() > 1e-6
    assert errors[1] < 1e-5  # float32 offsets and the result's float32 leave some 1e-7
    assert errors[1] < errors[0] / 10 or errors[0] < 1e-5
