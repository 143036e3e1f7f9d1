# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Image and lidar: a camera in the dark must not be taken for one that was turned.

Some clips of the clear drives are simulated with a lidar, those of the test drives at dusk and at
night as well, and their mounting is turned. A light does not touch the lidar.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.shift_evidence import Describer, segmenter_of
from benchmarks.shift_metrics import auroc
from benchmarks.shift_plan import Clip, Size, clips
from benchmarks.shift_rows import Row
from benchmarks.shift_streams import CLEAR, JPEG_QUALITY, run_jobs, stamp_of
from clcp_ros.image_codec import decode_bytes, encode_jpeg
from clcp_ros.monitor.alignment import AlignmentReference, AlignmentState, AlignmentWindow
from clcp_ros.monitor.knowledge import Knowledge
from clcp_ros.monitor.reference import class_shares
from clcp_ros.monitor.scan_view import CameraModel, ScanView, project_scan
from clcp_ros.monitor.statistics import image_statistics
from training.cli import atomic_path
from training.monitoring.alignment import AlignedFrame, fit_alignment
from training.simulation.config import Condition
from training.simulation.frame import Moment

LIGHTS = {'dusk': 0.6, 'night': 0.6, 'under_exposure': 0.4}
"""Changes of light, with their severity."""

YAWS_DEG = (0.5, 1.0, 2.0, 4.0)

_SECTION = 'alignment of image and lidar'


def simulate_scans(size: Size, root: Path, workers: int) -> None:
    """Write the clips with a lidar that are missing.

    Args:
        size: The size.
        root: Its folder.
        workers: Processes.
    """
    chosen = [c for part in ('calibration', 'test') for c in clips(size, part, scans=True)]
    run_jobs(
        'simulate scans',
        [(_write_clip, size, root, clip) for clip in chosen],
        [(_path(root, clip), clip.frames) for clip in chosen],
        workers,
    )


def _path(root: Path, clip: Clip) -> Path:
    return root / 'streams' / f'{clip.name}.npz'


def _write_clip(size: Size, root: Path, clip: Clip) -> None:
    path = _path(root, clip)
    if path.exists():
        return
    lights = LIGHTS if clip.drive.part == 'test' else {}
    arrays: dict[str, np.ndarray] = {}
    for k in range(clip.frames):
        moment = Moment(size.simulation, clip.drive.town, clip.drive.time(clip.begin + k))
        for name, severity in {CLEAR: 0.0, **lights}.items():
            frame = moment.frame(Condition(name, severity))
            jpeg = bytes(encode_jpeg(frame.image, JPEG_QUALITY))
            arrays[f'{k}.{name}'] = np.frombuffer(jpeg, np.uint8)
        scan = moment.frame(Condition(CLEAR)).scan
        arrays[f'{k}.points'] = scan.points.astype(np.float32)
        arrays[f'{k}.intensity'] = scan.intensity.astype(np.float32)
        arrays['K'], arrays['T_camera_lidar'] = frame.camera.K, frame.T_camera_lidar
    with atomic_path(path) as partial, partial.open('wb') as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def turned(T_camera_lidar: np.ndarray, yaw_deg: float) -> np.ndarray:
    """The mounting, with the camera turned about its upright axis.

    Args:
        T_camera_lidar: (4, 4) into the optical frame, whose y axis points down.
        yaw_deg: Degrees.
    """
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    turn = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])
    result: np.ndarray = turn @ T_camera_lidar
    return result


class _Clip:
    """A clip, read and segmented; views by yaw."""

    def __init__(
        self, root: Path, clip: Clip, describer: Describer, lights: Sequence[str]
    ) -> None:
        self.clip = clip
        with np.load(_path(root, clip), allow_pickle=False) as stored:
            self._arrays = dict(stored.items())
        self.images = {
            light: [self._image(k, light) for k in range(clip.frames)] for light in lights
        }
        self.frames = {
            light: [describer.predict(image)[0] for image in images]
            for light, images in self.images.items()
        }

    def _image(self, k: int, light: str) -> np.ndarray:
        return decode_bytes(self._arrays[f'{k}.{light}'].tobytes())

    def stamp_ns(self, k: int) -> int:
        return stamp_of(self.clip.drive, self.clip.begin + k)

    def view(self, k: int, yaw_deg: float) -> ScanView:
        height, width = self.images[CLEAR][k].shape[:2]
        return project_scan(
            self._arrays[f'{k}.points'],
            self._arrays[f'{k}.intensity'],
            CameraModel(self._arrays['K'], (height, width)),
            turned(self._arrays['T_camera_lidar'], yaw_deg),
            self.stamp_ns(k),
        )


