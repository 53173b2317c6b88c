"""Temperature over the distribution of one token."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from minigrpo.config import BadInput
from minigrpo.logprobs import token_entropies
from minigrpo.view.controls.one_step import first_token
from minigrpo.view.controls.picture import picture, png
from minigrpo.view.group import draw_first_token


def plot_temperature(tokenizer: PreTrainedTokenizerBase, logits: Tensor, temperature: float, *, ax: Axes | None = None) -> Axes:
    """The distribution over the first token at temperature 1 (grey) and at another one (in colour).

    Args:
        logits: (B, C, V) of completions of one prompt, as policy_logits gives them.
    Raises:
        BadInput: for a temperature that is not above 0.
    """
    if not temperature > 0:
        raise BadInput(f"The temperature must be above 0, got {temperature}; at 0 there is only the likeliest token.")
    if ax is None:
        _, ax = plt.subplots(figsize=(5.6, 2.7), layout="constrained")
    nats = token_entropies(logits[:1, :1].detach(), temperature).item()
    title = f"first token, at temperature 1 → {temperature:g}   (entropy {nats:.2f} nats)"
    return draw_first_token(ax, first_token(tokenizer, logits), first_token(tokenizer, logits / temperature), title=title)


def try_temperature(tokenizer: PreTrainedTokenizerBase, logits: Tensor) -> widgets.Widget:
    """A slider for the temperature; ``plot_temperature`` is drawn anew on each change."""
    slider = widgets.FloatLogSlider(
        value=0.5, base=10, min=-1, max=1, step=0.05, description="temperature", readout_format=".2f"
    )
    slider.style.description_width = "7em"
    shown = picture(640)

    def draw(_=None) -> None:
        shown.value = png(plot_temperature(tokenizer, logits, round(slider.value, 2)).figure)

    slider.observe(draw, names="value")
    draw()
    return widgets.VBox([slider, shown])
