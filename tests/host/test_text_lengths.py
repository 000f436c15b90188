"""Prompts of unlike length: every layer attends to its own text at its own length, at the cost of the longest."""

from __future__ import annotations

import pairs
import pytest
import runs
import tiny
import torch
from compat import pair_of, streams_equal_stock
from runs import layered, models, prompts

from layerfusion_pack.layerfusion_core.host.unet import per_stream
from layerfusion_pack.layerfusion_core.host.unet.text_lengths import TextLengths, even, fill_up

CHUNKS = (77, 231, 154)  # foreground, blended, background


def negative(chunks: int, seed: int = 9) -> list:
    return tiny.conditioning(seed, tokens=77 * chunks, eos=None)


@pytest.mark.parametrize("pair", ["one checkpoint", "lock step"])
def test_strength_zero_is_the_stock_sampler(pair):
    """In a batch, with a negative of another length for each layer, cond and uncond in one forward or in two."""
    negatives = [negative(2, 50), None, negative(4, 51)]
    streams_equal_stock(
        pairs.unlike() if pair == "lock step" else None, prompts(CHUNKS), negative(5), negatives, latent=runs.empty_latent(2)
    )


@pytest.mark.parametrize("mode", [*runs.slow("exact"), "previous_step"])
def test_blending_is_that_of_the_texts_repeated_to_one_length(mode):
    """Which leaves softmax attention as it is: the same layers, and the same content confidence."""
    streams = prompts(CHUNKS)
    repeated = [[[t.repeat(1, 462 // t.shape[1], 1), extra]] for ((t, extra),) in streams]
    found, record = layered(streams=streams, prior_mode=mode, steps=2, latent=runs.empty_latent(2))
    expected, _ = layered(streams=repeated, prior_mode=mode, steps=2, latent=runs.empty_latent(2))
    for step in range(2):
        whole = record.images(step)["content"]
        assert whole.isfinite().all() and whole.std() > 0
    # the prior of a repeated text is spread over its copies: alike only in min-max, which the masks are made of
    assert all(runs.close(a, b, 1e-3) for a, b in zip(found, expected))


def test_no_attention_is_longer_than_the_longest_prompt(monkeypatch):
    """3, 8 and 5 chunks once came to 120; what is attended to is each one's own."""
    seen = set()
    attend = per_stream.optimized_attention

    def spy(q, k, v, *args, **kwargs):
        seen.add((q.shape[0], k.shape[1]))
        return attend(q, k, v, *args, **kwargs)

    monkeypatch.setattr(per_stream, "optimized_attention", spy)
    layered(streams=prompts((3 * 77, 8 * 77, 5 * 77)), negative=negative(2), steps=1, prior_mode="previous_step")
    texts = {shape for shape in seen if shape[1] % 77 == 0}
    assert texts == {(1, 3 * 77), (1, 5 * 77), (4, 8 * 77)}  # the negative's four repeats are the host's


def test_controls_get_their_stream_s_own_text():
    from test_compat_control import apply

    streams = prompts(CHUNKS)
    for i in range(3):
        streams[i], controlled = apply("controlnet", streams[i], negative(2))
    streams_equal_stock(streams=streams, negative=controlled, latent=runs.empty_latent(2))


def halving(base):
    """NegPip's model patch: every other token makes the key, the one behind it the value."""
    base = base.clone()
    base.set_model_attn2_patch(lambda n, context, value, options: (n, context[:, 0::2], value[:, 1::2]))
    return pair_of(base)


ALIKE, UNLIKE = (154, 154, 154), (154, 462, 308)


@pytest.mark.parametrize(
    ("tokens", "eos"), [(ALIKE, "unknown"), (UNLIKE, "known"), *runs.slow((ALIKE, "known"), (UNLIKE, "unknown"))]
)
def test_keys_that_another_node_halves(tokens, eos):
    """Once "index out of range": without token positions the columns are all of the text's, but there are half as many keys."""
    streams = [tiny.conditioning(i, n, eos=8 if eos == "known" else None) for i, n in enumerate(tokens)]
    pair = halving(models()[0])
    for mode in ("exact", "previous_step"):
        layers, record = layered(pair, streams, prior_mode=mode, steps=2, negative=negative(2))
        assert all(layer.isfinite().all() for layer in layers) and len(record.maps) == 2
    if eos == "known":
        streams_equal_stock(pair, streams, negative(2))


def test_halved_keys_give_the_columns_of_the_words():
    """The same keys and values without the patch: the content confidence is the same."""
    streams = [tiny.conditioning(i, 77, eos=None) for i in range(3)]
    doubled = [[[t.repeat_interleave(2, dim=1), extra]] for ((t, extra),) in streams]
    expected, plain = layered(streams=streams, steps=2)
    found, record = layered(halving(models()[0]), doubled, steps=2, negative=negative_doubled())
    assert all(runs.close(a, b, 1e-3) for a, b in zip(found, expected))
    assert torch.allclose(record.images(0)["content"], plain.images(0)["content"], atol=2e-3)


def negative_doubled() -> list:
    ((text, extra),) = runs.NEGATIVE
    return [[text.repeat_interleave(2, dim=1), extra]]


def test_another_nodes_attention_gets_whole_texts():
    """A replace patch that attends itself, as IPAdapter does before it adds its own."""
    base = models()[0].clone()
    for place in (("middle", 0), ("output", 3), ("input", 7)):
        base.set_model_attn2_replace(lambda q, k, v, options: 0.5 * per_stream.attend(q, k, v, options), *place)
    streams_equal_stock(pair_of(base), prompts(CHUNKS), negative(2))


def test_tokens_that_are_left_out_of_unlike_prompts_are_refused():
    base = models()[0].clone()
    base.set_model_attn2_patch(lambda n, context, value, options: (n, context[:, :100], value[:, :100]))
    with pytest.raises(ValueError, match="100 keys for 231 tokens.*same number of chunks"):
        layered(pair_of(base), prompts(CHUNKS), steps=1)


def test_lengths_that_divide_need_no_cut():
    texts = [torch.randn(1, n, 4) for n in (77, 231, 77)]
    assert [t.shape[1] for t in fill_up(texts)] == [231] * 3
    whole = TextLengths([(77, 231, 77), None], range(3), 6, 231, torch.device("cpu"))
    assert not whole.uneven
    cut = TextLengths([(77, 231, 154)], range(3), 6, 462, torch.device("cpu"))  # repeated once more by the host
    assert cut.uneven and cut._kept == [[462, 462, 154]]


def test_attention_over_filled_up_texts_is_that_over_each_text():
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(2, n, 8, generator=generator) for n in (3, 7, 5)]
    q = torch.randn(6, 4, 8, generator=generator)

    def attention(q, k, v, options):
        return torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v

    rows = torch.stack(fill_up(texts), dim=1).flatten(0, 1)
    lengths = TextLengths([(3, 7, 5)], range(3), 6, 7, torch.device("cpu"))
    found = lengths.attend(attention, q, rows, rows, {})
    for i, text in enumerate(texts):
        expected = attention(q[i::3], text, text, {})
        assert torch.allclose(found[i::3], expected, atol=1e-5)
        assert torch.allclose(attention(q[i::3], *[lengths.of(rows[i::3], [i])] * 2, {}), expected, atol=1e-5)
    everything = lengths.of(rows, [0, 1, 2])
    assert everything.shape[1] == 105 and torch.allclose(attention(q, everything, everything, {}), found, atol=1e-5)
    added = torch.cat([rows, rows[:, :2]], dim=1)  # a node's own tokens behind the text
    expected = attention(q[:1], torch.cat([texts[0][:1], rows[:1, :2]], dim=1), torch.cat([texts[0][:1], rows[:1, :2]], dim=1), {})
    assert torch.allclose(lengths.attend(attention, q, added, added, {})[:1], expected, atol=1e-5)
    assert [t.shape[1] for t in even(texts)] == [105] * 3
