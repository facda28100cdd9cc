// The Python module xrnn.backends.cuda._loop: the calls of one time step, repeated for all steps.
//
// Python describes the step by numbers, once for each pass: see Call.  From one step to the next
// only addresses and the number of the step change, each by the same amount every time.
#include "../../cpu/native/api.h"
#include "driver.h"

#include <time.h>

// An argument of a call: its value in the next step, and what is added to it after each step.  The
// kernels read from the beginning of `value` as many bytes as their parameter has.
typedef struct {
  int64_t value, change;
} Argument;

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a 32-bit parameter is read from the first bytes of its 64-bit value"
#endif

// One call: the start of a kernel or, if `function` is 0, a product, whose arguments are those of
// cublasGemmEx after the handle.  In memory the arguments follow the call.
typedef struct {
  int64_t count, function, grid[3], block[3];
} Call;

#define PRODUCT_ARGUMENTS 18
#define MOST_ARGUMENTS 32

// What Python hands over.
typedef struct {
  LaunchKernel launch;
  GemmEx gemm;
  void *handle, *stream;
  char *calls, *end;  // the calls of a step, one after the other
} Loop;

// How far the loop has come: the step, the call in it, and the status that the call returned.
typedef struct {
  int64_t step, call;
  int status;
} Position;

static Argument* arguments_of(const Call* call) { return (Argument*)(call + 1); }

static Call* after(const Call* call) { return (Call*)(arguments_of(call) + call->count); }

static void* pointer(int64_t address) { return (void*)(intptr_t)address; }

static int launch(const Loop* loop, const Call* call) {
  void* values[MOST_ARGUMENTS];
  Argument* a = arguments_of(call);
  for (int64_t i = 0; i < call->count; i++) values[i] = &a[i].value;
  const int64_t *grid = call->grid, *block = call->block;
  return loop->launch(pointer(call->function), (unsigned)grid[0], (unsigned)grid[1],
                      (unsigned)grid[2], (unsigned)block[0], (unsigned)block[1], (unsigned)block[2],
                      0, loop->stream, values, NULL);
}

static int multiply(const Loop* loop, const Call* call) {
  const Argument* a = arguments_of(call);
#define NUMBER(i) ((int)a[i].value)
#define ADDRESS(i) pointer(a[i].value)
  return loop->gemm(loop->handle, NUMBER(0), NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4), ADDRESS(5),
                    ADDRESS(6), NUMBER(7), NUMBER(8), ADDRESS(9), NUMBER(10), NUMBER(11),
                    ADDRESS(12), ADDRESS(13), NUMBER(14), NUMBER(15), NUMBER(16), NUMBER(17));
#undef NUMBER
#undef ADDRESS
}

static void advance(const Call* call) {
  Argument* a = arguments_of(call);
  for (int64_t i = 0; i < call->count; i++) a[i].value += a[i].change;
}

// Makes all calls of the steps up to `to`, or up to the first call that fails.
static void run_steps(const Loop* loop, Position* at, int64_t to) {
  for (; at->step < to; at->step++) {
    at->call = 0;
    for (Call* call = (Call*)loop->calls; (char*)call < loop->end; call = after(call)) {
      at->status = call->function ? launch(loop, call) : multiply(loop, call);
      if (at->status) return;
      advance(call);
      at->call++;
    }
  }
}

static int64_t nanoseconds(void) {
  struct timespec now;
  timespec_get(&now, TIME_UTC);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

#define SLICE 64            // steps: between two looks at the clock
#define ASK_AFTER 50000000  // nanoseconds: the lock of the interpreter may take 5 ms to acquire

// Runs the steps up to `steps`, a failure, or the time to look at the signals.
static void run_for_a_while(const Loop* loop, Position* at, int64_t steps) {
  const int64_t start = nanoseconds();
  do {
    const int64_t left = steps - at->step;
    run_steps(loop, at, at->step + (left < SLICE ? left : SLICE));
  } while (at->step < steps && !at->status && nanoseconds() - start < ASK_AFTER);
}

// Runs the loop without the lock of the interpreter.  Returns -1, with an exception, if a signal
// (such as Ctrl-C) has ended it.
static int run_loop(const Loop* loop, Position* at, int64_t steps) {
  while (at->step < steps && !at->status) {
    Py_BEGIN_ALLOW_THREADS;
    run_for_a_while(loop, at, steps);
    Py_END_ALLOW_THREADS;
    if (PyErr_CheckSignals()) return -1;
  }
  return 0;
}

// Whether the numbers are whole calls with as many arguments as can be; if not, with an exception.
static int are_calls(const Loop* loop) {
  const char* at = loop->calls;
  while (at < loop->end) {
    const Call* call = (const Call*)at;
    const size_t left = (size_t)(loop->end - at);
    if (left < sizeof(Call) || call->count < 0 || call->count > MOST_ARGUMENTS) break;
    if (!call->function && call->count != PRODUCT_ARGUMENTS) break;
    if (left < sizeof(Call) + (size_t)call->count * sizeof(Argument)) break;
    at = (const char*)after(call);
  }
  if (at == loop->end) return 1;
  PyErr_Format(PyExc_ValueError, "the numbers from %zd bytes on are no call; see Call in loop.c",
               (Py_ssize_t)(at - loop->calls));
  return 0;
}

PyDoc_STRVAR(run_doc,
             "run(launch, gemm, handle, stream, steps, calls)\n\n"
             "Makes the calls of one step as many times as there are steps.\n\n"
             "launch and gemm are the addresses of cuLaunchKernel and cublasGemmEx, handle is of\n"
             "cuBLAS and set to the stream.  calls is a writable buffer of int64, which is left\n"
             "as it is after the last step: see Call in loop.c.  Returns (step, call, status):\n"
             "the first call that failed, or the end with status 0.");

static PyObject* run(PyObject* module, PyObject* args) {
  (void)module;
  unsigned long long launch, gemm, handle, stream;
  long long steps;
  Py_buffer calls;
  if (!PyArg_ParseTuple(args, "KKKKLw*:run", &launch, &gemm, &handle, &stream, &steps, &calls))
    return NULL;
  const Loop loop = {.launch = (LaunchKernel)(uintptr_t)launch,
                     .gemm = (GemmEx)(uintptr_t)gemm,
                     .handle = (void*)(uintptr_t)handle,
                     .stream = (void*)(uintptr_t)stream,
                     .calls = calls.buf,
                     .end = (char*)calls.buf + calls.len};
  Position at = {0};
  const int status = are_calls(&loop) ? run_loop(&loop, &at, steps) : -1;
  PyBuffer_Release(&calls);
  if (status) return NULL;
  return Py_BuildValue("LLi", (long long)at.step, (long long)at.call, at.status);
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS, run_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_loop",    .m_doc = "The loop over time on a CUDA device.",
    .m_size = -1,          .m_methods = methods,
};

PyMODINIT_FUNC PyInit__loop(void) {
  PyObject* module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
  // Calls share nothing.
  if (module) PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
  return module;
}
