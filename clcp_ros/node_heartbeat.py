# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Tells `/diagnostics` once in a period, and every change. A node module: imports rclpy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Header

from clcp_ros import ros_messages
from clcp_ros.node_diagnostics import Status

_TICK_S = 0.1  # how soon a change is told


class Heartbeat:
    """The node's diagnostics, from its construction on.

    Args:
        node: Owns the publisher and the timer, and has the parameter `diagnostics.period_s`.
        statuses: What there is to tell.
    """

    def __init__(self, node: Node, statuses: Callable[[], list[Status]]) -> None:
        self._node = node
        self._statuses = statuses
        self._told: tuple[Any, ...] = ()
        self._told_s = 0.0
        self._lock = threading.Lock()
        # Not managed: a node that is not active must be able to say so.
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Wall time: the heartbeat must go on when /clock stops.
        self._timer = node.create_timer(
            _TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _tick(self) -> None:
        """Tell the state once in a period, and at once when it has changed."""
        statuses = self._statuses()
        changed = tuple(status.state for status in statuses) != self._told
        # The tick itself is not exact: what is due within half of one is due now.
        period_s = self._node.get_parameter('diagnostics.period_s').value - _TICK_S / 2
        if changed or time.monotonic() - self._told_s >= period_s:
            self._publish(statuses)

    def tell(self) -> None:
        """Tell the state now; any thread may call this."""
        self._publish(self._statuses())

    def _publish(self, statuses: list[Status]) -> None:
        name = self._node.get_fully_qualified_name()
        with self._lock:
            self._told = tuple(status.state for status in statuses)
            self._told_s = time.monotonic()
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._publisher.publish(ros_messages.diagnostic_array(header, statuses, name))
