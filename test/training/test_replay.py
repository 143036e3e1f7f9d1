# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from clcp_ros.bag_file import Bag
from clcp_ros.bundle import InputSpec, load_bundle, sha256_of, write_description
from clcp_ros.classes import CITYSCAPES
from clcp_ros.errors import LabelError
from clcp_ros.image_codec import encode_png
from clcp_ros.monitor.knowledge import Knowledge
from training.replay import COLUMNS, Shift, Written, replay_to_folder
from training.reporting import Section, Table, image_uri, render_page
from training.reporting.stored import SECTIONS, load_sections
from training.simulation.bags import Bag as SimulatedBag
from training.simulation.bags import write_bag
from training.simulation.config import Condition, SimulationConfig
from training.simulation.frame import Frame
from training.simulation.lidar import Scan
from training.simulation.recording import Shot

START_NS = 1_750_000_000_000_000_000
STEP_NS = 200_000_000
FRAMES, DARK_FROM = 40, 18


def write_drive(folder: Path, daylight_image: Callable[..., np.ndarray], storage: Any) -> Path:
    """A simulator's bag: daylight, then darkness called night; a wall of points in front."""
    config = SimulationConfig(raw_images=True, width=160, height=96)
    y, z = np.meshgrid(np.linspace(-8, 8, 40), np.linspace(-1, 3, 12))
    near = (y.ravel() < 0).astype(np.float64)
    points = np.column_stack([20 - 10 * near, y.ravel() * (1 - near / 2), z.ravel()])
    n = len(points)
    scan = Scan(
        points.astype(np.float32), np.ones(n, np.float32), np.zeros(n, np.uint16),
        np.zeros(n, np.float32), np.zeros(n, np.uint8),
    )  # fmt: skip
    recording = SimulatedBag(3, (('clear', 1.0), ('night', 1.0)))

    def messages() -> Any:
        for i in range(FRAMES):
            name = 'clear' if i < DARK_FROM else 'night'
            image = daylight_image(i) // (1 if i < DARK_FROM else 6)
            gray = image.mean(axis=2)
            labels = np.where(gray < 89, 1, np.where(gray > 166, 2, 0)).astype(np.uint8)
            frame = Frame(
                image, labels, np.ones(labels.shape, np.float32), scan, config.camera,
                config.lidar, Condition(name), np.eye(4),
            )  # fmt: skip
            shot = Shot(3, i * 0.2, (name,), i, START_NS + i * STEP_NS)
            yield recording.encode(config, shot, frame)

    write_bag(folder, config, messages(), storage)
    return folder


@pytest.fixture(scope='module')
def bag(
    tmp_path_factory: pytest.TempPathFactory, daylight_image: Callable[..., np.ndarray]
) -> Path:
    return write_drive(tmp_path_factory.mktemp('drive') / 'town03', daylight_image, 'mcap')


