# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the node adds to its model, over the real middleware.

Three processes: cameras that publish 1920 x 1208, the node (with clocks around its stages, and the
bare model in the same process for comparison), and this one, which hears the masks and asks for
services. Reported are the processor time of each stage, the masks per second against the bare
model's, the age of frames at publication, how fast services answer, four cameras at 10 Hz, and
memory. Ages and rates need an idle machine; processor time is that of one core.
"""

from __future__ import annotations

if __package__ in (None, ''):
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.path.insert(1, str(Path(__file__).resolve().parent))
    import training  # noqa: F401  # first: it sets how torch's threads wait

import csv
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from node_limits import limits
from node_parts import HEIGHT, STAGES, WIDTH, make_bundle, run_cameras, run_node
from tqdm import tqdm

from clcp_ros.errors import ClcpError
from clcp_ros.transport import FASTDDS_VARIABLE, fastdds_profile
from training.cli import atomic_path, run_command

_PACE_HZ = 10.0

Row = tuple[str, str, float, str, str]
"""Experiment, quantity, value, unit, goal."""


class Rig:
    """The node and the cameras in processes of their own, and a subscriber in this one."""

    def __init__(self, bundle: Path, cameras: list[str], runtime: str) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        self._spawn = multiprocessing.get_context('spawn')
        self.cameras = cameras
        parameters = {
            'bundle.path': str(bundle), 'cameras': cameras, 'model.threads': 1,
            'model.runtime': runtime, 'diagnostics.period_s': 1.0,
        }  # fmt: skip
        self._node, far = self._spawn.Pipe()
        self._process = self._spawn.Process(target=run_node, args=(far, parameters), daemon=True)
        self._process.start()
        if failure := self._node.recv():
            raise ClcpError(failure)
        self.ros = rclpy.create_node('listener')
        self.heard = 0
        for camera in cameras:
            prefix = f'segment/{camera}/' if camera else 'segment/'
            for topic in ('mask', 'confidence'):
                self.ros.create_subscription(Image, prefix + topic, self._hear, 2)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.ros)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _hear(self, message: Any) -> None:
        self.heard += 1

    def ask(self, *command: Any) -> Any:
        """What the node's process answers."""
        self._node.send(command)
        return self._node.recv()

    @contextmanager
    def publishing(
        self, transport: str, rate_hz: float, size: tuple[int, int] = (HEIGHT, WIDTH)
    ) -> Iterator[None]:
        """Cameras that publish meanwhile."""
        topics = [f'{c}/image' if c else 'image' for c in self.cameras]
        near, far = self._spawn.Pipe()
        process = self._spawn.Process(
            target=run_cameras, args=(far, topics, transport, size, rate_hz), daemon=True
        )
        process.start()
        try:
            yield
        finally:
            near.send('stop')
            process.join(30)

    def wait_for_masks(self, timeout_s: float = 60.0) -> None:
        """Wait until masks arrive."""
        until, before = time.monotonic() + timeout_s, self.heard
        while self.heard < before + 2 * len(self.cameras) + 2:
            if time.monotonic() > until:
                raise ClcpError(f'no mask within {timeout_s:g} s: are images getting through?')
            time.sleep(0.05)

    def service_seconds(self, until_s: float) -> list[float]:
        """How long the node takes to answer, again and again."""
        from rcl_interfaces.srv import GetParameters

        client = self.ros.create_client(GetParameters, 'segment/get_parameters')
        if not client.wait_for_service(10):
            raise ClcpError('the node offers no services')
        found = []
        while time.monotonic() < until_s:
            start, answered = time.monotonic(), threading.Event()
            future = client.call_async(GetParameters.Request(names=['model.threads']))
            future.add_done_callback(lambda _, answered=answered: answered.set())
            if not answered.wait(5):
                raise ClcpError('the node did not answer a service within 5 s')
            found.append(time.monotonic() - start)
            time.sleep(0.05)
        return found

    def close(self) -> None:
        """End the node."""
        self._node.send(None)
        self._process.join(30)
        self._executor.shutdown(timeout_sec=5)
        self._thread.join(5)
        self.ros.destroy_node()


