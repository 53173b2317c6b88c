"""A policy of three tokens to drag: its two KLs to a reference, and which way each estimator pulls it."""

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from minigrpo.config import BadInput
from minigrpo.kl import estimate_kl, kl_exact
from minigrpo.view.controls.picture import picture, png, side_by_side
from minigrpo.view.plots import BLUE, COLORS, GREY, ORANGE

TOKENS = ("A", "B", "C")
ESTIMATORS = ("k1", "k2", "k3", "k3_ratio")
REFERENCE = (0.60, 0.39, 0.01)  # two habits, and a token that it hardly ever writes
START = (0.25, 0.25, 0.50)


def expected_pull(policy: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """(V,), (V,) probabilities -> (V,): minus the gradient of the estimate in the loss with respect to the policy's logits,
    in expectation over the policy's draws. The draws are data: their probability carries no gradient."""
    logits = policy.log().requires_grad_()
    logprobs = logits.log_softmax(0)
    kl = estimate_kl(logprobs, reference.log(), logprobs.detach(), estimator=estimator)
    (gradient,) = torch.autograd.grad((policy * kl).sum(), logits)
    return -gradient


def plot_two_kls(policy=START, reference=REFERENCE, *, axes=None) -> np.ndarray:
    """A policy of three tokens beside its reference; its KL to it in both directions; what each estimator pulls at each token.

    Args:
        policy, reference: three probabilities above 0; each is scaled to a sum of 1.
        axes: three Axes to draw into; made here by default.
    Raises:
        BadInput: for anything but three positive numbers.
    """
    policy, reference = _distribution(policy, "policy"), _distribution(reference, "reference")
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(10, 2.9), layout="constrained", width_ratios=(1, 1, 1.5))
    places = np.arange(3)
    axes[0].bar(places - 0.2, reference.numpy(), 0.4, color="#BBBBBB", label="reference")
    axes[0].bar(places + 0.2, policy.numpy(), 0.4, color=BLUE, label="policy")
    axes[0].set(ylim=(0, 1), ylabel="probability", xticks=places, xticklabels=TOKENS)
    axes[0].legend(fontsize=8, frameon=False)
    both = [kl_exact(policy.log(), reference.log()).item(), kl_exact(reference.log(), policy.log()).item()]
    bars = axes[1].bar((0, 1), both, 0.5, color=(BLUE, ORANGE))
    axes[1].bar_label(bars, fmt="%.2f", fontsize=9)
    names = ("KL(policy ‖ ref)\nreverse", "KL(ref ‖ policy)\nforward")
    axes[1].set(ylim=(0, max(2.0, 1.15 * max(both))), ylabel="nats", xticks=(0, 1), xticklabels=names)
    for number, name in enumerate(ESTIMATORS):
        pull = expected_pull(policy, reference, name)
        axes[2].bar(places + 0.2 * (number - 1.5), pull.numpy(), 0.2, color=COLORS[number], label=name)
    axes[2].axhline(0, color=GREY, linewidth=0.8)
    axes[2].set(ylim=(-1.25, 1.25), ylabel="pull on the logit", xticks=places, xticklabels=TOKENS)
    axes[2].legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 0.98), borderaxespad=0)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return np.asarray(axes)


def _distribution(numbers, name: str) -> Tensor:
    """Three positive numbers -> (3,) probabilities, float64."""
    try:
        found = torch.as_tensor(numbers, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(0)
    if found.shape != (3,) or not (found.isfinite().all() and (found > 0).all()):
        raise BadInput(f"{name} must be three numbers above 0, the probabilities of three tokens, got {numbers!r:.60}.")
    return found / found.sum()


def drag_policy(reference=REFERENCE) -> widgets.Widget:
    """Three sliders, one per token, for how much weight the policy gives it; ``plot_two_kls`` is drawn anew on each change."""
    _distribution(reference, "reference")
    shown = picture(width=1000)
    sliders = [
        widgets.FloatLogSlider(value=value, base=10, min=-3, max=0, description=f"weight of {token}", readout_format=".3f")
        for token, value in zip(TOKENS, START, strict=True)
    ]

    def draw(_=None) -> None:
        axes = plot_two_kls([slider.value for slider in sliders], reference)
        shown.value = png(axes[0].figure)

    for slider in sliders:
        slider.observe(draw, names="value")
    draw()
    return widgets.VBox([side_by_side(*sliders), shown])
