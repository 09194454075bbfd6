"""Tests whether a PyTorch training script continues exactly when it is killed and started again."""
