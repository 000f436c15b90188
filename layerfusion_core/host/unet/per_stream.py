"""Patches of other nodes inside a LayerFusion run: each is called stream by stream, as a run of that stream alone calls it.

What such a patch holds for each latent (IPAdapter Batch, masks, weights) is in the order of a run of N latents, so every
call gets the N rows of one stream per conditioning, in that order, and an account of the call (`extra_options`) to match.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher

from ...method.streams import interleave

KEY = "layerfusion"  # of our entries in transformer_options and of our wrapper
COUPLES = (
    "a node that gives parts of the picture prompts of their own inside the model (attention couple, regional prompts) is on the "
    "model; remove it, and use Conditioning (Set Mask) and Conditioning (Combine) on the layer's prompt instead"
)
MERGES = "a node that merges tokens or tiles attention (HyperTile, token merging) is on the model; remove it for LayerFusion"
_STREAM = "layerfusion_stream"  # in the options of a patch: the name of the stream whose rows it got


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
    """The host's attention, as a replace patch."""
    return optimized_attention(
        q, k, v, extra_options["n_heads"], attn_precision=extra_options["attn_precision"], transformer_options=extra_options
    )  # fmt: skip


class StreamPatch:
    """A patch for the streams whose name begins with one of `streams`, and `other` for the rest.

    None stands for no patch: plain attention in a replace patch's place, the values as they are in a list of patches. In
    a run without LayerFusion there are no streams, and `patch` acts on everything, as it would by itself.
    """

    def __init__(self, patch: Callable | None, other: Callable | None, streams: frozenset[str]):
        self.patch: Any = patch
        self.other: Any = other
        self.streams = streams

    def of(self, stream: str) -> Callable | None:
        """The patch of one stream."""
        return patch_of(self.patch if stream.split()[0] in self.streams else self.other, stream)

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> torch.Tensor:
        """As a replace patch, for a run without LayerFusion and for patches that call the one that was there before."""
        stream = extra_options.get(_STREAM)
        chosen = self.patch if stream is None else self.of(stream)
        return (chosen or attend)(q, k, v, extra_options)

    def __deepcopy__(self, memo: dict) -> StreamPatch:
        return self  # hosts before 0.14 copy patches, with the tensors they hold, whenever a model is cloned

    def add(self, *args, **kwargs) -> None:
        """Stack a patch on this one for all streams: what IPAdapter asks of whatever it finds in its place.

        ValueError when nothing here is of IPAdapter's own kind, which alone knows how to stack.
        """
        kinds = [type(leaf) for leaf in self.leaves() if hasattr(leaf, "add")]
        if not kinds:
            raise ValueError(
                "an IPAdapter comes after Limit Patches to Layers whose patches are of another kind and cannot be stacked: "
                "put the IPAdapter before the node whose patches are limited"
            )
        self.patch, self.other = (_stacked(p, kinds[0], args, kwargs) for p in (self.patch, self.other))

    def to(self, target) -> StreamPatch:
        """Move what the patches hold, as the host asks before a run."""
        patch, other = (p.to(target) if hasattr(p, "to") else p for p in (self.patch, self.other))
        return StreamPatch(patch, other, self.streams)

    def models(self) -> list[ModelPatcher]:
        """Models that the patches bring, for the host to load."""
        return [m for p in (self.patch, self.other) if hasattr(p, "models") for m in p.models()]

    def cleanup(self) -> None:
        """Hand on the host's word that sampling is over."""
        for patch in (self.patch, self.other):
            if hasattr(patch, "cleanup"):
                patch.cleanup()

    def leaves(self) -> list[Callable | None]:
        """Every patch in it, at any depth."""
        return [leaf for p in (self.patch, self.other) for leaf in (p.leaves() if isinstance(p, StreamPatch) else [p])]


