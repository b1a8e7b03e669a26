"""Open vocabulary: class names in, a named label map out (paper, Sec. 4.3, Table 3).

Dense text-aligned features say of every coarse place how well words fit it. They come from any CLIP of ``transformers``
(:class:`MaskClip`), from the diffusion model itself (:class:`WordAttention`, :class:`DenoisingError`), or from whatever two
functions one has (:class:`DenseFeatures`). The paper averages them inside each mask and classifies the mask; with pixel mode's
responses they are features like any others, and every pixel is classified by itself.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from .clustering import mask_embeddings
from .images import ImageInput, load_image, to_guide
from .interventions import capturing_attention, exclusive
from .inversion import draw_noise
from .loading import CLIP_FOLDER, load_component, reading_model
from .pipeline import EmerDiffPipeline
from .predictor import Predictor
from .refinement import resize_maps
from .settings import Options, real, text, whole

# CLIP's short list of templates that do nearly as well as its eighty
TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of many {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a picture of a {}.",
    "a cropped photo of a {}.",
)
NOTHING = "none of these"
TOYSCAPES_CLIP = "toyscapes-clip"


@dataclass(frozen=True)
class Vocabulary:
    """What can be seen, in words.

    Attributes:
        classes: {name: words for it}; a class fits as well as the best of its words.
        templates: sentences with a ``{}`` for a word, over which embeddings are averaged.
        threshold: scores, from 0 to 1 for all classes of a place together, below which a place is none of them; 0: none is.
    """

    classes: Mapping[str, Sequence[str]]
    templates: Sequence[str] = TEMPLATES
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("A vocabulary needs at least one class; there is none.")
        for name, words in self.classes.items():
            if isinstance(words, str) or not words:
                raise ValueError(f"Class {name!r} has the words {words!r}; give a list of at least one.")
        check_sentences("templates", self.templates)
        real(0, 1)("threshold", self.threshold)

    @classmethod
    def of(cls, names: Sequence[str] | Mapping[str, Sequence[str]], **options: Any) -> Vocabulary:
        """From names alone, which may hold synonyms as data sets write them: "door, screen door", "building;edifice"."""
        if isinstance(names, str | Set):
            raise ValueError(f"names={names!r} is one string, or in no order; give a list of class names.")
        if not isinstance(names, Mapping):
            if twice := [name for i, name in enumerate(names) if name in names[:i]]:
                raise ValueError(f"names hold {twice[0]!r} twice; each class has a name of its own.")
            split = lambda name: map(str.strip, text("names", name).replace(";", ",").split(","))
            names = {name: [word for word in split(name) if word] for name in names}
        return cls(names, **options)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in order."""
        return tuple(self.classes)

    @property
    def words(self) -> tuple[str, ...]:
        """All words of all classes, in order."""
        return tuple(word for words in self.classes.values() for word in words)

    def best(self, scores: torch.Tensor) -> torch.Tensor:
        """(…, words) → (…, C): each class's best word."""
        counts = [len(words) for words in self.classes.values()]
        return torch.stack([part.amax(-1) for part in scores.split(counts, dim=-1)], -1)

    def labels(self, scores: torch.Tensor) -> np.ndarray:
        """(…, C) scores → class indices, int32; C, one more than the last, where no class reaches the threshold."""
        best, labels = scores.max(-1)
        return torch.where(best < self.threshold, len(self.names), labels).int().numpy()


