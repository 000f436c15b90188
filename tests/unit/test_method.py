"""The paper's equations in pure torch: priors, masks, blending, stream layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from layerfusion_pack.layerfusion_core.layers.keep import keep_map
from layerfusion_pack.layerfusion_core.method import priors
from layerfusion_pack.layerfusion_core.method.blending import blend, blend_predictions
from layerfusion_pack.layerfusion_core.method.masks import (
    area_average,
    grow,
    hard_mask,
    in_front,
    masks_of,
    norm,
    resize_map,
    soft_mask,
    soft_region,
    structure_prior,
    surround_mask,
)
from layerfusion_pack.layerfusion_core.method.options import BackgroundMode, LayerFusionOptions
from layerfusion_pack.layerfusion_core.method.streams import Layers, StreamLayout, interleave

HEADS = 4


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def probabilities(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(B, heads, M, L), written out."""
    q, k = (x.view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2) for x in (q, k))
    return torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5, dim=-1)


@pytest.mark.parametrize("budget", [4 * HEADS * 50, 4 * HEADS * 50 * 7, 2**30])
def test_structure_scores_in_chunks_equal_the_whole_matrix(monkeypatch, budget):
    monkeypatch.setattr(priors, "CHUNK_BYTES_CPU", budget)  # 1 row, 7 rows, everything at once
    q, k = random(2, 50, 32), random(2, 50, 32, seed=1)
    m = probabilities(q, k).mean(dim=1)
    assert torch.allclose(priors.structure_scores(q, k, HEADS), 1 / m.square().sum(-1), rtol=1e-5)


def test_structure_scores_never_hold_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(priors, "CHUNK_BYTES_CPU", 4 * HEADS * 300 * 16)
    sizes, softmax = [], torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: sizes.append(x.shape) or softmax(x, dim=dim))
    priors.structure_scores(random(1, 300, 32), random(1, 300, 32), HEADS)
    assert max(shape.numel() for shape in sizes) <= HEADS * 16 * 300 and len(sizes) == 19


def test_structure_scores_count_the_tokens_attended_to():
    uniform = priors.structure_scores(torch.zeros(1, 10, 32), random(1, 10, 32), HEADS)
    assert torch.allclose(uniform, torch.full((1, 10), 10.0))
    one = torch.eye(8).repeat(1, HEADS).unsqueeze(0) * 100  # every token attends to itself alone
    assert torch.allclose(priors.structure_scores(one, one, HEADS), torch.ones(1, 8), atol=1e-3)


def test_content_confidence_reads_the_end_column():
    q, k = random(2, 20, 32), random(2, 77, 32, seed=1)
    p = probabilities(q, k).mean(dim=1)
    assert torch.allclose(priors.content_confidence(q, k, HEADS, torch.tensor([8])), p[..., 8], rtol=1e-5)
    several = priors.content_confidence(q, k, HEADS, torch.tensor([3, 8]))
    assert torch.allclose(several, p[..., [3, 8]].mean(-1), rtol=1e-5)


def test_content_confidence_ignores_a_repeated_prompt():
    q, k = random(1, 20, 32), random(1, 77, 32, seed=1)
    column = torch.tensor([8])
    once = priors.content_confidence(q, k, HEADS, column)
    assert torch.allclose(priors.content_confidence(q, k.repeat(1, 3, 1), HEADS, column, tokens=77), once)


def test_priors_are_fp32_whatever_comes_in():
    q, k = random(1, 20, 32).half(), random(1, 20, 32, seed=1).half()
    assert priors.structure_scores(q, k, HEADS).dtype == torch.float32


def test_norm_spans_zero_to_one_per_image_and_survives_a_flat_one():
    x = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    assert torch.equal(norm(x), torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]))


def test_structure_prior_is_high_where_attention_is_concentrated():
    assert torch.equal(structure_prior(torch.tensor([[1.0, 4096.0, 2048.5]])), torch.tensor([[1.0, 0.0, 0.5]]))


def test_masks():
    structure, content = torch.tensor([[1.0, 0.5, 0.0, 1.0]]), torch.tensor([[0.4, 0.4, 0.9, 0.0]])
    soft = soft_mask(structure, content)
    assert torch.allclose(soft, torch.tensor([[1.0, 0.5, 0.0, 0.0]]))
    hard = hard_mask(soft, 10.0)
    assert torch.allclose(hard, torch.sigmoid(torch.tensor([[5.0, 0.0, -5.0, -5.0]])))
    assert hard.max() < 0.994, "the hard mask is not renormalised"