@pytest.fixture(scope='module')
def cityscapes_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with 19 logits under the names of Cityscapes."""
    return make_cityscapes_bundle(tiny_bundle, tmp_path_factory.mktemp('bundles') / 'cityscapes')


def make_cityscapes_bundle(tiny_bundle: Path, folder: Path, brightness: float = 0.0) -> Path:
    import onnx
    from onnx import numpy_helper

    folder.mkdir()
    model = onnx.load(tiny_bundle / 'model.onnx')
    for i, initializer in enumerate(model.graph.initializer):
        if initializer.name in ('weight', 'bias'):
            small = numpy_helper.to_array(initializer)
            large = np.full((19, *small.shape[1:]), -9 if small.ndim == 1 else 0, np.float32)
            large[[1, 0, 2]] = small
            if small.ndim == 1:
                large[2] += brightness
            model.graph.initializer[i].CopyFrom(numpy_helper.from_array(large, initializer.name))
    logits = model.graph.output[0].type.tensor_type.shape.dim[1]
    logits.dim_value = 19
    onnx.save(model, folder / 'model.onnx')
    old = load_bundle(tiny_bundle)
    known = Knowledge.load(old.reference_path, old.sha256['model.onnx'])
    facts = replace(known.facts, model_sha256=sha256_of(folder / 'model.onnx'))
    replace(known, facts=facts).save(folder / 'reference.npz')
    spec = InputSpec(48, 80, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    write_description(folder, name='tiny19', classes=CITYSCAPES, input_spec=spec, provenance={})
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob('*'))
        if file.is_file()
    }


@pytest.fixture(scope='module')
def replayed(bag: Path, cityscapes_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('replayed') / 'out'
    replay_to_folder(bag, cityscapes_bundle, out)
    return out


def test_two_replays_give_the_same_bytes_in_every_file(
    bag: Path, cityscapes_bundle: Path, replayed: Path, tmp_path: Path
) -> None:
    replay_to_folder(bag, cityscapes_bundle, tmp_path / 'again')
    first, second = hashes(replayed), hashes(tmp_path / 'again')
    assert first == second
    assert len([name for name in first if name.startswith('masks/')]) == FRAMES
    assert {'report.html', 'frames.parquet', 'scores.csv', 'summary.json', 'sections.json',
            'foxglove.json', 'bag/bag.mcap', 'bag/metadata.yaml'} <= set(first)  # fmt: skip


def test_scores_tell_condition_and_level(replayed: Path) -> None:
    with (replayed / 'scores.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    dark = FRAMES - DARK_FROM
    assert [row['condition'] for row in rows] == ['clear'] * DARK_FROM + ['night'] * dark
    assert [int(r['stamp_ns']) for r in rows] == [START_NS + i * STEP_NS for i in range(FRAMES)]
    assert rows[DARK_FROM - 1]['level'] == 'OK'
    assert rows[-1]['level'] == 'WARN'
    mask = cv2.imread(str(replayed / 'masks' / f'{START_NS}.png'), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert (mask.shape, mask.dtype) == ((48, 80), np.uint8)


def test_rounds_of_a_looped_recording_are_kept_apart(
    bag: Path, cityscapes_bundle: Path, tmp_path: Path
) -> None:
    """Someone played the drive twice and recorded what came."""
    store = get_typestore(Stores.ROS2_JAZZY)
    topics = ['/camera/front/image', '/simulation/labels/compressed', '/lidar/points']
    topics += ['/camera/front/camera_info', '/tf_static']
    length_ns = (FRAMES + 5) * STEP_NS
    with Bag([bag]) as before, Writer(tmp_path / 'loop', version=9) as writer:
        known = {t: before.topics[t][0] for t in topics if t in before.topics}
        own = {t: writer.add_connection(t, kind, typestore=store) for t, kind in known.items()}
        for late_ns in (0, length_ns):
            for topic, time_ns, raw in before.raw_messages(sorted(own)):
                writer.write(own[topic], time_ns + late_ns, bytes(raw))
    out = tmp_path / 'out'
    replay_to_folder(tmp_path / 'loop', cityscapes_bundle, out, write=Written(mcap=False))
    table = pq.read_table(out / 'frames.parquet').to_pydict()
    assert table['repeat'] == [0] * FRAMES + [1] * FRAMES
    assert table['stamp_ns'] == 2 * [START_NS + i * STEP_NS for i in range(FRAMES)]
    assert table['time_s'] == sorted(table['time_s'])
    for column in ('share_sidewalk', 'miou', 'lidar_in_image'):
        assert table[column][:FRAMES] == table[column][FRAMES:]
        assert None not in table[column]
    # Dark at the end of the first round: the second one knows nothing of it.
    assert table['level'][FRAMES - 1 : FRAMES + 1] == ['WARN', 'STALE']
    for name in (f'{START_NS}.png', f'{START_NS}_1.png'):
        assert (out / 'masks' / name).is_file()
    assert len(list((out / 'masks').iterdir())) == 2 * FRAMES


def test_settings_are_named_as_the_nodes_parameters(
    bag: Path, cityscapes_bundle: Path, tmp_path: Path, root: Path
) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, 'training/replay.py', str(bag), '--bundle', str(cityscapes_bundle),
             '--out', str(tmp_path / 'out'), '--no-mcap', *options],
            cwd=root, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    done = run('--shift.period_s', '0', '--shift.expected_classes', '["road", "car"]')
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / 'out' / 'summary.json').read_text())['shift']
    assert (settings['period_s'], settings['expected_classes']) == (0.0, ['road', 'car'])
    table = pq.read_table(tmp_path / 'out' / 'frames.parquet').to_pydict()
    assert all(table['monitored'])
    assert '--shift.period_s 0.0' in (tmp_path / 'out' / 'report.html').read_text()
    refused = run('--shift.warn_drop', '0.5')
    assert refused.returncode == 1
    assert refused.stderr == 'error: shift: warn_drop must be positive and below error_drop\n'


def test_every_parameter_of_the_monitor_is_an_option(root: Path) -> None:
    table = (root / 'docs' / 'node.md').read_text()
    for field in fields(Shift):
        assert f'`shift.{field.name}`' in table


def test_table_holds_what_the_frames_are(replayed: Path) -> None:
    table = pq.read_table(replayed / 'frames.parquet')
    assert table.num_rows == FRAMES
    assert b'classes' in table.schema.metadata
    columns = table.to_pydict()
    shares = [columns[name] for name in table.column_names if name.startswith('share_')]
    assert np.allclose(np.sum(shares, axis=0), 1)
    # Masks say what the labels say: dark is sidewalk there.
    assert np.mean(columns['share_sidewalk'][DARK_FROM:]) > 0.9
    assert all(0.3 < value <= 1 for value in columns['miou'])
    assert not any(name.startswith('ms_') for name in table.column_names)
    # The monitor scores two frames a second.
    assert sum(columns['monitored']) < FRAMES
    scored = [v is not None for v in columns['novelty_z']]
    assert scored == columns['monitored']
    assert all(0 <= value <= 1 for value in columns['lidar_in_image'])


def test_labels_and_lidar_are_compared(replayed: Path) -> None:
    summary = json.loads((replayed / 'summary.json').read_text())
    assert summary['frames'] == FRAMES
    assert summary['simulated'] is True
    assert summary['conditions']['clear']['frames'] == DARK_FROM
    assert summary['conditions']['clear']['miou'] > 0.3
    assert 0 < summary['miou'] < 1
    assert summary['class_iou']['road'] > 0.3
    assert summary['class_iou']['bus'] is None
    assert summary['live'] is None
    assert summary['lidar']['frames'] == FRAMES
    assert 0 < summary['lidar']['points_in_image'] <= 1
    page = (replayed / 'report.html').read_text()
    assert 'night' in page
    assert [section.title for section in load_sections(replayed / SECTIONS)] == [
        'Shift over time', 'Against labels', 'Against the lidar', 'Frames',
    ]  # fmt: skip
    assert 'http://' not in page
    assert 'https://' not in page


def test_bag_of_the_replay_holds_inputs_and_results(bag: Path, replayed: Path) -> None:
    with Bag([bag]) as before, Bag([replayed / 'bag']) as after:
        assert {t: after.topics[t] for t in before.topics} == before.topics
        news = {t: n for t, (_, n) in after.topics.items() if t not in before.topics}
        assert news.pop('/diagnostics') > FRAMES * 0.2 - 2
        monitored = news.pop('/segment/shift')
        assert 0 < monitored < FRAMES
        assert news == {
            '/segment/mask': FRAMES, '/segment/confidence': FRAMES, '/segment/label_info': 1,
            '/segment/overlay/compressed': FRAMES, '/segment/camera_info': FRAMES,
        }  # fmt: skip
        for old, new in zip(
            before.raw_messages(['/camera/front/image']),
            after.raw_messages(['/camera/front/image']),
            strict=True,
        ):
            assert (old[1], bytes(old[2])) == (new[1], bytes(new[2]))
        for topic, time_ns, raw in after.raw_messages(['/segment/mask']):
            message = after.decode(topic, raw)
            stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            file = replayed / 'masks' / f'{stamp_ns}.png'
            mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(np.reshape(message.data, (48, 80)), mask)
            assert (message.encoding, message.step) == ('mono8', 80)
            assert message.header.frame_id == 'camera_front_optical'
            assert time_ns == stamp_ns
        topic, _, raw = next(iter(after.raw_messages(['/segment/label_info'])))
        names = after.decode(topic, raw).class_map
        assert (names[0].class_id, names[0].class_name) == (0, 'road')
        assert (names[-1].class_id, names[-1].class_name) == (255, 'unlabelled')
        topic, _, raw = next(iter(after.raw_messages(['/segment/camera_info'])))
        info = after.decode(topic, raw)
        assert (info.height, info.width) == (48, 80)
        _, _, first = next(iter(after.raw_messages(['/camera/front/camera_info'])))
        whole = after.decode('/camera/front/camera_info', first)
        assert info.k[0] == pytest.approx(whole.k[0] / 2)


def test_bag_of_the_replay_is_sound_mcap(replayed: Path) -> None:
    """Read with the format's own library, which is no dependency."""
    reader = pytest.importorskip('mcap.reader', reason='pip install mcap')
    with (replayed / 'bag' / 'bag.mcap').open('rb') as file:
        found = reader.make_reader(file, validate_crcs=True)
        summary = found.get_summary()
        assert {chunk.compression for chunk in summary.chunk_indexes} == {'zstd'}
        assert {schema.encoding for schema in summary.schemas.values()} == {'ros2msg'}
        assert {channel.message_encoding for channel in summary.channels.values()} == {'cdr'}
        times = [message.log_time for _, _, message in found.iter_messages()]
    assert times == sorted(times)
    assert len(times) == summary.statistics.message_count


