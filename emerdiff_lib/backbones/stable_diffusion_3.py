"""Stable Diffusion 3 and 3.5: a transformer with joint attention, three text encoders of which T5 may be missing."""

from __future__ import annotations

from diffusers import DiffusionPipeline, SD3Transformer2DModel

from .base import Backbone, Condition, TextTokens

T5_TOKENS = 256  # the pipeline's default
# Chosen on validation scenes (notebooks/results/transformer_*.json)
TOYSCAPES = {"num_masks": 12, "feature_timestep": 281, "modulation_timestep": 681, "noise_ensemble_size": 8}


class StableDiffusion3(Backbone):
    """Queries are those of block 9 of 24, where Seg4Diff (arXiv 2509.18096) finds semantic groups."""

    name = "Stable Diffusion 3"
    architecture = SD3Transformer2DModel
    text_first = False
    stem = (*Backbone.stem, "pos_embed")

    def __init__(self, pipe: DiffusionPipeline):
        super().__init__(pipe)
        self.is_toyscapes = self.denoiser.config.in_channels == 8
        if self.is_toyscapes:
            self.name = "Toyscapes, transformer"
            self.own_defaults = TOYSCAPES | {"filter_sigma": 0.0}
        self._t5_tokens = 0 if self.is_toyscapes else T5_TOKENS

    def condition(self, prompt: str) -> Condition:
        given = {"do_classifier_free_guidance": False, "max_sequence_length": self._t5_tokens}
        embeds, _, pooled, _ = self.pipe.encode_prompt(prompt, None, None, self.device, **given)
        dtype = self.denoiser.dtype
        return {"encoder_hidden_states": embeds.to(dtype), "pooled_projections": pooled.to(dtype)}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """CLIP's, and behind them T5's."""
        first = super().text_tokens(prompt)
        if self.pipe.text_encoder_3 is None:
            return first
        return [*first, TextTokens(self.pipe.tokenizer_3, prompt, self._t5_tokens, first[0].limit)]

    def default_layers(self) -> tuple[str, str]:
        names = self.layers()
        return super().default_layers() if self.is_toyscapes else (names[9 * len(names) // 24], names[-1])
