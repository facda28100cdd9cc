// Weights that nothing changes, packed once: what `pack` of the Python module returns.
//
// A capsule holds the buffers of the weights, and so keeps them alive, and the panels made of them.
#ifndef XRNN_PACKS_H
#define XRNN_PACKS_H

#include "arguments.h"
#include "native.h"

#define PACK "xrnn.pack"

typedef struct {
  const Kernels* kernels;  // whose panels they are
  Pass pass;               // cell, I, H, the weights and panels
  Taken taken;             // with the weights' buffers
} Pack;

static void unpack(PyObject* capsule) {
  Pack* pack = PyCapsule_GetPointer(capsule, PACK);
  if (!pack) return;
  finish(&pack->taken);
  free((void*)pack->pass.panels);
  free(pack);
}

static void take_arrays(Taken* a, Pass* p) {
  const Py_ssize_t gh = times(a, GATES[p->cell], p->H);
  p->W = reals(a, "W", IN, times(a, gh, p->I), p->I);
  p->U = reals(a, "U", IN | OPTIONAL, times(a, gh, p->H), p->H);
  p->b = reals(a, "b", IN, gh, gh);
  p->v = reals(a, "v", IN | OPTIONAL, p->H, p->H);
  required(a, "U", p->U, has_U(p->cell));
  required(a, "v", p->v, has_v(p->cell));
}

// W, U, b and v; or in the place of W a pack of all four, for the same cell, sizes and kernels.
static void take_weights(Taken* a, Pass* p, const Kernels* sets) {
  if (a->failed || a->next + 4 > a->n || !PyCapsule_IsValid(a->args[a->next], PACK)) {
    take_arrays(a, p);
    return;
  }
  const Pack* pack = PyCapsule_GetPointer(a->args[a->next], PACK);
  a->next += 4;
  const Pass* of = &pack->pass;
  if (pack->kernels != &sets[a->real == sizeof(double)] || of->cell != p->cell || of->I != p->I ||
      of->H != p->H) {
    PyErr_SetString(PyExc_ValueError, "a pack of another cell, size, dtype or instruction set");
    a->failed = 1;
    return;
  }
  p->W = of->W, p->U = of->U, p->b = of->b, p->v = of->v, p->panels = of->panels;
}

// A pack of the weights that are the next arguments; `real` is set by W.
static PyObject* make_pack(const Taken* given, int cell, idx I, idx H, const Kernels* sets) {
  Pack* pack = calloc(1, sizeof *pack);
  if (!pack) return PyErr_NoMemory();
  PyObject* capsule = PyCapsule_New(pack, PACK, unpack);
  if (!capsule) {
    free(pack);
    return NULL;
  }
  pack->taken = *given;
  Pass* p = &pack->pass;
  p->cell = cell, p->I = I, p->H = H;
  take_arrays(&pack->taken, p);
  if (complete(&pack->taken)) {
    pack->kernels = &sets[pack->taken.real == sizeof(double)];
    void* panels = room(pack->kernels->prepack(p, NULL));
    if (panels) pack->kernels->prepack(p, panels);
    p->panels = panels;
    if (panels) return capsule;
    PyErr_NoMemory();
  }
  Py_DECREF(capsule);
  return NULL;
}

#endif
