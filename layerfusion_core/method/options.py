"""The choices of a LayerFusion run, each with the meaning `docs` and tooltips give it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .streams import Layers, StreamLayout


class BackgroundMode(str, Enum):
    """How blended and background agree on the scene (see `blending.blend` and `blending.blend_predictions`)."""

    ADAPT = "adapt"
    ADAPT_SELF = "adapt_self"
    LITERAL = "literal"
    FROM_BACKGROUND = "from_background"
    OFF = "off"
    SHARE = "share"
    ONE_SCENE = "one_scene"


class PriorMode(str, Enum):
    """Where an evaluation's masks come from: an unblended prior pass, or the evaluation before."""

    EXACT = "exact"
    PREVIOUS_STEP = "previous_step"


class NoiseMode(str, Enum):
    """Whether the streams of a sample start from (and, in stochastic samplers, receive) the same noise."""

    SHARED = "shared"
    INDEPENDENT = "independent"


AS_CFG = -1.0
"""A stream's guidance scale that stands for the run's."""


@dataclass(frozen=True)
class LayerFusionOptions:
    """Settings of the blending; the defaults are the paper's but for background_mode (docs/evidence.md).

    hardness d > 0 of the hard mask; strength g in [0, 1] of the blending (0 = three independent streams);
    start_percent <= end_percent in [0, 1], the part of the schedule that blends; self_attention / cross_attention
    choose which attention outputs are blended; cfg_foreground, cfg_blended, cfg_background >= 0 are the streams' own
    guidance scales, `AS_CFG` for the run's.
    """

    background_mode: BackgroundMode = BackgroundMode.SHARE
    prior_mode: PriorMode = PriorMode.EXACT
    hardness: float = 10.0
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    noise: NoiseMode = NoiseMode.SHARED
    self_attention: bool = True
    cross_attention: bool = True
    cfg_foreground: float = AS_CFG
    cfg_blended: float = AS_CFG
    cfg_background: float = AS_CFG

    def __post_init__(self) -> None:
        for name, kind in (("background_mode", BackgroundMode), ("prior_mode", PriorMode), ("noise", NoiseMode)):
            value = getattr(self, name)
            if value not in [m.value for m in kind] and not isinstance(value, kind):
                raise ValueError(f"{name}: expected one of {', '.join(m.value for m in kind)}, got {value!r}")
            object.__setattr__(self, name, kind(value))
        if not self.hardness > 0:
            raise ValueError(f"hardness: expected a number above 0 (10 is the paper's), got {self.hardness}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength: expected 0 to 1, got {self.strength}")
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise ValueError(
                f"start_percent and end_percent: expected 0 <= start <= end <= 1, got {self.start_percent} and {self.end_percent}"
            )

        for name in ("cfg_foreground", "cfg_blended", "cfg_background"):
            scale = getattr(self, name)
            if not (scale >= 0 or scale == AS_CFG):
                raise ValueError(f"{name}: expected -1 (as cfg) or a guidance scale of 0 or more, got {scale}")

    def cfg_of_layers(self, cfg: float, layout: StreamLayout) -> Layers:
        """The layers' guidance scales; `cfg` where a layer has none of its own."""
        own = Layers((self.cfg_foreground,) * layout.foreground_count, self.cfg_blended, self.cfg_background)
        return own.map(lambda scale: cfg if scale == AS_CFG else scale)

    @property
    def blends(self) -> bool:
        """Whether any evaluation can blend at all."""
        return self.strength > 0 and (self.self_attention or self.cross_attention)

    def blends_site(self, site: str) -> bool:
        """Whether the outputs of `site` ("attn1" self-attention, "attn2" cross-attention) are blended."""
        return self.self_attention if site == "attn1" else self.cross_attention
