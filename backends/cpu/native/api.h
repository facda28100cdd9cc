// The C API of Python: the limited one of 3.11 and later, or all of it on a free-threaded Python,
// which has no limited one.
#ifndef XRNN_API_H
#define XRNN_API_H

#include <pyconfig.h>
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#endif
