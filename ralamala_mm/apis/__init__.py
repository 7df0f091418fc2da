"""Inference from Python: a model from a config and a checkpoint, and predictions for images."""

from .predictor import load_model, predict

__all__ = ['load_model', 'predict']
