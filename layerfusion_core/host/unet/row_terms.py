"""What a patch of the foreground model adds to the output of one module, for the foreground rows alone.

A difference of weights is a term of its own, because everything that carries weights in the UNet is linear in them:

    Linear, Conv2d          op(x; W + dW) = op(x; W) + op(x; dW),  dW full or up @ down
    GroupNorm, LayerNorm    x_hat * (w + dw) + b = norm(x; w, b) + x_hat * dw, with the same statistics of x
    any bias                out(b + db) = out(b) + db
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch

from ...weights.changes import Delta, LowRank
from ..models.adapters import change_of, kind_of, weight_shape

_ops = comfy.ops.manual_cast  # they take their weights to device and type of the input, wherever the host keeps them


class Term(torch.nn.Module):
    """layers in turn(x) * scale: a low-rank or full difference of a weight."""

    def __init__(self, layers: list[torch.nn.Module], scale: float):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        self.scale = scale

    def add_to(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Add the term of the inputs x (G, K, ...) to the outputs (G, K, ...), in place."""
        value = x.flatten(0, 1)
        for layer in self.layers:
            value = layer(value)
        out.add_(value.unflatten(0, out.shape[:2]), alpha=self.scale)


class BiasTerm(torch.nn.Module, comfy.ops.CastWeightBiasOp):
    """values * scale, whatever the input; values in the shape that broadcasts over an output row."""

    comfy_cast_weights = True  # the host may leave it offloaded: cast where it is used

    def __init__(self, values: torch.Tensor, scale: float):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(values, requires_grad=False), None
        self.scale = scale

    def add_to(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Add the bias to the outputs (G, K, ...), in place."""
        values, _ = comfy.ops.cast_bias_weight(self, out)
        out.add_(values, alpha=self.scale)


def add_terms(terms: Iterable[Any], out: torch.Tensor, x: torch.Tensor) -> None:
    """Add all terms of one module on its inputs x (G, K, ...) to its outputs (G, K, ...), in place."""
    for term in terms:
        term.add_to(out, x)


@contextmanager
def terms_on_modules(
    unet: torch.nn.Module,
    terms: Mapping[str, torch.nn.ModuleList],
    rows: int,
    foreground_rows: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """While it lasts, the modules of the UNet named in `terms` add theirs to the foreground rows of what they give out.

    rows: of one call; foreground_rows: the view (G, K, ...) of the foreground rows of a tensor (rows, ...).
    """

    def hook_of(name: str, mine: torch.nn.ModuleList) -> Callable:
        def hook(module, inputs, out):
            if out.shape[0] != rows:
                raise ValueError(
                    f"the module {name} got {out.shape[0]} rows where the model got {rows}; another node changes the batch "
                    "inside the model and cannot be combined with LayerFusion"
                )
            add_terms(mine, foreground_rows(out), foreground_rows(inputs[0]))  # in place: nobody has seen the output yet

        return hook

    with ExitStack() as hooks:
        for name, mine in terms.items():
            hooks.callback(unet.get_submodule(name).register_forward_hook(hook_of(name, mine)).remove)
        yield


@dataclass(frozen=True)
class Difference:
    """What one patch of one of the two MODELs changes of the parameter `key` of `module`: change * factor."""

    key: str
    module: torch.nn.Module
    change: LowRank | Delta
    factor: float


def difference(module: torch.nn.Module, key: str, entry: tuple, sign: float) -> Difference:
    """One entry of a MODEL's patches on the parameter `key` of `module`, times `sign`.

    ValueError for patches that are not additive (DoRA, LoHa, LoKr, set, ...), of another shape, on unknown modules, or of
    a kind that the host ignores.
    """
    strength, patch, strength_model, offset, function = entry
    require_understood(key, patch, "foreground_model" if sign > 0 else "base_model")
    if strength_model != 1.0:
        raise _refusal(key, f"'weight times {strength_model:g}' (UNet Self- or Cross-Attention Multiply, a merge)")
    if offset is not None or function is not None:
        raise _refusal(key, f"{kind_of(patch)} (partial)")
    change = change_of(patch)
    if change is None or (isinstance(change, LowRank) and not key.endswith(".weight")):
        raise _refusal(key, kind_of(patch))
    if not hasattr(module, "in_features") and not isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
        if not isinstance(module, torch.nn.Conv2d) or module.groups != 1:
            raise ValueError(
                f"foreground_model changes {key}, of a module of type {type(module).__name__}, which cannot act on the foreground "
                "alone (only Linear, Conv2d, GroupNorm and LayerNorm can); apply it to the base model before Apply Foreground "
                "Weights"
            )
    shape = weight_shape(module, key)
    if isinstance(change, LowRank) and len(shape) == 1:
        raise _refusal(key, "LoRA on a norm")
    if isinstance(change, LowRank) and len(shape) == 2 and change.mid is not None:
        raise _refusal(key, "LoRA with a middle part on a Linear")
    if not change.fits(shape):
        raise ValueError(
            f"the patch on {key} has shape {change.shape}, the model's is {shape}: it is made for another model; remove it "
            "from foreground_model"
        )
    return Difference(key, module, change, sign * strength)


def require_understood(key: str, patch: object, model: str) -> None:
    """ValueError for a patch tuple that hosts have ignored, with a line in the log, since adapters took their place."""
    if isinstance(patch, tuple) and len(patch) == 2 and patch[0] not in ("diff", "set", "model_as_lora"):
        raise ValueError(
            f"{model} carries a patch of the old type '{patch[0]}' on {key}, which this ComfyUI ignores, so that the "
            "foreground would come out opaque: Layer Diffuse Apply (ComfyUI-layerdiffuse) makes them; use Apply Foreground "
            "Weights instead of it, on the model that went into it"
        )


def _refusal(key: str, kind: str) -> ValueError:
    return ValueError(
        f"the patch of type {kind} on {key} differs between foreground_model and base_model, and only plain LoRAs and "
        "full differences can act on the foreground alone; apply it to the base model before Apply Foreground Weights"
    )


def make_term(found: Difference) -> Term | BiasTerm:
    """The term of a difference."""
    module, change = found.module, found.change
    if isinstance(change, LowRank):
        return Term(_low_rank(module, change), found.factor * change.scale)
    if found.key.endswith(".weight"):
        return Term([_full(module, change.weight)], found.factor)
    channels_first = isinstance(module, (torch.nn.Conv2d, torch.nn.GroupNorm))
    return BiasTerm(change.weight[:, None, None] if channels_first else change.weight, found.factor)


def _full(module: Any, weight: torch.Tensor) -> torch.nn.Module:
    """The module's operation with the difference as its weight, without a bias."""
    if hasattr(module, "in_features"):
        return linear(weight)
    if isinstance(module, torch.nn.Conv2d):
        return _conv(weight, module)
    if isinstance(module, torch.nn.GroupNorm):
        return _holding(_ops.GroupNorm(module.num_groups, module.num_channels, module.eps, device="meta"), weight)
    return _holding(_ops.LayerNorm(module.normalized_shape, module.eps, device="meta"), weight)


def _low_rank(module: Any, change: LowRank) -> list[torch.nn.Module]:
    """The layers of up(mid(down(x))); the one with the module's kernel has its stride and padding, the others are 1 x 1."""
    up, down, mid = change.up.flatten(1), change.down.flatten(1), change.mid
    if hasattr(module, "in_features"):
        return [linear(down), linear(up)]
    if mid is None:
        return [_conv(down.reshape(-1, module.in_channels, *module.kernel_size), module), _conv(up[..., None, None])]
    return [_conv(down[..., None, None]), _conv(mid, module), _conv(up[..., None, None])]


def linear(weight: torch.Tensor) -> torch.nn.Module:
    """A layer x @ weight^T that the host may keep anywhere and casts where it is used; weight (out, in)."""
    return _holding(_ops.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta"), weight)


def _conv(weight: torch.Tensor, like: torch.nn.Conv2d | None = None) -> torch.nn.Module:
    names = ("stride", "padding", "dilation", "padding_mode")
    geometry = {} if like is None else {name: getattr(like, name) for name in names}
    out, into, *kernel = weight.shape
    return _holding(_ops.Conv2d(into, out, tuple(kernel), bias=False, device="meta", **geometry), weight)


def _holding(layer: Any, weight: torch.Tensor) -> torch.nn.Module:
    """The layer with `weight` itself, not a copy, and without a bias."""
    layer.bias = None
    # load_state_dict, not a plain assignment: hosts with dynamic memory create the weights only here.
    layer.load_state_dict({"weight": weight}, assign=True)
    return layer.requires_grad_(False)
