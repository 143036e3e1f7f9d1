# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run a bundle over a bag: masks, shift scores, a bag with both beside the inputs, a report.

By default the node's own code runs straight from the bag, as fast as the model and with the same
bytes every time. With --live the real node is started and the bag is played to it over DDS.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import json
import math
import shlex
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from clcp_ros.bundle import load_bundle
from clcp_ros.errors import ClcpError, RecordingError
from clcp_ros.monitor import Level, MonitorConfig
from clcp_ros.replay import (
    FrameRecord,
    LiveFigures,
    Output,
    ReplayBag,
    ReplayResult,
    changed_settings,
    mean_iou,
    replay_direct,
    status_prefixes,
)
from clcp_ros.replay_scores import class_iou
from training.cli import atomic_path, next_step, run_command
from training.replaying.cameras import CameraPair, compare_cameras
from training.replaying.folder import Outputs, Pictures
from training.replaying.foxglove import foxglove_layout
from training.replaying.labels import FolderLabels
from training.replaying.lidar import LidarCheck
from training.replaying.mcap_output import McapOutput
from training.replaying.table import COLUMNS, write_scores, write_table
from training.reporting import Section, render_page
from training.reporting.replay_comparison import (
    DisagreementSampler,
    cameras_section,
    labels_section,
    lidar_section,
    versus_section,
)
from training.reporting.replay_sections import FrameSampler, replay_sections, sum_confusion
from training.reporting.stored import SECTIONS, save_sections

__all__ = ['COLUMNS', 'main', 'replay_to_folder', 'summarize']

BAG = 'bag'
TABLE = 'frames.parquet'
LAYOUT = 'foxglove.json'
_PICTURES = 12


@dataclass(frozen=True)
class Written:
    """What a replay writes, and what else it looks at.

    Attributes:
        mcap: Write bag/: results beside the inputs.
        inputs: Take the bag's own topics over into it.
        overlays: Draw the masks over the images for it.
        masks: Write masks as PNG files.
        lidar: Compare with a lidar where the bag holds a calibrated one.
        timing: Write how long each stage took: yes, no, or auto: with --live and --versus only,
            since no two runs take the same time.
    """

    mcap: bool = True
    inputs: bool = True
    overlays: bool = True
    masks: bool = True
    lidar: bool = True
    timing: Literal['auto', 'yes', 'no'] = 'auto'


@dataclass(frozen=True)
class Shift(MonitorConfig):
    """Settings of the shift monitor, called as the node's parameters."""

    def __post_init__(self) -> None:
        """Check nothing yet: what is wrong shall be said in one line."""

    def checked(self) -> MonitorConfig:
        """The settings as the node takes them.

        Raises:
            ClcpError: They contradict each other.
        """
        # The node's parameter cannot be an empty list: [''] is all classes there.
        expected = tuple(filter(None, self.expected_classes))
        try:
            return MonitorConfig(**asdict(self) | {'expected_classes': expected})
        except ValueError as error:
            raise ClcpError(f'shift: {error}') from None


