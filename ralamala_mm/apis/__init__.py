"""Inference from Python: a model from a config and a checkpoint, and predictions for pictures."""

from .predictor import load_model, predict

__all__ = ['load_model', 'predict']
