# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast pairs are loaded, against decoding whole images and against the decoder's own rate.

All rates are of one process and one thread, by processor time, interleaved in rounds: what else
runs on the machine does not decide. Images are of A2D2's size, 1920 x 1208, with crops of 896
resized to 224 (the CLCP thesis). Given real images with --images they are used; otherwise the
pictures are synthetic, with the spectrum of photographs and about their size as JPEG.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import training  # noqa: F401  # first: it sets how torch's threads wait

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from clcp_ros import image_codec
from clcp_ros.errors import PairSetError
from training.cli import run_command
from training.pairs import Pair, PairSet, PairSetWriter
from training.pairs.crop import Crop, crop_image
from training.pairs.decode import decode_crop, snap
from training.pairs.geometry import project_points

WIDTH, HEIGHT, CROP, SIZE = 1920, 1208, 896, 224
K = np.array([[1687.3, 0, 965.4], [0, 1783.5, 684.6], [0, 0, 1.0]])
T = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
POINTS = 8200
"""Of A2D2's front centre view, on average."""


def photograph(rng: np.random.Generator) -> np.ndarray:
    """A picture whose spectrum falls off like a photograph's, with edges and a sensor's noise."""
    layers = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(2, 11):
        side = max(2, 2**octave * HEIGHT // 1024), max(2, 2**octave * WIDTH // 1024)
        coarse = rng.normal(0, 1, (*side, 3)).astype(np.float32)
        layers += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) * (
            34 * 0.62 ** (octave - 2)
        )
    for _ in range(60):
        x, y = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
        w, h = (int(v) for v in rng.integers(20, 260, 2))
        layers[y : y + h, x : x + w] += rng.normal(0, 30)
    layers += rng.normal(0, 2.2, layers.shape)
    return np.clip(layers + 110, 0, 255).astype(np.uint8)


def scan(rng: np.random.Generator, count: int = POINTS) -> np.ndarray:
    """Points in front of the camera, (count, 4) float32."""
    points = rng.uniform([4, -0.5, -0.35, 0], [60, 0.5, 0.35, 1], (count, 4))
    points[:, 1:3] *= points[:, :1]
    return points.astype(np.float32)


def crops(seed: int) -> Iterator[Crop]:
    """Random crops as the thesis draws them, on the grid that exact decoding wants."""
    rng = np.random.default_rng(seed)
    while True:
        x, y = int(rng.integers(0, WIDTH - CROP + 1)), int(rng.integers(0, HEIGHT - CROP + 1))
        yield snap(Crop(x, y, CROP, CROP), SIZE, SIZE, (WIDTH, HEIGHT))


def make_set(folder: Path, images: list[np.ndarray]) -> tuple[PairSet, list[tuple[bytes, Path]]]:
    """A pair set, and the same as A2D2 publishes it: PNG files and npz files."""
    rng = np.random.default_rng(1)
    published = []
    pairs = []
    for i, image in enumerate(images):
        points = scan(rng)
        npz = folder / f'{i}.npz'
        columns = {'points': points[:, :3].astype(np.float64), 'reflectance': points[:, 3]}
        np.savez(npz, **columns, row=points[:, 1], col=points[:, 2], timestamp=points[:, 0])
        published.append((image_codec.encode_png(image), npz))
        pairs.append(Pair(f's/{i:03d}', 's', 'c', 'l', i, i, image, points, K, T))
    writer = PairSetWriter(folder / 'pairs')
    writer.write_sequence('s', pairs)
    writer.finish(['s'], {}, 0)
    return PairSet(folder / 'pairs', check='always'), published


def _select(points: np.ndarray, crop: Crop) -> np.ndarray:
    uv, _ = project_points(points[:, :3], K, T)
    return points[crop.contains(uv)]


