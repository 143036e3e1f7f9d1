# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clcp_ros.bundle import InputSpec, load_bundle, write_description
from clcp_ros.classes import CITYSCAPES
from training.replay import COLUMNS, replay_to_folder
from training.reporting import Section, Table, image_uri, render_page
from training.reporting.stored import SECTIONS, load_sections
from training.simulation.bags import Bag, write_bag
from training.simulation.config import Condition, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.lidar import Scan
from training.simulation.recording import Shot

START_NS = 1_750_000_000_000_000_000
STEP_NS = 200_000_000


@pytest.fixture
def bag(tmp_path: Path, daylight_image: Callable[..., np.ndarray]) -> Path:
    """A simulator's bag of 14 frames: daylight, then darkness called night."""
    config = SimulationConfig(raw_images=True, width=160, height=96)
    scan = Scan(
        np.ones((1, 3), np.float32), np.ones(1, np.float32), np.zeros(1, np.uint16),
        np.zeros(1, np.float32), np.zeros(1, np.uint8),
    )  # fmt: skip
    recording = Bag(3, (('clear', 1.0), ('night', 1.0)))

    def messages() -> Any:
        for i in range(14):
            name = 'clear' if i < 8 else 'night'
            image = daylight_image(i) // (1 if i < 8 else 6)
            gray = image.mean(axis=2)
            labels = np.where(gray < 89, 1, np.where(gray > 166, 2, 0)).astype(np.uint8)
            frame = Frame(
                image, labels, np.ones(labels.shape, np.float32), scan, config.camera,
                config.lidar, Condition(name), np.eye(4),
            )  # fmt: skip
            shot = Shot(3, i * 0.2, (name,), i, START_NS + i * STEP_NS)
            yield recording.encode(config, shot, frame)

    write_bag(tmp_path / 'town03', config, messages())
    return tmp_path / 'town03'


@pytest.fixture
def cityscapes_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle with 19 logits under the names of Cityscapes."""
    import onnx
    from onnx import numpy_helper

    from clcp_ros.bundle import sha256_of
    from clcp_ros.monitor import ShiftReference

    folder = tmp_path / 'cityscapes'
    folder.mkdir()
    model = onnx.load(tiny_bundle / 'model.onnx')
    for i, initializer in enumerate(model.graph.initializer):
        if initializer.name in ('weight', 'bias'):
            small = numpy_helper.to_array(initializer)
            large = np.full((19, *small.shape[1:]), -9 if small.ndim == 1 else 0, np.float32)
            large[[1, 0, 2]] = small
            model.graph.initializer[i].CopyFrom(numpy_helper.from_array(large, initializer.name))
    logits = model.graph.output[0].type.tensor_type.shape.dim[1]
    logits.dim_value = 19
    onnx.save(model, folder / 'model.onnx')
    old = load_bundle(tiny_bundle)
    reference = ShiftReference.load(old.reference_path, old.sha256['model.onnx'])
    fields = {name: getattr(reference, name) for name in reference.__dataclass_fields__}
    fields['model_sha256'] = sha256_of(folder / 'model.onnx')
    ShiftReference(**fields).save(folder / 'reference.npz')
    spec = InputSpec(48, 80, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    write_description(folder, name='tiny19', classes=CITYSCAPES, input_spec=spec, provenance={})
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob('*'))
        if file.suffix in ('.png', '.csv')
    }


def test_two_replays_give_the_same_bytes(bag: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    replay_to_folder(bag, tiny_bundle, tmp_path / 'a')
    replay_to_folder(bag, tiny_bundle, tmp_path / 'b')
    first, second = files_of(tmp_path / 'a'), files_of(tmp_path / 'b')
    assert len(first) == 15
    assert first == second
    with (tmp_path / 'a' / 'scores.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row['condition'] for row in rows] == ['clear'] * 8 + ['night'] * 6
    assert [int(row['stamp_ns']) for row in rows] == [START_NS + i * STEP_NS for i in range(14)]
    assert rows[7]['level'] == 'OK'
    assert rows[-1]['level'] == 'WARN'
    assert float(rows[-1]['novelty_z']) > float(rows[0]['novelty_z'])
    mask = cv2.imread(str(tmp_path / 'a' / 'masks' / f'{START_NS}.png'), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (48, 80)
    assert mask.dtype == np.uint8


def test_labels_give_miou_per_frame_and_condition(
    bag: Path, cityscapes_bundle: Path, tmp_path: Path
) -> None:
    result = replay_to_folder(bag, cityscapes_bundle, tmp_path / 'out')
    # Labels split by brightness, as the model does on its coarser grid.
    assert all(0.3 < r.miou <= 1 for r in result.records)
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['frames'] == 14
    assert summary['conditions']['clear']['frames'] == 8
    assert summary['conditions']['clear']['miou'] > 0.3
    assert 0 < summary['miou'] < 1
    assert summary['live'] is None
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'night' in page
    assert [section.title for section in load_sections(tmp_path / 'out' / SECTIONS)] == [
        'Shift over time', 'Against labels', 'Against the lidar', 'Frames',
    ]  # fmt: skip
    assert 'http://' not in page
    assert 'https://' not in page


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, 'training/replay.py', *arguments],
        capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip


def test_wrong_topic_ends_with_one_line_and_no_output(
    bag: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    done = run(
        str(bag), '--bundle', str(tiny_bundle), '--out', str(out), '--image-topic', '/nothing'
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith('error:')]
    assert len(errors) == 1
    assert '/camera/front/image' in errors[0]
    assert 'Traceback' not in done.stderr
    assert not out.exists()
    assert not list(tmp_path.glob('.out*'))


def test_a_folder_that_is_no_replay_is_not_replaced(
    bag: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('years of work')
    done = run(str(bag), '--bundle', str(tiny_bundle), '--out', str(tmp_path / 'mine'))
    assert done.returncode == 1
    assert 'not a replay' in done.stderr
    assert (tmp_path / 'mine' / 'thesis.tex').exists()


def test_page_escapes_what_it_shows() -> None:
    evil = '<script>alert(1)</script>'
    page = render_page(
        evil,
        [
            Section(
                evil, [evil], {evil: evil}, tables=[Table([evil], [[evil]])], warnings=[evil],
                command=evil, legend=[(evil, (1, 2, 3))],
            )
        ],
    )  # fmt: skip
    assert '<script' not in page
    assert 'rgb(1, 2, 3)' in page
    assert image_uri(np.zeros((2, 2), np.uint8)).startswith('data:image/png;base64,')