def main(
    bag: Path,
    bundle: Path = Path('bundle'),
    out: Path = Path('replay'),
    versus: Path | None = None,
    live: bool = False,
    direct: bool = False,
    rate: float = 1.0,
    image_topic: str | None = None,
    cameras: str | None = None,
    labels: Path | None = None,
    label_ids: str = 'bundle',
    points_topic: str | None = None,
    calibration: Path | None = None,
    threads: int = 0,
    write: Written = Written(),  # frozen
    shift: Shift = Shift(),  # frozen
) -> None:
    """Run a bundle over a bag.

    Args:
        bag: rosbag2 folder, MCAP or sqlite3 file, or ROS 1 bag.
        bundle: Folder of the bundle (written by training/export.py).
        out: Folder for the results; an older replay there is replaced.
        versus: Folder of another bundle to compare with on the same frames.
        live: Start the real node and play the bag to it over DDS.
        direct: Run the node's code straight from the bag: the default, to say so.
        rate: Speed of the playing relative to the recording (with --live).
        image_topic: Topics of the images, with commas; default: one of each camera there is.
        cameras: Names of the cameras to take, with commas; beside --image-topic names for those.
        labels: Folder of true masks (PNG), named by stamp or in the bag's order; default: labels
            in the bag.
        label_ids: How their ids are to be read: bundle, cityscapes_train_ids,
            cityscapes_label_ids, camvid or a2d2_colors.
        points_topic: Topic of the lidar's scans to compare with.
        calibration: YAML file with what the bag lacks of it: K, D, T_camera_lidar.
        threads: Threads inside a layer of the model; 0 leaves it to ONNX Runtime.
        write: What is written and looked at.
        shift: Settings of the shift monitor, called as the node's parameters.
    """
    if live and direct:
        raise ClcpError('give --direct or --live, not both')
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not is_replay(out))):
        raise ClcpError(f'{out} exists and is not a replay; give another --out')
    result = replay_to_folder(
        bag, bundle, out, live, rate, image_topic, threads, cameras=cameras, versus=versus,
        labels=labels, label_ids=label_ids, points_topic=points_topic, calibration=calibration,
        write=write, monitor=shift.checked(),
    )  # fmt: skip
    levels = ', '.join(
        f'{sum(r.level == level for r in result.records)} {level.name}' for level in Level
    )
    count = len(result.records)
    print(
        f'{count} frames in {result.seconds:.1f} s ({count / result.seconds:.1f} a second): ',
        end='',
    )
    print(levels)
    for name, found in (('', result), ('the other bundle: ', result.versus)):
        if found and found.live:
            print(f'{name}{found.live.published} images sent, {found.live.dropped} without a mask')
    for note in result.notes:
        print(f'note: {note}')
    shown = f'open {out / "report.html"}'
    if write.mcap:
        shown += f', or {out / BAG / BAG}.mcap in Foxglove with the layout {out / LAYOUT}'
    next_step(shown)


def is_replay(folder: Path) -> bool:
    """Whether a folder was written by this command."""
    return (folder / 'summary.json').is_file() and (folder / 'scores.csv').is_file()


