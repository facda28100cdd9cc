// The Python module xrnn.backends.cpu._native.  It checks the arguments and selects the kernels.
//
// An array is any object with a C-contiguous buffer of float32 or float64.  All sizes are checked
// before anything is computed.
#include "arguments.h"
#include "calls.h"
#include "conversions.h"
#include "native.h"
#include "pairs.h"
#include "sets.h"
#include "tables.h"

PyDoc_STRVAR(forward_doc,
             "forward(cell, rounding, *options, T, B, I, H, xs, W, U, b, *extras, lengths, "
             "reverse, h0, c0,\n"
             "        ys, h_last, c_last, gates, cs, *noise, storage, threads)\n\n"
             "The forward pass over whole sequences; see Pass in native.h.  If gates (and cs) are\n"
             "given, what backward needs is stored there.  An array that the cell does not have\n"
             "is None.  `rounding` of products is 0, or 1: what they multiply is rounded to\n"
             "bfloat16; or 2: weights are bytes.  Then W, U and the projection are each followed\n"
             "by the scales of their rows.  `extras` are the weights besides W, U and b (see "
             "`cells`).  All weights\n"
             "may be one pack instead.  `options`, for a cell that has some, is one array of\n"
             "float64: for each activation function its kind (see `activations`), alpha and beta,\n"
             "then clip and cell_clip, which are infinite where there is no limit, the rates of\n"
             "zoneout of h and c, and proj_size.  Such a cell takes as `noise` what it draws, or\n"
             "None: the dropout of h, and the zoneout of h and of c.\n"
             "Returns the number of threads that divided the sequences among them, or its\n"
             "negative if they divided the units.");

static PyObject* forward(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  return run_one(args, n, 0);
}

PyDoc_STRVAR(
    backward_doc,
    "backward(cell, rounding, *options, T, B, I, H, W, U, *extras, gates, cs, ys, h0, c0, dys, "
    "*noise, lengths, reverse,\n"
    "         dh, dc, das, dxs, dW, dU, db, *dextras, adds, xs, threads)\n\n"
    "A cell with a projection takes dhs after das; one with layer norm b after U, and\n"
    "`rows` after dextras, to which its gradients of b and gains are added.\n"
    "The backward pass, including the gradients of the weights; see Pass in native.h.\n"
    "dh and dc hold the gradient of the last state before the call, and that of the\n"
    "first state after it.  dxs may be None.  With `adds` the gradients of the weights are\n"
    "added to those of the steps that come later.  Returns the same as forward.");

static PyObject* backward(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  return run_one(args, n, 1);
}

PyDoc_STRVAR(
    forward_both_doc,
    "forward_both(n, *first, *second)\n\n"
    "Two forward passes, such as the two directions of a layer: the n arguments of\n"
    "`forward` for the first one, then those for the second.  `threads` is the number for\n"
    "both.  They run at once, on half of the threads each; or one after the other, on all\n"
    "of them, if the two are small, an odd number of threads is better used so, or the\n"
    "recurrent weights of one need the second caches of all threads.\n"
    "Returns None.");

static PyObject* forward_both(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  return run_two(args, n, 0);
}

PyDoc_STRVAR(backward_both_doc, "As forward_both, for two backward passes.");

static PyObject* backward_both(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  return run_two(args, n, 1);
}

PyDoc_STRVAR(step_doc,
             "step(cell, rounding, *options, B, I, H, x, W, U, b, *extras, h, c, h_out, c_out)\n\n"
             "One time step of B sequences, on the calling thread.  All weights may be one pack\n"
             "instead.");

static PyObject* step(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  Arguments a = {.args = args, .n = n};
  Team team;
  const Set* set = chosen;
  Pass p = {.team = &team};
  read_shape(&a, &p, set, 0, AS_BYTES);
  const Sizes s = sizes(&a, &p);
  p.xs = reals(&a, "x", IN, s.tbi, p.I);
  p.products = products_of(set, &a, p.rounding);
  read_weights(&a, &p);
  p.h0 = reals(&a, "h", IN, s.bp, p.P);
  p.c0 = reals(&a, "c", IN | OPTIONAL, s.bh, p.H);
  p.h_last = p.ys = reals(&a, "h_out", OUT, s.bp, p.P);
  p.c_last = reals(&a, "c_out", OUT | OPTIONAL, s.bh, p.H);
  required(&a, "c", p.c0, p.cell->has_c);
  required(&a, "c_out", p.c_last, p.cell->has_c);
  complete(&a);
  if (perform(&a, &team, 1, operations(&p), of_type(set, &a)->forward, &p)) return NULL;
  Py_RETURN_NONE;
}

PyDoc_STRVAR(pack_doc,
             "pack(cell, rounding, *options, I, H, fixed, W, U, b, *extras)\n\n"
             "Takes the weights for any number of calls of forward and step.  If they are fixed,\n"
             "they are laid out in the order in which products read them, and must not be changed\n"
             "afterwards.  If `fixed` is 2, no other form of the matrices is kept,\n"
             "provided that H is a multiple of the outputs of a panel.");

static PyObject* pack(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  Arguments a = {.args = args, .n = n};
  const Set* set = chosen;
  Pass shape = {0};
  read_cell(&a, &shape, set, AS_BYTES);
  read_widths(&a, &shape);
  const int fixed = (int)number(&a, "fixed", MAY_CHANGE, NOT_KEPT);
  return a.failed ? NULL : make_pack(&a, &shape, fixed, set);
}

