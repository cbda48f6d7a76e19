"""Evaluation: how well the model predicts, how new its texts are, and how varied, next to texts by people."""

from titlesmith.evaluate.evaluation import evaluate
from titlesmith.evaluate.held_out import held_out_texts
from titlesmith.evaluate.snapshot import snapshot, snapshot_documents
