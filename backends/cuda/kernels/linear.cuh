// Used by the kernels of linear cells (linear.cu): pieces of the time axis, and units.
#pragma once

#include "common.cuh"

constexpr int kAhead = 4;  // steps whose loads are in flight at the same time

// The steps that one piece has of one sequence.
struct Piece {
  int from, to;      // of the padded time axis
  int valid;         // how many of them are before the sequence's end: from … from + valid - 1
  bool first, last;  // whether this piece runs before, after all others that have steps
  bool empty;        // whether the sequence has no step at all
  bool down;         // whether t falls from one step to the next

  __device__ __forceinline__ Piece(int T, int length, int reverse) {
    const int pieces = gridDim.y, mine = blockIdx.y, size = (T + pieces - 1) / pieces;
    const int at_end = length > 0 ? (length - 1) / size : 0;
    from = mine * size < T ? mine * size : T;
    to = from + size < T ? from + size : T;
    valid = (to < length ? to : length) - from;
    if (valid < 0) valid = 0;
    first = mine == (reverse ? at_end : 0);
    last = mine == (reverse ? 0 : at_end);
    empty = length == 0;
    down = reverse;
  }
  // The time of the k-th step, in the forward and in the backward pass.
  __device__ __forceinline__ i64 step(int k) const {
    return down ? from + valid - 1 - k : from + k;
  }
  __device__ __forceinline__ i64 step_backward(int k) const { return step(valid - 1 - k); }
};

// Which unit a thread has.
struct Unit {
  i64 size, id;  // B · H; b · H + unit
  int b, unit;

  __device__ __forceinline__ Unit(int B, int H) {
    size = static_cast<i64>(B) * H;
    id = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    b = id / H;
    unit = id - static_cast<i64>(b) * H;
  }
  __device__ __forceinline__ bool outside() const { return id >= size; }
  // Where the G gates of step t stand.
  __device__ __forceinline__ i64 gates(i64 t, int G, int H) const {
    return (t * size + static_cast<i64>(b) * H) * G + unit;
  }
  __device__ __forceinline__ i64 at(i64 t) const { return t * size + id; }
};