def test_resize_averages_areas():
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert torch.equal(resize_map(x, (2, 2), (1, 1)), torch.tensor([[1.5]]))
    assert resize_map(x, (2, 2), (2, 2)) is x
    assert resize_map(random(1, 80), (8, 10), (4, 5)).shape == (1, 20)


@pytest.mark.parametrize("sizes", [((9, 13), (5, 7)), ((7, 10), (10, 3)), ((64, 96), (24, 36)), ((8, 8), (8, 4))])
def test_area_average_is_adaptive_pooling(sizes, monkeypatch):
    """Which does not run on Apple's GPUs where sizes do not divide, so nothing here may call it."""
    size, target = sizes
    x, mask = random(2, 3, *size), torch.zeros(1, 1, *size)
    expected = F.adaptive_avg_pool2d(x, target)
    monkeypatch.setattr(F, "adaptive_avg_pool2d", None)
    assert (area_average(x, target) - expected).abs().max() < 1e-6
    assert (resize_map(x[0].flatten(1), size, target) - expected[0].flatten(1)).abs().max() < 1e-6
    assert torch.equal(keep_map(1.0, (2, 4, *target), [mask]), torch.ones(2, 1, *target)), "held means exactly 1"
    assert torch.equal(keep_map(1.0, (2, 4, *target), [1 - mask]), torch.zeros(2, 1, *target))


def test_growing_a_mask():
    """Over the union of two foregrounds, never around a corner to the next row."""
    hard = torch.zeros(1, 2, 20)
    hard[0, 0, 4], hard[0, 1, 10] = 1.0, 0.5  # row 0, last column; row 2, first column of 4 x 5
    expected = torch.tensor([[0, 0, 0, 1, 1], [0.5, 0.5, 0, 1, 1], [0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])
    assert torch.equal(grow(hard, (4, 5)), expected.reshape(1, 20))


LAYOUT = StreamLayout(1)
A = random(2, 3, 6, 5)
SHAPES = (2, 1, 6), (2, 1, 6), (2, 6)
MASKS = masks_of(*(random(*shape, seed=2 + i).sigmoid() for i, shape in enumerate(SHAPES))).over_channels()


def written_out(mode: BackgroundMode, site: str) -> list[torch.Tensor]:
    """The equations of the paper, as printed."""
    fg, bl, bg = A.unbind(1)
    s, h, grown = MASKS.soft[:, 0], MASKS.hard[:, 0], MASKS.grown
    new_bl = fg * s + bl * (1 - s)
    new_fg = new_bl * h + fg * (1 - h)
    new_bg = bg
    if mode == "adapt" or (mode == "adapt_self" and site == "attn1"):
        new_bg = new_bl * (1 - s) + bg * s
    if mode == "literal":
        new_bg = new_bl * s + bg * (1 - s)
    if mode == "from_background":
        new_bl = new_bl * s + bg * (1 - s)
    if mode in ("share", "one_scene"):
        scene = (new_bl + bg) / 2
        new_bl, new_bg = new_bl * grown + scene * (1 - grown), bg * grown + scene * (1 - grown)
    return [new_fg, new_bl, new_bg]


@pytest.mark.parametrize("site", ["attn1", "attn2"])
@pytest.mark.parametrize("mode", list(BackgroundMode))
def test_blending_equals_the_equations(mode, site):
    found = blend(A.clone(), MASKS, mode, site).unbind(1)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, written_out(mode, site)))


def test_strength_interpolates_and_zero_is_the_input_itself():
    full = blend(A.clone(), MASKS, BackgroundMode.ADAPT, "attn1")
    half = blend(A.clone(), MASKS, BackgroundMode.ADAPT, "attn1", 0.5)
    assert torch.allclose(half, (A + full) / 2, atol=1e-6)
    assert blend(A, MASKS, BackgroundMode.ADAPT, "attn1", 0.0) is A


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_blending_writes_over_its_input_or_leaves_it_whole(strength):
    a = A.clone()
    found = blend(a, MASKS, BackgroundMode.SHARE, "attn1", strength)
    assert (found is a) == (strength == 1.0) and torch.equal(a, A) == (strength < 1.0)


