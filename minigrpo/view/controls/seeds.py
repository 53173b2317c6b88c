"""How many seeds until a difference is one: a forest plot with the number of runs on a slider."""

import ipywidgets as widgets

from minigrpo.view.controls.picture import picture, png
from minigrpo.view.forest import plot_forest


def choose_seeds(differences: dict[str, list[float]], *, label: str = "difference") -> widgets.Widget:
    """Drag the number of seeds that are used, and the number of comparisons that share the 5 %; the forest follows.

    Args:
        differences: as for plot_forest; the first numbers are taken.
    """
    wide = {"style": {"description_width": "8em"}, "continuous_update": False}
    most = min(map(len, differences.values()))
    seeds = widgets.IntSlider(value=min(3, most), min=2, max=most, description="seeds", **wide)
    comparisons = widgets.IntSlider(value=1, min=1, max=20, description="comparisons", **wide)
    shown = picture(640)

    def draw(_=None) -> None:
        used = {name: values[: seeds.value] for name, values in differences.items()}
        shown.value = png(plot_forest(used, comparisons=comparisons.value, label=label).figure)

    for slider in (seeds, comparisons):
        slider.observe(draw, "value")
    draw()
    return widgets.VBox([seeds, comparisons, shown])
