"""Open vocabulary: vocabularies, MaskCLIP against CLIP's own layers, and names where the answer is known."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from emerdiff_lib.evaluation.metrics import class_iou, contingency_table, label_counts
from emerdiff_lib.loading import CLIP_FOLDER
from emerdiff_lib.studies.naming import vocabulary_of
from emerdiff_lib.train import architecture
from emerdiff_lib.words import (
    TEMPLATES,
    DenoisingError,
    DenseFeatures,
    MaskClip,
    Vocabulary,
    WordAttention,
    name_image,
    name_pixels,
    name_places,
    name_segments,
)

from .conftest import pipeline, refusal, seeded


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny random CLIP with a tokenizer, through a folder, as a user's own would come."""
    torch.manual_seed(0)
    tokenizer = architecture.build_tokenizer(architecture.words_of([*TEMPLATES, "red blue road sky"]))
    small = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3}
    text = small | {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    vision = small | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": half, "image_std": half}))
    return MaskClip.from_pretrained(folder)


def coloured():
    """Features and texts of a world of two colours: red is (1, 0), blue is (0, 1)."""

    def of_image(image):
        grid = np.asarray(image.resize((8, 8), Image.Resampling.BOX)) / 255.0
        return torch.from_numpy(grid[..., [0, 2]])

    of_texts = lambda texts: torch.tensor([[float("red" in t), float("blue" in t)] for t in texts])
    return DenseFeatures(of_image, of_texts, 0.1)


@pytest.fixture(scope="module")
def halves():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :40, 0], picture[:, 40:, 2] = 255, 255
    return Image.fromarray(picture)


def test_a_class_fits_as_well_as_its_best_word():
    vocabulary = Vocabulary.of(["door, screen door", "building;edifice", "sky"])
    assert vocabulary.names == ("door, screen door", "building;edifice", "sky")
    assert vocabulary.words == ("door", "screen door", "building", "edifice", "sky")
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.2, 0.5], [0.1, 0.2, 0.0, 0.8, 0.7]])
    torch.testing.assert_close(vocabulary.best(scores), torch.tensor([[0.9, 0.3, 0.5], [0.2, 0.8, 0.7]]))


def test_what_fits_nothing_is_none_of_these():
    vocabulary = Vocabulary({"a": ["x"], "b": ["y"]}, threshold=0.6)
    assert vocabulary.labels(torch.tensor([[0.7, 0.3], [0.5, 0.5], [0.2, 0.8]])).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Vocabulary({}), "at least one class"),
        (lambda: Vocabulary.of("sky"), "one string"),
        (lambda: Vocabulary.of(["sky", "road", "sky"]), "'sky' twice"),
        (lambda: Vocabulary({"a": []}), "Class 'a'"),
        (lambda: Vocabulary({"a": ["b"]}, templates=[]), "templates=[]"),
        (lambda: Vocabulary({"a": ["b"]}, templates=["two {} {}"]), "templates="),
        (lambda: Vocabulary({"a": ["b"]}, threshold=2), "threshold=2"),
        (lambda: DenoisingError(pipeline(), prompt="a photo"), "prompt=['a photo']"),
    ],
)
def test_impossible_vocabularies_are_one_sentence(make, message):
    assert message in refusal(make)


