# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's services: pause, save a frame, reload the bundle. A node module: imports rclpy.

Work that takes longer than a moment runs in a thread. Its service answers when it is done, with
its outcome, while the executor goes on serving everything else.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import SetBool, Trigger

from clcp_ros.errors import ClcpError

Answer = tuple[bool, str]


class Actions(Protocol):
    """What the services can ask of the node."""

    def set_active(self, active: bool) -> Answer:
        """Subscribe and segment, or stop; at once."""

    def save_frames(self, camera: str | None) -> Callable[[], str]:
        """Work that saves the newest frame of one camera or of all."""

    def start_reload(self) -> Callable[[], Any]:
        """Work that loads the bundle anew."""

    def finish_reload(self, loaded: Any) -> str:
        """Put what was loaded to work."""

    def refuse_reload(self, reason: str) -> None:
        """Keep the old bundle, and say why."""


class _Pause:
    """Lets the executor do something else before a callback goes on."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Services:
    """`~/set_active`, `~/save_frame` and `~/reload_bundle`, from construction on.

    Args:
        node: Owns the services.
        actions: Does the work.
    """

    def __init__(self, node: LifecycleNode, actions: Actions) -> None:
        self._node = node
        self._actions = actions
        self._reloading = False
        # While one of them waits for its thread the others must be heard.
        self._group = ReentrantCallbackGroup()
        self._create(SetBool, '~/set_active', self._set_active, self._group)
        self._create(Trigger, '~/reload_bundle', self._reload, self._group)
        self._create(Trigger, '~/save_frame', self._saver(None), self._group)
        self._cameras: list[Any] = []
        self._threads: set[threading.Thread] = set()

    def close(self, timeout_s: float) -> None:
        """Wait for work that is going on."""
        for thread in list(self._threads):
            thread.join(timeout_s)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """Run work in a thread and wait for it without blocking the executor.

        Returns:
            What it returns; what it raises is raised here.
        """
        outcome: list[Any] = []
        failure: list[BaseException] = []
        done = threading.Event()

        def run() -> None:
            try:
                outcome.append(work())
            except BaseException as error:  # it is raised where it is waited for
                failure.append(error)
            done.set()
            # It asks waiting callbacks only when something wakes it.
            if self._node.executor is not None:
                self._node.executor.wake()

        thread = threading.Thread(target=run, name='service', daemon=True)
        self._threads.add(thread)
        thread.start()
        while not done.is_set():
            await _Pause()
        self._threads.discard(thread)
        if failure:
            raise failure[0]
        return outcome[0]

    def _create(
        self, kind: Any, name: str, callback: Callable[..., Any], group: ReentrantCallbackGroup
    ) -> Any:
        return self._node.create_service(kind, name, callback, callback_group=group)

    def add_cameras(self, names: list[str]) -> None:
        """Add `~/<camera>/save_frame` for each of several cameras."""
        group = ReentrantCallbackGroup()
        for name in filter(None, names):
            topic = f'~/{name.strip("/")}/save_frame'
            self._cameras.append(self._create(Trigger, topic, self._saver(name), group))

    def remove_cameras(self) -> None:
        """Remove what `add_cameras` added."""
        while self._cameras:
            self._node.destroy_service(self._cameras.pop())

    def _set_active(self, request: Any, response: Any) -> Any:
        response.success, response.message = self._actions.set_active(request.data)
        return response

    def _saver(self, camera: str | None) -> Callable[[Any, Any], Awaitable[Any]]:
        async def save(_: Any, response: Any) -> Any:
            try:
                response.message = await self._in_thread(self._actions.save_frames(camera))
                response.success = True
            except ClcpError as error:
                response.message = str(error)
            except Exception as error:  # a full memory must not end the node
                response.message = f'{type(error).__name__}: {error}'
            return response

        return save

    async def _reload(self, _: Any, response: Any) -> Any:
        if self._reloading:
            response.message = 'a bundle is being loaded already'
            return response
        self._reloading = True
        try:
            loaded = await self._in_thread(self._actions.start_reload())
            response.message = self._actions.finish_reload(loaded)
            response.success = True
        except Exception as error:  # whatever it is, the old bundle goes on
            what = '' if isinstance(error, ClcpError) else f'{type(error).__name__}: '
            response.message = what + ' '.join(str(error).split())
            self._actions.refuse_reload(response.message)
        finally:
            self._reloading = False
        return response
