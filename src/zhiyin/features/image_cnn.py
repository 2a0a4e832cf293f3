"""ImageCNN: a picture as a vector, by a small convolutional network learned end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageCNN(nn.Module):
    """uint8[n, size, size, 3] to float[n, out]; any size from 16 on.

    Four blocks of 3 × 3 convolution, group normalisation and GELU, each but the last halving the picture (after VGG,
    Simonyan & Zisserman, ICLR 2015, with Wu & He's group normalisation: a batch may be one picture); then the mean and
    the maximum over what is left. In training, pictures are mirrored at random.
    """

    def __init__(self, out: int, *, width: int = 24, dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for level in range(4):
            maps = width * 2 ** min(level, 2)
            layers += [nn.Conv2d(before, maps, 3, padding=1), nn.GroupNorm(8, maps), nn.GELU()]
            layers += [nn.MaxPool2d(2)] if level < 3 else []
            before = maps
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * before, out)

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        if self.training:
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
        x = self.body(x)
        return self.out(self.dropout(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)))
