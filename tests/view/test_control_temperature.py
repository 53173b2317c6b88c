"""The slider for the temperature redraws the bars, which show softmax(logits / T)."""

import matplotlib.pyplot as plt
import pytest
import torch

from minigrpo import BadInput, load_policy
from minigrpo.view.controls.temperature import plot_temperature, try_temperature

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def tokenizer():
    return load_policy("tiny")[1]


def logits_of(tokenizer, **chances):
    logits = torch.full((1, 1, len(tokenizer)), -50.0)
    for token, chance in chances.items():
        logits[0, 0, tokenizer.encode(token)[0]] = torch.tensor(chance).log()
    return logits


def test_half_the_temperature_squares_the_odds(tokenizer):
    ax = plot_temperature(tokenizer, logits_of(tokenizer, a=0.75, b=0.25), 0.5)
    assert [text.get_text() for text in ax.texts] == ["75.0 → 90.0 %", "25.0 → 10.0 %"]  # 9 to 1
    assert "entropy 0.33 nats" in ax.get_title(loc="left")
    plt.close("all")


def test_the_slider_draws_anew(tokenizer):
    control = try_temperature(tokenizer, logits_of(tokenizer, a=0.75, b=0.25))
    slider, picture = control.children
    drawn = picture.value
    slider.value = 2.0
    assert picture.value != drawn
    slider.value = 0.5
    assert picture.value == drawn


def test_at_temperature_0_there_is_no_distribution(tokenizer):
    with pytest.raises(BadInput, match="above 0, got 0"):
        plot_temperature(tokenizer, logits_of(tokenizer, a=1.0), 0)
