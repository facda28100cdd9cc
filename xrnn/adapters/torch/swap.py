"""`accelerate`: the recurrent modules of a model computed by xrnn; and back."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch

from xrnn.adapters.torch.modules import GRU, LSTM, RNN, Recurrent
from xrnn.adapters.torch.tensors import problem

M = TypeVar("M", bound=torch.nn.Module)

#: PyTorch's classes → ours, which add no attributes: so a module can change its class
CLASSES: dict[type, type[Recurrent]] = {
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
    torch.nn.RNN: RNN,
}
BACK: dict[type, type] = {ours: theirs for theirs, ours in CLASSES.items()}

#: what `survey` says of a module that xrnn computes
SERVED = "xrnn"


def accelerate(model: M) -> M:
    """Have xrnn compute the LSTM, GRU and RNN modules of a model, in place.

    The modules stay the same objects, and so do their parameters, hooks and names: only their
    class changes, to `LSTM`, `GRU` or `RNN` of this package.  So optimizers that hold the
    parameters go on, and ``state_dict`` stays as it is.

    Parameters
    ----------
    model : torch.nn.Module
        The model, or a single recurrent module.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Warns
    -----
    RuntimeWarning
        If recurrent modules are left as they are, or there are none; it names them, and says why.

    Raises
    ------
    TypeError
        If `model` is not a module.

    See Also
    --------
    survey : which modules xrnn computes.
    restore : undo this.

    Examples
    --------
    >>> import torch
    >>> from xrnn.adapters.torch import accelerate, survey
    >>> model = torch.nn.ModuleDict({"encoder": torch.nn.GRU(3, 5), "out": torch.nn.Linear(5, 1)})
    >>> survey(accelerate(model))
    {'encoder': 'xrnn'}
    """
    for _, module in _recurrent(model):
        if type(module) in CLASSES and not _reason(module):
            module.__class__ = CLASSES[type(module)]
    told = survey(model)
    left = [f"{name or 'the model'} ({why})" for name, why in told.items() if why != SERVED]
    if left:
        warnings.warn(f"left to PyTorch: {'; '.join(left)}", RuntimeWarning, stacklevel=2)
    elif not told:
        words = f"{type(model).__name__} has no LSTM, GRU or RNN module: nothing was accelerated"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return model


def restore(model: M) -> M:
    """Have PyTorch compute the recurrent modules of a model again, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model after `accelerate`, or with modules made as `LSTM`, `GRU` or `RNN` of this package.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    TypeError
        If `model` is not a module.

    Examples
    --------
    >>> import torch
    >>> from xrnn.adapters.torch import accelerate, restore
    >>> type(restore(accelerate(torch.nn.GRU(3, 5)))) is torch.nn.GRU
    True
    """
    for _, module in _recurrent(model):
        if type(module) in BACK:
            module.__class__ = BACK[type(module)]
    return model


def survey(model: torch.nn.Module) -> dict[str, str]:
    """What computes the recurrent modules of a model.

    Parameters
    ----------
    model : torch.nn.Module
        The model.

    Returns
    -------
    dict of str to str
        For the name of each recurrent module ("" is the model itself) "xrnn"; or why `accelerate`
        leaves it to PyTorch; or "PyTorch" if it would not.

    Raises
    ------
    TypeError
        If `model` is not a module.
    """
    found = {}
    for name, module in _recurrent(model):
        if isinstance(module, Recurrent):
            found[name] = SERVED
        else:
            found[name] = _reason(module) or "PyTorch"
    return found


def _recurrent(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The recurrent modules of a model by name, each once, PyTorch's other kinds of them too."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    kinds = (torch.nn.RNNBase, torch.nn.RNNCellBase)
    return [(n, m) for n, m in model.named_modules() if isinstance(m, kinds) or _foreign(m)]


def _foreign(module: torch.nn.Module) -> str:
    """Of a recurrent module that is none of PyTorch's classes: what it is; else ""."""
    name = getattr(module, "original_name", type(module).__name__)
    if name.removesuffix("Cell") not in ("LSTM", "GRU", "RNN"):
        return ""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled by torch.jit"
    if type(module).__module__.startswith(("torch.ao.", "torch.nn.quantized")):
        return "it is quantised"
    return ""


def _reason(module: torch.nn.Module) -> str:
    """Why xrnn cannot compute a recurrent module; "" if it can."""
    if reason := _foreign(module):
        return reason
    if isinstance(module, torch.nn.RNNCellBase):
        return "it runs one step a call, which is not faster in xrnn: use LSTM, GRU or RNN"
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "its weights are parametrised: accelerate first, then register parametrisations"
    if type(module) not in CLASSES:
        return f"it is a {type(module).__name__}, a subclass that may compute something else"
    if "forward" in vars(module):
        return "its forward has been replaced"
    weight: Any = next(module.parameters())
    return problem(weight.device, weight.dtype)
