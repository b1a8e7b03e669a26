"""Kolors: Stable Diffusion XL's U-Net with ChatGLM's text tokens."""

from __future__ import annotations

from .base import TextTokens
from .stable_diffusion_xl import StableDiffusionXL

TEXT_TOKENS = 256  # the pipeline's default


class Kolors(StableDiffusionXL):
    """Called as XL is; text is projected to the width that cross-attention takes."""

    name = "Kolors"
    additions = ("text_time", "text_proj")

    def text_tokens(self, prompt: str) -> list[TextTokens]:
        """They stand at the end: what is empty is filled up before them."""
        tokenizer = self.pipe.tokenizer
        read = tokenizer(prompt, truncation=True, max_length=TEXT_TOKENS).input_ids
        return [TextTokens(tokenizer, prompt, TEXT_TOKENS, TEXT_TOKENS - len(read))]
