"""What a patch changes of a weight: the one form in which files are checked and the foreground's terms are made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """delta = scale * up @ down, scale = alpha / rank, or 1 without an alpha. up (out, r[, 1, 1]), down (r, in[, kh, kw]).

    With mid (r, r, kh, kw) it is the convolution up(mid(down(x))), both others 1 x 1.
    """

    up: Tensor
    down: Tensor
    alpha: float | None = None
    mid: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        return (self.up, self.down) if self.mid is None else (self.up, self.down, self.mid)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight this changes: (out, in[, kh, kw])."""
        return (self.up.shape[0], *(self.down.shape[1:] if self.mid is None else (self.down.shape[1], *self.mid.shape[2:])))

    @property
    def scale(self) -> float:
        """The factor on up @ down."""
        return 1.0 if self.alpha is None else float(self.alpha) / self.down.shape[0]

    @property
    def fits_together(self) -> bool:
        """Whether the halves have the shapes above, and a rank of at least 1."""
        up, down = self.up.shape, self.down.shape
        return len(up) >= 2 and len(down) >= 2 and up[1] == down[0] > 0 and all(side == 1 for side in up[2:])

    @property
    def changes(self) -> bool:
        """Whether the delta can be other than zero."""
        return self.scale != 0 and all(bool(tensor.any()) for tensor in self.tensors)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the delta is one of a weight of this shape; without mid, a kernel may be flattened into the inputs."""
        if self.mid is not None:
            return self.shape == shape
        return self.shape[0] == shape[0] and math.prod(self.shape[1:]) == math.prod(shape[1:])


@dataclass(frozen=True)
class Delta:
    """A full-shape difference, added to the parameter of the same shape."""

    weight: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        return (self.weight,)

    @property
    def changes(self) -> bool:
        """Whether the delta is other than zero."""
        return bool(self.weight.any())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter this changes."""
        return tuple(self.weight.shape)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of this shape can take the delta."""
        return self.shape == shape