def test_blending_keeps_the_type():
    half = A.half()
    assert blend(half, MASKS.to(half), BackgroundMode.ADAPT, "attn1").dtype == torch.float16


def test_groups_beyond_the_samples_take_the_samples_masks_again():
    """Positive and negative rows: the masks of N samples serve every chunk of N groups."""
    a = random(4, 3, 6, 5, seed=6)
    both = blend(a.clone(), MASKS, BackgroundMode.SHARE, "attn1")
    each = [blend(half.clone(), MASKS, BackgroundMode.SHARE, "attn1") for half in a.split(2)]
    assert torch.equal(both, torch.cat(each))


def test_zero_and_one_masks():
    zeros, ones = (masks_of(*map(full, SHAPES)).over_channels() for full in (torch.zeros, torch.ones))
    fg, bl, bg = A.unbind(1)
    nothing = blend(A.clone(), zeros, BackgroundMode.LITERAL, "attn1").unbind(1)
    assert all(torch.equal(a, b) for a, b in zip(nothing, (fg, bl, bg)))
    everything = blend(A.clone(), ones, BackgroundMode.ADAPT, "attn1").unbind(1)
    assert torch.equal(everything[1], fg) and torch.equal(everything[2], bg)


def test_two_foregrounds_are_composited_in_order():
    layout, a = StreamLayout(2), random(1, 4, 6, 5, seed=4)
    soft = torch.zeros(1, 2, 6)
    soft[0, 0, :4], soft[0, 1, 2:] = 1.0, 1.0  # the second lies over the first where both are
    masks = masks_of(soft, torch.zeros(1, 2, 6), torch.zeros(1, 6)).over_channels()
    found = blend(a.clone(), masks, BackgroundMode.ADAPT, "attn1")[0]
    first, second, _, background = a[0]
    assert torch.allclose(found[layout.blended], torch.cat([first[:2], second[2:]]))
    assert torch.equal(found[layout.background], background), "covered everywhere: the background keeps its own"


def test_a_hidden_part_of_a_foreground_takes_nothing_of_what_hides_it():
    """Three objects, all masks 1 or 0: each stream keeps its own where one in front is seen."""
    a = random(1, 5, 4, 3, seed=4)
    soft = torch.tensor([[[1.0, 1, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]]])
    masks = masks_of(soft, soft, torch.ones(1, 4)).over_channels()
    found = blend(a.clone(), masks, BackgroundMode.OFF, "attn1")[0]
    assert all(torch.equal(found[k], a[0, k]) for k in range(3)), "the front ones are seen whole, the others kept"
    assert torch.equal(found[3], torch.stack([a[0, 0, 0], a[0, 1, 1], a[0, 2, 2], a[0, 2, 3]]))
    half = masks_of(torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1), torch.ones(1, 1))
    assert half.hard.flatten().tolist() == [0.25, 0.5, 1.0] and half.keep.item() == 0.125


def test_where_silhouettes_lie_over_each_other_the_front_one_is_opaque():
    """A front one that its soft mask shows by 0.3 over a rear one by 0.8; alone, and elsewhere, each as soft as it is."""
    soft = torch.tensor([[0.8, 0.8, 0.0, 0.1], [0.3, 0.1, 0.3, 0.3], [0.0, 0.2, 0.0, 0.4]])
    silhouettes = torch.tensor([[1.0, 1, 0, 0.0], [1, 0, 1, 0.5], [0, 1, 0, 0.5]])
    found = in_front(soft, silhouettes)
    assert torch.allclose(found, torch.tensor([[0.8, 0.8, 0, 0.1], [1, 0.1, 0.3, 0.3], [0, 1, 0, 0.55]]))
    apart = in_front(soft, torch.eye(3, 4))
    assert torch.equal(apart, soft), "no silhouette over another: bit for bit as it was"
    assert torch.equal(in_front(soft[:1], silhouettes[:1]), soft[:1])


