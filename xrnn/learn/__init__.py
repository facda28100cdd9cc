"""Losses, optimizers and online learning."""
