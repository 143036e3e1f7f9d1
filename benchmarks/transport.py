# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images that arrive, between two processes on this machine: with and without the profile.

    python benchmarks/transport.py [--seconds 4] [--rate 10] [--only raw-1920x1208]

A best-effort subscriber of depth 1, as REP 2003 wants it of sensor data, and the same publisher in
turn without config/fastdds.xml, with it on either side, and on both. Needs rclpy and Fast DDS.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / 'config' / 'fastdds.xml'
VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
SIZES = {
    'raw-480x320': (320, 480, 3),
    'raw-640x360': (360, 640, 3),
    'raw-1920x1208': (1208, 1920, 3),
    'mask-1920x1208': (1208, 1920, 1),
}
SIDES = {'nobody': (), 'publisher': ('send',), 'subscriber': ('receive',),
         'both': ('send', 'receive')}  # fmt: skip


def main() -> None:
    """Run all combinations and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seconds', type=float, default=4.0)
    parser.add_argument('--rate', type=float, default=10.0)
    parser.add_argument('--only', choices=SIZES)
    parser.add_argument('--reliable', action='store_true', help='subscribe reliably')
    parser.add_argument('--role', choices=('send', 'receive'), help=argparse.SUPPRESS)
    parser.add_argument('--count', type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        sys.path[0] = str(ROOT)
        print(json.dumps(send(options) if options.role == 'send' else receive(options)))
        return
    print('| image | bytes | profile at | arrived | median ms | 95 % |')
    print('|---|---|---|---|---|---|')
    for name, shape in SIZES.items():
        if options.only in (None, name):
            for who, sides in SIDES.items():
                found = measure(name, sides, options)
                late = [f'{v:.1f}' for v in found['ms']] if found['ms'] else ['-', '-']
                row = [name, f'{int(np.prod(shape)):,}', who]
                row += [f'{found["got"]} of {found["sent"]}', *late]
                print(f'| {" | ".join(row)} |', flush=True)


def measure(name: str, sides: tuple[str, ...], options: Any) -> dict[str, Any]:
    """Run a publisher and a subscriber, and what arrived."""
    count = round(options.seconds * options.rate)
    domain = str(1 + (os.getpid() + 7) % 100)
    processes = {}
    for role in ('receive', 'send'):
        variables = {k: v for k, v in os.environ.items() if k not in VARIABLES}
        variables |= {'ROS_DOMAIN_ID': domain, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        if role in sides:
            variables |= dict.fromkeys(VARIABLES, str(PROFILE))
        processes[role] = subprocess.Popen(
            [
                sys.executable, __file__, '--role', role, '--only', name, '--count', str(count),
                '--rate', str(options.rate), *(['--reliable'] if options.reliable else []),
            ],
            env=variables, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    # The middleware prints its own errors to the same place.
    found = {
        role: json.loads(process.communicate()[0].strip().splitlines()[-1])
        for role, process in processes.items()
    }
    return {'sent': found['send'], **found['receive']}


def _qos(reliable: bool, depth: int) -> Any:
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=depth, reliability=policy)


def send(options: Any) -> int:
    """Publish images as a driver does: reliable and depth 1."""
    import rclpy
    from sensor_msgs.msg import Image

    from clcp_ros.transport import tune_malloc

    tune_malloc()
    rclpy.init()
    node = rclpy.create_node('sender')
    publisher = node.create_publisher(Image, 'image', _qos(reliable=True, depth=1))
    height, width, channels = SIZES[options.only]
    message = Image(height=height, width=width, step=width * channels)
    message.encoding = 'rgb8' if channels == 3 else 'mono8'
    data = array.array('B')
    data.frombytes(np.random.default_rng(0).integers(0, 256, height * width * channels, np.uint8))
    message.data = data
    while not publisher.get_subscription_count():
        time.sleep(0.02)
    time.sleep(0.5)
    due = time.perf_counter()
    for _ in range(options.count):
        due += 1 / options.rate
        time.sleep(max(0.0, due - time.perf_counter()))
        now = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 1_000_000_000)
        publisher.publish(message)
    time.sleep(1.0)
    rclpy.shutdown()
    return int(options.count)


def receive(options: Any) -> dict[str, Any]:
    """Count what arrives until nothing does any more."""
    import rclpy
    from sensor_msgs.msg import Image

    from clcp_ros.transport import tune_malloc

    tune_malloc()
    rclpy.init()
    node = rclpy.create_node('receiver')
    late: list[float] = []

    def take(message: Any) -> None:
        stamp = message.header.stamp
        late.append((time.time_ns() - stamp.sec * 1_000_000_000 - stamp.nanosec) * 1e-6)

    subscription = node.create_subscription(Image, 'image', take, _qos(options.reliable, 1))
    end = time.monotonic() + 30
    while not subscription.get_publisher_count() and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
    while subscription.get_publisher_count() and time.monotonic() < end + options.count:
        rclpy.spin_once(node, timeout_sec=0.05)
    rclpy.shutdown()
    percentiles = np.percentile(late, [50, 95]).tolist() if late else []
    return {'got': len(late), 'ms': percentiles}


if __name__ == '__main__':
    main()
