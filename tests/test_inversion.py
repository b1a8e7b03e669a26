"""Inversions against closed forms and against diffusers' own samplers."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler

from emerdiff_lib import EmerDiffPipeline
from emerdiff_lib.inversion import invert_ddim, invert_ddpm, replay
from emerdiff_lib.predictor import Predictor

from .conftest import refusal, seeded

SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SHAPE = (1, 4, 48, 48)


class GaussianBackbone:
    """The optimal denoiser for data ~ N(0, s²): E[x₀ | xₜ] has a closed form."""

    is_flow = False

    def __init__(self, scale: float, prediction: str):
        scheduler = DDIMScheduler(**SCHEDULE, prediction_type=prediction)
        self.scale, self.prediction, self.alphas = scale, prediction, scheduler.alphas_cumprod
        self.pipe, self.denoiser = SimpleNamespace(scheduler=scheduler), torch.nn.Module()
        self.denoiser.dtype = torch.float32

    def call(self, latents, timesteps, condition):
        a = self.alphas[timesteps].view(-1, 1, 1, 1)
        clean = a.sqrt() * self.scale**2 / (a * self.scale**2 + 1 - a) * latents
        noise = (latents - a.sqrt() * clean) / (1 - a).sqrt()
        velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": velocity}[self.prediction]


def gaussian_denoiser(prediction="epsilon", scale=1.0, steps=50):
    return Predictor(GaussianBackbone(scale, prediction), {}, steps)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_prediction_types_invert_alike_and_replay_exactly(prediction):
    clean = torch.randn(SHAPE, generator=seeded(1))
    denoisers = map(gaussian_denoiser, ("epsilon", prediction))
    usual, other = (invert_ddpm(d, clean, d.timesteps[-15:], seeded(2)) for d in denoisers)
    for t in usual.timesteps:
        torch.testing.assert_close(usual.noise_maps[t], other.noise_maps[t], rtol=1e-3, atol=1e-3)
    restored = replay(gaussian_denoiser(prediction), other)
    assert (restored - clean).norm() / clean.norm() < 1e-5


def test_noise_maps_of_a_markov_path_are_standard_normal():
    """With the optimal denoiser of Gaussian data, the reverse step is the true posterior, so zₜ ~ N(0, 1)."""
    predictor = gaussian_denoiser(scale=1.0)
    clean = torch.randn(SHAPE, generator=seeded(1))
    trajectory = invert_ddpm(predictor, clean, predictor.timesteps, seeded(2), independent_noise=False)
    for t in trajectory.timesteps[:-1]:  # at the last step σ = 0 and the residual is kept instead
        z = trajectory.noise_maps[t]
        assert abs(z.mean()) < 0.05
        # σₜ² is DDPM's *lower* bound of the reverse variance (x₀ known); for unit Gaussian data the exact one is
        # 1 − ᾱₜ/ᾱₜ₋Δ, the upper bound: their ratio is the variance that zₜ must have
        a, p = predictor.alpha_bars(t)
        expected = ((1 - a) / (1 - p)).sqrt()
        assert z.std() == pytest.approx(expected.item(), rel=0.03)
    first = torch.stack([trajectory.noise_maps[t] for t in trajectory.timesteps[:20]])
    assert first.std() == pytest.approx(1, abs=0.03)


def test_noise_maps_of_independent_noises_have_the_variance_of_the_closed_form():
    """A denoiser that knows x₀ leaves zₜ = (√(1−ᾱₜ₋Δ) ε' − √(1−ᾱₜ₋Δ−σ²) ε)/σ, of variance 2(1−ᾱₜ)/(1−ᾱₜ/ᾱₜ₋Δ) − 1."""
    predictor = gaussian_denoiser(scale=1e-4)  # data without variance: x₀ = 0 is known
    trajectory = invert_ddpm(predictor, torch.zeros(SHAPE), predictor.timesteps[-15:], seeded(2))
    for t in trajectory.timesteps[:-1]:
        a, p = predictor.alpha_bars(t)
        expected = (2 * (1 - a) / (1 - a / p) - 1).sqrt().item()
        assert trajectory.noise_maps[t].std() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("steps,start", [(20, 951), (7, 427)])
def test_ddpm_replay_of_the_real_model_is_exact(pipe, scene, steps, start):
    trajectory = pipe.invert(scene.image, start_timestep=start, num_inference_steps=steps, generator=seeded())
    error = (pipe.replay(trajectory) - trajectory.clean_latents).norm() / trajectory.clean_latents.norm()
    assert error < 1e-5


def test_batched_inversion_equals_one_call_per_timestep(pipe, scene):
    predictor = pipe.predictor()
    given = predictor, pipe.encode(scene.image, 128), predictor.timesteps[-8:]
    one, many = (invert_ddpm(*given, seeded(3), batch_size=size) for size in (1, 8))
    for t in one.timesteps:
        torch.testing.assert_close(one.noise_maps[t], many.noise_maps[t], rtol=1e-3, atol=1e-3)


def test_ddim_replay_follows_diffusers_sampler(pipe, scene):
    trajectory = pipe.invert(scene.image, method="ddim", start_timestep=281)
    predictor = pipe.predictor()
    sampler = {"timestep_spacing": "leading", "set_alpha_to_one": True, "clip_sample": False}
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **sampler)
    scheduler.set_timesteps(50)
    latents = trajectory.latents[281]
    for t in trajectory.timesteps:
        latents = scheduler.step(predictor.network_output(latents, t), t, latents).prev_sample
    torch.testing.assert_close(pipe.replay(trajectory), latents, rtol=1e-4, atol=1e-4)


def test_ddim_error_shrinks_with_the_number_of_steps_on_an_exact_denoiser():
    clean = torch.randn(SHAPE, generator=seeded(1))
    errors = []
    for steps in (10, 50, 250):
        predictor = gaussian_denoiser(scale=0.5, steps=steps)
        replayed = replay(predictor, invert_ddim(predictor, clean, predictor.timesteps))
        errors.append((replayed - clean).norm() / clean.norm())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_unknown_method_and_timestep_are_refused_with_the_valid_ones(pipe, scene):
    assert "'ddpm', 'ddim'" in refusal(lambda: pipe.invert(scene.image, method="euler"))
    with pytest.raises(ValueError, match="start_timestep=280 .* 1, 21, 41"):
        pipe.invert(scene.image, start_timestep=280)
    assert "num_inference_steps=1000" in refusal(lambda: pipe.invert(scene.image, num_inference_steps=1000))


def test_a_trajectory_of_another_model_is_refused_and_of_another_dtype_is_not(trajectory):
    other = EmerDiffPipeline.from_pretrained("streets")
    assert "another model" in refusal(lambda: other.cluster(trajectory, num_masks=2))
    assert "another model" in refusal(lambda: other.replay(trajectory))
    half = EmerDiffPipeline.from_pretrained("toyscapes", torch_dtype="bfloat16")
    coarse = half.cluster(trajectory, num_masks=2, feature_timestep=21, modulation_timestep=21)
    assert len(coarse.masks) == 2