PyDoc_STRVAR(
    gemm_doc,
    "gemm(m, n, k, A, a_transposed, B, b_transposed, C, bias, accumulate, threads, rounding)\n\n"
    "C (m, n) = op(A) op(B); see Gemm in native.h.  Used by tests.");

static PyObject* gemm(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  Arguments a = {.args = args, .n = n};
  Team team;
  Gemm g = {.team = &team};
  g.m = number(&a, "m", 0, LARGEST);
  g.n = number(&a, "n", 0, LARGEST);
  g.k = number(&a, "k", 0, LARGEST);
  g.A = reals(&a, "A", IN, times(&a, g.m, g.k), -1);
  g.a_transposed = (int)number(&a, "a_transposed", 0, 1);
  g.B = reals(&a, "B", IN, times(&a, g.k, g.n), -1);
  g.b_transposed = (int)number(&a, "b_transposed", 0, 1);
  g.C = reals(&a, "C", OUT, times(&a, g.m, g.n), -1);
  g.bias = reals(&a, "bias", IN | OPTIONAL, g.n, -1);
  g.accumulate = (int)number(&a, "accumulate", 0, 1);
  const int threads = (int)number(&a, "threads", 1, 1 << 20);
  const int rounding = (int)number(&a, "rounding", 0, AS_BFLOAT16);
  const Products* products = products_of(chosen, &a, rounding);
  g.lda = g.a_transposed ? g.m : g.k;
  g.ldb = g.b_transposed ? g.k : g.n;
  g.ldc = g.n;
  complete(&a);
  const double flops = 2.0 * g.m * g.n * g.k;
  const int size = worth_making(threads, flops);
  if (perform(&a, &team, size, flops, products->gemm, &g)) return NULL;
  Py_RETURN_NONE;
}

// The arguments of `activation`.
typedef struct {
  void (*function)(const void* x, void* y, idx n);
  const void* x;
  void* y;
  idx n;
} Activation;

static int run_activation(const void* what) {
  const Activation* a = what;
  a->function(a->x, a->y, a->n);
  return 0;
}

PyDoc_STRVAR(activation_doc,
             "activation(tanh, x, y)\n\ny = tanh(x), or σ(x) if the first argument is 0.");

static PyObject* activation(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  Arguments a = {.args = args, .n = n};
  const int is_tanh = (int)number(&a, "tanh", 0, 1);
  Py_ssize_t size = 0;
  if (n > 1 && !a.failed) {
    Py_buffer view;
    if (PyObject_GetBuffer(args[1], &view, PyBUF_SIMPLE)) return NULL;
    size = view.itemsize ? view.len / view.itemsize : 0;
    PyBuffer_Release(&view);
  }
  const void* x = reals(&a, "x", IN, size, -1);
  void* y = reals(&a, "y", OUT, size, -1);
  complete(&a);
  const Kernels* k = of_type(chosen, &a);
  const Activation what = {is_tanh ? k->tanh : k->sigmoid, x, y, size};
  Team team;
  if (perform(&a, &team, 1, 0, run_activation, &what)) return NULL;
  Py_RETURN_NONE;
}

PyDoc_STRVAR(isas_doc,
             "isas()\n\nThe instruction sets that this processor can run, those with more "
             "instructions first.");

static PyObject* isas(PyObject* module, PyObject* none) {
  (void)module, (void)none;
  PyObject* names = PyList_New(0);
  for (int i = 0; names && i < N_SETS; i++) {
    if (!runs(&SETS[i])) continue;
    PyObject* name = PyUnicode_FromString(SETS[i].name);
    if (!name || PyList_Append(names, name)) Py_CLEAR(names);
    Py_XDECREF(name);
  }
  return names;
}

PyDoc_STRVAR(isa_doc,
             "isa(use=None)\n\nThe instruction set in use.  With a name, selects that one.");

static PyObject* isa(PyObject* module, PyObject* const* args, Py_ssize_t n) {
  (void)module;
  if (n > 1) return PyErr_Format(PyExc_TypeError, "%zd arguments; at most 1 was wanted", n);
  if (n) {
    PyObject* bytes = PyUnicode_AsUTF8String(args[0]);
    if (!bytes) return NULL;
    const int status = choose(PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    if (status) return NULL;
  }
  return PyUnicode_FromString(chosen->name);
}

#define FAST(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

static PyMethodDef methods[] = {
    FAST(forward),
    FAST(forward_both),
    FAST(backward),
    FAST(backward_both),
    FAST(step),
    FAST(pack),
    FAST(gemm),
    FAST(activation),
    FAST(widen),
    FAST(narrow),
    FAST(isa),
    {"cells", cells, METH_NOARGS, cells_doc},
    {"activations", activations, METH_NOARGS, activations_doc},
    {"isas", isas, METH_NOARGS, isas_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "Recurrent cells over whole sequences, forward and backward; see native.h.",
    .m_size = -1,
    .m_methods = methods,
};

// A symbol that distinguishes this library from others with the same file name.
Py_EXPORTED_SYMBOL extern const char xrnn_native_loops[];
const char xrnn_native_loops[] = "xrnn";

PyMODINIT_FUNC PyInit__native(void) {
#if defined __x86_64__
  __builtin_cpu_init();
#endif
  if (choose(NULL)) return NULL;
  find_second_cache();
  PyObject* module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
  // Calls share nothing but `chosen`, which is atomic, and packs, which never change.
  if (module) PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
  return module;
}