def patch_of(patch: Callable | None, stream: str) -> Callable | None:
    """The patch that acts on a stream of this name: one of a `StreamPatch`'s, or the patch itself."""
    return patch.of(stream) if isinstance(patch, StreamPatch) else patch


def _stacked(patch: Callable | None, kind: type, args: tuple, kwargs: dict) -> Callable:
    """A copy of `patch` with one more stacked on it; of `kind` where there was none."""
    if patch is None:
        return kind(*args, **kwargs)
    if not hasattr(patch, "add"):
        raise ValueError(
            f"an IPAdapter comes after a patch of type {type(patch).__name__}, on which it cannot be stacked: put the "
            "IPAdapter first"
        )
    patch = copy.copy(patch)  # `add` works in place, and the MODEL before the node holds the same object
    if not isinstance(patch, StreamPatch):
        vars(patch).update({k: copy.copy(v) for k, v in vars(patch).items() if isinstance(v, (list, dict))})
    patch.add(*args, **kwargs)
    return patch


_VALUES = {"attn1_patch": 3, "attn2_patch": 3, "output_block_patch": 2}  # how many of its arguments a patch returns; else 1


class ByStream:
    """Another node's patch, called for each stream on its own rows.

    name: of the list it is in, or of the place it replaces attention at; sees_all: whether a patch gets the rows of all
    its streams in one call instead; default: the replace patch of streams that have none, None for a patch of a list;
    shown (arguments, streams, options): what of the arguments for some of the streams a patch is to see.
    """

    def __init__(
        self,
        name: str,
        patch: Callable,
        sees_all: Callable[[Callable], bool],
        default: Callable | None = None,
        shown: Callable[[list, list[int], dict], list] | None = None,
    ):
        self.name, self.patch, self.sees_all, self.default, self.shown = name, patch, sees_all, default, shown

    def __call__(self, *args):
        """The patch's values of all rows; ValueError when it changes their number."""
        options = _options_in(args)
        rows: StreamRows = options[KEY].by_stream
        given = _values(args[0], args, _VALUES.get(self.name, 1))
        parts: list[list] = [[None] * rows.count for _ in given]
        sources: list[list[int]] = [[] for _ in given]
        for patch, streams in rows.calls(self.patch, self.sees_all):
            mine = rows.take(args, streams, options)
            if self.shown is not None:
                mine = self.shown(mine, streams, options)
            patch = self.default if patch is None else patch
            found = mine[0] if patch is None else patch(*mine)
            rows.remember(streams, options, _options_in(mine))
            for place, source, like, value in zip(parts, sources, given, _values(found, mine, len(given))):
                source.append(id(value))
                for i, part in zip(streams, rows.part(value, like, len(streams), self.name)):
                    place[i] = part
        joined = []
        for i, (place, like) in enumerate(zip(parts, given)):  # context and value are often one tensor: it stays one
            first = sources.index(sources[i])
            joined.append(joined[first] if first < i else rows.join(place, like, self.name))
        if isinstance(args[0], dict):
            return {**args[0], "h": joined[0]}
        return joined[0] if len(joined) == 1 else tuple(joined)


def _options_in(args: Sequence) -> dict:
    """The options among a patch's arguments; the host's newest patches get one dictionary with everything in it."""
    return args[-1].get("transformer_options", args[-1])


def _values(found: object, args: Sequence, count: int) -> list:
    """What a patch returned as a list of `count`; `found` may be the first of its arguments, for one that does nothing."""
    if isinstance(found, dict):
        return [found["h"]]
    if isinstance(found, (tuple, list)):
        return list(found)
    return [found] if count == 1 else list(args[:count])


