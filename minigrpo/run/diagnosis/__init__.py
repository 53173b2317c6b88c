"""The doctor: a log of a GRPO run in, findings out. logs reads, curves measures, the others know what it means."""