def test_layout_shows_topics_of_the_bag(replayed: Path) -> None:
    layout = json.loads((replayed / 'foxglove.json').read_text())
    with Bag([replayed / 'bag']) as after:
        topics = set(after.topics)
    panels = layout['configById']
    shown = [p['imageMode']['imageTopic'] for p in panels.values() if 'imageMode' in p]
    assert shown == ['/camera/front/image', '/segment/overlay/compressed', '/segment/mask']
    assert set(shown) <= topics
    used: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, str):
            used.append(node)
        else:
            assert 0 < node['splitPercentage'] < 100
            walk(node['first'])
            walk(node['second'])

    walk(layout['layout'])
    assert sorted(used) == sorted(panels)


def test_installed_layout_is_the_one_for_the_node(root: Path) -> None:
    from training.replaying.foxglove import write_layout

    assert (root / 'config' / 'foxglove.json').read_text() == write_layout()


def test_sqlite_bag_gives_the_same(
    replayed: Path, cityscapes_bundle: Path, daylight_image: Any, tmp_path: Path
) -> None:
    other = write_drive(tmp_path / 'town03', daylight_image, 'sqlite3')
    replay_to_folder(other, cityscapes_bundle, tmp_path / 'out')
    first, second = hashes(replayed), hashes(tmp_path / 'out')
    same = {name for name, value in first.items() if second[name] == value}
    assert {'scores.csv', 'frames.parquet', 'summary.json', 'bag/bag.mcap'} <= same