def replay_to_folder(
    bag: Path,
    bundle: Path,
    out: Path,
    live: bool = False,
    rate: float = 1.0,
    image_topic: str | None = None,
    threads: int = 0,
    *,
    cameras: str | None = None,
    versus: Path | None = None,
    labels: Path | None = None,
    label_ids: str = 'bundle',
    points_topic: str | None = None,
    calibration: Path | None = None,
    write: Written = Written(),  # frozen
    monitor: MonitorConfig | None = None,
) -> ReplayResult:
    """Run a bundle over a bag and write everything; see `main`.

    Returns:
        The replay.

    Raises:
        ClcpError: The bag or a bundle cannot be used; nothing is written then.
    """
    monitor = monitor or MonitorConfig()
    first = load_bundle(bundle)
    second = None if versus is None else load_bundle(versus)
    with ExitStack() as stack:
        source = stack.enter_context(ReplayBag(bag, image_topic, cameras))
        notes: list[str] = []
        truth = None if labels is None else FolderLabels(labels, label_ids, source)
        check = _open_lidar(source, calibration, points_topic, notes) if write.lidar else None
        folder = stack.enter_context(atomic_path(out))
        folder.mkdir()
        samplers = {camera.name: FrameSampler(first.classes.palette) for camera in source.cameras}
        worst = None
        if second is not None:
            worst = DisagreementSampler((first.classes.palette, second.classes.palette))
        place = folder / 'masks' if write.masks else None
        outputs: list[Output] = [Pictures(place, source.cameras, samplers, worst)]
        mcap = None
        if write.mcap:
            mcap = McapOutput(
                folder / BAG, source, first, second, copy_inputs=write.inputs, draw=write.overlays
            )
            outputs.append(mcap)
        if check is not None:
            outputs.append(check)
        options: dict[str, Any] = {
            'versus': versus,
            'labels': truth,
            'output': Outputs(outputs),
            'others': _other_topics(source, write, check),
            'track': _progress,
            'threads': threads,
            'points': points_topic,
            'monitor': monitor,
        }
        with mcap if mcap is not None else ExitStack():
            if live:
                from clcp_ros.replay_node import replay_live

                result = replay_live(source, bundle, rate=rate, **options)
            else:
                result = replay_direct(source, bundle, **options)
        if check is not None:
            check.close()
        result.notes += notes + (mcap.notes if mcap else [])
        command = f'python training/replay.py {shlex.quote(str(bag))} --bundle {bundle}'
        command += (f' --versus {versus}' if versus else '') + (' --live' if live else '')
        command += ''.join(
            f' --shift.{k} {shlex.quote(v)}' for k, v in changed_settings(monitor).items()
        )
        timing = write.timing == 'yes'
        if write.timing == 'auto':
            timing = live or versus is not None
        compared = compare_cameras(result.records) if len(source.cameras) > 1 else []
        extras = {} if check is None else check.rows
        write_scores(folder / 'scores.csv', result.records)
        write_table(folder / TABLE, result, extras, timing)
        summary = summarize(result, compared, check, timing) | {'shift': asdict(monitor)}
        (folder / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
        if mcap is not None:
            images = {
                prefix: camera.topic
                for camera, prefix in zip(
                    source.cameras, status_prefixes(source.cameras).values(), strict=True
                )
            }
            shown = 'overlay/compressed' if write.overlays else 'overlay'
            layout = foxglove_layout(images, mcap.node, overlay=shown)
            (folder / LAYOUT).write_text(json.dumps(layout, indent=2) + '\n')
        sections = _sections(result, samplers, worst, compared, check, timing, command)
        save_sections(folder / SECTIONS, sections)
        page = render_page(
            f'Replay of {bag.name}',
            sections,
            f'{"Live, through the real node" if live else "Straight from the bag"}; '
            f'bundle {result.bundle.name}',
        )
        (folder / 'report.html').write_text(page, encoding='utf-8')
    return result


def _sections(
    result: ReplayResult,
    samplers: dict[str, FrameSampler],
    worst: DisagreementSampler | None,
    compared: list[CameraPair],
    check: LidarCheck | None,
    timing: bool,
    command: str,
) -> list[Section]:
    share = max(4, _PICTURES // len(samplers))
    shown = {name: sampler.choose(share) for name, sampler in samplers.items()}
    sections = replay_sections(result, shown, command=command)
    more = [
        labels_section(result),
        versus_section(result, worst, timing) if worst else None,
        cameras_section(compared, check.pairs if check else {}),
        lidar_section(check),
    ]
    # Figures before pictures.
    at = next((i for i, s in enumerate(sections) if s.title.startswith('Frames')), len(sections))
    return [*sections[:at], *(section for section in more if section), *sections[at:]]


def _open_lidar(
    bag: ReplayBag, calibration: Path | None, points_topic: str | None, notes: list[str]
) -> LidarCheck | None:
    """The comparison with a lidar; without one, or its calibration, there is none and a note."""
    asked = calibration is not None or points_topic is not None
    clouds = any('PointCloud2' in kind or 'CustomMsg' in kind for kind, _ in bag.topics.values())
    if not clouds and not asked:
        return None
    try:
        return LidarCheck(bag, calibration, points_topic)
    except RecordingError as error:  # a missing calibration is one, too
        if asked:
            raise
        notes.append(f'not compared with the lidar: {error}')
        return None


def _other_topics(
    source: ReplayBag, write: Written, check: LidarCheck | None
) -> Iterable[str] | None:
    """Topics that the outputs want beside the images; None for all."""
    if write.mcap and write.inputs:
        return None
    return [check.topic] if check is not None else ()


def _progress(frames: Iterator[Any], total: int) -> Iterable[Any]:
    return tqdm(frames, total=total, unit='frame', desc='replay')


def summarize(
    result: ReplayResult,
    compared: list[CameraPair] | None = None,
    check: LidarCheck | None = None,
    timing: bool = False,
) -> dict[str, Any]:
    """Figures of a replay as JSON; what is not known is null.

    Args:
        result: The replay.
        compared: Pairs of cameras.
        check: The comparison with a lidar.
        timing: Also figures that are never twice the same.
    """
    records = result.records
    conditions = {
        name: {
            'frames': len(own),
            'levels': _levels(own),
            'novelty_mean': _mean([r.novelty_z for r in own]),
            'miou': _miou(result.confusion, name),
        }
        for name in dict.fromkeys(r.condition for r in records)
        for own in [[r for r in records if r.condition == name]]
    }
    summary: dict[str, Any] = {
        'bundle': {'name': result.bundle.name, 'id': result.bundle.id},
        'image_topic': result.image_topic,
        'cameras': {
            camera.name: {
                'topic': camera.topic,
                'frames': len(own),
                'levels': _levels(own),
                'without_mask': result.unanswered.get(camera.name, 0),
            }
            for camera in result.cameras
            for own in [[r for r in records if r.camera == camera.name]]
        },
        'simulated': result.simulated,
        'frames': len(records),
        'bad_frames': [
            {'stamp_ns': bad.stamp_ns, 'reason': bad.reason, 'camera': bad.camera}
            for bad in result.bad
        ],
        'levels': _levels(records),
        'miou': _miou(result.confusion),
        'class_iou': _class_iou(result),
        'conditions': conditions,
        'versus': _versus(result),
        'camera_pairs': [
            {name: _finite(value) for name, value in vars(pair).items()} for pair in compared or []
        ],
        'lidar': None
        if check is None
        else {
            'topic': check.topic,
            'frames': sum(sums.frames for sums in check.sums.values()),
            'points_in_image': _ratio(check, 'inside', 'points'),
        },
        'notes': result.notes,
        'live': None if result.live is None else _live(result.live),
    }
    if timing:
        summary['seconds'] = round(result.seconds, 3)
        summary['provider'] = result.provider
    return summary


def _live(live: LiveFigures) -> dict[str, Any]:
    latency = live.latency_s or [math.nan]
    return {
        'published': live.published,
        'received': live.received,
        'dropped': live.dropped,
        'latency_ms': {f'p{q}': _number(np.percentile(latency, q) * 1e3) for q in (50, 95, 100)},
        'node': live.node_counts,
        'cameras': {
            name: {'published': sent, 'received': received}
            for name, (sent, received) in live.by_camera.items()
        },
        'provider': live.provider,
        'exit_code': live.exit_code,
    }


def _versus(result: ReplayResult) -> dict[str, Any] | None:
    other = result.versus
    if other is None:
        return None
    pairs = [(r, r.versus) for r in result.records if r.versus is not None]
    first, second = _miou(result.confusion), _miou(other.confusion)
    return {
        'bundle': {'name': other.bundle.name, 'id': other.bundle.id},
        'frames': len(pairs),
        'agreement': _mean([found.agreement for _, found in pairs]),
        'miou': second,
        'miou_difference': None if first is None or second is None else round(second - first, 6),
        'levels': {level.name: sum(found.level == level for _, found in pairs) for level in Level},
        'missing_classes': list(other.missing),
        'live': None if other.live is None else _live(other.live),
    }


def _class_iou(result: ReplayResult) -> dict[str, float | None] | None:
    total = sum_confusion(result.confusion)
    if total is None:
        return None
    values = class_iou(total).tolist()
    return {
        name: _number(value)
        for name, value in zip(result.bundle.classes.names, values, strict=True)
    }


def _miou(
    confusion: dict[tuple[str, str], np.ndarray], condition: str | None = None
) -> float | None:
    counts = sum_confusion(confusion, condition=condition)
    return None if counts is None else _number(mean_iou(counts))


def _ratio(check: LidarCheck, part: str, whole: str) -> float | None:
    total = sum(getattr(sums, whole) for sums in check.sums.values())
    return _number(sum(getattr(s, part) for s in check.sums.values()) / total) if total else None


def _levels(records: list[FrameRecord]) -> dict[str, int]:
    return {level.name: sum(r.level == level for r in records) for level in Level}


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return _number(float(np.mean(known))) if known else None


def _finite(value: Any) -> Any:
    return _number(value) if isinstance(value, float) else value


def _number(value: float | np.floating[Any]) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


if __name__ == '__main__':
    run_command(main)
