"""The five derivations in their own notation, and how an equation is put to the test."""
