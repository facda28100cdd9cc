"""A character language model: the application behind ``xrnn train`` and ``xrnn sample``."""
