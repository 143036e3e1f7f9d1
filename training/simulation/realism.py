# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Compares simulated frames with real ones: grey values, spectra, classes, point clouds.

    python -m training.simulation.realism ../shared/data --out realism.md

The folder holds samples of CamVid, ACDC, A2D2, Cityscapes, KITTI, nuScenes and SemanticKITTI in
their own layouts; what is missing is left out of the table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from clcp_ros.classes import CITYSCAPES
from clcp_ros.image_codec import image_size
from training.cli import atomic_path, run_command
from training.simulation.config import (
    CameraConfig,
    Condition,
    LidarConfig,
    SimulationConfig,
    SimulationError,
    lidar_preset,
)
from training.simulation.frame import Frame, Moment

CITYSCAPES_SHARE = (
    36.9, 6.1, 22.8, 0.66, 0.88, 1.23, 0.21, 0.55, 15.9, 1.16, 4.0, 1.22, 0.14, 7.0, 0.27, 0.24,
    0.23, 0.10, 0.41,
)  # fmt: skip
"""Percent of the labelled pixels of Cityscapes' training set by trainId."""

_WIDTH = 480
_REAL_IMAGES = (
    ('CamVid', 'clear', 'camvid/*/0006R0*.png'), ('CamVid', 'clear', 'camvid/*/0016E5*.png'),
    ('KITTI', 'clear', 'kitti_raw/**/image_02/data/*.png'),
    ('KITTI', 'clear', 'kitti_object/training/image_2/*.png'),
    ('A2D2', 'clear', 'a2d2/camera_lidar_semantic/**/camera/**/*.png'),
    ('Cityscapes', 'clear', 'cityscapes/leftImg8bit/**/*.png'),
    ('nuScenes', 'clear', 'nuscenes/samples/CAM_*/*.jpg'),
    ('CamVid', 'dusk', 'camvid/*/0001TP*.png'),
    ('ACDC', 'night', 'acdc*/rgb_anon/night/**/*.png'),
    ('ACDC', 'fog', 'acdc*/rgb_anon/fog/**/*.png'),
    ('ACDC', 'rain', 'acdc*/rgb_anon/rain/**/*.png'),
    ('ACDC', 'snow', 'acdc*/rgb_anon/snow/**/*.png'),
)  # fmt: skip


@dataclass(frozen=True)
class ImageStatistics:
    """Numbers that describe an image.

    Attributes:
        mean: Grey value, 0 to 255.
        contrast: Standard deviation of the grey values.
        black: Percent of the pixels below 16.
        white: Percent above 239.
        colour: Mean difference of the largest and the smallest channel.
        noise: Standard deviation of the noise in grey values, at the image's own resolution.
        slope: Exponent of the power spectrum over spatial frequency, about -2 for natural scenes.
        coarse: dB of the power at 1/64 to 1/16 cycles per pixel (of an image 480 wide).
        medium: dB at 1/16 to 1/4.
        fine: dB at 1/4 to 1/2.
    """

    mean: float
    contrast: float
    black: float
    white: float
    colour: float
    noise: float
    slope: float
    coarse: float
    medium: float
    fine: float