class StreamRows:
    """The rows of one forward by stream: what a patch gets of them, and how its values go together again.

    names: of the streams, in order; rows: of the forward, chunks * N * S.
    """

    def __init__(self, names: tuple[str, ...], rows: int):
        self.names, self.rows, self.count = names, rows, len(names)
        self._notes: list[dict] = [{} for _ in names]  # what patches wrote into the options of a stream's call

    def calls(self, patch: Callable, sees_all: Callable[[Callable], bool]) -> list[tuple[Callable | None, list[int]]]:
        """The calls to make: (patch, its streams). Streams without a patch go together, others one by one."""
        found: list[tuple[Callable | None, list[int]]] = []
        for i, name in enumerate(self.names):
            own = patch_of(patch, name)
            together = own is None or sees_all(own)
            group = next((streams for known, streams in found if together and known is own), None)
            if group is None:
                found.append((own, [i]))
            else:
                group.append(i)
        return found

    def take(self, args: Sequence, streams: list[int], options: dict) -> list:
        """A patch's arguments as a run of these streams alone would give them; `options` is one of them, or in it."""
        known: dict[int, torch.Tensor] = {}

        def view(value):
            if value is options:
                return self._options(options, streams)
            if isinstance(value, dict):
                return {key: view(item) for key, item in value.items()}
            if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[0] != self.rows:
                return value
            if id(value) not in known:  # context and value are often one tensor, and patches may look
                known[id(value)] = self._of(value, streams)
            return known[id(value)]

        return [view(arg) for arg in args]

    def _of(self, x: torch.Tensor, streams: list[int]) -> torch.Tensor:
        """The streams' rows of x (G * S, ...) as (G * len(streams), ...)."""
        picked = [x.unflatten(0, (-1, self.count))[:, i] for i in streams]
        return picked[0].contiguous() if len(picked) == 1 else interleave(picked)

    def _options(self, options: dict, streams: list[int]) -> dict:
        own = {key: value for key, value in options.items() if key != KEY}
        for key, value in own.items():
            if isinstance(value, torch.Tensor) and value.ndim and self._by_row(key, value.shape[0]):
                own[key] = self._of(value, streams)
        for key in ("original_shape", "activations_shape"):
            if key in own:
                own[key] = [own[key][0] // self.count * len(streams), *own[key][1:]]
        return {**own, **self._notes[streams[0]], _STREAM: self.names[streams[0]]}

    def _by_row(self, key: str, length: int) -> bool:
        return length == self.rows or (key == "sigmas" and length % self.count == 0)  # of one conditioning

    def remember(self, streams: list[int], options: dict, mine: dict) -> None:
        """Keep what a patch of the UNet's own blocks wrote into its options: in a run alone, later patches find it there."""
        if "n_heads" in mine:  # an attention's options are a copy that nobody sees afterwards
            return
        written = {key: value for key, value in mine.items() if key not in options and key != _STREAM}
        for i in streams:
            self._notes[i].update(written)

    def part(self, value: Any, like: Any, streams: int, name: str) -> Sequence:
        """A call's value (G * streams, ...) by stream; ValueError when its rows are not those of the patch's argument `like`."""
        if not isinstance(value, torch.Tensor):
            return [value] * streams
        expected = self.rows // self.count * streams
        if value.shape[0] != expected:
            why = COUPLES if value.shape[1] == like.shape[1] else MERGES
            raise ValueError(f"a patch ({name}) made {value.shape[0]} rows of {expected}: {why}")
        return value.unflatten(0, (-1, streams)).unbind(1)

    def join(self, parts: list, like: Any, name: str) -> object:
        """The streams' values (G, ...) as rows of the forward; ValueError when they do not fit together."""
        if not isinstance(parts[0], torch.Tensor):
            return parts[0]
        if any(part.shape != parts[0].shape for part in parts):
            shapes = ", ".join(f"{stream} {tuple(part.shape[1:])}" for stream, part in zip(self.names, parts))
            raise ValueError(f"a patch ({name}) made values of unlike shapes for the layers ({shapes}): let it act on all layers")
        if any(part.dtype != parts[0].dtype for part in parts):
            parts = [part.to(like.dtype) for part in parts]
        return interleave(parts)
