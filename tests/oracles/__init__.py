"""Independent oracles: other implementations that say what xrnn must compute.

They share one form with the frozen vectors.  A *case* is a flat dict of what goes in: ``xs``,
``lengths``, ``state.h``, ``state.c``, ``weights.W_l0`` …, ``dys``, ``dstate.h`` …; what it
lacks was not given.  A *verdict* is a flat dict of what must come out: ``ys``, ``last.h`` …,
``dxs``, ``dfirst.h`` …, ``dweights.W_l0`` ….  All shapes are those of `xrnn.Layer`.
"""