def against_the_model(
    rig: Rig, name: str, transport: str, rate_hz: float, seconds: float, rounds: int
) -> list[Row]:
    """The node at full load, in turns with the bare model, then at a camera's pace."""
    bare, live, services = [], [], []
    for _ in range(rounds):
        rig.ask('activate', False)
        bare.append(rig.ask('bare', seconds / 2))
        rig.ask('activate', True)
        with rig.publishing(transport, rate_hz):
            rig.wait_for_masks()
            time.sleep(1)
            rig.ask('begin')
            services += rig.service_seconds(time.monotonic() + seconds)
            live.append(rig.ask('report'))
    with rig.publishing(transport, _PACE_HZ):
        rig.wait_for_masks()
        time.sleep(1)
        rig.ask('begin')
        time.sleep(seconds)
        paced = np.array(rig.ask('report')['age_s'])
    bare_hz = float(np.median([b['hz'] for b in bare]))
    model_s = float(np.median([b['cpu_s'] for b in bare]))
    hz = float(np.median([len(r['age_s']) / r['wall_s'] for r in live]))
    ages = np.concatenate([report['age_s'] for report in live])
    full, late = float(np.median(ages)) - 1 / hz, float(np.median(paced)) - 1 / bare_hz
    return [
        *((name, *row) for row in _costs(live, model_s)),
        (name, 'bare model', bare_hz, '1/s', ''),
        (name, 'masks', hz, '1/s', ''),
        (name, 'masks, of the bare model', 100 * hz / bare_hz, '%', '>= 95'),
        (name, 'images arriving', sum(r['received'] / r['wall_s'] for r in live) / rounds, '1/s',
         ''),
        (name, 'age less a period, median', 1e3 * full, 'ms', '<= 10'),
        (name, 'less the wait for an image, too', 1e3 * (full - 0.5 / rate_hz), 'ms', ''),
        (name, f'at {_PACE_HZ:g} Hz: age less a period', 1e3 * late, 'ms', '<= 10'),
        (name, 'service answers, median', 1e3 * float(np.median(services)), 'ms', '< 20'),
        (name, 'service answers, 95 %', 1e3 * float(np.quantile(services, 0.95)), 'ms', '< 20'),
    ]  # fmt: skip


def _costs(live: list[dict[str, Any]], model_s: float) -> list[tuple[str, float, str, str]]:
    """Processor time by stage, in milliseconds for each mask."""
    masks = sum(len(report['age_s']) for report in live)
    spent = {
        stage: sum(sum(report['cpu_s'].get(stage, ())) for report in live) / masks
        for stage in ('prepare', *STAGES)
    }
    spent['preprocess'] = spent['prepare'] - spent['decode']
    received = sum(report['received'] for report in live)
    scored = np.concatenate([report['monitored_s'] for report in live])
    rows = [(f'added: {stage}', spent[stage], '') for stage in STAGES]
    rows += [
        ('added, sum of these', sum(spent[stage] for stage in STAGES), '<= 8'),
        ('monitor, in a scored frame', float(np.median(scored)), ''),
        ('taking in, per message', sum(r['executor_s'] for r in live) / max(received, 1), ''),
        ('whole process less model, per mask',
         sum(r['process_s'] for r in live) / masks - model_s, ''),
        ('model', model_s, ''),
    ]  # fmt: skip
    return [(quantity, 1e3 * value, 'ms of a core', goal) for quantity, value, goal in rows]


def many_cameras(rig: Rig, seconds: float) -> list[Row]:
    """Cameras at 10 Hz."""
    rig.ask('activate', True)
    with rig.publishing('jpeg', 10.0):
        rig.wait_for_masks()
        time.sleep(1)
        rig.ask('begin')
        time.sleep(seconds)
        report = rig.ask('report')
    name = f'{len(rig.cameras)} cameras at 10 Hz, JPEG, tiny model'
    rates = [report['cameras'].get(camera, 0) / report['wall_s'] for camera in rig.cameras]
    load = 100 * report['process_s'] / report['wall_s']
    ages = report['age_s'] or [float('nan')]
    return [
        (name, 'masks of the slowest camera', min(rates), '1/s', '>= 9.8'),
        (name, 'masks, of the images that arrived',
         100 * sum(report['cameras'].values()) / max(report['received'], 1), '%', '>= 99'),
        (name, 'age at publication, median', 1e3 * float(np.median(ages)), 'ms', ''),
        (name, 'whole process', load, '% of a core', ''),
    ]  # fmt: skip


