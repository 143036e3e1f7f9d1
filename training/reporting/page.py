# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A page in one HTML file: no scripts, no network, every text escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from clcp_ros.image_codec import encode_jpeg, encode_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        uri: Data URI, see `figure_uri` and `image_uri`.
        caption: What it shows.
    """

    uri: str
    caption: str = ''


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        header: Column names.
        rows: Cells as text.
        caption: What it shows.
        is_text: The last column holds sentences or commands, not figures.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ''
    is_text: bool = False


@dataclass
class Section:
    """A part of a page.

    Attributes:
        title: Heading.
        text: Paragraphs.
        facts: Names and values, shown above the rest.
        figures: Pictures in full width.
        gallery: Pictures side by side.
        tables: Tables.
        legend: Names and RGB colours.
        warnings: Lines that must not be overlooked.
        command: What to type to get this part alone.
    """

    title: str
    text: Sequence[str] = ()
    facts: dict[str, str] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    gallery: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    legend: Sequence[tuple[str, tuple[int, int, int]]] = ()
    warnings: Sequence[str] = ()
    command: str = ''


def image_uri(image: np.ndarray) -> str:
    """(H, W, 3) uint8 RGB or (H, W) uint8 as a PNG data URI: for masks and small pictures."""
    return _uri('image/png', encode_png(image))


def jpeg_uri(image: np.ndarray | bytes, quality: int = 85) -> str:
    """(H, W, 3) uint8 RGB, or a JPEG file's bytes, as a data URI: for photographs."""
    data = image if isinstance(image, bytes) else encode_jpeg(image, quality)
    return _uri('image/jpeg', data)


def figure_uri(figure: MatplotlibFigure) -> str:
    """A matplotlib figure as an SVG data URI."""
    import matplotlib

    buffer = io.BytesIO()
    # Without salt and date the same figure would give other bytes each time.
    with matplotlib.rc_context({'svg.hashsalt': 'clcp'}):
        figure.savefig(buffer, format='svg', bbox_inches='tight', metadata={'Date': None})
    return _uri('image/svg+xml', buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def render_page(title: str, sections: Sequence[Section], subtitle: str = '') -> str:
    """Put sections on one page.

    Args:
        title: Heading of the page.
        sections: Its parts in order.
        subtitle: A line below the heading.

    Returns:
        HTML that needs nothing else.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_PAGE).render(title=title, subtitle=subtitle, sections=sections)


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; background: #f6f7f9;
         margin: 0 auto; max-width: 1200px; padding: 24px; }
  h1 { margin: 0; } h2 { margin: 0 0 8px; }
  section { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: 20px 24px;
            margin: 20px 0; }
  nav a { margin-right: 16px; } a { color: #0b5cad; }
  .subtitle, figcaption, caption { color: #5a6675; font-size: 14px; text-align: left; }
  dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 8px 24px;
       margin: 12px 0; }
  dt { color: #5a6675; font-size: 13px; } dd { margin: 0; font-weight: 600;
       overflow-wrap: anywhere; }
  figure { margin: 12px 0; } img { max-width: 100%; } figure.wide img { width: 100%; }
  .gallery { display: grid; gap: 16px;
             grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); }
  .gallery figure { margin: 0; } .gallery img { width: 100%; border-radius: 4px; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; }
  th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid #e6e9ed; }
  th:first-child, td:first-child, .text th:last-child, .text td:last-child { text-align: left; }
  .legend { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: 14px; margin: 10px 0; }
  .legend span { display: inline-block; width: 14px; height: 14px; border-radius: 3px;
                 margin-right: 5px; vertical-align: -2px; border: 1px solid #0003; }
  .warning { background: #fff4d6; border-left: 4px solid #d99a00; padding: 6px 12px; }
  code { background: #eef1f4; padding: 2px 6px; border-radius: 4px; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="subtitle">{{ subtitle }}</p>
{% if sections | length > 2 %}
<nav>{% for s in sections %}<a href="#s{{ loop.index }}">{{ s.title }}</a>{% endfor %}</nav>
{% endif %}
{% for s in sections %}
<section id="s{{ loop.index }}">
<h2>{{ s.title }}</h2>
{% for line in s.warnings %}<p class="warning">{{ line }}</p>{% endfor %}
{% for paragraph in s.text %}<p>{{ paragraph }}</p>{% endfor %}
{% if s.facts %}
<dl>{% for name, value in s.facts.items() %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}</dl>
{% endif %}
{% for f in s.figures %}
<figure class="wide"><img src="{{ f.uri }}" alt="{{ f.caption }}">
<figcaption>{{ f.caption }}</figcaption></figure>
{% endfor %}
{% for t in s.tables %}
<div class="scroll"><table{% if t.is_text %} class="text"{% endif %}>
{% if t.caption %}<caption>{{ t.caption }}</caption>{% endif %}
<thead><tr>{% for cell in t.header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in t.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% endfor %}
{% if s.legend %}
<div class="legend">{% for name, color in s.legend %}
<div><span style="background: rgb({{ color | join(', ') }})"></span>{{ name }}</div>
{% endfor %}</div>
{% endif %}
{% if s.gallery %}
<div class="gallery">{% for f in s.gallery %}
<figure><img src="{{ f.uri }}" alt="{{ f.caption }}"><figcaption>{{ f.caption }}</figcaption>
</figure>
{% endfor %}</div>
{% endif %}
{% if s.command %}<p>This part alone: <code>{{ s.command }}</code></p>{% endif %}
</section>
{% endfor %}
</body>
</html>
"""
