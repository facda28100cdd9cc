// What Python learns of the cells and of the options that they take, and how it hands options over.
#ifndef XRNN_TABLES_H
#define XRNN_TABLES_H

#include "arguments.h"
#include "native.h"
#include "sets.h"

// Names as a tuple.
static PyObject* tuple_of(int n, const char* const* names) {
  PyObject* all = PyTuple_New(n);
  for (int k = 0; all && k < n; k++) {
    PyObject* name = PyUnicode_FromString(names[k]);
    if (!name || PyTuple_SetItem(all, k, name)) Py_CLEAR(all);
  }
  return all;
}

PyDoc_STRVAR(
    cells_doc,
    "cells()\n\n"
    "The cells, in the order of their numbers, as tuples (name, gates, saved, has_c,\n"
    "extras, sums, options): the name in xrnn.cells, the number of gates, the number of blocks of "
    "H\n"
    "values that a time step stores in the array `gates` for backward (0 if the outputs\n"
    "are enough), whether there is a second state, and the names of the weights besides\n"
    "W, U and b, in the order in which they are arguments; the number of blocks of H values\n"
    "in `rows` of backward; and the names of the options that the cell has or takes, with\n"
    "spaces between them.");

// The names of the weights besides W, U and b.
static PyObject* extra_names(const Cell* cell) {
  const char* names[MAX_EXTRAS];
  int n = 0;
  for (; n < MAX_EXTRAS && cell->extras[n].name; n++) names[n] = cell->extras[n].name;
  return tuple_of(n, names);
}

static PyObject* cells(PyObject* module, PyObject* none) {
  (void)module, (void)none;
  const Kernels* set = chosen->kernels;
  PyObject* all = PyTuple_New(set->n_cells);
  for (int i = 0; all && i < set->n_cells; i++) {
    const Cell* cell = set->cell(i);
    PyObject* one = Py_BuildValue("(siiNNis)", cell->name, cell->gates, cell->saved,
                                  PyBool_FromLong(cell->has_c), extra_names(cell), cell->norm_sums,
                                  cell->options ? cell->options : "");
    if (!one || PyTuple_SetItem(all, i, one)) Py_CLEAR(all);
  }
  return all;
}

PyDoc_STRVAR(
    activations_doc,
    "activations()\n\n"
    "The names of the kinds of activation functions that a cell with options can have, in\n"
    "the order of their numbers.");

static PyObject* activations(PyObject* module, PyObject* none) {
  (void)module, (void)none;
  static const char* const names[N_ACTIVATIONS] = {
      [SIGMOID] = "sigmoid",
      [TANH] = "tanh",
      [RELU] = "relu",
      [HARD_SIGMOID] = "hard_sigmoid",
      [AFFINE] = "affine",
      [LEAKY_RELU] = "leaky_relu",
      [THRESHOLDED_RELU] = "thresholded_relu",
      [SCALED_TANH] = "scaled_tanh",
      [ELU] = "elu",
      [SOFTSIGN] = "softsign",
      [SOFTPLUS] = "softplus",
  };
  return tuple_of(N_ACTIVATIONS, names);
}

// Reads the options of a cell with `n` activation functions: an array of float64 with the kind,
// alpha and beta of each, then clip, cell_clip, the two rates of zoneout and proj_size.
static void read_options(Arguments* a, int n, Options* o) {
  const Py_ssize_t count = 3 * n + 5;
  const double* given = items(a, "options", IN, count, count, sizeof(double), "d");
  if (!given) return;
  for (int k = 0; k < n; k++) {
    const double kind = given[3 * k];
    if (!(kind >= 0 && kind < N_ACTIVATIONS)) {
      PyErr_Format(PyExc_ValueError, "options[%d] must be the number of a kind, 0 to %d", 3 * k,
                   N_ACTIVATIONS - 1);
      a->failed = 1;
      return;
    }
    o->functions[k].kind = (int)kind;
    o->functions[k].alpha = given[3 * k + 1];
    o->functions[k].beta = given[3 * k + 2];
  }
  o->clip = given[3 * n];
  o->cell_clip = given[3 * n + 1];
  o->zoneout[0] = given[3 * n + 2];
  o->zoneout[1] = given[3 * n + 3];
  const double size = given[3 * n + 4];
  o->proj_size = size >= 1 && size <= 1 << 30 ? (idx)size : 1;
}

#endif