def endurance(rig: Rig, frames: int) -> list[Row]:
    """Memory while many small frames pass."""
    rig.ask('activate', True)
    marks: list[tuple[float, float]] = [(0, 0)]
    with rig.publishing('raw', 400.0, (96, 160)):
        rig.wait_for_masks()
        rig.ask('begin')
        with tqdm(total=frames, unit='frame', desc='memory') as progress:
            while marks[-1][0] < frames:
                time.sleep(0.5)
                marks.append(rig.ask('memory'))
                progress.update(int(marks[-1][0]) - progress.n)
    done = int(marks[-1][0])
    early = [mb for n, mb in marks if 0.15 * done <= n <= 0.25 * done] or [marks[1][1]]
    late = [mb for n, mb in marks if n >= 0.8 * done]
    name = f'{done} frames, raw 160x96, tiny model'
    growth = float(np.median(late) - np.median(early))
    return [
        (name, 'resident after a fifth', float(np.median(early)), 'MB', ''),
        (name, 'growth since then', growth, 'MB', '< 2'),
    ]


def benchmark(
    height: int = 384,
    width: int = 608,
    layers: int = 16,
    rate_hz: float = 60.0,
    seconds: float = 6.0,
    rounds: int = 2,
    frames: int = 20_000,
    runtime: str = 'auto',
    bundle: Path | None = None,
    out: Path = Path('benchmarks/node.csv'),
) -> list[Row]:
    """Measure the node; four minutes with the defaults.

    Args:
        height: Of the network's input.
        width: Of the network's input.
        layers: 3x3 convolutions of the network, which set how long it takes.
        rate_hz: Rate of the camera; faster than the model, so that the newest frame is new.
        seconds: Of each measurement.
        rounds: Measurements of node and bare model in turns, for each transport.
        frames: For the measurement of memory; 0 leaves it out.
        runtime: Library that runs the model: auto, onnxruntime or openvino.
        bundle: A real bundle instead of the network above.
        out: Table to write.

    Returns:
        The table.

    Raises:
        ClcpError: The node cannot be started, or no images get through.
    """
    os.environ.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    if (profile := fastdds_profile()) is not None:
        os.environ.setdefault(FASTDDS_VARIABLE, str(profile))
    try:
        import rclpy
    except ImportError as error:
        raise ClcpError(f'the benchmark needs ROS 2: pip install .[ros] ({error})') from None
    rclpy.init()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        network = bundle or make_bundle(Path(folder) / 'network', height, width, layers)
        tiny = make_bundle(Path(folder) / 'tiny', 96, 160, 0)
        for stage, spent, least, what in limits(network):
            rows.append(('alone', stage, spent, 'ms of a core', f'limit {least:.2f}: {what}'))
        rig = Rig(network, [''], runtime)
        for transport in ('jpeg', 'raw'):
            name = f'{transport}, network {width}x{height}' if bundle is None else transport
            rows += against_the_model(rig, name, transport, rate_hz, seconds, rounds)
        rig.close()
        rig = Rig(tiny, ['front', 'rear', 'left', 'right'], runtime)
        rows += many_cameras(rig, seconds)
        rig.close()
        if frames:
            rig = Rig(tiny, [''], runtime)
            rows += endurance(rig, frames)
            rig.close()
    rclpy.try_shutdown()
    for experiment, quantity, value, unit, goal in rows:
        print(f'{experiment:38} {quantity:36} {value:9.2f} {unit:12} {goal}')
    with atomic_path(out) as partial, partial.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(('experiment', 'quantity', 'value', 'unit', 'goal'))
        writer.writerows((e, q, f'{v:.3f}', u, g) for e, q, v, u, g in rows)
    return rows


if __name__ == '__main__':
    run_command(benchmark)
