"""What the controls are put together from."""

import io

import ipywidgets as widgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def picture(width: int = 900) -> widgets.Image:
    """An empty picture, at most so many pixels wide."""
    return widgets.Image(format="png", layout=widgets.Layout(max_width=f"{width}px", width="100%"))


def side_by_side(*parts: widgets.Widget) -> widgets.HBox:
    """Side by side, or below one another where the page is narrow."""
    return widgets.HBox(parts, layout=widgets.Layout(flex_flow="row wrap"))


def png(figure: Figure) -> bytes:
    """The bytes of a figure, which is closed, or the cell would show it a second time."""
    plt.close(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
