"""What the forwards of one pass read and write, alone and at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from layerfusion_pack.layerfusion_core.host.unet.run import PASS, Pass, Run, Settings, TextColumns, pass_of
from layerfusion_pack.layerfusion_core.method.blending import Blending
from layerfusion_pack.layerfusion_core.method.options import LayerFusionOptions
from layerfusion_pack.layerfusion_core.method.prior_maps import ReadPriors
from layerfusion_pack.layerfusion_core.method.streams import StreamLayout

BLOCK, GRID = ("output", 5, 1), (2, 2)
FIRST, SECOND = "first", "second"  # uuids of two conditionings


def run(blending: type[Blending] = Blending) -> Run:
    """A run whose prompts are two conditionings of one foreground."""
    found = Run(Settings(blending(StreamLayout(), LayerFusionOptions()), (BLOCK,)), torch.Size([3, 4, 4, 4]))
    found.columns = {uuid: (TextColumns([5], 77, 77, torch.device("cpu")),) for uuid in (FIRST, SECOND)}
    return found


def fill(priors: ReadPriors, level: float) -> None:
    priors.structure = torch.arange(4.0).unsqueeze(0), GRID
    priors.content[BLOCK] = torch.full((1, 4), level), GRID


def test_a_conditioning_is_read_by_the_first_forward_that_shows_it():
    this = Pass(run(), reads=True)
    assert isinstance(this.claim(FIRST), ReadPriors) and this.claim(FIRST) is None
    assert this.claim("negative") is None and Pass(run()).claim(FIRST) is None


def test_forwards_that_come_at_once_agree():
    this = Pass(run(), reads=True)
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(lambda i: this.claim((FIRST, SECOND)[i % 2]), range(64)))
    assert sum(priors is not None for priors in claimed) == 2


def test_what_is_read_does_not_depend_on_who_came_first():
    found = []
    for order in ((FIRST, SECOND), (SECOND, FIRST)):
        this = Pass(run(), reads=True)
        for uuid in order:
            fill(this.claim(uuid), {FIRST: 0.1, SECOND: 0.5}[uuid])
        found.append(this.maps_read())
    assert torch.equal(found[0].content[GRID], found[1].content[GRID])
    assert torch.allclose(found[0].content_of(BLOCK), torch.full((1, 4), 0.3))
    assert Pass(run(), reads=True).maps_read() is None


def test_a_method_has_the_last_word_on_the_priors():
    class Halved(Blending):
        def priors(self, read):
            return replace(read, content={grid: content / 2 for grid, content in read.content.items()})

    this = Pass(run(Halved), reads=True)
    fill(this.claim(FIRST), 0.4)
    assert torch.allclose(this.maps_read().content_of(BLOCK), torch.full((1, 4), 0.2))


def test_masks_are_made_once_a_pass():
    reading = Pass(run(), reads=True)
    fill(reading.claim(FIRST), 0.5)
    this, like = Pass(run(), maps=reading.maps_read()), torch.zeros(1, 3, 4, 8)
    assert this.masks(BLOCK, GRID, like) is this.masks(BLOCK, GRID, like)
    assert this.masks(BLOCK, GRID, like.half()).soft.dtype == torch.float16
    assert this.blends("attn1", GRID) and not Pass(run()).blends("attn1", GRID)


def test_a_call_with_options_of_its_own_is_refused():
    this = Pass(run())
    assert pass_of({PASS: this}) is this
    with pytest.raises(ValueError, match="a node calls the model with options of its own .*: remove the node"):
        pass_of({"sigmas": None})
