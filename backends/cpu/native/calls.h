// Runs the computation of one call from Python: the interpreter lock, signals, threads, and the
// mode of the processor.
#ifndef XRNN_CALLS_H
#define XRNN_CALLS_H

#include "arguments.h"
#include "native.h"

// The number of operations up to which a call is short: it takes up to some tenths of a
// millisecond.  A short call keeps the interpreter lock, because other threads that wait for the
// lock would hold it for longer than that.
#define SHORT 5e6

// Whether this thread runs Python's handlers of signals.  Only this thread may stop a call: it
// exists until the interpreter ends, but others may be ended when they acquire the lock.
static int handles_signals(void) {
  PyObject* threading = PyImport_ImportModule("threading");
  PyObject* main = threading ? PyObject_CallMethod(threading, "main_thread", NULL) : NULL;
  PyObject* ident = main ? PyObject_GetAttrString(main, "ident") : NULL;
  const int found = ident && PyLong_AsUnsignedLong(ident) == PyThread_get_thread_ident();
  Py_XDECREF(ident);
  Py_XDECREF(main);
  Py_XDECREF(threading);
  PyErr_Clear();
  return found;
}

// The thread of a call while it does not hold the interpreter lock.
typedef struct {
  PyThreadState* state;
  FloatMode mode;
} Caller;

// Runs the handlers of the signals that have arrived.  Returns whether one has raised an exception,
// which stops the call.
static int run_handlers(void* data) {
  Caller* caller = data;
  restore_mode(caller->mode);
  PyEval_RestoreThread(caller->state);
  const int raised = PyErr_CheckSignals() != 0;
  caller->state = PyEval_SaveThread();
  flush_denormals();
  return raised;
}

// Runs `call` with a team of n threads, which it may use, or of one if the call is short.  Returns
// 0, or -1 with an exception set.
static int compute(Team* team, int n, double operations, int (*call)(const void*),
                   const void* what) {
  int status;
  Caller caller;
  if (operations < SHORT) {
    make_team(team, 1, NULL, NULL);
    caller.mode = flush_denormals();
    status = call(what);
    restore_mode(caller.mode);
  } else {
    const int may_stop = handles_signals();
    caller.state = PyEval_SaveThread();
    caller.mode = flush_denormals();
    make_team(team, n, may_stop ? run_handlers : NULL, &caller);
    status = call(what);
    join(team);
    restore_mode(caller.mode);
    PyEval_RestoreThread(caller.state);
  }
  if (is_stopped(&team->stop)) return -1;  // the handler's exception is set
  if (status) PyErr_NoMemory();
  return status ? -1 : 0;
}

// The same if the arguments are right; releases their buffers.
static int perform(Arguments* a, Team* team, int n, double operations, int (*call)(const void*),
                   const void* what) {
  const int status = a->failed ? -1 : compute(team, n, operations, call, what);
  release(a);
  return status;
}

#endif
