"""Inference from Python: a model from a config and a checkpoint, and predictions for pictures."""

from .loading import load_model
from .predicting import predict

__all__ = ['load_model', 'predict']
