"""A figure as a widget shows it."""

import io

import ipywidgets as widgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def picture(width: int = 900) -> widgets.Image:
    """An empty picture, at most so many pixels wide."""
    return widgets.Image(format="png", layout=widgets.Layout(max_width=f"{width}px", width="100%"))


def png(figure: Figure) -> bytes:
    """The bytes of a figure, which is closed, or the cell would show it a second time."""
    plt.close(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
