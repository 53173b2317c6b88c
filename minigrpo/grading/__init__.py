"""Grading: questions with known mistakes, feedback in the notebook, and a worker process for work that nobody trusts."""
