"""The equations of the five derivations in their own notation, and how each is tested.

``xrnn/guide/derivations.md`` says what the derivations are and what is corrected in them.
"""
