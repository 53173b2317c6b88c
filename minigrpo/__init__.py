"""Learn GRPO by building it. Names are loaded when they are first used, so that ``import minigrpo`` costs nothing."""

import importlib

_HOME = {
    "check": "grading.check",
    "hint": "grading.check",
    "BadInput": "config",
    "GRPOConfig": "config",
    "load_policy": "policy",
    "clock_task": "tasks",
    "sums_task": "tasks",
    "exact_answer": "tasks",
    "sum_rubric": "tasks",
    "thinks_first": "tasks",
    "Rollout": "sampling",
    "sample_completions": "sampling",
    "score": "rewards",
    "combine": "rewards",
    "compute_advantages": "advantages",
    "process_advantages": "advantages",
    "completion_mask": "logprobs",
    "shift_logits": "logprobs",
    "token_logprobs": "logprobs",
    "token_entropies": "logprobs",
    "completion_logits": "scoring",
    "completion_logprobs": "scoring",
    "kl_k1": "kl",
    "kl_k2": "kl",
    "kl_k3": "kl",
    "kl_k3_ratio": "kl",
    "kl_exact": "kl",
    "estimate_kl": "kl",
    "kl_penalized_rewards": "kl",
    "importance_ratio": "loss",
    "clipped_objective": "loss",
    "cispo_objective": "loss",
    "aggregate": "loss",
    "grpo_loss": "loss",
    "GRPOLoss": "loss",
    "METRICS": "metrics",
    "pass_at_k": "metrics",
    "load_triples": "triples",
    "logged_rollout": "triples",
    "baseline_advantages": "triples",
    "optimum_weights": "triples",
    "prepare": "triples",
    "rate": "rating",
    "Ratings": "rating",
    "start_reward_model": "reward_model",
    "train_reward_model": "reward_model",
    "load_reward_model": "reward_model",
    "bradley_terry_loss": "reward_model",
    "pair_accuracy": "reward_model",
    "TrainState": "training",
    "train": "training",
    "to_trl": "trl_engine",
    "save_checkpoint": "checkpoints",
    "load_checkpoint": "checkpoints",
    "evaluate": "evaluation",
    "read_metrics": "runs",
    "plot_runs": "plots",
    "plot_metric": "plots",
    "plot_clipping": "plots",
    "plot_pipeline": "plots",
    "plot_tokens": "plots",
    "plot_advantages": "plots",
    "plot_kl_estimators": "plots",
    "plot_shares": "plots",
    "compare_runs": "plots",
    "watch": "plots",
    "show_tokens": "tokens",
    "completion_tokens": "tokens",
    "seeded": "training",
    "policy_logits": "scoring",
    "policy_logprobs": "scoring",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'minigrpo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"minigrpo.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
