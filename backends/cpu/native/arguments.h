// Reads and checks the arguments of one call from Python, in their order.
#ifndef XRNN_ARGUMENTS_H
#define XRNN_ARGUMENTS_H

#include "api.h"

#include <string.h>

// The state of reading.  The first error sets `failed` and the Python exception; after that, every
// further argument reads as null or 0.
typedef struct {
  PyObject* const* args;
  Py_ssize_t n, next;
  int failed;
  size_t real;               // the size of a real in bytes, 0 before the first array of reals
  PyTypeObject* array_type;  // the type of the first array.  All arrays must have it: a subclass
                             // may give its elements another meaning
  Py_buffer views[40];
  int used;
} Arguments;

// Releases the buffers of all arrays that were read.
static void release(Arguments* a) {
  while (a->used) PyBuffer_Release(&a->views[--a->used]);
}

static PyObject* argument(Arguments* a) {
  if (a->failed) return NULL;
  if (a->next < a->n) return a->args[a->next++];
  PyErr_Format(PyExc_TypeError, "too few arguments: %zd", a->n);
  a->failed = 1;
  return NULL;
}

static Py_ssize_t number(Arguments* a, const char* name, Py_ssize_t least, Py_ssize_t most) {
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

// Whether `format` of a buffer (as in Python's module struct) is one of the characters of
// `accepted`, either alone or after a prefix for the byte order of this machine.
static int has_format(const char* format, const char* accepted) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  const char native[] = "@=<";
#else
  const char native[] = "@=>!";
#endif
  if (*format && format[1] && strchr(native, *format)) format++;
  return *format && strchr(accepted, *format) && !format[1];
}

// A buffer of `count` items, each of `size` bytes and of one of `formats`.  Its last axis must have
// the length `width`, unless that is -1.
static void* items(Arguments* a, const char* name, int flags, Py_ssize_t count, Py_ssize_t width,
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
  if (!has_format(format, formats) || (size_t)view->itemsize != size) {
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

// An array of reals.  The first one decides between float and double for the whole call.
static void* reals(Arguments* a, const char* name, int flags, Py_ssize_t count, Py_ssize_t width) {
  if (!a->real && a->next < a->n && !a->failed) {
    Py_buffer view;
    if (PyObject_GetBuffer(a->args[a->next], &view, PyBUF_SIMPLE)) {
      a->failed = 1;
      return NULL;
    }
    a->real = view.itemsize == sizeof(double) ? sizeof(double) : sizeof(float);
    a->array_type = Py_TYPE(a->args[a->next]);
    PyBuffer_Release(&view);
  }
  if (!a->failed && a->next < a->n && a->args[a->next] != Py_None &&
      Py_TYPE(a->args[a->next]) != a->array_type) {
    PyErr_Format(PyExc_TypeError, "%s is of another type than the arrays before it", name);
    a->failed = 1;
  }
  return items(a, name, flags, count, width, a->real, a->real == sizeof(double) ? "d" : "f");
}

// To be called after the last argument.  Returns whether all arguments were right.
static int complete(Arguments* a) {
  if (!a->failed && a->next != a->n) {
    PyErr_Format(PyExc_TypeError, "%zd arguments; %zd were wanted", a->n, a->next);
    a->failed = 1;
  }
  return !a->failed;
}

// x·y for x, y ≥ 0.  It is an error if the product is larger than the size of any array can be.
static Py_ssize_t times(Arguments* a, Py_ssize_t x, Py_ssize_t y) {
  if (x && y > PY_SSIZE_T_MAX / 8 / x && !a->failed) {
    PyErr_SetString(PyExc_ValueError, "the sizes are too large");
    a->failed = 1;
  }
  return a->failed ? 0 : x * y;
}

// It is an error if an array that is needed is missing.
static void required(Arguments* a, const char* name, const void* array, int needed) {
  if (a->failed || !needed || array) return;
  PyErr_Format(PyExc_ValueError, "%s is needed", name);
  a->failed = 1;
}

#endif
