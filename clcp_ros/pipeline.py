# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What happens to the cameras' frames, without ROS: the node and replay both run this."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clcp_ros.bundle import Bundle, load_bundle
from clcp_ros.decision import decide
from clcp_ros.errors import BundleError, ClcpError
from clcp_ros.frame import Frame
from clcp_ros.inference import Prediction, Segmenter
from clcp_ros.monitor import (
    CameraFusion,
    Knowledge,
    MonitorConfig,
    ShiftMonitor,
    ShiftSource,
    ShiftState,
)
from clcp_ros.monitor.alignment import ScanView
from clcp_ros.monitor.heatmap import heat_map
from clcp_ros.preprocess import resize


class FrameError(ClcpError):
    """A frame that could be read could not be segmented."""


@dataclass(frozen=True)
class Prepared:
    """A frame that is ready for the model.

    Attributes:
        camera: Its camera.
        stamp_ns: Its stamp.
        frame: The image as it came in.
        image: (height, width, 3) uint8 RGB, of the size of `bundle.frame`.
        batch: (W, 3, h, w) float32, normalised, W windows.
        seconds: Time spent so far, by stage.
    """

    camera: str
    stamp_ns: int
    frame: Frame
    image: np.ndarray
    batch: np.ndarray
    seconds: dict[str, float]