def alignment_rows(size: Size, root: Path, bundle: Path, knowledge: Knowledge) -> Iterator[Row]:
    """Fit on the calibration drives, judge clips of the test drives.

    Args:
        size: The size.
        root: Its folder, with `streams`.
        bundle: Of the network.
        knowledge: Of the monitor, for the novelty of the images.
    """
    describer = Describer(segmenter_of(bundle))
    nominal = []
    for clip in clips(size, 'calibration', scans=True):
        read = _Clip(root, clip, describer, (CLEAR,))
        nominal += [
            AlignedFrame(p.logits, read.view(k, 0.0), clip.drive.name, CLEAR)
            for k, p in enumerate(read.frames[CLEAR])
        ]
    reference = fit_alignment(nominal)
    states: dict[tuple[str, float], list[AlignmentState]] = {}
    for clip in clips(size, 'test', scans=True):
        read = _Clip(root, clip, describer, (CLEAR, *LIGHTS))
        for light in (CLEAR, *LIGHTS):
            for yaw in (0.0, *YAWS_DEG) if light == CLEAR else (0.0,):
                # Both ways in turn: a mounting is not always turned to the left.
                sign = -1 if clip.number % 2 else 1
                state = _state(reference, knowledge, read, light, sign * yaw)
                states.setdefault((light, yaw), []).append(state)
    yield from _separations(states)
    wanted = {(CLEAR, 0.0): 'ok', **{(light, 0.0): 'camera' for light in LIGHTS}}
    wanted |= {(CLEAR, yaw): 'calibration' for yaw in YAWS_DEG}
    for key, found in states.items():
        share = float(np.mean([s.verdict == wanted[key] for s in found]))
        what = f'{key[0]}, {key[1]:g} degrees: said {wanted[key]}'
        yield Row(_SECTION, what, 'share', share, len(found))


def _separations(states: dict[tuple[str, float], list[AlignmentState]]) -> Iterator[Row]:
    turned_by = {key: np.array([abs(s.yaw_z) for s in found]) for key, found in states.items()}
    agrees = {key: np.array([s.z for s in found]) for key, found in states.items()}
    for yaw in YAWS_DEG:
        for light in (CLEAR, *LIGHTS):
            value = auroc(turned_by[light, 0.0], turned_by[CLEAR, yaw])
            goal = '>= 0.95' if yaw == 1.0 else ''
            what = f'{yaw:g} degrees of yaw against {light}, by the side that agrees better'
            yield Row(_SECTION, what, 'AUROC', value, len(turned_by[CLEAR, yaw]), goal)
        value = auroc(-agrees[CLEAR, 0.0], -agrees[CLEAR, yaw])
        what = f'{yaw:g} degrees of yaw against clear, by agreement'
        yield Row(_SECTION, what, 'AUROC', value, len(agrees[CLEAR, yaw]))
    for light in LIGHTS:
        value = auroc(-agrees[CLEAR, 0.0], -agrees[light, 0.0])
        yield Row(_SECTION, f'{light} against clear, by agreement', 'AUROC', value,
                  len(agrees[light, 0.0]))  # fmt: skip


def _state(
    reference: AlignmentReference, knowledge: Knowledge, read: _Clip, light: str, yaw_deg: float
) -> AlignmentState:
    """What the window says after a clip."""
    window, state = AlignmentWindow(reference), AlignmentState()
    for k, prediction in enumerate(read.frames[light]):
        alignment = reference.score(prediction.logits, read.view(k, yaw_deg))
        score = knowledge.novelty.score(
            image_statistics(read.images[light][k]),
            prediction.features,
            class_shares(prediction.logits),
        )
        state = window.update(read.stamp_ns(k), alignment, score.novelty)
    return state