@torch.no_grad()
def test_patches_are_those_of_a_last_layer_that_sees_only_itself(clip):
    """CLIP's own last layer under a mask that leaves every token nothing but itself."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    pixels = torch.from_numpy(np.asarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    vision = clip.model.vision_model
    hidden = vision(pixels, output_hidden_states=True).hidden_states[-2]
    alone = torch.full((1, 1, 17, 17), -torch.inf)
    alone[..., range(17), range(17)] = 0
    last = vision.encoder.layers[-1](hidden, alone)
    last = last[0] if isinstance(last, tuple) else last
    expected = clip.model.visual_projection(vision.post_layernorm(last))[0, 1:].reshape(4, 4, 12)
    torch.testing.assert_close(clip.patches(image), expected, atol=1e-4, rtol=1e-4)


def test_texts_are_clip_s_own_and_pictures_have_any_shape(clip):
    texts = ["a photo of the red road", "the sky"]
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        own = clip.model.get_text_features(tokens.input_ids, tokens.attention_mask)
        own = own if isinstance(own, torch.Tensor) else own.pooler_output
    torch.testing.assert_close(clip.sentences(texts), own)
    assert clip.patches(Image.new("RGB", (128, 32))).shape == (2, 8, 12)
    assert clip.patches(Image.new("L", (30, 30))).shape == (4, 4, 12)
    vocabulary = Vocabulary.of(["red", "blue"])
    scores = clip.scores(clip.features(Image.new("RGB", (64, 64)), vocabulary), vocabulary)
    torch.testing.assert_close(scores.sum(-1), torch.ones(4, 4))


def test_templates_are_averaged_on_the_unit_sphere(clip):
    vocabulary = Vocabulary({"r": ["red", "road"]}, templates=["a {}", "the {}"])
    texts = F.normalize(clip.sentences(["a red", "the red", "a road", "the road"]), dim=-1)
    expected = F.normalize(torch.stack([texts[:2].mean(0), texts[2:].mean(0)]), dim=-1)
    torch.testing.assert_close(clip.words(vocabulary), expected)


def test_places_and_segments_get_their_names(halves):
    vocabulary, words = Vocabulary.of(["blue", "red"]), coloured()
    truth = np.zeros((64, 64), int)
    truth[:, :40] = 1
    features = words.features(halves, vocabulary)
    places = name_places(words, features, vocabulary, halves.size[::-1])
    assert places.dtype == np.int32 and np.array_equal(places, truth)
    labels = np.zeros((64, 64), int)
    labels[:, 32:] = 1  # eight columns of it are red, the others blue
    masks = torch.stack([torch.arange(4)[None].expand(4, 4) < 2, torch.arange(4)[None].expand(4, 4) >= 2])
    assert np.array_equal(name_segments(words, features, vocabulary, labels, masks), np.where(labels, 0, 1))


def test_pixels_take_names_by_their_own_features(pipe, scene):
    coarse = pipe.cluster(scene.image, 6, generator=seeded(), mode="pixel", num_parts=24)
    responses, vocabulary, words = pipe.probe(coarse), Vocabulary.of(["blue", "red"]), coloured()
    features = responses.features(words.features(scene.image, vocabulary))
    found, features = name_pixels(words, features, vocabulary, scene.labels.shape), features.numpy()
    margin = np.abs(features[..., 0] - features[..., 1]) > 1e-4
    assert np.array_equal(found[margin], (features[..., 0] > features[..., 1]).astype(int)[margin])


@torch.no_grad()
def test_the_denoising_error_is_that_of_single_predictions(pipe, scene):
    words = DenoisingError(pipe, draws=2)
    vocabulary = Vocabulary.of(["tree", "boat"], templates=["a picture of a {}"])
    found = words.features(scene.image, vocabulary)
    clean = pipe.encode(scene.image)
    generator, gains = seeded(), []
    noises = [torch.randn(clean.shape, generator=generator) for _ in range(2)]
    for word in vocabulary.words:
        total = 0
        for noise in noises:
            noisy = pipe.predictor().add_noise(clean, noise, 681)
            predictors = (pipe.predictor(prompt=prompt) for prompt in (f"a picture of a {word}", ""))
            told, untold = ((p.network_output(noisy, 681) - noise).square().sum(1)[0] for p in predictors)
            total = total + (untold - told) / 2
        gains.append(total)
    expected = torch.stack(gains, -1)
    torch.testing.assert_close(found, expected / expected.std(), atol=1e-3, rtol=1e-3)
    assert found.shape == (32, 32, 2)
    torch.testing.assert_close(words.scores(found, vocabulary).sum(-1), torch.ones(32, 32))


def test_words_are_said_as_the_vocabulary_says_them(pipe, scene):
    """By its first template, unless a prompt is given."""
    for kind in (partial(DenoisingError, draws=1), partial(WordAttention, draws=1)):
        own = kind(pipe, prompt="a red {}").features(scene.image, Vocabulary.of(["boat"]))
        said = Vocabulary.of(["boat"], templates=["a red {}", "a blue {}"])
        torch.testing.assert_close(kind(pipe).features(scene.image, said), own)


def test_the_bundled_clip_tells_its_words_apart_and_names_scenes(validation):
    """Every class's word is another; alone, it names validation scenes better than one class for all of them would."""
    vocabulary, words = vocabulary_of(validation), MaskClip.from_pretrained("toyscapes-clip")
    assert sum(file.stat().st_size for file in CLIP_FOLDER.rglob("*")) < 12e6
    said = torch.nn.functional.normalize(words.words(vocabulary), dim=-1)
    alike = said @ said.T
    assert alike.fill_diagonal_(0).max() < 0.95
    total = 0
    for index in range(6):
        sample = validation[index]
        found = name_places(words, words.features(sample.image, vocabulary), vocabulary, (128, 128))
        total = total + contingency_table(found, sample.labels, 10, 10)
    assert 100 * np.nanmean(class_iou(label_counts(total))) > 15  # "sky" everywhere: 4


def test_features_of_another_shape_are_refused(halves):
    words = DenseFeatures(lambda image: torch.zeros(3, 3), lambda texts: torch.zeros(len(texts), 3))
    assert "shape (h, w, d), not (3, 3)" in refusal(lambda: words.features(halves, Vocabulary.of(["a"])))


def test_one_call_from_words_to_heat_maps_and_a_named_map(pipe, scene):
    """As features, scores and pixels step by step; an image of another size than the model's has maps of its own size."""
    names = ["road", "sky", "house"]
    named = name_image(pipe, scene.image, names, generator=seeded())
    responses = pipe.probe(pipe.cluster(scene.image, generator=seeded(), mode="pixel"))
    vocabulary, words = Vocabulary.of(names), DenoisingError(pipe)
    features = responses.features(words.features(scene.image, vocabulary), size=responses.processing_size)
    expected = name_pixels(words, features, vocabulary, responses.size)
    assert np.array_equal(named.labels, expected) and named.names == tuple(names)
    assert np.allclose(named.heat_maps.sum(0), 1, atol=1e-5)
    large = name_image(pipe, scene.image.resize((192, 160)), names, mode="fast")
    assert large.heat_maps.shape == (3, 160, 192) and np.array_equal(large.labels, large.heat_maps.argmax(0))
    assert "has no probe masks" in refusal(lambda: name_image(pipe, scene.image, names, mode="exact"))
