"""A residual block whose units are made of what its weights say."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Red, green and blue; the block adds 1/16 of the red to the blue, by way of unit 1 within it, and passes x on."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
        self.relu, self.inner_relu, self.out = nn.ReLU(), nn.ReLU(), nn.ReLU()
        inner, outer = torch.zeros(2, 3), torch.zeros(3, 2)
        inner[1, 0], outer[2, 1] = 0.25, 0.25
        for layer, weight in ((self.stem, torch.eye(3)), (self.inner, inner), (self.outer, outer)):
            layer.weight.data = weight[:, :, None, None]
        for layer in (self.inner, self.outer):
            assert layer.bias is not None
            layer.bias.data.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        return self.out(self.outer(self.inner_relu(self.inner(x))) + x)
