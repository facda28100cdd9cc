// Conversions of whole arrays, as functions of the Python module.
#ifndef XRNN_CONVERSIONS_H
#define XRNN_CONVERSIONS_H

#include "arguments.h"
#include "calls.h"
#include "native.h"
#include "sets.h"

// The arguments of `widen` and `narrow`.
typedef struct {
  void (*function)(int storage, const void* from, void* to, idx n);
  int storage;
  const void* from;
  void* to;
  idx n;
} Conversion;

static int run_conversion(const void* what) {
  const Conversion* c = what;
  c->function(c->storage, c->from, c->to, c->n);
  return 0;
}

static PyObject* convert(PyObject* const* args, Py_ssize_t n, int widens) {
  Arguments a = {.args = args, .n = n};
  Team team;
  const Kernels* k = chosen->kernels;
  Conversion c = {.function = widens ? k->widen : k->narrow};
  c.storage = (int)number(&a, "storage", FLOAT16, BFLOAT16);
  c.n = number(&a, "n", 0, PY_SSIZE_T_MAX / 8);
  c.from = items(&a, "x", IN, c.n, -1, widens ? 2 : 4, widens ? "H" : "f");
  c.to = items(&a, "y", OUT, c.n, -1, widens ? 4 : 2, widens ? "f" : "H");
  complete(&a);
  if (perform(&a, &team, 1, (double)c.n, run_conversion, &c)) return NULL;
  Py_RETURN_NONE;
}

PyDoc_STRVAR(widen_doc,
             "widen(storage, n, x, y)\n\n"
             "n numbers that are stored in 16 bits (1: float16, 2: bfloat16), given as uint16, as\n"
             "float32.");

static PyObject* widen(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  return convert(args, n, 1);
}

PyDoc_STRVAR(narrow_doc,
             "narrow(storage, n, x, y)\n\n"
             "The opposite of `widen`: each number is rounded to the nearest.");

static PyObject* narrow(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  return convert(args, n, 0);
}

#endif