def rates(pairs: PairSet, published: list[tuple[bytes, Path]], rounds: int) -> dict[str, float]:
    """Pairs or images per second of processor time, the median of rounds."""
    jpegs = [pairs.image_bytes(i) for i in range(len(pairs))]
    plain = [image_codec.encode_jpeg(pairs[i].pixels(), 95) for i in range(len(pairs))]
    # Without restart markers, as any camera writes them.
    choose = crops(0)

    def naive(data: bytes, npz: Path) -> None:
        crop = next(choose)
        crop_image(image_codec.decode_bytes(data), crop, SIZE, SIZE)
        with np.load(npz) as content:
            points = np.column_stack([content['points'], content['reflectance']])
        _select(points.astype(np.float32), crop)

    def loader(i: int) -> None:
        crop = next(choose)
        pair = pairs.read(i)
        assert pair.encoded is not None
        decode_crop(pair.encoded, crop, SIZE, SIZE)
        _select(pair.points, crop)

    def window(data: bytes) -> None:
        decode_crop(data, next(choose), SIZE, SIZE)

    def decoder(data: bytes, flags: int) -> None:
        cv2.imdecode(np.frombuffer(data, np.uint8), flags)

    work: dict[str, Callable[[int], None]] = {
        'naive, PNG': lambda i: naive(*published[i]),
        'naive, JPEG': lambda i: naive(plain[i], published[i][1]),
        'loader': loader,
        'window of a plain JPEG': lambda i: window(plain[i]),
        'window of ours': lambda i: window(jpegs[i]),
        'decoder alone at 1/4': lambda i: decoder(plain[i], cv2.IMREAD_REDUCED_COLOR_4),
        'decoder alone, whole': lambda i: decoder(plain[i], cv2.IMREAD_COLOR),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, one in work.items():
            start = time.process_time()
            for i in range(len(pairs)):
                one(i)
            times[name].append((time.process_time() - start) / len(pairs))
    return {name: 1 / float(np.median(found[1:])) for name, found in times.items()}


def memory(folder: Path, samples: int, first: int = 1_000) -> tuple[float, float]:
    """Resident memory in MB after `first` samples, and after all of a set of `samples`."""
    rng = np.random.default_rng(2)
    image = cv2.resize(photograph(rng), (320, 200), interpolation=cv2.INTER_AREA)
    data = image_codec.encode_jpeg(image)
    points = scan(rng, 500)
    writer = PairSetWriter(folder, shard_bytes=20 << 20)
    for sequence in range(20):
        name = f's{sequence:02d}'
        writer.write_sequence(name, (
            Pair(f'{name}/{i:06d}', name, 'c', 'l', i, i, None, points, K, T, encoded=data)
            for i in range(samples // 20)
        ))  # fmt: skip
    writer.finish([f's{n:02d}' for n in range(20)], {}, 0.15)
    pairs = PairSet(folder)
    order = rng.permutation(len(pairs))
    found = {}
    for number, position in enumerate(order.tolist(), 1):
        pair = pairs.read(position)
        assert pair.encoded is not None
        decode_crop(pair.encoded, Crop(0, 0, 160, 160), 80, 80)
        if number in (first, len(order)):
            found[number] = _resident_mb()
    return found[first], found[len(order)]


def _resident_mb() -> float:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def benchmark(
    images: str | None = None, count: int = 8, rounds: int = 7, samples: int = 20_000
) -> None:
    """Measure the loader.

    Args:
        images: Folder of real images of 1920 x 1208 instead of synthetic ones.
        count: Images.
        rounds: Rounds that the median is taken of.
        samples: Size of the set for the memory test; 0 leaves it out.
    """
    cv2.setNumThreads(1)
    if images is None:
        pictures = [photograph(np.random.default_rng(i)) for i in range(count)]
    else:
        paths = sorted(Path(images).rglob('*.png'))[:count]
        pictures = [image_codec.decode_bytes(path.read_bytes()) for path in paths]
        pictures = [p for p in pictures if p.shape == (HEIGHT, WIDTH, 3)]
        if not pictures:
            raise PairSetError(f'{images} has no PNG of {WIDTH} x {HEIGHT}')
    with tempfile.TemporaryDirectory(prefix='clcp-bench-') as name:
        pairs, published = make_set(Path(name), pictures)
        found = rates(pairs, published, rounds)
        png = np.mean([len(data) for data, _ in published]) / 1e6
        jpg = np.mean([len(pairs.image_bytes(i)) for i in range(len(pairs))]) / 1e6
        print(f'{len(pictures)} {"real" if images else "synthetic"} images, PNG {png:.2f} MB, '
              f'JPEG {jpg:.2f} MB, {POINTS} points')  # fmt: skip
        for what, rate in found.items():
            print(f'{what:>24}: {rate:7.1f} /s ({1e3 / rate:.2f} ms)')
        loader = found['loader']
        print(f'loader / naive on PNG, as A2D2 is published: {loader / found["naive, PNG"]:.1f}')
        print(f'loader / naive on JPEG: {loader / found["naive, JPEG"]:.1f}')
        print(f'loader / decoder alone at 1/4: {loader / found["decoder alone at 1/4"]:.0%}')
    if samples:
        with tempfile.TemporaryDirectory(prefix='clcp-bench-') as name:
            small, large = memory(Path(name) / 'pairs', samples)
            print(f'resident memory after 1,000 samples {small:.1f} MB, after {samples:,} '
                  f'{large:.1f} MB: {large / small - 1:+.1%}')  # fmt: skip


if __name__ == '__main__':
    run_command(benchmark)