def test_two_bundles_are_compared(
    bag: Path, tiny_bundle: Path, cityscapes_bundle: Path, replayed: Path, tmp_path: Path
) -> None:
    brighter = make_cityscapes_bundle(tiny_bundle, tmp_path / 'brighter', brightness=1.0)
    out = tmp_path / 'out'
    result = replay_to_folder(bag, cityscapes_bundle, out, versus=brighter)
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['versus']['frames'] == FRAMES
    assert 0.3 < summary['versus']['agreement'] < 1
    difference = summary['versus']['miou'] - summary['miou']
    assert summary['versus']['miou_difference'] == pytest.approx(difference, abs=1e-6)
    assert difference != 0
    table = pq.read_table(out / 'frames.parquet').to_pydict()
    more = np.array(table['versus_share_building']) - np.array(table['share_building'])
    assert (more >= 0).all()
    assert more.sum() > 0.1
    for i, record in enumerate(result.records):
        assert record.versus is not None
        a, b = np.array(record.shares), np.array(record.versus.shares)
        # What changed class is at least what the shares differ by.
        assert 1 - table['agreement'][i] >= np.abs(a - b).sum() / 2 - 1e-9
    assert table['versus_class_changes_on_surfaces'] != table['class_changes_on_surfaces']
    assert all(value > 0 for value in table['ms_total'])
    assert all(value > 0 for value in table['versus_ms_model'])
    titles = [section.title for section in load_sections(out / SECTIONS)]
    assert 'Against another bundle' in titles
    with Bag([out / 'bag']) as after:
        assert after.topics['/segment_versus/mask'][1] == FRAMES
    # The first bundle's scores are what they are alone.
    assert (out / 'scores.csv').read_bytes() == (replayed / 'scores.csv').read_bytes()


