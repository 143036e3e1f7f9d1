# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (pip install .[ros])')

from clcp_ros.replay_answers import Answers


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
