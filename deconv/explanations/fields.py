"""Receptive fields of N peaks, cut out of their inputs, on which their units can be asked without the rest."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.network import Network
from deconv.network.receptive_field import cone
from deconv.projection.responses import unit_gradients, unit_responses
from deconv.records import recut, whole_boxes


class Fields:
    """What units channel[n] at (row[n], col[n]) of a layer see of inputs (N, C, H, W).

    windows: (N, C, h, w) the pixels of the receptive fields, zero outside the image; the inputs themselves where units
    need the whole image, or fields have no fewer pixels.

    >>> import deconv, torch
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 8, 8))
    >>> peaks = torch.tensor([[0, 1, 2], [3, 5, 5]])  # two of them: channel, row, col
    >>> fields = Fields(network, torch.rand(2, 3, 8, 8), "1", *peaks.T)
    >>> fields.windows.shape, fields.responses(fields.windows).shape, fields.paste(fields.windows).shape
    (torch.Size([2, 3, 3, 3]), torch.Size([2]), torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self,
        network: Network,
        inputs: Float[Tensor, "N C H W"],
        layer: str,
        channel: Int[Tensor, " N"],
        row: Int[Tensor, " N"],
        col: Int[Tensor, " N"],
    ):
        self.network, self.layer, self.channel = network, layer, channel
        self.positions = torch.stack([row, col], dim=1)
        self.size = (inputs.shape[2], inputs.shape[3])
        self._whole = whole_boxes(len(inputs), self.size)
        field = network.receptive_field(layer, self.size)
        windowable = cone(network.graph_at(self.size), network.node(layer, self.size)).windowable
        self._is_whole = not windowable or prod(field.size) >= prod(self.size)
        self._box = self._whole if self._is_whole else field.boxes(self.positions.cpu())
        self.windows = recut(inputs, self._whole, self._box)

    def responses(self, windows: Float[Tensor, "N C h w"]) -> Float[Tensor, " N"]:
        """Return the units' activations to windows; what of these lies outside the image is ignored."""
        return unit_responses(self.network, self.layer, windows, *self._where).to(windows.dtype)

    def gradients(self, windows: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """Return the derivatives of the units' activations by their windows; zero outside the image."""
        return unit_gradients(self.network, self.layer, windows, *self._where)

    @property
    def _where(self) -> tuple[Tensor, Tensor, tuple[int, int], bool]:
        return self.positions, self.channel, self.size, self._is_whole

    def paste(self, pixels: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C H W"]:
        """Return pixels of the windows where they lie in the image, zero elsewhere."""
        return recut(pixels, self._box, self._whole)