@dataclass
class DenseFeatures:
    """Any two functions: an image → (h, w, d), sentences → (n, d); compared by cosine.

    ``features`` of an image may depend on the words that are looked for; ``scores`` of features, or means of some, are (…, C) in
    [0, 1] and sum to 1: how well each class fits.

    Attributes:
        of_image, of_texts: the two.
        temperature: cosines are divided by it before the softmax.
    """

    of_image: Callable[[Image.Image], torch.Tensor]
    of_texts: Callable[[list[str]], torch.Tensor]
    temperature: float = 0.01

    @torch.no_grad()
    def features(self, image: Image.Image, vocabulary: Vocabulary) -> torch.Tensor:
        found = torch.as_tensor(self.of_image(image)).float().cpu()
        if found.ndim != 3:
            raise ValueError(f"Dense features of an image have shape (h, w, d), not {tuple(found.shape)}.")
        return found

    @torch.no_grad()
    def scores(self, features: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        cosines = F.normalize(features.float(), dim=-1) @ self.words(vocabulary).T
        return torch.softmax(vocabulary.best(cosines) / self.temperature, -1)

    @torch.no_grad()
    def words(self, vocabulary: Vocabulary) -> torch.Tensor:
        """(words, d) unit embeddings: of each word, the mean of its unit embeddings over the templates."""
        sentences = [template.format(word) for word in vocabulary.words for template in vocabulary.templates]
        texts = F.normalize(torch.as_tensor(self.of_texts(sentences)).float().cpu(), dim=-1)
        means = F.normalize(texts.unflatten(0, (len(vocabulary.words), -1)).mean(1), dim=-1)
        distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
        alike = (distances < 1e-5).triu(1).nonzero().tolist()
        if pairs := [f"{vocabulary.words[i]!r} and {vocabulary.words[j]!r}" for i, j in alike]:
            warnings.warn(
                f"To this model {pairs[0]} are the same, as words that it does not know are, or sentences that it cuts off.",
                stacklevel=2,
            )
        return means


class MaskClip(DenseFeatures):
    """MaskCLIP (Zhou et al., ECCV 2022, arXiv 2112.01071): CLIP's patches, each attending to itself alone in the last layer.

    Args:
        model: a CLIP of ``transformers`` with its ``tokenizer``.
        mean, std: of the pixel normalisation.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
    ):
        self.model, self.tokenizer = model.eval(), tokenizer
        std = [real(0, above=True)("std", value) for value in std]
        self.mean, self.std = (torch.tensor(v).reshape(3, 1, 1) for v in (mean, std))
        self.resolution = model.config.vision_config.image_size
        super().__init__(self.patches, self.sentences, 1 / model.logit_scale.exp().item())

    @classmethod
    def from_pretrained(cls, name: str | Path) -> MaskClip:
        """Load weights (safetensors) by folder or hub id, "openai/clip-vit-base-patch16" for one; "toyscapes-clip" is bundled."""
        name = str(CLIP_FOLDER) if str(name) == TOYSCAPES_CLIP else os.path.expanduser(name)
        model, tokenizer = load_component(CLIPModel, name), load_component(AutoTokenizer, name)
        with reading_model(name):
            processing, _ = ImageProcessingMixin.get_image_processor_dict(name)
            return cls(model, tokenizer, processing["image_mean"], processing["image_std"])

    def patches(self, image: Image.Image) -> torch.Tensor:
        """(h, w, d) float32, a feature per patch in the space of texts."""
        patch, (width, height) = self.model.config.vision_config.patch_size, image.size
        scale = self.resolution / (height * width) ** 0.5
        h, w = (max(1, round(side * scale / patch)) for side in (height, width))
        pixels = to_guide(np.asarray(image.convert("RGB")))[None]
        pixels = F.interpolate(pixels, size=(h * patch, w * patch), mode="bicubic", antialias=True)
        pixels = ((pixels.clamp(0, 1) - self.mean) / self.std).to(self.model.device, self.model.dtype)
        vision = self.model.vision_model
        states = vision(pixels, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
        hidden, last = states[-2], vision.encoder.layers[-1]
        hidden = hidden + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(hidden)))
        hidden = hidden + last.mlp(last.layer_norm2(hidden))
        # without the image's token
        patches = self.model.visual_projection(vision.post_layernorm(hidden))[0, 1:]
        return patches.float().cpu().unflatten(0, (h, w))

    def sentences(self, texts: list[str]) -> torch.Tensor:
        """(n, d) float32."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        hidden = self.model.text_model(tokens.input_ids, tokens.attention_mask).pooler_output
        return self.model.text_projection(hidden).float().cpu()


@dataclass
class WordAttention:
    """How much every place attends to each word, over layers, heads and noise draws (DAAM, arXiv 2210.04885).

    Attributes:
        pipe: whose U-Net and text encoder are used.
        timestep: at which the image is noised; by default t_f.
        prompt: a sentence with ``{}`` for a class's word, by default the vocabulary's first template; one call of the network
            for each word.
        draws: of noise; ``seed`` of them.
    """

    pipe: EmerDiffPipeline
    timestep: int | None = None
    prompt: str | None = None
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        last, optional = self.pipe.scheduler.config.num_train_timesteps - 1, type(self).timestep is None
        whole(0, last, optional)("timestep", self.timestep)
        whole(1)("draws", self.draws)
        check_sentences("prompt", [self.prompt or "{}"])
        self.pipe.condition((self.prompt or "{}").format("word"))  # a model that reads no words says so

    @torch.no_grad()
    def features(self, image: Image.Image, vocabulary: Vocabulary) -> torch.Tensor:
        """(h, w, words): each word's attention on the finest grid that attends to words."""
        clean, backbone = self.pipe.encode(image), self.pipe.backbone
        layers = backbone.layers()
        timestep = self.pipe.resolve().feature_timestep if self.timestep is None else self.timestep
        noise = draw_noise(clean, self.draws, torch.Generator().manual_seed(self.seed))
        noisy = self.pipe.predictor(prompt=None).add_noise(clean, noise, timestep)
        finest = max(backbone.grid(layer, *noisy.shape[2:]) for layer in layers)
        maps = []
        for word in vocabulary.words:
            sentence = (self.prompt or first_template(vocabulary)).format(word)
            positions = word_positions(self.pipe, sentence, word)
            if not positions:
                raise ValueError(
                    f"{word!r} does not stand in {self.pipe.prompt_read(sentence)!r} as this model reads it; choose another "
                    "prompt, a short one with {} between spaces."
                )
            attention = word_attention(self.pipe.predictor(prompt=sentence), noisy, timestep, layers)
            planes = [attention[layer][..., positions].sum(-1)[None] for layer in layers]
            maps.append(torch.cat([resize_maps(plane, finest) for plane in planes]).mean(0))
        return torch.stack(maps, -1)

    def scores(self, features: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        best = vocabulary.best(features.float())
        return best / best.sum(-1, keepdim=True).clamp(min=1e-12)


@dataclass
class DenoisingError(WordAttention):
    """How much better the noise is predicted at every place when a word is said: a diffusion classifier (Li et al., ICCV 2023,
    arXiv 2303.16203), place by place. By default the image is noised more: words decide where much is open.
    """

    timestep: int = 681
    draws: int = 8

    @torch.no_grad()
    def features(self, image: Image.Image, vocabulary: Vocabulary) -> torch.Tensor:
        """(h, w, words): squared error without a word minus that with it, on the latents' grid, in units of its deviation."""
        clean = self.pipe.encode(image)
        noise = draw_noise(clean, self.draws, torch.Generator().manual_seed(self.seed))
        noisy = self.pipe.predictor(prompt=None).add_noise(clean, noise, self.timestep)

        def error(prompt: str) -> torch.Tensor:
            _, predicted = self.pipe.predictor(prompt=prompt).predict(noisy, self.timestep)
            return (predicted - noise).square().sum(1).mean(0).cpu()

        without, prompt = error(""), self.prompt or first_template(vocabulary)
        gains = torch.stack([without - error(prompt.format(word)) for word in vocabulary.words], -1)
        return gains / gains.std().clamp(min=1e-12)

    def scores(self, features: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
        return torch.softmax(vocabulary.best(features.float()), -1)


TextAligned = DenseFeatures | WordAttention | DenoisingError  # dense features that words can be compared with


def check_sentences(name: str, sentences: Sequence[str]) -> None:
    """Raises a ValueError for anything but a list of sentences with one ``{}`` each."""
    braces = {tuple(map(str(sentence).count, ("{", "{}", "}"))) for sentence in sentences}
    if isinstance(sentences, str) or braces != {(1, 1, 1)}:
        raise ValueError(f"{name}={sentences!r} are not possible; each is a sentence with one {{}} in it.")


# -- attention to words -----------------------------------------------------------------------------------------------


@torch.no_grad()
def word_attention(
    predictor: Predictor, noisy_latents: torch.Tensor, timestep: int, layers: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Attention probabilities of image tokens to text tokens, {layer: (h, w, tokens) float32}; they sum to 1 over the tokens, or
    to what is left for text where a layer attends to image tokens as well.

    Args:
        predictor: with the prompt whose tokens are meant.
        noisy_latents: (B, C, h', w'), over whose rows is averaged.
    """
    denoiser, backbone, maps = predictor.denoiser, predictor.backbone, {}
    with exclusive(denoiser), capturing_attention(denoiser, layers) as attention:
        predictor.network_output(noisy_latents, timestep)
    for layer in layers:
        grid = backbone.grid(layer, *noisy_latents.shape[2:])
        _, to_text = backbone.split_attention(layer, attention[layer], grid[0] * grid[1])
        maps[layer] = to_text.unflatten(0, grid)
    return maps


def first_template(vocabulary: Vocabulary) -> str:
    """A prompt for the diffusion model: without a full stop, which a tokenizer of whole words would read as part of the word."""
    return vocabulary.templates[0].removesuffix(".")


def word_positions(pipe: EmerDiffPipeline, prompt: str, word: str) -> list[int]:
    """Where the tokens of a word stand among the text tokens that a prompt becomes, every occurrence; [] if there is none.

    What is cut off of a prompt that is too long is not looked at, and neither is what a pipeline says before it.
    """
    positions: list[int] = []
    for part in pipe.backbone.text_tokens(prompt):
        spelled = word if word in part.text else word.lower()
        before = part.text[: max(part.text.rfind(prompt), 0)].rstrip()
        first = len(part.tokenizer(before, add_special_tokens=False).input_ids)
        ids = part.tokenizer(part.text, truncation=True, max_length=part.limit).input_ids
        bare, behind = (
            part.tokenizer(form, add_special_tokens=False).input_ids for form in (spelled, f" {spelled}")
        )
        # some tokenizers make the blank a part of the word
        for wanted in [bare] if behind[-len(bare) :] == bare else [bare, behind]:
            every = range(first, len(ids) - len(wanted) + 1)
            starts = [i for i in every if ids[i : i + len(wanted)] == wanted]
            positions += [part.first + i + offset for i in starts for offset in range(len(wanted))]
    return positions


# -- naming -----------------------------------------------------------------------------------------------------------


def name_places(
    words: TextAligned, features: torch.Tensor, vocabulary: Vocabulary, size: tuple[int, int]
) -> np.ndarray:
    """(H, W) int32 classes by the embeddings alone: every pixel by the bilinear mean of its cells' scores.

    Args:
        features: (h, w, d), as for all of these: ``words.features(image, vocabulary)``.
        size: (H, W) of the image.
    """
    scores = words.scores(features, vocabulary).permute(2, 0, 1)
    return vocabulary.labels(resize_maps(scores, size).permute(1, 2, 0))


def name_segments(
    words: TextAligned,
    features: torch.Tensor,
    vocabulary: Vocabulary,
    labels: np.ndarray,
    masks: torch.Tensor,
) -> np.ndarray:
    """(H, W) int32 classes by the paper's recipe: features averaged inside each mask, which is then classified.

    Args:
        labels: (H, W) segments 0 … K−1; ``masks``: (K, h, w) their cells, bool or shares.
    """
    shares = resize_maps(masks, (features.shape[0], features.shape[1]))
    return vocabulary.labels(words.scores(mask_embeddings(features, shares), vocabulary))[labels]


def name_pixels(
    words: TextAligned, features: torch.Tensor, vocabulary: Vocabulary, size: tuple[int, int]
) -> np.ndarray:
    """(H, W) int32 classes of features (h, w, d) that were spread over pixels, as by :meth:`.ImageResponses.features`."""
    labels = torch.from_numpy(vocabulary.labels(words.scores(features, vocabulary)))[None, None].float()
    return F.interpolate(labels, size=size, mode="nearest-exact")[0, 0].int().numpy()


@dataclass
class NamedImage:
    """An image whose pixels have names.

    Attributes:
        names: of the classes, in order.
        labels: (H, W) int32, at the image's size: which of ``names``; one more than the last where none fits.
        heat_maps: (C, H, W) float32 in [0, 1]: how well each class fits every pixel.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    heat_maps: np.ndarray


def name_image(
    pipe: EmerDiffPipeline,
    image: ImageInput,
    vocabulary: Vocabulary | Sequence[str] | Mapping[str, Sequence[str]],
    words: TextAligned | None = None,
    *,
    generator: torch.Generator | None = None,
    **settings: Unpack[Options],
) -> NamedImage:
    """From words to heat maps and a named map in one call, by pixel mode's responses.

    Args:
        vocabulary: class names, {class: its words}, or a :class:`Vocabulary` with templates and a threshold.
        words: what they are compared with, such as :class:`MaskClip`, which does best; the pipeline's own
            :class:`DenoisingError` by default.
        generator, settings: of the pipeline; ``mode`` is "pixel" or "fast".

    Raises:
        ValueError: a model that is not conditioned on text, or mode="exact".
    """
    image = load_image(image)
    vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.of(vocabulary)
    words = DenoisingError(pipe) if words is None else words
    responses = pipe.probe(pipe.cluster(image, generator=generator, **(Options(mode="pixel") | settings)))
    features = responses.features(words.features(image, vocabulary), size=responses.processing_size)
    scores = resize_maps(words.scores(features, vocabulary).permute(2, 0, 1), responses.size)
    return NamedImage(vocabulary.names, vocabulary.labels(scores.permute(1, 2, 0)), scores.numpy())
