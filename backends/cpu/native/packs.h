// Packed weights that several calls use: the objects that `pack` of the Python module returns.
//
// A pack is a capsule.  It keeps the buffers of the weights, so that they stay alive and are read
// from Python only once; and, for weights that never change, the panels computed from them.  It can
// keep the panels alone: then W, U and the projection are null.
#ifndef XRNN_PACKS_H
#define XRNN_PACKS_H

#include "arguments.h"
#include "calls.h"
#include "native.h"
#include "sets.h"

#define PACK "xrnn.pack"

typedef struct {
  const Kernels* kernels;  // which kernels the panels are for
  Pass pass;               // with the cell, I, H, the weights and, or null, the panels
  Arguments arguments;     // with the buffers of the weights
} Pack;

static void free_pack(PyObject* capsule) {
  Pack* pack = PyCapsule_GetPointer(capsule, PACK);
  if (!pack) return;
  release(&pack->arguments);
  free((void*)pack->pass.panels);
  free(pack);
}

// Reads a weight besides W, U and b, or its gradient, whose name begins with `prefix`.
static void* read_extra(Arguments* a, const Pass* p, const Extra* e, int flags,
                        const char* prefix) {
  char name[16];
  PyOS_snprintf(name, sizeof name, "%s%s", prefix, e->name);
  const Py_ssize_t rows = e->rows ? times(a, e->rows, p->H) : p->P;
  const Py_ssize_t width = e->columns ? times(a, e->columns, p->H) : 1;
  return reals(a, name, flags, times(a, rows, width), e->columns ? width : rows);
}

// Reads a matrix of weights: reals or, with AS_BYTES, bytes and then the scales of its rows.
static const void* read_matrix(Arguments* a, const Pass* p, const char* name, int flags,
                               Py_ssize_t n, Py_ssize_t k, const float** scales) {
  if (p->rounding != AS_BYTES) return reals(a, name, flags, times(a, n, k), k);
  const void* bytes = items(a, name, flags, times(a, n, k), k, 1, "b");
  *scales = reals(a, "scales", flags, n, n);
  required(a, "scales", *scales, bytes != NULL);
  return bytes;
}

// Reads the weights besides W, U and b.
static void read_extras(Arguments* a, Pass* p) {
  for (int k = 0; k < MAX_EXTRAS && p->cell->extras[k].name; k++)
    if (k + 1 == p->cell->projects)
      p->extras[k] = read_matrix(a, p, "P", IN, p->P, p->H, &p->P_scales);
    else
      p->extras[k] = read_extra(a, p, &p->cell->extras[k], IN, "");
}

// Reads all weights.
static void read_arrays(Arguments* a, Pass* p) {
  const Py_ssize_t gh = times(a, p->cell->gates, p->H);
  p->W = read_matrix(a, p, "W", IN, gh, p->I, &p->W_scales);
  p->U = read_matrix(a, p, "U", IN | OPTIONAL, gh, p->P, &p->U_scales);
  p->b = reals(a, "b", IN, gh, gh);
  required(a, "U", p->U, p->cell->has_U);
  read_extras(a, p);
}

// The same, or instead one pack of all of them, made for the same cell, sizes and products.
static void read_weights(Arguments* a, Pass* p) {
  if (a->failed || a->next >= a->n || !PyCapsule_IsValid(a->args[a->next], PACK)) {
    read_arrays(a, p);
    return;
  }
  const Pack* pack = PyCapsule_GetPointer(a->args[a->next], PACK);
  a->next++;
  const Pass* of = &pack->pass;
  const int same_products = !of->panels || of->products == p->products;
  if (!same_products || of->rounding != p->rounding || pack->arguments.real != a->real ||
      of->code != p->code || of->I != p->I || of->H != p->H || of->P != p->P) {
    PyErr_SetString(PyExc_ValueError, "a pack of another cell, size, dtype or instruction set");
    a->failed = 1;
    return;
  }
  p->W = of->W, p->U = of->U, p->b = of->b, p->panels = of->panels;
  p->W_scales = of->W_scales, p->U_scales = of->U_scales, p->P_scales = of->P_scales;
  memcpy(p->extras, of->extras, sizeof p->extras);
}

// Computes the panels of a pack.
static int compute_panels(const void* data) {
  const Pack* pack = data;
  pack->kernels->prepack(&pack->pass, (void*)pack->pass.panels);
  return 0;
}

// What a pack is made of: weights that may change; fixed ones; and fixed ones of which only the
// panels shall be kept.
enum { MAY_CHANGE, FIXED, NOT_KEPT };

// Releases the buffer of a weight.
static const void* forget(Arguments* a, const void* weight) {
  for (int i = 0; i < a->used; i++)
    if (a->views[i].buf == weight) PyBuffer_Release(&a->views[i]);
  return NULL;
}

// Makes a pack of the weights that are the next arguments, for the cell and the sizes of `shape`;
// with panels if the weights are fixed.
static PyObject* make_pack(const Arguments* given, const Pass* shape, int fixed, const Set* set) {
  Pack* pack = calloc(1, sizeof *pack);
  if (!pack) return PyErr_NoMemory();
  PyObject* capsule = PyCapsule_New(pack, PACK, free_pack);
  if (!capsule) {
    free(pack);
    return NULL;
  }
  pack->arguments = *given;
  Pass* p = &pack->pass;
  *p = *shape;
  read_arrays(&pack->arguments, p);
  p->products = products_of(set, &pack->arguments, p->rounding);
  if (complete(&pack->arguments)) {
    pack->kernels = of_type(set, &pack->arguments);
    if (!fixed) return capsule;
    const size_t size = pack->kernels->prepack(p, NULL);
    p->panels = aligned_memory(size);
    Team team;
    p->team = &team;
    const int status = p->panels ? compute(&team, 1, size, compute_panels, pack) : -1;
    p->team = NULL;
    // Threads that divide the units share whole panels, if there are such; else they pack anew.
    if (!status && fixed == NOT_KEPT && p->H % pack->kernels->panel == 0) {
      p->W = forget(&pack->arguments, p->W);
      p->U = forget(&pack->arguments, p->U);
      const int k = p->cell->projects - 1;
      if (k >= 0) p->extras[k] = forget(&pack->arguments, p->extras[k]);
    }
    if (!status) return capsule;
    if (!p->panels) PyErr_NoMemory();
  }
  Py_DECREF(capsule);
  return NULL;
}

#endif
