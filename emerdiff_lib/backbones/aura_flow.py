"""AuraFlow: a few joint blocks, then single ones in which no token has a projection of its own; text tokens of Pile-T5."""

from __future__ import annotations

import torch
from diffusers import AuraFlowTransformer2DModel

from .base import Backbone, Condition, TextTokens

TEXT_TOKENS = 256  # the pipeline's default


class AuraFlow(Backbone):
    """Queries and modulation in joint blocks, as with FLUX. Its autoencoder is XL's."""

    name = "AuraFlow"
    architecture = AuraFlowTransformer2DModel
    vae_overflows = True
    stack = "joint_transformer_blocks"
    stem = ("pos_embed", "context_embedder", "time_step_proj")

    def condition(self, prompt: str) -> Condition:
        given = {"do_classifier_free_guidance": False, "device": self.device}
        embeds, *_ = self.pipe.encode_prompt(prompt, max_sequence_length=TEXT_TOKENS, **given)
        return {"encoder_hidden_states": embeds.to(self.denoiser.dtype)}

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """They stand behind the network's own *registers*."""
        registers = self.denoiser.register_tokens.shape[1]
        return [TextTokens(self.pipe.tokenizer, prompt, TEXT_TOKENS, registers)]

    def call(self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        return super().call(latents, timesteps / 1000, condition)
