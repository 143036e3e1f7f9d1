# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluation on real frames with a network of others, whose figures are known.

ESPNet (Mehta et al., ECCV 2018) trained on Cityscapes by its authors: good on a Cityscapes frame,
bad in fog and rain. Were labels shifted, classes swapped or images read as BGR, the first would
fall, too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clcp_ros.classes import CITYSCAPES
from clcp_ros.decision import decide
from training.models.image_encoder import read_weights
from training.segmentation.frames import open_frames
from training.segmentation.inference import Decision
from training.segmentation.metrics import ConfusionMatrix
from training.segmentation.scores import Scores

pytestmark = pytest.mark.sample_data

MEAN_BGR = 72.3923111, 82.90893555, 73.15840149
STD_BGR = 45.3192215, 46.15289307, 44.91483307
SIZE = 512, 1024


class ESPNet:
    """ESPNet with p = 2 and q = 8, evaluated from the names of its weights."""

    def __init__(self, weights: Path) -> None:
        self.w = read_weights(weights)[0]

    def conv(self, x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.w[f'{name}.conv.weight']
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, None, stride, padding, dilation)

    def norm(self, x: Tensor, name: str) -> Tensor:
        keys = 'running_mean', 'running_var', 'weight', 'bias'
        return F.batch_norm(x, *(self.w[f'{name}.{k}'] for k in keys), eps=1e-3)

    def act(self, x: Tensor, name: str) -> Tensor:
        return F.prelu(self.norm(x, f'{name}.bn'), self.w[f'{name}.act.weight'])

    def up(self, x: Tensor, name: str) -> Tensor:
        return F.conv_transpose2d(x, self.w[f'{name}.weight'], stride=2)

    def pyramid(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """Dilated convolutions of one reduced map, summed up from the least dilated."""
        x = self.conv(x, f'{name}.c1', stride)
        parts = [self.conv(x, f'{name}.d{d}', dilation=d) for d in (1, 2, 4, 8, 16)]
        for i in range(2, 5):
            parts[i] = parts[i] + parts[i - 1]
        return torch.cat(parts, 1)

    def stage(self, x: Tensor, name: str, blocks: int) -> tuple[Tensor, Tensor]:
        first = last = self.act(self.pyramid(x, f'{name}_0', 2), f'{name}_0')
        for i in range(blocks):
            last = self.act(last + self.pyramid(last, f'{name}.{i}'), f'{name}.{i}.bn')
        return first, last

    @torch.no_grad()
    def logits(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB to (19, 512, 1024)."""
        x = torch.from_numpy(image[..., ::-1].astype(np.float32)).permute(2, 0, 1)[None]
        x = (x - torch.tensor(MEAN_BGR)[:, None, None]) / torch.tensor(STD_BGR)[:, None, None]
        x = F.interpolate(x, SIZE, mode='bilinear', align_corners=False) / 255
        half = F.avg_pool2d(x, 3, 2, 1)
        quarter = F.avg_pool2d(half, 3, 2, 1)
        one = self.act(self.conv(x, 'encoder.level1', 2), 'encoder.level1')
        joined = self.act(torch.cat([one, half], 1), 'encoder.b1')
        first, last = self.stage(joined, 'encoder.level2', 2)
        two = self.act(torch.cat([last, first, quarter], 1), 'encoder.b2')
        first, last = self.stage(two, 'encoder.level3', 8)
        three = self.conv(
            self.act(torch.cat([first, last], 1), 'encoder.b3'), 'encoder.classifier'
        )
        three = self.up(self.norm(three, 'br'), 'up_l3.0')
        both = self.act(torch.cat([self.conv(two, 'level3_C'), three], 1), 'combine_l2_l3.0')
        both = self.act(self.pyramid(both, 'combine_l2_l3.1'), 'combine_l2_l3.1.bn')
        both = self.act(self.up(both, 'up_l2.0'), 'up_l2.1')
        last = self.act(self.conv(torch.cat([both, one], 1), 'conv'), 'conv')
        return self.up(last, 'classifier')[0, :19].numpy()  # the twentieth is no class


@pytest.fixture(scope='module')
def espnet(sample_data: Path) -> ESPNet:
    return ESPNet(sample_data / 'weights' / 'espnet_cityscapes_p2_q8.pth')


def measured(espnet: ESPNet, root: Path, split: str) -> tuple[Scores, np.ndarray, np.ndarray]:
    frames = open_frames(root, split)
    assert len(frames) == 1
    image, label = frames.read(frames.frames[0])
    mask, confidence = decide(espnet.logits(image), *label.shape)
    scores = Scores.of(19)
    scores.update(frames.frames[0].name, Decision(mask, confidence), label)
    return scores, mask, label


def present_miou(scores: Scores, share: float) -> float:
    """Percent, over the classes with more than a share of the labelled pixels.

    The labels of the ACDC frames were resized with interpolation: along every edge between two
    classes they hold the ids between these, so that all nineteen classes seem to occur.
    """
    counts = scores.matrix.counts.sum(axis=1)
    return 100 * float(np.mean(scores.matrix.iou()[counts > share * counts.sum()]))


def test_a_cityscapes_frame(espnet: ESPNet, sample_data: Path) -> None:
    scores, mask, label = measured(espnet, sample_data / 'cityscapes', 'train')
    iou = dict(zip(CITYSCAPES.names, 100 * scores.matrix.iou(), strict=True))
    assert scores.matrix.pixel_accuracy() > 0.93
    large = ('road', 'building', 'vegetation', 'sky', 'car')
    assert all(iou[name] > 78 for name in large), iou
    assert present_miou(scores, 2e-3) == pytest.approx(74.1, abs=0.5)
    # What a mistake in the evaluation would look like: 64 of 2048 pixels aside, red for blue.
    shifted = ConfusionMatrix(19)
    shifted.update(np.roll(mask, 64, axis=1), label)
    assert shifted.miou() < 0.6 * scores.matrix.miou()
    frames = open_frames(sample_data / 'cityscapes', 'train')
    swapped = ConfusionMatrix(19)
    image = frames.read(frames.frames[0])[0][..., ::-1]
    swapped.update(decide(espnet.logits(image), *label.shape)[0], label)
    assert swapped.miou() < 0.8 * scores.matrix.miou()


@pytest.mark.parametrize(('condition', 'known'), [('fog', 21.4), ('rain', 11.0)])
def test_acdc_frames(espnet: ESPNet, sample_data: Path, condition: str, known: float) -> None:
    """The figures that are known of these frames, measured by other code."""
    scores, _, _ = measured(espnet, sample_data / 'acdc_halfres', f'train:{condition}')
    assert present_miou(scores, 2e-3) == pytest.approx(known, abs=1.5)
    assert (scores.matrix.counts.sum(axis=1) > 0).all()
    assert 100 * scores.matrix.miou() < known / 2
