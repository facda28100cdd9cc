"""Whole sequences as plain array code: what every kernel of a backend must equal."""