@dataclass(frozen=True)
class FrameMask:
    """What the model says of one frame, before the monitor has judged it.

    Attributes:
        stamp_ns: Stamp of the frame.
        mask: (H, W) uint8 class ids, 255 = unlabelled.
        confidence: (H, W) uint8, 255 stands for probability 1.
        seconds: Time spent on `decode`, `preprocess`, `model` and `decide` (monotonic clock; the
            model's is the whole batch's).
        camera: The camera.
        frame: The image as it came in, for whoever saves it.
        small: The image at the network's resolution.
        bundle: What the result was made with.
    """

    stamp_ns: int
    mask: np.ndarray
    confidence: np.ndarray
    seconds: dict[str, float]
    camera: str
    frame: Frame = field(repr=False)
    small: np.ndarray = field(repr=False)
    bundle: Bundle = field(repr=False)

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB at the mask's resolution, for an overlay."""
        if self.mask.shape == self.small.shape[:2]:
            return self.small
        return resize(self.frame.pixels, *self.mask.shape)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image as it was sent."""
        return self.frame.size


@dataclass(frozen=True)
class FrameResult(FrameMask):
    """The result of one frame: its mask, judged; `seconds` has `monitor` and `total`, too.

    Attributes:
        shift: The monitor's verdict.
        source: Whose verdict it is.
        heat: Makes the heat map, see `heat_map`.
    """

    shift: ShiftState
    source: ShiftSource = field(repr=False)
    heat: Callable[[], np.ndarray] = field(repr=False, compare=False)

    @property
    def monitored(self) -> bool:
        """Whether the monitor took this frame in; it does so a few times a second."""
        return self.shift.monitored


class FramePipeline:
    """Segments and judges the frames of one camera or several.

    `process` and `process_batch` do everything. Whoever wants the next frame decoded while the
    model runs calls the three stages: `prepare` from any one thread, then `infer` and `finish`
    from another one. Frames of a camera must be finished in the order of their arrival. `finish`
    is `make_mask` and then `judge`, for whoever needs the mask before the verdict.

    Args:
        bundle: A verified bundle, or the folder of one.
        cameras: Names of the cameras; each has its own monitor.
        monitor: Thresholds of the monitors.
        providers: ONNX Runtime execution providers in order of preference.
        threads: Threads inside an operator; 0 leaves it to ONNX Runtime.
        image_resolution: Masks at the image's resolution instead of the network's.
        runtime: One of `clcp_ros.runtime.RUNTIMES`.

    Raises:
        BundleError: The bundle cannot be used, or not with these settings.
        ValueError: No camera, or two of the same name.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        cameras: Sequence[str] = ('',),
        monitor: MonitorConfig | None = None,
        providers: list[str] | None = None,
        threads: int = 0,
        image_resolution: bool = False,
        runtime: str = 'auto',
    ) -> None:
        if not cameras or len(set(cameras)) < len(cameras):
            raise ValueError(f'cameras must have names of their own, not {list(cameras)}')
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.cameras = tuple(cameras)
        self.segmenter = Segmenter(self.bundle, providers, threads, runtime)
        self.knowledge = Knowledge.of_bundle(self.bundle)
        fusion, config = CameraFusion(cameras), monitor or MonitorConfig()
        self.check_config(config)
        self.monitors = {
            camera: ShiftMonitor(
                self.knowledge,
                config,
                classes=self.bundle.classes.names,
                camera=camera,
                fusion=fusion,
            )
            for camera in cameras
        }
        self.scans: dict[str, Callable[[int], ScanView | None]] = {}
        """Where a camera's monitor finds the lidar's scan of about a stamp; none by default."""
        self.image_resolution = image_resolution
        self.set_config(config)

    def set_config(self, config: MonitorConfig) -> None:
        """Take over other settings of the monitors, from the next frame on.

        Args:
            config: That `check_config` does not refuse.
        """
        asked_h, cameras = config.false_alarm_interval_h, len(self.cameras)
        self.source = ShiftSource(
            self.bundle.id,
            self.bundle.sha256[self.bundle.model_path.name],
            self.knowledge.supported_h(asked_h, cameras),
        )
        self.reservation = self.knowledge.reservation(asked_h, cameras)
        """What is asked of the thresholds beyond what is known of them, for the log; or empty."""
        for monitor in self.monitors.values():
            monitor.config = config

    @property
    def monitor(self) -> ShiftMonitor:
        """The first camera's monitor."""
        return self.monitors[self.cameras[0]]

    def check_config(self, config: MonitorConfig) -> None:
        """Refuse settings of the monitor that do not fit the bundle.

        Raises:
            BundleError: An expected class is none of the model's, or none of them counts.
        """
        names = self.bundle.classes.names
        if unknown := [name for name in config.expected_classes if name not in names]:
            raise BundleError(
                f'{unknown[0]!r} is expected, but the classes of {self.bundle.name} are '
                f'{", ".join(names)}'
            )
        harm = self.knowledge.harm
        if harm is None or not config.expected_classes:
            return
        counted = [name for name, counts in zip(names, harm.expected, strict=True) if counts]
        if not set(counted) & set(config.expected_classes):
            raise BundleError(
                f'expected are only {", ".join(config.expected_classes)}, which no label of the '
                f'source holds: no mIoU can be expected; name at least one of {", ".join(counted)}'
            )

    @property
    def max_batch(self) -> int:
        """Frames that the model takes at once; 0 where any number is fine."""
        return 0 if self.segmenter.takes_batches else 1

    def warm_up(self) -> float:
        """Run model and monitor on a gray frame: a self-test, and it allocates and optimises.

        Returns:
            Seconds that a second run of the model took.

        Raises:
            BundleError: The model fails, or gives NaN or infinity, or what the monitor knows does
                not fit its outputs.
        """
        spec = self.bundle.frame
        image = np.full((spec.height, spec.width, 3), 128, np.uint8)
        gray = self.segmenter.prepare(image)
        seconds = 0.0
        for _ in range(2):
            start = time.perf_counter()
            try:
                (prediction,) = self.segmenter.run(gray)
            except Exception as error:  # the run time raises many private types
                raise BundleError(
                    f'{self.bundle.model_path}: the model fails on a gray image: {error}'
                ) from error
            seconds = time.perf_counter() - start
            if not prediction.finite:
                raise BundleError(
                    f'{self.bundle.model_path}: the model gives NaN or infinity for a gray image; '
                    'export it again'
                )
        try:
            self.monitor.observe(Frame(image), prediction)
        except (ValueError, IndexError, KeyError) as error:
            raise BundleError(
                f'{self.bundle.reference_path}: does not fit what the model gives ({error}); '
                'export again'
            ) from error
        return seconds

    def process(self, frame: Any, stamp_ns: int, camera: str | None = None) -> FrameResult:
        """Segment a frame and judge it.

        Args:
            frame: A message, or (H, W, 3) uint8 RGB; see `Frame`.
            stamp_ns: The image's acquisition stamp.
            camera: Default: the first one.

        Returns:
            Mask, confidence and the monitor's verdict. A frame with non-finite logits gives a mask
            that is unlabelled everywhere, with confidence 0.

        Raises:
            ImageError: The image cannot be decoded.
            FrameError: The model failed.
        """
        name = self.cameras[0] if camera is None else camera
        prepared = self.prepare(name, frame, stamp_ns)
        (prediction,) = self.infer([prepared])
        if isinstance(prediction, ClcpError):
            raise prediction
        return self.finish(prepared, prediction)

    def process_batch(
        self, frames: Sequence[tuple[str, Any, int]]
    ) -> list[FrameResult | ClcpError]:
        """Segment frames that wait together, in one call of the model where it takes batches.

        Args:
            frames: Camera, frame and stamp, as of `process`; of a camera in order.

        Returns:
            For each frame, in the same order, what `process` would have returned or raised.
        """
        prepared: list[Prepared | ClcpError] = []
        for camera, frame, stamp_ns in frames:
            try:
                prepared.append(self.prepare(camera, frame, stamp_ns))
            except ClcpError as error:
                prepared.append(error)
        predictions = iter(self.infer([p for p in prepared if isinstance(p, Prepared)]))
        results: list[FrameResult | ClcpError] = []
        for item in prepared:
            if isinstance(item, ClcpError):
                results.append(item)
                continue
            prediction = next(predictions)
            if isinstance(prediction, ClcpError):
                results.append(prediction)
            else:
                results.append(self.finish(item, prediction))
        return results

    def prepare(self, camera: str, frame: Any, stamp_ns: int) -> Prepared:
        """Decode a frame as far as needed, resize and normalise it. Changes no state.

        Args:
            camera: One of `cameras`.
            frame: A message, or (H, W, 3) uint8 RGB; see `Frame`.
            stamp_ns: The image's acquisition stamp.

        Raises:
            ImageError: The image cannot be decoded.
        """
        if camera not in self.monitors:
            raise FrameError(f'no camera {camera!r}; known are {", ".join(self.cameras)}')
        start = time.perf_counter()
        frame, spec = Frame(frame), self.bundle.frame
        pixels = frame.at_least(spec.height, spec.width)
        decoded = time.perf_counter()
        image = resize(pixels, spec.height, spec.width)
        batch = self.segmenter.prepare(image)
        seconds = {'decode': decoded - start, 'preprocess': time.perf_counter() - decoded}
        return Prepared(camera, stamp_ns, frame, image, batch, seconds)

    def infer(self, prepared: Sequence[Prepared]) -> list[Prediction | ClcpError]:
        """Run the model, for all frames at once where its batch is free.

        Returns:
            A prediction for each frame, or a FrameError where the model failed on that frame.
        """
        start = time.perf_counter()
        predictions: list[Prediction | ClcpError] = []
        if len(prepared) > 1 and self.segmenter.takes_batches:
            try:
                predictions += self.segmenter.run(np.concatenate([p.batch for p in prepared]))
            except Exception:  # one by one, then, and only the bad one is lost
                predictions.clear()
        if not predictions:
            predictions += [self._infer_one(p) for p in prepared]
        for p in prepared:
            p.seconds['model'] = time.perf_counter() - start
        return predictions

    def _infer_one(self, prepared: Prepared) -> Prediction | ClcpError:
        try:
            return self.segmenter.run(prepared.batch)[0]
        except Exception as error:  # the run time raises many private types
            return FrameError(f'the model failed: {error}')

    def finish(self, prepared: Prepared, prediction: Prediction) -> FrameResult:
        """Make mask and confidence, and let the camera's monitor judge the frame."""
        return self.judge(self.make_mask(prepared, prediction), prediction)

    def make_mask(self, prepared: Prepared, prediction: Prediction) -> FrameMask:
        """Make mask and confidence. Changes no state."""
        start = time.perf_counter()
        spec = self.bundle.frame
        size = prepared.frame.size if self.image_resolution else (spec.height, spec.width)
        if prediction.finite:
            mask, confidence = decide(prediction.logits, *size)
        else:
            mask, confidence = np.full(size, 255, np.uint8), np.zeros(size, np.uint8)
        seconds = {**prepared.seconds, 'decide': time.perf_counter() - start}
        return FrameMask(
            prepared.stamp_ns,
            mask,
            confidence,
            seconds,
            prepared.camera,
            prepared.frame,
            prepared.image,
            self.bundle,
        )

    def judge(self, found: FrameMask, prediction: Prediction) -> FrameResult:
        """Let the camera's monitor judge a frame; neither mask nor confidence depend on it.

        Args:
            found: From `make_mask`.
            prediction: What it was made of.
        """
        start = time.perf_counter()
        shift = self.monitors[found.camera].update(
            found.stamp_ns,
            found.frame,
            prediction,
            small=found.small,
            scan=self.scans.get(found.camera),
        )
        seconds = {**found.seconds, 'monitor': time.perf_counter() - start}
        seconds['total'] = sum(seconds.values())
        heat = partial(heat_map, prediction.logits, self.knowledge.harm)
        own = {'seconds': seconds, 'shift': shift, 'source': self.source, 'heat': heat}
        return FrameResult(**{**vars(found), **own})