def image_statistics(image: np.ndarray) -> ImageStatistics:
    """Statistics of an (H, W, 3) uint8 RGB image."""
    h, w = image.shape[:2]
    small = image
    if w != _WIDTH:
        size = (_WIDTH, max(8, round(h * _WIDTH / w)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    grey = _grey(small)
    colour = small.max(2).astype(np.float32) - small.min(2)
    frequency, power = _spectrum(grey)
    bands = [
        10 * math.log10(max(float(power[(frequency >= a) & (frequency < b)].mean()), 1e-12))
        for a, b in ((1 / 64, 1 / 16), (1 / 16, 1 / 4), (1 / 4, 1 / 2))
    ]
    used = (frequency > 1 / 64) & (frequency < 1 / 4)
    slope = np.polyfit(np.log(frequency[used]), np.log(power[used] + 1e-9), 1)[0]
    return ImageStatistics(
        float(grey.mean()), float(grey.std()), 100 * float((grey < 16).mean()),
        100 * float((grey > 239).mean()), float(colour.mean()), noise_level(_grey(image)),
        float(slope), *bands,
    )  # fmt: skip


def noise_level(grey: np.ndarray) -> float:
    """Standard deviation of the noise of an (H, W) image, from its flattest blocks.

    Immerkaer 1996, "Fast noise variance estimation": a mask that is blind to edges and slopes,
    sigma = sqrt(pi / 2) mean |I * N| / 6; here the lower tenth of blocks of 16 pixels that are
    neither black nor white, so that texture does not count as noise.
    """
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(grey.astype(np.float32), -1, mask))
    h, w = (n // 16 * 16 for n in grey.shape)
    if h == 0 or w == 0:
        return 0.0

    def blocks(a: np.ndarray) -> np.ndarray:
        return a[:h, :w].reshape(h // 16, 16, w // 16, 16).mean((1, 3)).ravel()

    level = blocks(grey.astype(np.float32))
    sigma = blocks(response)[(level > 12) & (level < 235)] * math.sqrt(math.pi / 2) / 6
    return float(np.quantile(sigma, 0.1)) if len(sigma) else 0.0


def _grey(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _spectrum(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radial frequency in cycles per pixel and power of the windowed image, flattened."""
    h, w = grey.shape
    window = np.hanning(h)[:, None] * np.hanning(w)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2 / (window**2).sum()
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
    return frequency.ravel()[1:], power.ravel()[1:]


@dataclass(frozen=True)
class ScanStatistics:
    """Numbers that describe a scan.

    Attributes:
        points: In the scan.
        in_image: Points that fall into the main camera's image.
        range_quantiles: Metres at 10, 50 and 90 percent.
        intensity_quantiles: At 10, 50 and 90 percent, of 1.
    """

    points: float
    in_image: float
    range_quantiles: tuple[float, float, float]
    intensity_quantiles: tuple[float, float, float]


def scan_statistics(
    points: np.ndarray, intensity: np.ndarray, in_image: float = float('nan')
) -> ScanStatistics:
    """Statistics of (N, 3) points and (N,) intensities in [0, 1]."""
    distance = np.linalg.norm(points, axis=1)
    # Returns from the own vehicle are no scene.
    outside = distance > 2.5
    r = np.quantile(distance[outside], (0.1, 0.5, 0.9))
    i = np.quantile(intensity[outside], (0.1, 0.5, 0.9))
    return ScanStatistics(
        len(points), in_image, (float(r[0]), float(r[1]), float(r[2])),
        (float(i[0]), float(i[1]), float(i[2])),
    )  # fmt: skip


def points_in_image(points: np.ndarray, P: np.ndarray, width: int, height: int) -> int:
    """How many of (N, 3) points the (3, 4) projection `P` puts into the image."""
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ P.T
    ahead = homogeneous[:, 2] > 0.5
    pixel = homogeneous[ahead, :2] / homogeneous[ahead, 2:]
    inside = (pixel > -0.5).all(1) & (pixel[:, 0] < width - 0.5) & (pixel[:, 1] < height - 0.5)
    return int(inside.sum())


# ------------------------------------------------------------------------------- real samples


def real_images(data: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, condition and image of every sample, at most twelve per pattern."""
    for name, condition, pattern in _REAL_IMAGES:
        files = sorted(data.glob(pattern))
        for path in files[:: max(1, len(files) // 12)][:12]:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None:
                yield name, condition, np.ascontiguousarray(image[..., ::-1])


def real_scans(data: Path) -> Iterator[tuple[str, ScanStatistics]]:
    """Name and statistics of every sample scan."""
    for path in sorted(data.glob('kitti_object/training/velodyne/*.bin')):
        table = np.fromfile(path, np.float32).reshape(-1, 4)
        calib = path.parents[1] / 'calib' / f'{path.stem}.txt'
        image = path.parents[1] / 'image_2' / f'{path.stem}.png'
        width, height = image_size(image.read_bytes())
        inside = points_in_image(table[:, :3], _kitti_projection(calib), width, height)
        yield 'KITTI', scan_statistics(table[:, :3], table[:, 3], inside)
    for path in sorted(data.glob('semantickitti/sequences/*/velodyne/*.bin')):
        table = np.fromfile(path, np.float32).reshape(-1, 4)
        yield 'SemanticKITTI', scan_statistics(table[:, :3], table[:, 3])
    for path in sorted(data.glob('nuscenes/samples/LIDAR_TOP/*.bin')):
        table = np.fromfile(path, np.float32).reshape(-1, 5)
        yield 'nuScenes', scan_statistics(table[:, :3], table[:, 3] / 255)


def _kitti_projection(path: Path) -> np.ndarray:
    rows = dict(line.split(':', 1) for line in path.read_text().splitlines() if ':' in line)
    P, R, T = np.array(rows['P2'].split(), float).reshape(3, 4), np.eye(4), np.eye(4)
    R[:3, :3] = np.array(rows['R0_rect'].split(), float).reshape(3, 3)
    T[:3] = np.array(rows['Tr_velo_to_cam'].split(), float).reshape(3, 4)
    projection: np.ndarray = P @ R @ T
    return projection


# ---------------------------------------------------------------------------------- simulation


def kitti_like(seed: int = 0) -> SimulationConfig:
    """Camera and lidar as on KITTI's car: 1242 x 375, f 721; HDL-64E with 2000 columns."""
    camera = CameraConfig(
        1242, 375, intrinsics=(721.5, 721.5, 609.6, 172.9), position=(1.03, 0.0, 1.65)
    )
    lidar = replace(lidar_preset(64, 2000), position=(0.76, 0.0, 1.73))
    return SimulationConfig(seed, camera_configs=(camera,), lidar_config=lidar)


def nuscenes_like(seed: int = 0) -> SimulationConfig:
    """HDL-32E at 20 Hz, 1090 columns, on the roof."""
    lidar: LidarConfig = replace(lidar_preset(32, 1090), position=(0.94, 0.0, 1.84), period=0.05)
    return SimulationConfig(seed, width=400, height=225, lidar_config=lidar)


def simulated_moments(config: SimulationConfig, count: int, lidar: bool) -> Iterator[Moment]:
    """`count` moments: three towns, a country road and a motorway in turn."""
    for i in range(count):
        yield Moment(config, 1 + i % 5, 3.0 + 7.3 * (i // 5), with_lidar=lidar)


def simulated_scan(frame: Frame) -> ScanStatistics:
    """Statistics of a simulated scan."""
    P = frame.camera.K @ frame.T_camera_lidar[:3]
    inside = points_in_image(frame.scan.points, P, frame.camera.width, frame.camera.height)
    return scan_statistics(frame.scan.points, frame.scan.intensity, inside)


# -------------------------------------------------------------------------------------- report


def compare(data: Path, frames: int = 15, severity: float = 0.8, seed: int = 0) -> str:
    """Markdown tables of real samples beside simulated frames.

    Args:
        data: Folder of samples.
        frames: Simulated frames per row.
        severity: Of the simulated conditions.
        seed: Of the simulation.

    Raises:
        SimulationError: `data` holds none of the known samples.
    """
    real: dict[tuple[str, str], list[ImageStatistics]] = {}
    for name, condition, image in real_images(data):
        real.setdefault((name, condition), []).append(image_statistics(image))
    if not real:
        raise SimulationError(f'{data} holds none of the known samples')
    simulated: dict[str, list[ImageStatistics]] = {}
    for moment in simulated_moments(SimulationConfig(seed), frames, lidar=False):
        for name in ('clear', 'low_sun', 'dusk', 'night', 'fog', 'rain', 'snow'):
            image = moment.frame(Condition(name, severity)).image
            simulated.setdefault(name, []).append(image_statistics(image))
    rows = []
    for name in simulated:
        rows += [
            _image_row(f'{name}, {source} (real)', statistics)
            for (source, condition), statistics in real.items()
            if condition == name
        ]
        rows.append(_image_row(f'**{name}, simulated**', simulated[name]))
    head = (
        '| images | n | mean | contrast | black % | white % | colour | noise | slope '
        '| coarse dB | medium dB | fine dB |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n'
    )
    return '\n\n'.join(
        [head + '\n'.join(rows), class_table(seed, frames), _scan_table(data, frames, seed)]
    )


def _image_row(name: str, statistics: list[ImageStatistics]) -> str:
    values = np.array([list(vars(s).values()) for s in statistics])
    cells = [f'{v:.1f}' for v in np.median(values, axis=0)]
    return f'| {name} | {len(statistics)} | ' + ' | '.join(cells) + ' |'


def class_shares(seeds: Iterable[int], towns: Iterable[int], frames: int) -> np.ndarray:
    """Percent of the labelled pixels by trainId, as a front camera sees them.

    Args:
        seeds: Of the simulation.
        towns: Numbers of the places.
        frames: Per place, over 200 seconds of a drive.

    Returns:
        (19,) float64.
    """
    counts = np.zeros(256, np.int64)
    for seed, town in itertools.product(seeds, towns):
        config = SimulationConfig(seed, width=240, height=150)
        for i in range(frames):
            moment = Moment(config, town, (i + 0.5) * 200 / frames, with_lidar=False)
            counts += np.bincount(moment.view.labels.ravel(), minlength=256)
    known = counts[: len(CITYSCAPES)]
    return 100 * known / max(int(known.sum()), 1)


def class_table(seed: int = 0, frames: int = 15) -> str:
    """Markdown table of class frequencies beside Cityscapes', of seeds that nothing was tuned on.

    Args:
        seed: The first of three.
        frames: Per place.
    """
    seeds = range(seed + 100, seed + 103)
    parts = {
        'towns': class_shares(seeds, (1, 2, 3, 6, 7), frames),
        'country roads': class_shares(seeds, (4,), frames),
        'motorways': class_shares(seeds, (5,), frames),
    }
    # As the layout of Cityscapes has them: three towns, half as many frames of the others.
    town, country, motorway = parts.values()
    parts['layout `cityscapes`'] = (6 * town + country + motorway) / 8
    head = ''.join(f' {name} | ratio |' for name in parts)
    lines = [f'| class | Cityscapes % |{head}', '|---|---|' + '---|---|' * len(parts)]
    for i in np.argsort(CITYSCAPES_SHARE)[::-1]:
        cells = ''.join(
            f' {p[i]:.2f} | {p[i] / CITYSCAPES_SHARE[i]:.2f} |' for p in parts.values()
        )
        lines.append(f'| {CITYSCAPES.names[i]} | {CITYSCAPES_SHARE[i]:.2f} |{cells}')
    return '\n'.join(lines)


def _scan_table(data: Path, frames: int, seed: int) -> str:
    lines = [
        '| scans | n | points | in image | range 10/50/90 % | intensity 10/50/90 % |',
        '|---|---|---|---|---|---|',
    ]
    real: dict[str, list[ScanStatistics]] = {}
    for name, statistics in real_scans(data):
        real.setdefault(f'{name} (real)', []).append(statistics)
    sets: dict[str, Iterable[ScanStatistics]] = dict(real)
    for name, config in (('KITTI', kitti_like(seed)), ('nuScenes', nuscenes_like(seed))):
        sets[f'**like {name}, simulated**'] = [
            simulated_scan(m.frame(Condition('clear')))
            for m in simulated_moments(config, min(frames, 10), lidar=True)
        ]
    for name, each in sets.items():
        rows = list(each)
        r = np.median([s.range_quantiles for s in rows], axis=0)
        i = np.median([s.intensity_quantiles for s in rows], axis=0)
        inside = np.median([s.in_image for s in rows])
        lines.append(
            f'| {name} | {len(rows)} | {np.median([s.points for s in rows]):.0f} '
            f'| {"-" if np.isnan(inside) else f"{inside:.0f}"} '
            f'| {r[0]:.1f} / {r[1]:.1f} / {r[2]:.1f} m | {i[0]:.2f} / {i[1]:.2f} / {i[2]:.2f} |'
        )
    return '\n'.join(lines)


def main(
    data: Path, frames: int = 15, severity: float = 0.8, seed: int = 0, out: Path | None = None
) -> None:
    """Compare simulated frames with real ones.

    Args:
        data: Folder of samples, one folder per data set.
        frames: Simulated frames per row.
        severity: Of the simulated conditions.
        seed: Of the simulation.
        out: Markdown file to write; printed when left out.
    """
    text = compare(data, frames, severity, seed)
    if out is None:
        print(text)
        return
    with atomic_path(out) as temporary:
        temporary.write_text(text + '\n')
    print(f'written: {out}')


if __name__ == '__main__':
    run_command(main)
