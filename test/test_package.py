# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: what it installs, what imports what."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import clcp_ros

SOURCES = ['clcp_ros', 'config', 'launch', 'resource', 'package.xml', 'setup.py', 'setup.cfg']
SOURCES += ['pyproject.toml', 'LICENSE']


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split('.')[0])
    return found


def test_the_robot_needs_no_training_code(root: Path) -> None:
    for file in (root / 'clcp_ros').rglob('*.py'):
        unwanted = imports_of(file) & {'training', 'torch', 'torchvision', 'timm', 'lightning'}
        assert not unwanted, f'{file}: {unwanted}'


def test_ros_is_imported_by_the_node_modules_only(root: Path) -> None:
    ros = {'rclpy', 'sensor_msgs', 'diagnostic_msgs', 'std_msgs', 'vision_msgs', 'rosgraph_msgs'}
    users = {
        f.relative_to(root).as_posix()
        for folder in ('clcp_ros', 'training')
        for f in (root / folder).rglob('*.py')
        if imports_of(f) & ros
    }
    assert users
    assert all(name.startswith('clcp_ros/') for name in users), users
    program = 'import sys, clcp_ros.pipeline, clcp_ros.replay; print("rclpy" in sys.modules)'
    result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert result.stdout.strip() == 'False', result.stderr


def test_versions_agree(root: Path) -> None:
    manifest = ET.parse(root / 'package.xml').getroot()
    assert manifest.findtext('version') == clcp_ros.__version__
    assert f"version='{clcp_ros.__version__}'" in (root / 'setup.py').read_text()
    assert clcp_ros.__version__ in (root / 'CHANGELOG.md').read_text()


def test_nothing_in_training_hides_a_library(root: Path) -> None:
    """A script's folder is on sys.path: no file there may carry a standard module's name."""
    names = {p.stem for p in (root / 'training').iterdir()} - {'__init__', '__pycache__'}
    assert not names & set(sys.stdlib_module_names)


@pytest.mark.slow
def test_colcon_builds_and_installs_the_node(root: Path, tmp_path: Path) -> None:
    colcon = shutil.which('colcon', path=Path(sys.executable).parent)
    if colcon is None:
        pytest.skip('colcon is not installed; make dev installs it')
    workspace = tmp_path / 'ws'
    package = workspace / 'src' / 'clcp_ros'
    package.mkdir(parents=True)
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, package / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, package / name)
    build = subprocess.run(
        [colcon, 'build', '--event-handlers', 'console_direct+'],
        cwd=workspace, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert build.returncode == 0, build.stdout + build.stderr
    install = workspace / 'install' / 'clcp_ros'
    assert (install / 'lib/clcp_ros/segment_node').is_file()
    share = install / 'share'
    assert (share / 'ament_index/resource_index/packages/clcp_ros').is_file()
    assert (share / 'clcp_ros/package.xml').is_file()
    assert (share / 'clcp_ros/launch/segment.launch.py').is_file()
    assert (share / 'clcp_ros/config/segment.yaml').is_file()
    assert list(share.glob('clcp_ros/config/*.xml'))
