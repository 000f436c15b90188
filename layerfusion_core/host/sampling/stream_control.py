"""ControlNets and T2I adapters of single streams inside a batch of interleaved streams."""

from __future__ import annotations

import torch
from comfy.controlnet import ControlBase

from ...method.streams import interleave
from ..unet.text_lengths import Lengths, even


class StreamControl(ControlBase):
    """Runs each stream's own control on that stream's rows; rows of streams without one get nothing added.

    controls: one ControlNet or T2I adapter (with those chained behind it) per stream, None for none. The host prepares,
    loads and cleans them up through the conditionings they are attached to; here they are only called. lengths: of the
    streams' texts, by uuid of the conditioning and key of the text.
    """

    def __init__(self, controls: tuple[ControlBase | None, ...], lengths: dict[object, dict[str, Lengths]]):
        super().__init__()
        self.controls, self.lengths = controls, lengths

    def get_control(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> dict[str, list[torch.Tensor | None]] | None:
        """The streams' residuals in the rows of x_noisy (rows, 4, h, w), zero elsewhere; None when none is active."""
        rows, streams = x_noisy.shape[0], len(self.controls)
        found: list[dict | None] = [None] * streams
        for stream, control in enumerate(self.controls):
            if control is not None:
                own = {
                    k: v[stream::streams] if isinstance(v, torch.Tensor) and v.shape[0] == rows else v
                    for k, v in cond.items()
                }
                own.update(self._texts(own, stream, transformer_options.get("uuids", [])))
                found[stream] = _on_device(control, transformer_options).get_control(
                    x_noisy[stream::streams], t[stream::streams], own, batched_number, transformer_options
                )
        sides = dict.fromkeys(side for out in found if out is not None for side in out)
        return {side: _merge([out.get(side, []) if out else [] for out in found], rows) for side in sides} or None

    def _texts(self, own: dict, stream: int, uuids: list) -> dict[str, torch.Tensor]:
        """The texts among a stream's conds at their own length."""
        lengths = [self.lengths.get(uuid, {}) for uuid in uuids]
        found = {}
        for key in set.intersection(*map(set, lengths)) if lengths else ():
            chunks = own[key].unflatten(0, (len(lengths), -1))
            found[key] = torch.cat(even([chunk[:, : of[key][stream]] for chunk, of in zip(chunks, lengths)]))
        return found


def _on_device(control: ControlBase, transformer_options: dict) -> ControlBase:
    """The control's copy for the GPU that a call runs on, where the host spreads conditionings over several."""
    device = transformer_options.get("multigpu_thread_device")
    return control if device is None else control.get_instance_for_device(device)


def _merge(outputs: list[list[torch.Tensor | None]], rows: int) -> list[torch.Tensor | None]:
    """One list of residuals per stream into one list over all rows; aligned at the end, where the host takes them from."""
    length = max(map(len, outputs))
    padded = [[None] * (length - len(out)) + list(out) for out in outputs]
    return [_interleave(list(layer), rows // len(outputs)) for layer in zip(*padded)]


def _interleave(layer: list[torch.Tensor | None], rows: int) -> torch.Tensor | None:
    """The streams' residuals of one layer, each (1 or rows, C, h, w) or None, as rows of the whole batch."""
    like = next((out for out in layer if out is not None), None)
    if like is None:
        return None
    nothing = like.new_zeros((1, *like.shape[1:]))
    return interleave([_rows(nothing if out is None else out, rows) for out in layer])


def _rows(out: torch.Tensor, rows: int) -> torch.Tensor:
    """Tile a residual to `rows`, or cut it: an adapter keeps its own for the batch it saw first."""
    return out.repeat(-(-rows // out.shape[0]), 1, 1, 1)[:rows] if out.shape[0] != rows else out
