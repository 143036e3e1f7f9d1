# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from clcp_ros.replay_answers import Answers
from clcp_ros.replay_bag import BagFrame


def test_an_input_is_done_when_every_image_has_an_answer() -> None:
    """A mask comes before its verdict: that it is here does not say that all is."""
    counts = {'received': 6, 'processed': 2, 'dropped': 1, 'bad': 1, 'failed': 1}
    with Answers(()) as answers:
        assert not answers.done('front/input')
        for processed, done in ((2, False), (3, True)):
            values = counts | {'processed': processed, 'lost': 4, 'duplicate': 5}
            answers.parts['front/input'] = {name: str(n) for name, n in values.items()}
            assert answers.done('front/input') is done
        assert not answers.done('rear/input')


def test_answers_of_a_looped_recording_belong_to_their_round() -> None:
    def mask(stamp_s: int, value: int) -> bytes:
        message = Image(height=1, width=1, encoding='mono8', step=1, data=bytes([value]))
        message.header.stamp.sec = stamp_s
        return bytes(serialize_message(message))

    frames = [
        BagFrame('cam', stamp_s * 10**9, 0, b'', None, '', repeat=repeat)
        for repeat in (0, 1)
        for stamp_s in (1, 2, 3)
    ]
    with Answers(()) as answers:
        for frame in frames:
            answers.sent(frame)
        # The node dropped the second of the first round and the first of the second.
        for value, stamp_s in enumerate((1, 3, 2, 3)):
            answers.take_image('mask', 'cam', mask(stamp_s, value))
        answers.take_image('mask', 'cam', mask(9, 9))  # never sent
        found = [answers.outcome(frame) for frame in frames]
        assert [None if one is None else int(one.mask[0, 0]) for one in found] == [
            0, None, 1, None, 2, 3,
        ]  # fmt: skip
        assert [answers.has(frame.key) for frame in frames] == [one is not None for one in found]
