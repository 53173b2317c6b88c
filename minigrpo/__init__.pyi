"""The public names and where they live. ``__init__`` reads this file: a name is loaded when it is first used."""

from .config import (
    BadInput as BadInput,
    GRPOConfig as GRPOConfig,
)
from .tasks import (
    addition_task as addition_task,
    clock_task as clock_task,
    exact_answer as exact_answer,
    exact_words as exact_words,
    last_number as last_number,
    sum_rubric as sum_rubric,
    sums_task as sums_task,
    thinks_first as thinks_first,
    words_task as words_task,
)
from .prompts import (
    own_task as own_task,
    read_prompts as read_prompts,
)
from .policy import load_policy as load_policy
from .sampling import (
    Rollout as Rollout,
    sample_completions as sample_completions,
    seeded as seeded,
)
from .rewards import (
    combine as combine,
    score as score,
)
from .advantages import (
    compute_advantages as compute_advantages,
    process_advantages as process_advantages,
)
from .logprobs import (
    completion_mask as completion_mask,
    shift_logits as shift_logits,
    token_entropies as token_entropies,
    token_logprobs as token_logprobs,
)
from .scoring import (
    completion_logits as completion_logits,
    completion_logprobs as completion_logprobs,
    policy_logits as policy_logits,
    policy_logprobs as policy_logprobs,
)
from .kl import (
    estimate_kl as estimate_kl,
    kl_exact as kl_exact,
    kl_k1 as kl_k1,
    kl_k2 as kl_k2,
    kl_k3 as kl_k3,
    kl_k3_ratio as kl_k3_ratio,
    kl_penalized_rewards as kl_penalized_rewards,
)
from .loss import (
    GRPOLoss as GRPOLoss,
    aggregate as aggregate,
    cispo_objective as cispo_objective,
    clipped_objective as clipped_objective,
    grpo_loss as grpo_loss,
    importance_ratio as importance_ratio,
)
from .update import TrainState as TrainState
from .training import train as train
from .triples import (
    baseline_advantages as baseline_advantages,
    load_triples as load_triples,
    logged_rollout as logged_rollout,
    optimum_weights as optimum_weights,
    prepare as prepare,
)
from .reward_model import (
    bradley_terry_loss as bradley_terry_loss,
    load_reward_model as load_reward_model,
    pair_accuracy as pair_accuracy,
    start_reward_model as start_reward_model,
    train_reward_model as train_reward_model,
)
from .metrics import (
    METRICS as METRICS,
    pass_at_k as pass_at_k,
)
from .evaluation import evaluate as evaluate
from .run.folders import read_metrics as read_metrics
from .run.checkpoints import (
    load_checkpoint as load_checkpoint,
    save_checkpoint as save_checkpoint,
)
from .run.diagnosis.logs import diagnose as diagnose
from .run.fit import fit as fit
from .run.step_seconds import step_seconds as step_seconds
from .run.report import show_report as show_report
from .run.trl_engine import to_trl as to_trl
from .view.plots import (
    compare_runs as compare_runs,
    plot_metric as plot_metric,
    plot_runs as plot_runs,
    plot_shares as plot_shares,
    watch as watch,
)
from .view.diagrams import (
    plot_clipping as plot_clipping,
    plot_prefix_tree as plot_prefix_tree,
    plot_shift as plot_shift,
)
from .view.strips import plot_tokens as plot_tokens
from .view.forest import (
    interval as interval,
    plot_forest as plot_forest,
)
from .view.controls.kl import (
    drag_policy as drag_policy,
    plot_two_kls as plot_two_kls,
)
from .view.group import (
    Group as Group,
    draw_first_token as draw_first_token,
    plot_group as plot_group,
)
from .view.controls.one_step import (
    one_step as one_step,
    worked_example as worked_example,
)
from .view.controls.seeds import choose_seeds as choose_seeds
from .view.tokens import (
    completion_tokens as completion_tokens,
    show_tokens as show_tokens,
)
from .view.rating import (
    Ratings as Ratings,
    rate as rate,
)
from .grading.check import (
    check as check,
    hint as hint,
    progress as progress,
)
from .grading.own import own_functions as own_functions
