# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's document and parameter file say what the node declares, publishes and serves."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from clcp_ros.node_parameters import PARAMETERS
from clcp_ros.node_statistics import InputStatistics, Limits, Surroundings


@pytest.fixture(scope='module')
def document(root: Path) -> str:
    return (root / 'docs' / 'node.md').read_text()


def row(name: str, parameter: Any) -> str:
    """A parameter's line of the table."""
    default = parameter.default
    if isinstance(default, bool):
        default = str(default).lower()
    text = repr(default) if isinstance(default, list) or default == '' else str(default)
    values = ', '.join(parameter.choices)
    if parameter.range:
        values = f'{parameter.range[0]:g} to {parameter.range[1]:g}'
    cells = [f'`{name}`', parameter.type_name, f'`{text}`', values, parameter.change]
    return '| ' + ' | '.join([*cells, parameter.description]) + ' |'


def test_the_table_of_parameters_is_the_declared_one(document: str) -> None:
    table = document.split('## Parameters')[1].split('\n## ')[0]
    rows = [line for line in table.splitlines() if line.startswith('| `')]
    # When this fails, these are the lines that belong there.
    assert rows == [row(name, parameter) for name, parameter in PARAMETERS.items()]


def test_every_parameter_is_described_and_in_the_parameter_file(make_rig, root: Path):
    import yaml

    rig = make_rig()
    descriptions = rig.node.describe_parameters(list(PARAMETERS))
    assert all(d.description for d in descriptions)
    for description, parameter in zip(descriptions, PARAMETERS.values(), strict=True):
        ranges = [*description.integer_range, *description.floating_point_range]
        assert bool(ranges) == bool(parameter.range)
        assert description.additional_constraints == parameter.constraints
    document = yaml.safe_load((root / 'config' / 'segment.yaml').read_text())
    flat = {}

    def walk(prefix, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f'{prefix}{key}.', inner)
        else:
            flat[prefix[:-1]] = value

    walk('', document['/**']['ros__parameters'])
    assert flat == {
        name: parameter.default
        for name, parameter in PARAMETERS.items()
        if name not in ('bundle.path', 'autostart')
    }


def test_the_parameter_file_is_accepted_and_changes_nothing(make_rig, ros, root: Path):
    from clcp_ros.segment_node import SegmentNode

    file = root / 'config' / 'segment.yaml'
    node = SegmentNode(namespace='/file', cli_args=['--ros-args', '--params-file', str(file)])
    try:
        values = {name: node.get_parameter(name).value for name in PARAMETERS}
    finally:
        node.destroy_node()
    assert values == {name: parameter.default for name, parameter in PARAMETERS.items()}


def test_every_key_of_the_parameter_file_is_explained(root: Path) -> None:
    lines = (root / 'config' / 'segment.yaml').read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r'\s+[\w.]+: \S', line):
            assert before.strip().startswith('#'), f'no comment above {line.strip()!r}'


def test_topics_and_services_are_the_documented_ones(make_rig, document: str) -> None:
    rig = make_rig().start()
    prefix = rig.node.get_fully_qualified_name() + '/'
    topics = {
        name.removeprefix(prefix)
        for name, _ in rig.node.get_publisher_names_and_types_by_node('segment', rig.namespace)
        if name.startswith(prefix)
    }
    topics.discard('transition_event')
    outputs = document.split('## Outputs')[1].split('\n## ')[0]
    documented = set(re.findall(r'^\| `~/([\w/]+)`', outputs, re.MULTILINE))
    assert topics - {'label_info'} == documented - {'label_info'}
    services = {
        name.removeprefix(prefix)
        for name, kinds in rig.node.get_service_names_and_types_by_node('segment', rig.namespace)
        if name.startswith(prefix) and kinds[0].startswith('std_srvs')
    }
    text = document.split('## Services')[1].split('\n## ')[0]
    assert services == set(re.findall(r'^\| `~/([\w/]+)`', text, re.MULTILINE))


def test_every_figure_of_the_input_is_documented(document: str) -> None:
    values = InputStatistics('', Limits()).status(1.0, 0.0, Surroundings()).values
    text = document.split('Keys of `input`')[1].split('\n## ')[0]
    assert not [name for name in values if f'`{name}`' not in text]


def test_every_fault_of_the_table_is_one_that_the_node_names(document: str, root: Path) -> None:
    table = document.split('## Diagnostics')[1].split('\n## ')[0]
    rows = [line.split(' | ') for line in table.splitlines() if line.startswith('| ')][2:]
    begins = [re.search(r'`([^`]+)`', cells[2]) for cells in rows]
    fragments = [part.strip() for b in begins if b for part in b[1].split('...') if part.strip()]
    assert len(fragments) > 15
    sources = [*root.glob('clcp_ros/node_*.py'), *root.glob('clcp_ros/segment_node.py')]
    sources += root.glob('clcp_ros/monitor/*.py')
    code = ' '.join(file.read_text() for file in sources)
    assert not [fragment for fragment in fragments if fragment not in code]
