"""Losses, optimizers, and learning online."""
