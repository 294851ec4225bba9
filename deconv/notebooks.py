"""How networks and records show themselves in a notebook.

What draws them, `deconv.figures.html`, stands above them and is imported only when a notebook asks.
"""

from __future__ import annotations


class ShownInNotebooks:
    """Shows itself as HTML: no scripts, the pictures inside, readable on light and dark, of bounded size."""

    def _repr_html_(self) -> str:
        from deconv.figures.html import html_of

        return html_of(self)
