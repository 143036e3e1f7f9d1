# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sections of a page kept as JSON, so that another page can include them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from training.reporting.page import Figure, Section, Table

SECTIONS = 'sections.json'


def save_sections(path: Path, sections: Sequence[Section]) -> None:
    """Write sections.

    Args:
        path: A `.json` file.
        sections: What to keep.
    """
    path.write_text(json.dumps([dataclasses.asdict(s) for s in sections]) + '\n', encoding='utf-8')


def load_sections(path: Path) -> list[Section]:
    """Read what `save_sections` wrote.

    Args:
        path: The file.
    """
    sections = []
    for entry in json.loads(path.read_text(encoding='utf-8')):
        for name, kind in (('figures', Figure), ('gallery', Figure), ('tables', Table)):
            entry[name] = [kind(**fields) for fields in entry[name]]
        entry['legend'] = [(name, (r, g, b)) for name, (r, g, b) in entry['legend']]
        sections.append(Section(**entry))
    return sections
