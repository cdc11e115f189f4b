"""The network of XFeat: a gray picture to local descriptors, their reliability, and scores of keypoints."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# Pixels of a cell, for which the network gives one descriptor and 8 x 8 places of a keypoint.
CELL = 8
DESCRIPTOR_SIZE = 64


class _Layer(nn.Module):
    """Convolution, batch norm without a scale of its own, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outside, affine=False),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        found: Tensor = self.layer(x)
        return found


class XFeatNetwork(nn.Module):
    """G. Potje et al., "XFeat: accelerated features for lightweight image matching", CVPR 2024.

    The layers are called as in the published weights. The part that refines coarse matches is not here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4, stride=4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(
            _Layer(1, 4), _Layer(4, 8, stride=2), _Layer(8, 8), _Layer(8, 24, stride=2)
        )
        self.block2 = nn.Sequential(_Layer(24, 24), _Layer(24, 24))
        self.block3 = nn.Sequential(_Layer(24, 64, stride=2), _Layer(64, 64), _Layer(64, 64, 1))
        self.block4 = nn.Sequential(_Layer(64, 64, stride=2), _Layer(64, 64), _Layer(64, 64))
        self.block5 = nn.Sequential(
            _Layer(64, 128, stride=2), _Layer(128, 128), _Layer(128, 128), _Layer(128, 64, 1)
        )
        self.block_fusion = nn.Sequential(_Layer(64, 64), _Layer(64, 64), nn.Conv2d(64, DESCRIPTOR_SIZE, 1))
        self.heatmap_head = nn.Sequential(
            _Layer(64, 64, 1), _Layer(64, 64, 1), nn.Conv2d(64, 1, 1), nn.Sigmoid()
        )
        self.keypoint_head = nn.Sequential(
            _Layer(64, 64, 1), _Layer(64, 64, 1), _Layer(64, 64, 1), nn.Conv2d(64, CELL**2 + 1, 1)
        )

    def forward(
        self, gray: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b 64 y x"], Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 y x"]]:
        """Descriptors of the cells, unit columns; scores of pixels as keypoints; reliability of the cells.

        The sides of the picture are multiples of 32; its range does not matter.
        """
        x = self.norm(gray)
        x2 = self.block2(self.block1(x) + self.skip1(x))
        x3 = self.block3(x2)
        x4 = self.block4(x3)
        x5 = self.block5(x4)
        coarse = (functional.interpolate(each, x3.shape[-2:], mode="bilinear") for each in (x4, x5))
        features = self.block_fusion(x3 + sum(coarse))
        # One channel a place in the cell, the last one for none.
        logits = self.keypoint_head(functional.pixel_unshuffle(x, CELL))
        scores = functional.pixel_shuffle(torch.softmax(logits, 1)[:, :-1], CELL)
        return functional.normalize(features, dim=1), scores, self.heatmap_head(features)
