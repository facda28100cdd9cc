// The arguments of one call from Python, taken in order and checked.
#ifndef XRNN_ARGUMENTS_H
#define XRNN_ARGUMENTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <string.h>

// The first thing wrong sets `failed` and the error; what is taken after that is null or 0.
typedef struct {
  PyObject* const* args;
  Py_ssize_t n, next;
  int failed;
  size_t real;            // bytes of a real: 0 until the first array,
  PyTypeObject* of_type;  // whose type all have: a subclass may mean more than its numbers
  Py_buffer views[24];
  int used;
} Taken;

static void finish(Taken* a) {
  while (a->used) PyBuffer_Release(&a->views[--a->used]);
}

static PyObject* argument(Taken* a) {
  if (a->failed) return NULL;
  if (a->next < a->n) return a->args[a->next++];
  PyErr_Format(PyExc_TypeError, "too few arguments: %zd", a->n);
  a->failed = 1;
  return NULL;
}

static Py_ssize_t number(Taken* a, const char* name, Py_ssize_t least, Py_ssize_t most) {
  PyObject* o = argument(a);
  if (!o) return 0;
  const Py_ssize_t value = PyLong_AsSsize_t(o);
  if (value == -1 && PyErr_Occurred()) {
    a->failed = 1;
  } else if (value < least || value > most) {
    PyErr_Format(PyExc_ValueError, "%s is %zd; it must lie in %zd to %zd", name, value, least,
                 most);
    a->failed = 1;
  }
  return a->failed ? 0 : value;
}

enum { IN = PyBUF_FORMAT | PyBUF_ND, OUT = IN | PyBUF_WRITABLE, OPTIONAL = 1 << 20 };

// A buffer of `count` items, each of `size` bytes and of one of `formats`; its last axis is `width`
// long, if that is not -1.
static void* items(Taken* a, const char* name, int flags, Py_ssize_t count, Py_ssize_t width,
                   size_t size, const char* formats) {
  PyObject* o = argument(a);
  if (!o || (o == Py_None && flags & OPTIONAL)) return NULL;
  Py_buffer* view = &a->views[a->used];
  if (PyObject_GetBuffer(o, view, flags & ~OPTIONAL)) {
    a->failed = 1;
    return NULL;
  }
  a->used++;
  const char* format = view->format ? view->format : "B";
  if (!*format || !strchr(formats, *format) || format[1] || (size_t)view->itemsize != size) {
    PyErr_Format(PyExc_ValueError, "%s holds items of format %s and %zd bytes; wanted %s and %zu",
                 name, format, view->itemsize, formats, size);
    a->failed = 1;
  } else if (view->len / view->itemsize != count) {
    PyErr_Format(PyExc_ValueError, "%s holds %zd items; it must hold %zd", name,
                 view->len / view->itemsize, count);
    a->failed = 1;
  } else if (width >= 0 && (view->ndim < 1 || view->shape[view->ndim - 1] != width)) {
    PyErr_Format(PyExc_ValueError, "%s has another last axis than %zd", name, width);
    a->failed = 1;
  }
  return a->failed ? NULL : view->buf;
}

// An array of reals, all of the types of the first one.
static void* reals(Taken* a, const char* name, int flags, Py_ssize_t count, Py_ssize_t width) {
  if (!a->real && a->next < a->n && !a->failed) {
    Py_buffer view;
    if (PyObject_GetBuffer(a->args[a->next], &view, PyBUF_SIMPLE)) {
      a->failed = 1;
      return NULL;
    }
    a->real = view.itemsize == sizeof(double) ? sizeof(double) : sizeof(float);
    a->of_type = Py_TYPE(a->args[a->next]);
    PyBuffer_Release(&view);
  }
  if (!a->failed && a->next < a->n && a->args[a->next] != Py_None &&
      Py_TYPE(a->args[a->next]) != a->of_type) {
    PyErr_Format(PyExc_TypeError, "%s is of another type than the arrays before it", name);
    a->failed = 1;
  }
  return items(a, name, flags, count, width, a->real, a->real == sizeof(double) ? "d" : "f");
}

// After the last argument: whether the call may be made.
static int complete(Taken* a) {
  if (!a->failed && a->next != a->n) {
    PyErr_Format(PyExc_TypeError, "%zd arguments; %zd were wanted", a->n, a->next);
    a->failed = 1;
  }
  return !a->failed;
}

// x·y, both at least 0, or failure: no array is as large as that.
static Py_ssize_t times(Taken* a, Py_ssize_t x, Py_ssize_t y) {
  if (x && y > PY_SSIZE_T_MAX / 8 / x && !a->failed) {
    PyErr_SetString(PyExc_ValueError, "the sizes are too large");
    a->failed = 1;
  }
  return a->failed ? 0 : x * y;
}

static void required(Taken* a, const char* name, const void* array, int wanted) {
  if (a->failed || !wanted || array) return;
  PyErr_Format(PyExc_ValueError, "%s is needed", name);
  a->failed = 1;
}

#endif
