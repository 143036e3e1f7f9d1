# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of benchmarks/node.py: cameras, and the node with clocks around its stages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx

from clcp_ros.bundle import Bundle, InputSpec, sha256_of, write_description
from clcp_ros.classes import CITYSCAPES
from clcp_ros.image_codec import encode_jpeg
from clcp_ros.inference import Segmenter
from clcp_ros.monitor.knowledge import Facts, Knowledge

HEIGHT, WIDTH = 1208, 1920
STAGES = ('decode', 'preprocess', 'decide', 'monitor', 'publish')


def photographs(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Pictures with a photograph's spectrum, edges and noise, all different."""
    rng = np.random.default_rng(0)
    layers = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 11):
        side = max(2, 2**octave * height // 1024), max(2, 2**octave * width // 1024)
        coarse = rng.normal(0, 34 * 0.62 ** (octave - 2), (*side, 3)).astype(np.float32)
        layers += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(60):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = (int(v) * width // WIDTH + 1 for v in rng.integers(20, 260, 2))
        layers[y : y + h, x : x + w] += rng.normal(0, 30)
    layers += rng.normal(0, 4.5, layers.shape)
    return [
        np.clip(np.roll(layers, 37 * i, axis=1) * (0.9 + 0.02 * (i % 8)) + 110, 0, 255).astype(
            np.uint8
        )
        for i in range(count)
    ]


def make_bundle(folder: Path, height: int, width: int, layers: int) -> Path:
    """A bundle whose model computes as much as a small network and decides by colour.

    Its masks have areas as large as a street scene's, which random weights do not give.

    Args:
        folder: Where to write it.
        height: Of its input, a multiple of 16.
        width: Of its input, a multiple of 16.
        layers: 3x3 convolutions of 96 channels at stride 8.
    """
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    node, arrays = onnx.helper.make_node, {'axes': np.array([2, 3], np.int64)}
    arrays['head'] = rng.normal(0, 6, (19, 3, 1, 1)).astype(np.float32)
    arrays['nothing'] = np.float32([1e-12])
    graph_nodes = [
        node('AveragePool', ['image'], ['cells'], kernel_shape=[16, 16], strides=[16, 16]),
        node('AveragePool', ['cells'], ['areas'], kernel_shape=[5, 5], pads=[2] * 4),
        node('Conv', ['areas', 'head'], ['scores']),
        node('ReduceMean', ['cells', 'axes'], ['colour'], keepdims=0),
        node('AveragePool', ['image'], ['x0'], kernel_shape=[8, 8], strides=[8, 8]),
    ]
    for i in range(layers):
        channels = 3 if i == 0 else 96
        arrays[f'w{i}'] = rng.normal(0, (9 * channels) ** -0.5, (96, channels, 3, 3)).astype('f4')
        graph_nodes += [
            node('Conv', [f'x{i}', f'w{i}'], [f'c{i}'], kernel_shape=[3, 3], pads=[1] * 4),
            node('Relu', [f'c{i}'], [f'x{i + 1}']),
        ]
    graph_nodes += [
        node('ReduceMean', [f'x{layers}', 'axes'], ['deep'], keepdims=0),
        node('ReduceMean', ['deep'], ['ballast'], keepdims=1),
        node('Mul', ['ballast', 'nothing'], ['little']),
        node('Unsqueeze', ['little', 'axes'], ['least']),
        node('Add', ['scores', 'least'], ['logits']),
        node('Concat', ['deep', 'colour'], ['early'], axis=1),
    ]
    deep = 96 if layers else 3
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        graph_nodes, 'benchmark', [value('image', 1, ['N', 3, height, width])],
        [
            value('logits', 1, ['N', 19, height // 16, width // 16]),
            value('early', 1, ['N', deep + 3]), value('deep', 1, ['N', deep]),
        ],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid('', 18)], ir_version=9
    )
    onnx.save(model, folder / 'model.onnx')
    spec = InputSpec(height, width, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    _fit_monitor(folder, spec)
    write_description(folder, name='benchmark', classes=CITYSCAPES, input_spec=spec, provenance={})
    return folder


def _fit_monitor(folder: Path, spec: InputSpec) -> None:
    from training.monitoring.novelty import fit_novelty
    from training.monitoring.samples import Item, collect

    bundle = Bundle(folder, 'benchmark', CITYSCAPES, spec)
    segmenter = Segmenter(bundle, ['CPUExecutionProvider'])
    images = photographs(40, 604, 960)
    fit, held_out = (
        collect(segmenter, (Item(x, None, name, i, 'day') for i, x in enumerate(images[start::2])))
        for start, name in enumerate(('fit', 'held out'))
    )
    facts = Facts(
        sha256_of(folder / 'model.onnx'), preprocessing_sha256=bundle.preprocessing_sha256
    )
    Knowledge(fit_novelty(fit, held_out).reference, facts=facts).save(folder / 'reference.npz')


# Cameras -----------------------------------------------------------------------------------------


def run_cameras(
    pipe: Connection, topics: list[str], transport: str, size: tuple[int, int], rate_hz: float
) -> None:
    """Publish on every topic at a rate until told to stop."""
    import rclpy
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import CompressedImage, Image

    from clcp_ros.transport import tune_malloc

    tune_malloc()
    cv2.setNumThreads(1)
    rclpy.init()
    ros = rclpy.create_node('cameras')
    kind = CompressedImage if transport == 'jpeg' else Image
    suffix = '/compressed' if transport == 'jpeg' else ''
    publishers = [ros.create_publisher(kind, t + suffix, QoSProfile(depth=1)) for t in topics]
    messages = [_message(image, transport) for image in photographs(8, *size)]
    while not all(p.get_subscription_count() for p in publishers) and not pipe.poll():
        time.sleep(0.02)
    sent, start = 0, time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        while not pipe.poll():
            message = messages[sent % len(messages)]
            for publisher in publishers:
                message.header.stamp = _stamp()
                publisher.publish(message)
            sent += 1
            time.sleep(max(start + sent / rate_hz - time.monotonic(), 0))
    ros.destroy_node()
    rclpy.try_shutdown()


def _message(image: np.ndarray, transport: str) -> Any:
    import array

    from sensor_msgs.msg import CompressedImage, Image

    data = array.array('B')
    if transport == 'jpeg':
        data.frombytes(encode_jpeg(image, 90))
        message = CompressedImage(format='rgb8; jpeg compressed bgr8')
    else:
        data.frombytes(image.data)
        message = Image(height=image.shape[0], width=image.shape[1], encoding='rgb8',
                        step=image.shape[1] * 3)  # fmt: skip
    message.data = data
    message.header.frame_id = 'camera'
    return message


def _stamp() -> Any:
    from builtin_interfaces.msg import Time

    sec, nanosec = divmod(time.time_ns(), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


# The node ----------------------------------------------------------------------------------------


class Clocks:
    """Processor time of the node's stages, from the outside."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, list[float]] = defaultdict(list)
        self.age_s: list[float] = []
        self.monitored_s: list[float] = []
        self.cameras: dict[str, int] = defaultdict(int)

    def around(self, owner: Any, name: str, stage: str) -> None:
        """Measure every call of a function."""
        function = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.cpu_s[stage].append(time.thread_time() - start)

        setattr(owner, name, measured)

    def install(self) -> None:
        """Around the stages of every pipeline of this process."""
        from clcp_ros import node_camera, node_outputs, pipeline
        from clcp_ros.monitor import ShiftMonitor

        self.around(pipeline.Frame, 'at_least', 'decode')
        self.around(pipeline.FramePipeline, 'prepare', 'prepare')
        self.around(pipeline, 'decide', 'decide')
        self.around(ShiftMonitor, 'update', 'monitor')
        self.around(node_camera.Camera, 'publish_mask', 'publish')
        self.around(node_camera.Camera, 'publish_verdict', 'publish')
        show, tell = node_camera.Camera.publish_mask, node_camera.Camera.publish_verdict
        send = node_outputs.Outputs._send
        stamp_s = 0.0

        def shown(camera: Any, arrival: Any, mask: Any) -> None:
            nonlocal stamp_s
            stamp_s = arrival.stamp_ns * 1e-9
            show(camera, arrival, mask)

        def told(camera: Any, arrival: Any, result: Any, *rest: Any) -> Any:
            done = tell(camera, arrival, result, *rest)
            self.cameras[camera.name] += 1
            if result.monitored and self.cpu_s['monitor']:
                self.monitored_s.append(self.cpu_s['monitor'][-1])
            return done

        def sent(outputs: Any, name: str, message: Any) -> None:
            send(outputs, name, message)
            if name == 'mask':
                self.age_s.append(time.time() - stamp_s)

        node_camera.Camera.publish_mask = shown  # type: ignore[method-assign]
        node_camera.Camera.publish_verdict = told  # type: ignore[method-assign]
        node_outputs.Outputs._send = sent  # type: ignore[method-assign]

    def clear(self) -> None:
        """Forget what was measured."""
        for values in (self.cpu_s, self.age_s, self.monitored_s, self.cameras):
            values.clear()  # type: ignore[attr-defined]


def run_node(pipe: Connection, parameters: dict[str, Any]) -> None:
    """Run the real node; answers the commands of the pipe with what it measured."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter

    from clcp_ros.segment_node import SegmentNode
    from clcp_ros.transport import tune_malloc

    tune_malloc()
    cv2.setNumThreads(1)
    clocks = Clocks()
    clocks.install()
    rclpy.init()
    node = SegmentNode(parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()])
    node.trigger_configure()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=executor.spin, daemon=True)
    spinner.start()
    begun: dict[str, float] = {}

    def snapshot() -> dict[str, float]:
        counts = [camera.statistics.counts for camera in node.cameras.values()]
        return {
            'wall_s': time.monotonic(),
            'process_s': time.process_time(),
            'executor_s': time.clock_gettime(time.pthread_getcpuclockid(spinner.ident or 0)),
            'received': sum(c['received'] for c in counts),
            'dropped': sum(c['dropped'] for c in counts),
            'rss_mb': _resident_mb(),
        }

    def bare(seconds: float) -> dict[str, float]:
        segmenter, spec = node._pipeline.segmenter, node._pipeline.bundle.frame
        batch = segmenter.prepare(np.full((spec.height, spec.width, 3), 90, np.uint8))
        segmenter.run(batch)
        start, cpu_s, runs = time.monotonic(), time.process_time(), 0
        while time.monotonic() - start < seconds:
            segmenter.run(batch)
            runs += 1
        spent = time.monotonic() - start
        return {'hz': runs / spent, 'cpu_s': (time.process_time() - cpu_s) / runs,
                'provider': segmenter.provider}  # fmt: skip

    def activate(active: bool) -> str:
        node.set_active(active)
        return node.failure

    def begin() -> None:
        clocks.clear()
        begun.update(snapshot())

    def report() -> dict[str, Any]:
        now = snapshot()
        return {
            **{name: now[name] - begun[name] for name in now if name != 'rss_mb'},
            'rss_mb': now['rss_mb'], 'cpu_s': {k: list(v) for k, v in clocks.cpu_s.items()},
            'age_s': list(clocks.age_s), 'monitored_s': list(clocks.monitored_s),
            'cameras': dict(clocks.cameras),
        }  # fmt: skip

    def memory() -> tuple[float, float]:
        clocks.clear()  # which would grow themselves
        return snapshot()['received'] - begun['received'], _resident_mb()

    commands: dict[str, Callable[..., Any]] = {
        'bare': bare, 'activate': activate, 'begin': begin, 'report': report, 'memory': memory,
    }  # fmt: skip
    pipe.send(node.failure)
    while (command := pipe.recv()) is not None:
        pipe.send(commands[command[0]](*command[1:]))
    executor.shutdown(timeout_sec=5)
    node.destroy_node()
    rclpy.try_shutdown()


def _resident_mb() -> float:
    fields = Path('/proc/self/statm').read_text().split()
    return int(fields[1]) * 4096 / 2**20