def test_a_region_bounds_the_mask_and_what_it_is_measured_by():
    structure = torch.tensor([[0.9, 0.5, 0.1, 1.0], [0.9, 0.5, 0.1, 1.0]])
    region = torch.tensor([[1.0, 0.5, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    bounded, whole = soft_mask(structure, torch.ones(2, 4), region)
    assert torch.allclose(bounded, torch.tensor([1.0, 0.25, 0.0, 0.0])), "the token outside does not count"
    assert torch.equal(whole, soft_mask(structure, torch.ones(2, 4))[1]), "bit for bit as without a region"
    assert torch.equal(norm(torch.full((1, 3), 2.0), torch.tensor([[1.0, 0.0, 1.0]])), torch.zeros(1, 3))


def test_a_regions_edge_is_soft_inside_and_nothing_outside():
    box = torch.zeros(1, 8, 8)
    box[:, :, :4] = 1.0
    found = soft_region(box, (4, 4)).unflatten(-1, (4, 4))
    assert torch.allclose(found, torch.tensor([1.0, 2 / 3, 0.0, 0.0]).expand(1, 4, 4)), "the canvas' own border is no edge"
    assert torch.equal(soft_region(torch.ones(2, 3, 7, 9), (3, 5)), torch.ones(2, 3, 15))


def test_predictions_are_one_scene_away_from_the_object():
    x0 = random(2, 4, 4, 6, 6, seed=5)
    layout, surround = StreamLayout(2), torch.zeros(2, 1, 3, 3)
    surround[1] = 1.0
    found = blend_predictions(x0, surround, layout)
    assert torch.equal(found[:, :2], x0[:, :2]), "foregrounds keep their own"
    assert torch.allclose(found[0, 2], (x0[0, 2] + x0[0, 3]) / 2, atol=1e-6) and torch.equal(found[0, 2], found[0, 3])
    assert torch.equal(found[1], x0[1]), "all object: all keep their own"
    half = blend_predictions(x0, surround, layout, 0.5)
    assert torch.allclose(half, (x0 + found) / 2, atol=1e-6)
    assert blend_predictions(x0.half(), surround, layout).dtype == torch.float16


def test_surround_is_the_object_by_either_prior_with_what_lies_beside_it():
    structure, soft, region = torch.zeros(3, 2, 16, 16), torch.zeros(3, 2, 16, 16), torch.ones(3, 2, 16, 16)
    structure[0, 0, 8, 3] = structure[2, 0, 8, 3] = structure[2, 0, 8, 12] = structure[1, :, 0] = structure[1, :, :, 15] = 1.0
    soft[1, 1, 8, 3] = 0.5
    region[2, 0, :, :8] = 0.0
    found = surround_mask(*(x.flatten(2) for x in (structure, soft)), (16, 16), 1000.0, region.flatten(2)).unflatten(1, (16, 16))
    ramp = torch.tensor([1.0, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0, 0, 0, 0, 0, 0])
    assert torch.allclose(found[0, 8], ramp, atol=1e-4), "an eighth of the side, then a soft edge"
    assert torch.allclose(found[1], found[0], atol=1e-4), "by the soft mask of another object; the lit border is none"
    assert torch.allclose(found[2, 8], ramp.flip(0).roll(0), atol=1e-4), "what lies outside an object's region is none"
    assert torch.equal(surround_mask(torch.rand(1, 1, 4), torch.ones(1, 1, 4), (2, 2), 10.0) > 0.99, torch.ones(1, 4) > 0)


def test_layout_stacks_and_splits():
    streams = Layers.of(torch.full((2, 1), float(i)) for i in range(3))
    rows = LAYOUT.stack(streams)
    assert rows.flatten().tolist() == [0, 1, 2, 0, 1, 2]
    assert all(torch.equal(a, b) for a, b in zip(LAYOUT.split(rows).streams, streams.streams))
    assert torch.equal(interleave(streams.streams), rows)
    assert StreamLayout(2).names == ("foreground 1", "foreground 2", "blended", "background")


def test_layout_errors():
    with pytest.raises(ValueError, match="at least one foreground"):
        StreamLayout(0)
    with pytest.raises(ValueError, match="expected 3 streams .foreground, blended, background., got 2"):
        LAYOUT.stack(Layers.of([torch.zeros(1), torch.zeros(1)]))
    with pytest.raises(ValueError, match="the batch holds 4 rows, which is no multiple of the 3 streams"):
        LAYOUT.grouped(torch.zeros(4, 1))


def test_options_take_plain_values():
    options = LayerFusionOptions(background_mode="literal", prior_mode="previous_step", noise="independent")
    assert options.background_mode is BackgroundMode.LITERAL
    assert options.blends and not LayerFusionOptions(strength=0.0).blends
    assert not LayerFusionOptions(self_attention=False, cross_attention=False).blends
