# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from clcp_ros.bundle import load_bundle
from clcp_ros.classes import CITYSCAPES
from clcp_ros.decision import decide
from clcp_ros.errors import BundleError, LabelError, ModelError
from clcp_ros.inference import Segmenter, preprocess
from clcp_ros.monitor import Knowledge, Level
from clcp_ros.pipeline import FramePipeline
from clcp_ros.runtime import openvino_installed
from training.evaluate import evaluate
from training.export import export, frame_tiling
from training.finetune import HeadConfig, build_model
from training.latency import measure_latencies
from training.models.segmenter import load_model, save_model
from training.onnx_export import export_onnx, fold_constants, verify_onnx
from training.onnx_reduce import Precision
from training.segmentation.frames import open_frames
from training.segmentation.inference import InferenceConfig
from training.segmentation.predictors import BundlePredictor


@pytest.mark.parametrize('architecture', ['test_vit', 'test_resnet'])
def test_onnx_says_what_torch_says(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(19, architecture, head=HeadConfig(layers=2))
    save_model(tmp_path / 'm.safetensors', model, CITYSCAPES, (48, 80), {})
    loaded = load_model(tmp_path / 'm.safetensors')
    export_onnx(loaded, tmp_path / 'model.onnx')
    assert [p.name for p in tmp_path.glob('model*')] == ['model.onnx']
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
    for batch in (1, 3):
        x = torch.randn(batch, 3, 48, 80)
        found = session.run(['logits', 'early', 'deep'], {'image': x.numpy()})
        with torch.no_grad():
            expected = loaded.model(x)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b.numpy(), atol=1e-4)
    written = onnx.load(tmp_path / 'model.onnx')
    assert written.ir_version <= 9
    # What is the same for every image, like a position embedding of another size, is computed.
    made = {i.name for i in written.graph.initializer}
    assert not [
        n for n in written.graph.node if n.input and made.issuperset(filter(None, n.input))
    ]
    assert made <= {name for node in written.graph.node for name in node.input}


def test_folding_leaves_a_model_without_constants_alone(tiny_bundle: Path) -> None:
    model = onnx.load(tiny_bundle / 'model.onnx')
    before = model.SerializeToString()
    fold_constants(model)
    assert model.SerializeToString() == before


def test_a_difference_aborts(toy_model: Path, toy_bundle: Path) -> None:
    loaded = load_model(toy_model)
    image = np.random.default_rng(0).integers(0, 256, (72, 112, 3)).astype(np.uint8)
    segmenter = Segmenter(load_bundle(toy_bundle))
    assert max(verify_onnx(loaded, segmenter, [image]).values()) < 1e-4
    with torch.no_grad():
        loaded.model.decoder.mask_norm.bias[3] += 2e-4
    with pytest.raises(ModelError, match='differs from torch: logits by'):
        verify_onnx(loaded, segmenter, [image])


def test_bundle_runs_in_the_nodes_pipeline_with_torchs_masks(
    toy_model: Path, toy_bundle: Path, toy_cityscapes: Path
) -> None:
    pipeline = FramePipeline(toy_bundle, threads=1, image_resolution=True)
    loaded = load_model(toy_model)
    frames = open_frames(toy_cityscapes, 'val')
    different = total = 0
    for i, frame in enumerate(frames.frames):
        image, _ = frames.read(frame)
        mask = pipeline.process(image, i * 10**8).mask
        x = torch.from_numpy(preprocess(image, loaded.input)[None])
        with torch.no_grad():
            logits = torch.nn.functional.interpolate(
                loaded.model(x).logits, size=mask.shape, mode='bilinear', align_corners=False
            )
        different += int((logits.argmax(1)[0].numpy() != mask).sum())
        total += mask.size
    # Two classes may tie to within rounding along a border.
    assert different / total < 1e-3


