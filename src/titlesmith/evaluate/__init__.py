"""Evaluation: how well the model predicts, how new its texts are, and how varied, next to texts by people."""

from titlesmith.evaluate.evaluation import evaluate, held_out_texts

__all__ = ["evaluate", "held_out_texts"]
