# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clcp_ros.errors import ModelError
from training.cli import run_command
from training.convert_segmenter_weights import convert_segmenter_weights
from training.models.image_encoder import ImageEncoder
from training.models.segmenter import HeadSettings, MaskTransformer, SegmentationModel, load_model
from training.models.segmenter_files import write_segmenter
from training.models.segmenter_weights import to_mmsegmentation


@pytest.fixture(scope='module')
def model() -> SegmentationModel:
    torch.manual_seed(0)
    encoder = ImageEncoder('vit_tiny_patch16_224')
    built = SegmentationModel(encoder, MaskTransformer(11, 192, HeadSettings(192)))
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.05)
    return built.eval()


@pytest.mark.parametrize('layout', ['segmenter', 'mmsegmentation'])
def test_there_and_back(model: SegmentationModel, tmp_path: Path, layout: str) -> None:
    write_segmenter(tmp_path / 'given.pth', model, layout)
    ours = convert_segmenter_weights(tmp_path / 'given.pth')
    assert ours == tmp_path / 'given.safetensors'
    back = convert_segmenter_weights(ours, layout)
    assert back == tmp_path / f'given_{layout}.pth'
    key = {'segmenter': 'model', 'mmsegmentation': 'state_dict'}[layout]
    given, found = (torch.load(f, weights_only=True)[key] for f in (tmp_path / 'given.pth', back))
    assert given.keys() == found.keys()
    for name in given:
        if 'pos_embed' not in name:
            assert torch.equal(given[name], found[name]), name
    # Embeddings are kept for the input size, which is their own here.
    assert torch.equal(*(next(s[n] for n in s if 'pos_embed' in n) for s in (given, found)))


def test_what_is_said_is_kept(model: SegmentationModel, tmp_path: Path) -> None:
    torch.save({'state_dict': to_mmsegmentation(model), 'meta': object()}, tmp_path / 'c.pth')
    out = convert_segmenter_weights(
        tmp_path / 'c.pth', out=tmp_path / 'new' / 'm.safetensors', input_size=(96, 128),
        classes='camvid', mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
    )  # fmt: skip
    loaded = load_model(out)
    assert (loaded.input.height, loaded.input.width) == (96, 128)
    assert (loaded.input.mean, loaded.input.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert loaded.classes.name == 'camvid'
    assert loaded.provenance['source'] == 'c.pth'
    assert 'encoder.blocks.0.attn.qkv.weight' in load_file(out)


def test_refusals_are_one_line_and_leave_nothing(
    model: SegmentationModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_segmenter(tmp_path / 'c.pth', model, 'segmenter')
    with pytest.raises(ModelError, match='head has 11 classes, cityscapes has 19'):
        convert_segmenter_weights(tmp_path / 'c.pth', classes='cityscapes')
    with pytest.raises(ModelError, match="no class set 'ade'"):
        convert_segmenter_weights(tmp_path / 'c.pth', classes='ade')
    with pytest.raises(ModelError, match='name it so'):
        convert_segmenter_weights(tmp_path / 'c.pth', out=tmp_path / 'c.bin')
    with pytest.raises(ModelError, match='the checkpoint itself'):
        convert_segmenter_weights(tmp_path / 'c.pth', 'mmsegmentation', tmp_path / 'c.pth')
    with pytest.raises(ModelError, match='does not take images of 50 x 70'):
        convert_segmenter_weights(tmp_path / 'c.pth', input_size=(50, 70))
    assert [p.name for p in tmp_path.iterdir()] == ['c.pth']
    convert_segmenter_weights(tmp_path / 'c.pth')
    with pytest.raises(ModelError, match='--overwrite'):
        convert_segmenter_weights(tmp_path / 'c.pth')
    (tmp_path / 'broken.pth').write_bytes((tmp_path / 'c.pth').read_bytes()[:5000])
    with pytest.raises(SystemExit) as stop:
        run_command(convert_segmenter_weights, [str(tmp_path / 'broken.pth')])
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith('error: ')
    assert '\n' not in error
