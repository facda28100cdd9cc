"""Whole sequences as plain array code, the reference that every kernel of a backend must equal."""
