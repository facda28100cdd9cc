"""PyTorch modules that compute with xrnn: `LSTM`, `GRU`, `RNN`, and `accelerate` for whole models.

``import xrnn.adapters.torch`` imports PyTorch; it is installed by ``pip install torch``.
"""

from xrnn.adapters.torch.modules import GRU, LSTM, RNN
from xrnn.adapters.torch.swap import accelerate, restore, survey

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "restore", "survey"]
