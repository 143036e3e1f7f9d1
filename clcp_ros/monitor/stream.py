# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor of one camera's stream.

A frame is observed, which depends on the frame and its prediction alone, and the observation is
judged with what came before it. Time is the image's own stamp, never the wall clock, so that a
replay gives the live run's states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clcp_ros.frame import Frame
from clcp_ros.inference import Prediction
from clcp_ros.monitor.alignment import AlignmentState, AlignmentWindow, ScanView
from clcp_ros.monitor.alignment_feed import AlignmentFeed
from clcp_ros.monitor.attribution import NONE, Kind, KindWindow
from clcp_ros.monitor.close import FILLED, CloseVehicle
from clcp_ros.monitor.config import MonitorConfig
from clcp_ros.monitor.evidence import Evidence
from clcp_ros.monitor.faults import Fault, FaultConfig, FaultDetector
from clcp_ros.monitor.fusion import CameraFusion, Scope
from clcp_ros.monitor.harm import Harm, soft_confusion
from clcp_ros.monitor.harm_window import HarmWindow
from clcp_ros.monitor.knowledge import Knowledge
from clcp_ros.monitor.levels import Level, LevelMachine, Signs
from clcp_ros.monitor.reference import FrameScore
from clcp_ros.monitor.regime import Regime
from clcp_ros.monitor.scene import class_shares
from clcp_ros.monitor.sequential import SequentialReference, SequentialState, SequentialTest
from clcp_ros.monitor.state import ShiftState, number, verdict_reason
from clcp_ros.monitor.statistics import frame_statistics

_EARLY = 0.1  # share of the period by which a frame may come early: stamps jitter
_REJECTED = 3  # frames in a row that cannot be scored are a fault of the model
_FAULT_HOLD_NS = 1_000_000_000
_PARTIAL = 'partly_covered'
_NO_KIND = Kind(NONE, math.nan, ())
_RAISED = 0.25  # of the threshold: novelty that other cameras' alarms are compared with


