"""The studies behind notebooks 01 to 03: each against something that does not use their code."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from emerdiff_lib import Toyscapes, load_pipeline, words
from emerdiff_lib.attention import attention_layers
from emerdiff_lib.clustering import cluster_queries
from emerdiff_lib.evaluation.metrics import boundary_scores
from emerdiff_lib.evaluation.regions import cell_shares
from emerdiff_lib.experiments import feature_study, inversion_study, names, response_study, word_attention

from . import tiny_stable_diffusion
from .conftest import seeded

LAYER = "up_blocks.2.attentions.0.transformer_blocks.0.attn2"


# -- 01 ---------------------------------------------------------------------------------------------------------------


def test_replay_errors_tell_ddpm_from_ddim(pipe, scene):
    errors = inversion_study.replay_errors(pipe, [scene.image], [5], starts=2)
    assert len(errors) == 4 and set(errors.start) == {801, 401} and set(errors.steps) == {5}
    worst = errors.groupby("method").error.max()
    assert worst["DDPM"] < 1e-5 < 1e-2 < worst["DDIM"]


@torch.no_grad()
def test_noise_map_statistics_match_their_closed_form_where_the_network_knows_the_picture(pipe, scene):
    """An oracle network, which returns the very noise that was mixed in, makes the closed form exact up to sampling."""
    denoiser, clean = pipe.denoiser(10), pipe.encode(scene.image)
    alpha_bar = lambda t: denoiser.alpha_bar(t).item()

    def true_noise(latents, timesteps):
        rows = timesteps if isinstance(timesteps, list) else [timesteps] * len(latents)
        parts = zip(latents.split(1), rows, strict=True)
        return torch.cat([(x - alpha_bar(t) ** 0.5 * clean) / (1 - alpha_bar(t)) ** 0.5 for x, t in parts])

    denoiser.unet_output = true_noise
    trajectory = inversion_study.invert_ddpm(denoiser, clean, denoiser.timesteps, seeded())
    table = inversion_study.noise_map_statistics(denoiser, trajectory)
    assert list(table.timestep) == denoiser.timesteps[:-1]
    np.testing.assert_allclose(table["std"], table.closed_form, rtol=0.05)
    pairs = zip(denoiser.timesteps[:-2], denoiser.timesteps[1:-1], strict=True)
    expected = [
        torch.corrcoef(torch.stack([trajectory.noise_maps[t].flatten() for t in pair]))[0, 1]
        for pair in pairs
    ]
    np.testing.assert_allclose(table.correlation[:-1], expected, rtol=1e-4)
    assert (table.correlation[:-2] < -0.4).all() and np.isnan(table.correlation.iloc[-1])


def test_another_start_ends_at_the_intruder_if_it_starts_late_enough(pipe, scene):
    trajectory = pipe.invert(scene.image, start_timestep=901, num_inference_steps=10, generator=seeded())
    intruder, denoiser = pipe.encode(Toyscapes("test")[8].image), pipe.denoiser(10)
    distances = []
    for start in (101, 901):
        x0 = inversion_study.replay_another_start(denoiser, trajectory, intruder, start, seeded(1))
        to = (trajectory.clean_latents, intruder)
        distances.append([inversion_study.relative_error(x0, x) for x in to])
    assert distances[0][1] < distances[0][0] and distances[1][0] < distances[0][0]


def test_timesteps_are_spread_and_found():
    assert inversion_study.spread([9, 7, 5, 3, 1], 3) == [9, 5, 1] and inversion_study.spread([2, 1], 5) == [
        2,
        1,
    ]
    assert inversion_study.nearest([1, 21, 41], 30) == 21 and inversion_study.nearest([1, 21], 11) == 1


def test_unet_levels_count_every_cross_attention_layer_once(pipe):
    levels, middle = inversion_study.unet_levels(pipe.unet, 32, 24, {"queries": LAYER})
    assert [level["grid"] for level in levels] == [(32, 24), (16, 12), (8, 6), (4, 3)]
    assert [level["channels"] for level in levels] == list(pipe.unet.config.block_out_channels)
    counted = (
        sum(level[f"{way}_attention"] for level in levels for way in ("down", "up")) + middle["attention"]
    )
    assert counted == sum(name.endswith("attn2") for name, _ in pipe.unet.named_modules())
    for level in levels:
        assert ("queries" in level["note"]) == LAYER.startswith(level["up"] + ".")
        assert pipe.unet.get_submodule(level["down"]) is not pipe.unet.get_submodule(level["up"])


def test_a_transformer_is_drawn_with_what_is_done_where(tmp_path):
    folder = tiny_stable_diffusion.save(tmp_path, 16, layout="3.5")
    unet = load_pipeline(folder).unet
    _, ax = plt.subplots()
    roles = {"queries": "transformer_blocks.2.attn", "push": "transformer_blocks.2.attn"}
    inversion_study.draw_network(ax, unet, 16, 12, roles)
    assert "5 transformer_blocks on 8 × 6 tokens of 64 channels" in ax.get_title()
    assert "queries, push" in [text.get_text() for text in ax.texts]
    plt.close()


# -- 02 ---------------------------------------------------------------------------------------------------------------


def test_kmeans_steps_are_lloyds():
    queries = torch.randn(20, 15, 4, generator=seeded(3))
    steps = feature_study.kmeans_steps(queries, 5, range(80), seed=1)
    points = queries.flatten(0, 1).double().numpy()
    centres = steps[0].centres
    assert all((points == centre).all(1).any() for centre in centres)  # k-means++ starts from points
    for step in steps:
        nearest = np.array([np.linalg.norm(centres - point, axis=1).argmin() for point in points])
        np.testing.assert_array_equal(step.labels.ravel(), nearest)
        np.testing.assert_allclose(step.centres, centres)
        objective = sum(np.sum((point - centres[k]) ** 2) for point, k in zip(points, nearest, strict=True))
        assert step.objective == pytest.approx(objective)
        centres = np.stack([points[nearest == k].mean(0) for k in range(5)])
    assert 2 < len(steps) < 80 and [step.iteration for step in steps] == list(range(len(steps)))
    np.testing.assert_allclose(centres, steps[-1].centres)  # nothing moves any more


@torch.no_grad()
def test_word_attention_is_the_softmax_of_the_layers_queries_and_keys(pipe, scene):
    denoiser, noisy = (
        pipe.denoiser(prompt="a picture of a road"),
        torch.randn(2, 8, 32, 32, generator=seeded()),
    )
    module, seen = pipe.unet.get_submodule(LAYER), {}
    keep = lambda name: lambda module, inputs, output: seen.update({name: output})
    hooks = [getattr(module, name).register_forward_hook(keep(name)) for name in ("to_q", "to_k")]
    try:
        before = dict(pipe.unet.attn_processors)
        found = word_attention.word_attention(denoiser, noisy, 281, [LAYER])[LAYER]
    finally:
        for hook in hooks:
            hook.remove()
    assert dict(pipe.unet.attn_processors) == before
    expected, depth = (
        np.zeros((256, denoiser.conditioning.prompt_embeds.shape[1])),
        seen["to_q"].shape[-1] // module.heads,
    )
    for row in range(2):
        for head in range(module.heads):
            part = slice(head * depth, (head + 1) * depth)
            scores = (seen["to_q"][row, :, part] @ seen["to_k"][row, :, part].T).double().numpy() / depth**0.5
            weights = np.exp(scores - scores.max(1, keepdims=True))
            expected += weights / weights.sum(1, keepdims=True) / (2 * module.heads)
    np.testing.assert_allclose(found.flatten(0, 1), expected, atol=1e-6)


def test_words_are_found_in_prompts(pipe, tmp_path):
    assert word_attention.content_words("A picture of a Road, and the road with a tree.") == ["road", "tree"]
    assert words.token_positions(pipe.tokenizer, "a picture of a road and a road", "road") == [5, 8]
    clip = tiny_stable_diffusion.tokenizer(tmp_path)
    for word, pieces in (
        ("road", 1),
        ("zebra", 5),
        ("cat", 0),
    ):  # a word of its vocabulary, one in pieces, none
        where = words.token_positions(clip, "a zebra on a road", word)
        tokens = clip.convert_ids_to_tokens([clip("a zebra on a road").input_ids[i] for i in where])
        assert len(where) == pieces and "".join(tokens).replace("</w>", "") == (word if pieces else "")


def test_word_scores_count_pairs_of_cells(pipe, scene):
    scores = word_attention.word_scores(pipe, [scene], 281, [LAYER], draws=1)
    word = scores.word.iloc[0]
    maps = word_attention.word_maps(pipe, scene.image, scene.caption, [word], 281, [LAYER], draws=1)
    index = Toyscapes.coarse_class_names.index(word_attention.NOUNS[word])
    inside = cell_shares(scene.coarse_labels == index, (16, 16)) >= 0.5
    on, off = maps[LAYER][word][inside], maps[LAYER][word][~inside]
    assert scores.auc.iloc[0] == pytest.approx((on[:, None] > off[None]).mean(), abs=1e-3)
    assert all(word in scene.caption for word in scores.word)
    assert not word_attention.word_maps(pipe, scene.image, "a road", ["boat"], 281, [LAYER], draws=1)[LAYER]


def test_features_are_scored_by_layer_and_beside_yardsticks(pipe):
    test, fit = ([Toyscapes(split)[i] for i in range(3)] for split in ("test", "validation"))
    layers = attention_layers(pipe.unet, "attn2")
    quality = feature_study.layer_quality(pipe, test, fit, [1], layers, 20)
    assert set(quality.layer) == {layer for layer in layers if "mid_block" not in layer}  # 16 cells, 20 masks
    row = quality.set_index("layer").loc[LAYER]
    queries = [feature_study.image_queries(pipe, s.image, 1, [LAYER])[LAYER] for s in test]
    masks = [cluster_queries(q, 20, 0) for q in queries]
    hits, unions = np.zeros(10), np.zeros(10)
    for s, m in zip(test, masks, strict=True):
        segments = feature_study.assign_bilinear(m, s.labels.shape)
        predicted = np.empty_like(s.coarse_labels)
        for k in np.unique(segments):
            predicted[segments == k] = np.bincount(s.coarse_labels[segments == k]).argmax()
        for c in range(10):
            hits[c] += ((predicted == c) & (s.coarse_labels == c)).sum()
            unions[c] += ((predicted == c) | (s.coarse_labels == c)).sum()
    occurs = np.isin(np.arange(10), np.concatenate([np.unique(s.coarse_labels) for s in test]))
    assert row["oracle mIoU"] == pytest.approx(100 * (hits[occurs] / unions[occurs]).mean())
    assert 20 < row["probe accuracy"] <= 100
    table = feature_study.mask_yardsticks(pipe, test, 20, LAYER, [(1, 1)])
    assert table.loc["queries, t_f = 1", "oracle mIoU"] == pytest.approx(row["oracle mIoU"])
    assert table["oracle mIoU"].idxmax() == names.CEILING and len(table) == 5


# -- 03 ---------------------------------------------------------------------------------------------------------------


def test_cells_are_enlarged_whatever_the_size():
    cells = np.random.default_rng(0).random((2, 4, 3)) > 0.5
    expected = np.stack([np.kron(cell, np.ones((8, 8))) > 0 for cell in cells])
    np.testing.assert_array_equal(response_study.enlarge(cells, (32, 24)), expected)
    assert response_study.enlarge(cells, (33, 50)).shape == (2, 33, 50)


def test_leaking_is_not_losing(pipe, scene, monkeypatch):
    """Every region answers its own push twice as loudly as everybody else does: most of it leaks, and all is won."""

    def responses(pipe, trajectory, cells, **settings):
        regions = response_study.competing_regions(scene.coarse_labels, (16, 16))
        maps = np.stack([1.0 + region.mask for region in regions])
        return maps if settings["modulation_timestep"] == 41 else maps[::-1].copy()

    monkeypatch.setattr(response_study, "responses_to", responses)
    table = response_study.inside_or_won(pipe, [scene], [21, 41], 10.0).set_index(["timestep", "region"])
    loud = table.loc[41]
    held = [region.mask for region in response_study.competing_regions(scene.coarse_labels, (16, 16))]
    covered = np.any(held, axis=0)
    assert (
        (loud.won == 1).all() and (loud["won beyond the cells"].dropna() == 1).all() and covered.mean() > 0.97
    )
    np.testing.assert_allclose(loud["share inside"], 2 * loud.area / (1 + loud.area))
    assert loud["share inside"].min() < 0.1  # for nine tenths of its response lie outside
    assert table.loc[21].won.min() < 0.5  # another's outline wins only by chance


def test_object_shares_are_those_of_the_difference_maps(pipe, scene):
    sweep = response_study.sweep_points([3.0, 10.0], 10.0, 41)
    assert [p.value for p in sweep] == [3.0, 10.0, 3.0, 10.0, "with", "without"]
    assert list(dict.fromkeys(p.parameter for p in sweep)) == list(response_study.SWEPT)
    assert sweep[2].settings["offset_placement"] == "before_projection"
    assert (
        sweep[5].settings["attention_injection"] is False and "attention_injection" not in sweep[4].settings
    )
    table = response_study.object_shares(pipe, [scene], [sweep[1], sweep[4]])
    by_point = [
        group.drop(columns=["parameter", "value"]).reset_index(drop=True)
        for _, group in table.groupby("parameter")
    ]
    assert by_point[0].equals(by_point[1])  # λ = 10 and injection are what they are anyway
    row, region = by_point[0].iloc[0], response_study.true_objects(scene)[0]
    trajectory = pipe.invert(scene.image, start_timestep=281, generator=seeded())
    cells = response_study.inner_cells(region.mask, (16, 16))
    pushed = pipe.coarse(trajectory, coarse_masks=cells[None])
    maps = pipe.respond(pushed, modulation_timestep=41, modulation_strength=10.0).difference_maps[0].numpy()
    assert row["share inside"] == pytest.approx(maps[region.mask].sum() / maps.sum(), rel=1e-3)
    assert row["in cells"] == pytest.approx(
        maps[np.kron(cells, np.ones((8, 8))) > 0].sum() / maps.sum(), rel=1e-3
    )
    assert row.concentration == pytest.approx(maps[region.mask].mean() / maps.mean(), rel=1e-3)
    assert row["class"] not in ("sky", "grass") and row.area == region.mask.mean()


def test_segmentations_by_timestep_are_the_pipelines(pipe, scene):
    table = response_study.segmentation_by_timestep(pipe, [scene], [21, 41], 4, 10.0, seed=2)
    trajectory = pipe.invert(scene.image, start_timestep=281, generator=seeded(2), noise_maps=False)
    output = pipe(scene.image, 4, trajectory=trajectory, modulation_timestep=41, generator=seeded(2))
    assert list(table.timestep) == [21, 41]
    assert table.F.iloc[1] == pytest.approx(100 * boundary_scores(output.labels, scene.labels)[2])
