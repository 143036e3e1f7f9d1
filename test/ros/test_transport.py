# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profile does what docs/transport.md says, between two processes."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')


@pytest.fixture(scope='module')
def benchmark_module(root: Path) -> Any:
    file = root / 'benchmarks' / 'transport.py'
    spec = importlib.util.spec_from_file_location('transport_benchmark', file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_segment_holds_several_images(root: Path) -> None:
    tree = ElementTree.parse(root / 'config' / 'fastdds.xml')  # our own file
    values = {e.tag.rpartition('}')[2]: (e.text or '').strip() for e in tree.iter()}
    image = 1920 * 1208 * 3
    assert int(values['maxMessageSize']) > image
    assert int(values['segment_size']) > 8 * image
    assert values['useBuiltinTransports'] == 'false'


@pytest.mark.slow
def test_large_images_arrive_with_the_profile_alone(benchmark_module: Any) -> None:
    options = Namespace(seconds=2.0, rate=10.0, reliable=False)
    name = 'raw-640x360'
    without = benchmark_module.measure(name, (), options)
    assert without['sent'] == 20
    # Where the middleware has no such cliff there is nothing to heal.
    if without['got'] > 10:
        pytest.skip('large images arrive without the profile')
    sides = benchmark_module.SIDES
    assert benchmark_module.measure(name, sides['publisher'], options)['got'] >= 16
    assert benchmark_module.measure(name, sides['both'], options)['got'] >= 16
    # The sender owns the segment: the receiver alone cannot heal it.
    assert benchmark_module.measure(name, sides['subscriber'], options)['got'] < 16