class ShiftMonitor:
    """Watches one camera.

    Args:
        knowledge: What is known of the training domain.
        config: Settings; may be replaced at any time.
        classes: Names of the model's classes.
        camera: Its name.
        fusion: What the cameras of this robot say, shared by their monitors; default: there is
            only this one.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        config: MonitorConfig | None = None,
        *,
        classes: Sequence[str] = (),
        camera: str = '',
        fusion: CameraFusion | None = None,
    ) -> None:
        self.knowledge = knowledge
        self.config = config or MonitorConfig()
        self.rejected = 0
        """Frames with non-finite outputs since construction."""
        self._classes = tuple(classes)
        self._camera = camera
        self._fusion = fusion or CameraFusion([camera])
        self._machine = LevelMachine()
        self._regime = Regime()
        self._apply_config()
        self.reset()

    def reset(self) -> None:
        """Forget the stream, not the reference."""
        self._restart('')
        self._last_stamp_ns: int | None = None
        self._form: tuple[tuple[int, int], str] | None = None
        self._told: ShiftState | None = None

    def _restart(self, why: str) -> None:
        """Begin anew with the next frame."""
        self._pause(why)
        self._sequential.reset()
        self._machine.reset()
        self._sequence: SequentialState | None = None
        self._regime.reset()
        if self._harm is not None:
            self._harm.reset()
        if self._kinds is not None:
            self._kinds.reset()
        if self._close is not None:
            self._close.reset()
        if self._feed is not None and self._alignment is not None:
            self._feed.reset()
            self._alignment.reset()
        self._aligned: AlignmentState | None = None
        self._kind: Kind | None = None
        self._novelty = math.nan
        self._faults = self._new_faults()
        self._fault: tuple[int, Fault] | None = None
        self._blind = False
        self._rejections = 0
        self._fusion.forget(self._camera)

    def _pause(self, why: str) -> None:
        """Keep the verdict, but tell it only after some samples."""
        self._why = why
        self._samples = 0
        self._last_scored_ns: int | None = None
        self._regime.pause()
        self._machine.pause()

    @property
    def harm(self) -> Harm | None:
        """The expected mIoU of the last seconds; None while there is none."""
        return None if self._harm is None else self._harm.harm

    @property
    def _filled(self) -> bool:
        return self._close is not None and self._close.fills

    # Settings ------------------------------------------------------------------------------------

    def _apply_config(self) -> None:
        config, knowledge = self.config, self.knowledge
        self._applied = config
        self._sequential = SequentialTest(self._thresholds())
        self._machine.least_drop = self._usual_drop()
        self._harm: HarmWindow | None = None
        if knowledge.harm is not None:
            self._harm = HarmWindow(
                knowledge.harm,
                config.window_s,
                config.max_gap_s,
                self._expected(),
                knowledge.sequential.onset_s,
                config.warn_drop,
            )
        self._kinds: KindWindow | None = None
        if knowledge.kinds is not None:
            self._kinds = KindWindow(knowledge.kinds, max_gap_s=config.max_gap_s)
        self._close: CloseVehicle | None = None
        if knowledge.close is not None:
            self._close = CloseVehicle(knowledge.close)
        self._feed: AlignmentFeed | None = None
        self._alignment: AlignmentWindow | None = None
        if knowledge.alignment is not None:
            self._feed = AlignmentFeed(knowledge.alignment)
            self._alignment = AlignmentWindow(knowledge.alignment, max_gap_s=config.max_gap_s)

    def _follow_config(self) -> None:
        """Take over settings that were changed meanwhile, keeping what the stream has told."""
        now = self.config
        if now is self._applied:
            return
        self._applied = now
        self._sequential.reference = self._thresholds()
        self._machine.least_drop = self._usual_drop()
        if self._harm is not None:
            self._harm.window_s, self._harm.max_gap_s = now.window_s, now.max_gap_s
            self._harm.expected, self._harm.least_drop = self._expected(), now.warn_drop
        if self._kinds is not None:
            self._kinds.max_gap_s = now.max_gap_s
        if self._alignment is not None:
            self._alignment.max_gap_s = now.max_gap_s
        self._faults.config = self._fault_config()

    def _thresholds(self) -> SequentialReference:
        known = self.knowledge.sequential_for(
            self.config.false_alarm_interval_h, len(self._fusion)
        )
        gap_s = self.config.max_gap_s
        # A gap that is allowed is no jump.
        return replace(known, gap_s=gap_s, jump_s=max(known.jump_s, gap_s))

    def _usual_drop(self) -> float:
        return self.knowledge.drop_for(self.config.false_alarm_interval_h, len(self._fusion))

    def _expected(self) -> np.ndarray | None:
        names = self.config.expected_classes
        return np.isin(self._classes, names) if names else None

    def _fault_config(self) -> FaultConfig:
        return FaultConfig(frozen_s=self.config.frozen_s, gap_s=self.config.max_gap_s)

    def _new_faults(self) -> FaultDetector:
        return FaultDetector(self._fault_config(), self.knowledge.facts.static)

    # Frames --------------------------------------------------------------------------------------

    def update(
        self,
        stamp_ns: int,
        image: np.ndarray | Frame,
        prediction: Prediction,
        small: np.ndarray | None = None,
        scan: Callable[[int], ScanView | None] | None = None,
    ) -> ShiftState:
        """Take in a frame.

        Args:
            stamp_ns: The image's stamp. One that does not advance (a looped bag) starts anew;
                after a gap of more than `max_gap_s` some frames must be scored before there is a
                level.
            image: The frame as received, or (H, W, 3) uint8 RGB.
            prediction: What the model said of it.
            small: (h, w, 3) uint8, the image at a lower resolution, in which faults are looked
                for. Default: the image.
            scan: Gives the lidar's scan of about a stamp, or None.

        Returns:
            The verdict.
        """
        self._advance(stamp_ns)
        frame = image if isinstance(image, Frame) else Frame(image)
        self._check_form(frame)
        fault = self._faults.update(stamp_ns, frame.pixels if small is None else small)
        evidence = None
        if self._feed is not None:
            self._feed.settle(stamp_ns, scan)
        if not prediction.finite:
            fault = self._reject() or fault
        else:
            self._rejections = 0
            if self._due(stamp_ns):
                self._last_scored_ns = stamp_ns
                evidence = self.observe(frame, prediction)
                if self._feed is not None:
                    aligned = self._feed.update(stamp_ns, prediction.logits, scan)
                    evidence = replace(evidence, alignment=aligned)
        return self._conclude(stamp_ns, evidence, fault)

    def observe(
        self, frame: Frame, prediction: Prediction, scan: ScanView | None = None
    ) -> Evidence:
        """What a frame says by itself; changes no state.

        Args:
            frame: The frame as received.
            prediction: What the model said of it; finite.
            scan: The lidar's view of the same moment.
        """
        knowledge, logits = self.knowledge, prediction.logits
        statistics = frame_statistics(frame)
        scene = None if knowledge.novelty.scene is None else class_shares(logits)
        score = knowledge.novelty.score(statistics, prediction.features, scene)
        harm = knowledge.harm
        confusion = soft_confusion(logits) if harm is None else harm.describe(logits)
        alignment = None
        if scan is not None and knowledge.alignment is not None:
            alignment = knowledge.alignment.score(logits, scan)
        return Evidence(statistics, score, confusion, alignment, prediction.features)

    def judge(
        self, stamp_ns: int, evidence: Evidence | None, fault: Fault | None = None
    ) -> ShiftState:
        """Judge an observation after those before it.

        Args:
            stamp_ns: The image's stamp.
            evidence: From `observe`; None for a frame that was not scored.
            fault: What is wrong with the camera.

        Returns:
            The verdict.
        """
        self._advance(stamp_ns)
        return self._conclude(stamp_ns, evidence, fault)

    def _advance(self, stamp_ns: int) -> None:
        self._follow_config()
        last = self._last_stamp_ns
        self._last_stamp_ns = stamp_ns
        if last is None:
            return
        step_s = (stamp_ns - last) * 1e-9
        if step_s <= 0:
            self._restart('stamps went back' if step_s < 0 else 'a stamp came twice')
        elif step_s > self._sequential.reference.jump_s:
            self._restart(f'stamps jumped ahead by {step_s:.0f} s')
        elif step_s > self.config.max_gap_s:
            self._pause(f'no image for {step_s:.1f} s')

    def _check_form(self, frame: Frame) -> None:
        """Images of another kind have other statistics: what was known says nothing of them."""
        before, self._form = self._form, (frame.size, frame.encoding)
        if before is not None and before != self._form:
            texts = [f'{width}x{height} {name}' for (height, width), name in (before, self._form)]
            self._restart(f'images changed from {texts[0]} to {texts[1]}')

    def _due(self, stamp_ns: int) -> bool:
        last = self._last_scored_ns
        return last is None or stamp_ns - last >= (1 - _EARLY) * self.config.period_s * 1e9

    def _reject(self) -> Fault | None:
        self.rejected += 1
        self._rejections += 1
        if self._rejections < _REJECTED:
            return None
        return Fault(
            'nonfinite',
            f'the model gives non-finite numbers ({self._rejections} frames in a row)',
        )

    # Judgement -----------------------------------------------------------------------------------

    def _conclude(
        self, stamp_ns: int, evidence: Evidence | None, fault: Fault | None
    ) -> ShiftState:
        fault = self._held(stamp_ns, fault)
        blind = fault is not None and fault.kind != _PARTIAL
        if blind and not self._blind:
            self._forget_blindness(stamp_ns)
        self._blind = blind
        if evidence is not None and not evidence.finite:
            self.rejected += 1
            evidence = None
        # What a blind camera shows is explained: it must not linger in sums and windows.
        if evidence is not None and not blind:
            self._take(stamp_ns, evidence)
        level = self._level(fault, blind)
        if evidence is not None or blind:
            raised = blind or self._raised()
            self._fusion.tell(self._camera, stamp_ns, raised)
        score = None if evidence is None else evidence.score
        told, kind = self._told, '' if fault is None else fault.kind
        if score is None and told is not None and told.verdict == (level, kind):
            # Nothing new is known, so the same is said: what was published stands until the next.
            return told.changed(stamp_ns=stamp_ns, monitored=False, score=None)
        self._told = self._state(stamp_ns, level, score, fault)
        return self._told

    def _held(self, stamp_ns: int, fault: Fault | None) -> Fault | None:
        """The fault, or one that has only just ended: it may come and go with every frame."""
        if fault is not None:
            self._fault = (stamp_ns, fault)
        elif self._fault is not None and stamp_ns - self._fault[0] >= _FAULT_HOLD_NS:
            self._fault = None
        return None if self._fault is None else self._fault[1]

    def _forget_blindness(self, stamp_ns: int) -> None:
        """A fault is known a second after it began: what it gave till then does not count."""
        if self._sequence is None or not self._sequence.alarm:
            self._sequential.reset()
            self._sequence = None
        self._forget(stamp_ns + 1)

    def _take(self, stamp_ns: int, evidence: Evidence) -> None:
        config, score = self.config, evidence.score
        if self._close is not None:
            predicted = evidence.confusion[:, : len(self._close.reference.vehicles)].sum(axis=0)
            if self._close.update(stamp_ns, predicted, score.novelty):
                return
        before, state = self._sequence, self._sequential.update(stamp_ns, score.novelty)
        self._sequence, self._novelty = state, score.novelty
        # After a change the windows' older frames say nothing of what is to be expected.
        if (begun_ns := self._regime.begun(stamp_ns, before, state)) is not None:
            self._forget(begun_ns)
        harm = None
        if self._harm is not None:
            harm = self._harm.update(stamp_ns, evidence.confusion, score)
        if self._alignment is not None:
            self._aligned = self._alignment.update(stamp_ns, evidence.alignment, score.novelty)
        costs: dict[str, Any] = {}
        if harm is not None:
            costs = {
                'drop': harm.drop,
                'drop_low': harm.drop_low,
                'lasting_drop': harm.lasting_drop,
                'lasting_low': harm.lasting_low,
                'drop_samples': harm.samples,
            }
        signs = Signs(
            evidence=state.statistic / state.threshold,
            novel=state.alarm,
            misaligned=self._aligned is not None
            and self._aligned.verdict in (Scope.CALIBRATION.value, Scope.LIDAR.value),
            **costs,
        )
        level = self._machine.update(stamp_ns, signs, config)
        if self._kinds is not None:
            values = self._kinds.reference.values(evidence.statistics, evidence.features)
            self._kinds.append(stamp_ns, values)
            # Nobody is told of a kind while all is well.
            self._kind = self._kinds.kind(novel=True) if level > Level.OK else _NO_KIND
        self._samples += 1

    def _forget(self, before_ns: int) -> None:
        for window in (self._harm, self._kinds):
            if window is not None:
                window.forget(before_ns)

    def _level(self, fault: Fault | None, blind: bool) -> Level:
        if blind:
            return Level.ERROR
        if self._samples < self.config.min_samples:
            return Level.STALE
        return max(self._machine.level, Level.OK if fault is None else Level.WARN)

    def _raised(self) -> bool:
        state = self._sequence
        evidence = 0.0 if state is None else state.statistic / state.threshold
        return self._machine.level > Level.OK or evidence >= _RAISED

    # What is told --------------------------------------------------------------------------------

    def _scope(self, stamp_ns: int, level: Level) -> Scope:
        if level not in (Level.WARN, Level.ERROR):
            return Scope.NONE
        verdict = '' if self._aligned is None else self._aligned.verdict
        if verdict in (Scope.CALIBRATION.value, Scope.LIDAR.value):
            return Scope(verdict)
        scope = self._fusion.scope(self._camera, stamp_ns, self.config.period_s)
        if scope == Scope.UNKNOWN and verdict == Scope.CAMERA.value:
            return Scope.CAMERA
        return scope

    def _state(
        self, stamp_ns: int, level: Level, score: FrameScore | None, fault: Fault | None
    ) -> ShiftState:
        state = ShiftState(
            stamp_ns,
            level,
            '',
            self._samples,
            monitored=score is not None,
            score=score,
            scope=self._scope(stamp_ns, level).value,
            fault='' if fault is None else fault.kind,
            **self._novelty_values(),
            **self._harm_values(),
            **self._kind_values(level),
            **self._alignment_values(),
        )
        return state.changed(reason=self._reason(state, fault))

    def _novelty_values(self) -> dict[str, Any]:
        state = self._sequence
        if state is None:
            return {'cusum_threshold': self._sequential.reference.h}
        return {
            'novelty_cusum': state.statistic,
            'cusum_threshold': state.threshold,
            'innovation': number(state.innovation),
        }

    def _harm_values(self) -> dict[str, Any]:
        harm = self.harm
        # What was to be expected before says nothing now.
        if harm is None or self._blind or self._filled:
            return {}
        return {
            'miou_est': harm.miou,
            'miou_lo': harm.low,
            'miou_hi': harm.high,
            'miou_drop': harm.drop,
            'drop_threshold': self._machine.warns_from(self.config),
            'window_s': harm.window_s,
            'ranked_classes': harm.top_classes(self._classes) if self._classes else (),
        }

    def _kind_values(self, level: Level) -> dict[str, Any]:
        kind = self._kind
        if kind is None:
            return {}
        # A blind camera is no degradation of the image, and its fault says what it is.
        told = level in (Level.WARN, Level.ERROR) and self._machine.level > Level.OK
        if self._blind or not told:
            return {'kind': NONE}
        return {'kind': kind.name, 'kind_prob': number(kind.probability), 'ranked_stats': kind.top}

    def _alignment_values(self) -> dict[str, Any]:
        state = self._aligned
        if state is None:
            return {}
        return {
            'alignment_z': number(state.z),
            'alignment_pairs': number(state.pairs) if state.pairs else math.nan,
            'alignment_yaw_deg': number(state.yaw_deg),
            'alignment_yaw_z': number(state.yaw_z),
            'alignment_pitch_deg': number(state.pitch_deg),
            'alignment_pitch_z': number(state.pitch_z),
        }

    def _reason(self, state: ShiftState, fault: Fault | None) -> str:
        if state.level == Level.STALE:
            since = f' since {self._why}' if self._why else ''
            return f'{self._samples} of {self.config.min_samples} frames scored{since}'
        machine = self._machine
        signs = [name for name in ('novel', 'harmful', 'misaligned') if getattr(machine, name)]
        texts = [] if fault is None else [fault.text]
        if self._filled:
            texts.append(FILLED)
        if not texts or (machine.level > Level.OK and not self._blind):
            cause = '' if self._aligned is None else self._aligned.cause
            texts.append(verdict_reason(state, self._novelty, signs, cause))
        return '; '.join(texts)
