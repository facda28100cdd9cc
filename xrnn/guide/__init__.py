"""Texts for users: Markdown, whose code blocks the tests run."""