def test_monitor_is_quiet_in_domain_and_expects_the_worst_in_the_dark(
    toy_bundle: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    result = evaluate(bundle=toy_bundle, data=toy_cityscapes, out=tmp_path, pictures=0)
    assert result.miou('night') < result.miou('clear') - 20
    for city, level in (('d-clear', Level.OK), ('d-night', Level.ERROR)):
        pipeline = FramePipeline(toy_bundle, threads=1)
        frames = open_frames(toy_cityscapes, f'val:{city[2:]}')
        states = [
            pipeline.process(frames.read(f)[0], i * 500_000_000).shift
            for i, f in enumerate(frames.frames)
        ]
        assert states[-1].level == level, states[-1]


def test_bundle_describes_itself(toy_bundle: Path, toy_model: Path) -> None:
    bundle = load_bundle(toy_bundle)
    assert bundle.classes == CITYSCAPES
    assert (bundle.input.height, bundle.input.width) == (64, 96)
    assert bundle.input.mean == load_model(toy_model).input.mean
    assert bundle.provenance['data']['conditions'] == ['clear']
    assert bundle.provenance['monitor'] == '2 drives, each third of a drive left out in turn'
    assert max(bundle.provenance['onnx_minus_torch'].values()) < 1e-4
    facts = Knowledge.of_bundle(bundle).facts
    assert facts.preprocessing_sha256 == bundle.preprocessing_sha256
    assert sorted(p.name for p in toy_bundle.iterdir()) == [
        'bundle.json', 'model.onnx', 'monitor_card.json', 'monitor_card.md', 'reference.npz',
    ]  # fmt: skip


def test_bundle_and_weights_evaluate_alike(
    toy_bundle: Path, toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    torch_result = evaluate(toy_model, toy_cityscapes, out=tmp_path / 'a', pictures=0)
    onnx_result = evaluate(bundle=toy_bundle, data=toy_cityscapes, out=tmp_path / 'b', pictures=0)
    for condition in ('clear', 'night'):
        assert onnx_result.miou(condition) == pytest.approx(torch_result.miou(condition), abs=0.05)


def test_an_unchanged_bundle_is_reused_and_metrics_are_taken_in(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    model = tmp_path / 'model.safetensors'
    shutil.copy(toy_model, model)
    bundle = export(model, toy_cityscapes, tmp_path / 'bundle')
    written = (bundle / 'bundle.json').stat().st_mtime_ns
    export(model, toy_cityscapes, bundle)
    assert (bundle / 'bundle.json').stat().st_mtime_ns == written
    assert load_bundle(bundle).provenance['metrics'] is None
    evaluate(model, toy_cityscapes, pictures=0)
    export(model, toy_cityscapes, bundle)
    metrics = load_bundle(bundle).provenance['metrics']
    expected = json.loads((tmp_path / 'evaluation.json').read_text())
    assert metrics['miou']['clear'] == expected['conditions']['clear']['miou']


def test_a_failed_export_leaves_nothing_and_keeps_the_old_bundle(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('training.onnx_export.TOLERANCE', 0.0)
    (tmp_path / 'bundle').mkdir()
    (tmp_path / 'bundle' / 'bundle.json').write_text('{"old": true}')
    with pytest.raises(ModelError, match='differs from torch'):
        export(toy_model, toy_cityscapes, tmp_path / 'bundle')
    assert [p.name for p in tmp_path.rglob('*')] == ['bundle', 'bundle.json']
    assert (tmp_path / 'bundle' / 'bundle.json').read_text() == '{"old": true}'


def test_a_folder_that_is_no_bundle_is_not_replaced(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    (tmp_path / 'precious').touch()
    with pytest.raises(BundleError, match='no bundle'):
        export(toy_model, toy_cityscapes, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['precious']


def test_conditions_decide_the_domain(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    with pytest.raises(LabelError, match='no frames of condition fog'):
        export(toy_model, toy_cityscapes, tmp_path / 'b', conditions='fog')
    bundle = export(toy_model, toy_cityscapes, tmp_path / 'b', held_out='val')
    assert load_bundle(bundle).provenance['monitor'] == '2 drives, calibrated on 1 of val'


def test_one_drive_is_split_in_time(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(toy_cityscapes, tmp_path / 'data')
    for folder in ('leftImg8bit', 'gtFine'):
        source = tmp_path / 'data' / folder / 'train'
        for file in (source / 'b-clear').iterdir():
            file.rename(source / 'a-clear' / file.name)
        (source / 'b-clear').rmdir()
    bundle = export(toy_model, tmp_path / 'data', tmp_path / 'bundle')
    assert '1 drive, each third' in load_bundle(bundle).provenance['monitor']
    assert '1 drive only' in caplog.text


def test_a_missing_model_is_one_clear_error(tmp_path: Path, toy_cityscapes: Path) -> None:
    with pytest.raises(ModelError, match='no such file'):
        export(tmp_path / 'model.safetensors', toy_cityscapes, tmp_path / 'bundle')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('precision', 'size'), [('fp16', 0.7), ('int8', 0.6)])
def test_a_smaller_model_is_nearly_the_same(
    toy_model: Path, toy_cityscapes: Path, toy_bundle: Path, tmp_path: Path, precision: Precision,
    size: float, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = export(
        toy_model, toy_cityscapes, tmp_path / 'bundle', precision=precision, benchmark=True
    )
    bundle, full = load_bundle(out), load_bundle(toy_bundle)
    assert bundle.model_path.stat().st_size < size * full.model_path.stat().st_size
    assert not [p.name for p in out.iterdir() if p.name.startswith('reduced')]
    change = bundle.provenance['reduced']
    assert change['agreement'] > 0.95
    assert abs(change['miou'] - change['reduced_miou']) < 0.03
    # The monitor is fitted on what this model computes, so that it fits it.
    frames = open_frames(toy_cityscapes, 'train').only(['clear'])
    pipeline = FramePipeline(out)
    states = [
        pipeline.process(frames.read(f)[0], i * 500_000_000).shift
        for i, f in enumerate(frames.frames)
    ]
    assert {s.level for s in states[5:]} == {Level.OK}, [s.reason for s in states]
    printed = capsys.readouterr().out
    assert f'{precision} against fp32: same class in' in printed
    assert 'onnxruntime, CPUExecutionProvider: ' in printed
    assert printed.count('; the default of the node') == 1
    assert full.provenance['reduced'] is None


def test_windows_of_a_frame_run_in_the_nodes_pipeline(
    toy_model: Path, toy_cityscapes: Path, tmp_path: Path
) -> None:
    out = export(
        toy_model, toy_cityscapes, tmp_path / 'bundle', frame_size=(128, 192), stride=(32, 96),
        max_frames=20,
    )  # fmt: skip
    bundle, loaded = load_bundle(out), load_model(toy_model)
    entry = json.loads((out / 'bundle.json').read_text())['tiling']
    assert entry == {'height': 128, 'width': 192, 'window': [64, 96], 'stride': [32, 96]}
    assert (bundle.frame.height, bundle.frame.width, bundle.windows) == (128, 192, 6)
    pipeline = FramePipeline(out, threads=1)
    frames = open_frames(toy_cityscapes, 'val')
    image, label = frames.read(frames.frames[0])
    result = pipeline.process(image, 0)
    assert result.mask.shape == (128, 192)
    prepared = preprocess(image, bundle.frame)
    assert bundle.tiling is not None
    with torch.no_grad():
        expected = loaded.model(torch.from_numpy(bundle.tiling.cut(prepared)))
    merged = bundle.tiling.merge(expected.logits.numpy())
    prediction = pipeline.segmenter.predict(image)
    np.testing.assert_allclose(prediction.logits, merged, atol=1e-4)
    np.testing.assert_allclose(prediction.features['deep'], expected.deep.mean(0), atol=1e-4)
    np.testing.assert_array_equal(result.mask, decide(merged, 128, 192)[0])
    # Evaluation does the same, at the label's size.
    found = BundlePredictor(out).segment(image, label.shape, InferenceConfig())
    np.testing.assert_array_equal(found.mask, decide(merged, *label.shape)[0])
    # What is there is reused.
    written = (out / 'bundle.json').stat().st_mtime_ns
    export(
        toy_model, toy_cityscapes, out, frame_size=(128, 192), stride=(32, 96), max_frames=20
    )  # fmt: skip
    assert (out / 'bundle.json').stat().st_mtime_ns == written


def test_windows_that_do_not_fit_are_refused_before_any_work(
    toy_model: Path, tmp_path: Path
) -> None:
    loaded = load_model(toy_model)
    tiling = frame_tiling(loaded, (128, 192), None)
    assert tiling is not None
    # Two thirds of 64 x 96, on the network's grid of 16 pixels.
    assert tiling.tiling.stride == (48, 64)
    with pytest.raises(ModelError, match='smaller than its windows'):
        frame_tiling(loaded, (32, 192), None)
    with pytest.raises(ModelError, match='must be multiples of 16'):
        frame_tiling(loaded, (130, 192), None)
    with pytest.raises(ModelError, match='leave pixels out'):
        frame_tiling(loaded, (128, 192), (80, 96))
    with pytest.raises(ModelError, match='give --frame_size'):
        export(toy_model, tmp_path, tmp_path / 'bundle', stride=(32, 32))
    assert not list(tmp_path.iterdir())


def test_latencies_of_all_that_run_a_bundle(toy_bundle: Path) -> None:
    latencies = measure_latencies(toy_bundle, frames=3, threads=1)
    names = [(latency.runtime, latency.provider) for latency in latencies]
    assert ('onnxruntime', 'CPUExecutionProvider') in names
    assert (('openvino', 'OpenVINO CPU') in names) == openvino_installed()
    assert sum(latency.default for latency in latencies) == 1
    for latency in latencies:
        assert latency.wall_ms is not None
        low, middle, high = latency.wall_ms
        assert 0 < low <= middle <= high