def test_a_bundle_against_itself_agrees_and_can_be_repeated(
    bag: Path, cityscapes_bundle: Path, tmp_path: Path
) -> None:
    write = Written(timing='no', masks=False)
    for name in ('a', 'b'):
        result = replay_to_folder(
            bag, cityscapes_bundle, tmp_path / name, versus=cityscapes_bundle, write=write
        )
    assert all(r.versus is not None and r.versus.agreement == 1 for r in result.records)
    assert hashes(tmp_path / 'a') == hashes(tmp_path / 'b')
    assert not (tmp_path / 'a' / 'masks').exists()


def test_bundles_of_other_classes_agree_by_name_alone(
    bag: Path, tiny_bundle: Path, cityscapes_bundle: Path, tmp_path: Path
) -> None:
    result = replay_to_folder(bag, cityscapes_bundle, tmp_path / 'out', versus=tiny_bundle)
    assert all(r.versus is not None and r.versus.agreement == 0 for r in result.records)
    assert any('dark, middle, bright' in note for note in result.notes)


@pytest.mark.parametrize('named', [True, False])
def test_labels_of_a_folder(
    bag: Path, replayed: Path, cityscapes_bundle: Path, tmp_path: Path, named: bool
) -> None:
    folder = tmp_path / 'labels'
    folder.mkdir()
    for i in range(FRAMES):
        mask = cv2.imread(
            str(replayed / 'masks' / f'{START_NS + i * STEP_NS}.png'), cv2.IMREAD_UNCHANGED
        )
        name = f'{START_NS + i * STEP_NS}' if named else f'{i:04d}'
        (folder / f'{name}.png').write_bytes(encode_png(np.asarray(mask, np.uint8)))
    result = replay_to_folder(
        bag, cityscapes_bundle, tmp_path / 'out', labels=folder, write=Written(mcap=False)
    )
    assert all(record.miou == 1 for record in result.records)


def test_labels_that_do_not_fit_are_an_error_and_no_output(
    bag: Path, cityscapes_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / 'labels').mkdir()
    (tmp_path / 'labels' / '0.png').write_bytes(encode_png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(LabelError, match=f'1 labels for {FRAMES} images'):
        replay_to_folder(bag, cityscapes_bundle, tmp_path / 'out', labels=tmp_path / 'labels')
    assert not (tmp_path / 'out').exists()


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
    assert not list(tmp_path.iterdir())


def test_truncated_bag_ends_with_one_line_and_no_output(
    bag: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(next(bag.glob('*.mcap')).read_bytes()[:200_000])
    done = run(str(cut), '--bundle', str(tiny_bundle), '--out', str(tmp_path / 'out'))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith('error:')]
    assert len(errors) == 1
    assert 'cut.mcap' in errors[0]
    assert 'Traceback' not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ['cut.mcap']


def test_interrupt_leaves_nothing(bag: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [
            sys.executable, 'training/replay.py', str(bag), '--bundle', str(tiny_bundle),
            '--out', str(out), '--live', '--rate', '0.1',
        ],
        cwd=Path(__file__).resolve().parents[2], stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (tmp_path / '.out.partial').exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert 'interrupted' in error
    assert 'Traceback' not in error
    assert not list(tmp_path.iterdir())


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
