// The part of CUDA that the kernels use, for g++: names, half precision, warp operations, tensor cores,
// asynchronous copies, and a launch. See README.md beside this file for what it checks and what it cannot.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <thread>

#include "block.hpp"

namespace emulation {

inline Options options;  // of the next launches
inline Counters totals;  // since the program set them to {}

}  // namespace emulation

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)
// The threads of a block share one OS thread, and no two blocks run on it at once.
#define __shared__ static thread_local
#define FER_EDGE_DYNAMIC_SHARED(name) unsigned char* const name = emulation::block->shared_memory()

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorString(cudaError_t error) { return error ? "invalid argument" : "no error"; }

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;

// ---- half precision: the compiler's own type rounds to nearest, ties to even

struct __half {
#if defined(__aarch64__)
  __fp16 value;
#else
  _Float16 value;
#endif
};
struct alignas(4) __half2 {
  __half x, y;
};
inline float __half2float(__half h) { return static_cast<float>(h.value); }
inline __half __float2half_rn(float f) { return {static_cast<decltype(__half::value)>(f)}; }
inline __half __float2half(float f) { return __float2half_rn(f); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }

// ---- barriers and warp operations; default arguments name the line of the caller

#define FER_EDGE_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FER_EDGE_HERE) {
  if (line != emulation::options.skipped_barrier_line) emulation::block->block_barrier({file, line});
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, FER_EDGE_HERE) {
  emulation::block->warp_operation(mask, nullptr, [](void* const*, unsigned) {}, {file, line});
}

namespace emulation {

template <typename T>
struct ShuffleArguments {
  T value;       // in: what this lane offers
  int lane;      // in: whose value it wants
  T result;      // out
};

template <typename T>
T shuffle(unsigned mask, T value, int lane, Site site) {
  ShuffleArguments<T> arguments{value, lane, value};
  block->warp_operation(
      mask, &arguments,
      [](void* const* lanes, unsigned) {
        for (int i = 0; i < 32; ++i) {
          if (!lanes[i]) continue;
          auto& mine = *static_cast<ShuffleArguments<T>*>(lanes[i]);
          const void* source = lanes[mine.lane];
          if (!source) throw Failure("a shuffle reads lane " + std::to_string(mine.lane) + ", not in its mask");
          mine.result = static_cast<const ShuffleArguments<T>*>(source)->value;
        }
      },
      site);
  return arguments.result;
}

inline int lane_index() {
  const unsigned index = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  return static_cast<int>(index % 32);
}

// Lanes beyond a segment of `width` keep their own value, as on the device.
inline int within(int source, int width) {
  const int lane = lane_index(), first = lane / width * width;
  return source < first || source >= first + width ? lane : source;
}

}  // namespace emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, FER_EDGE_HERE) {
  const int first = emulation::lane_index() / width * width;
  return emulation::shuffle(mask, value, first + (source & (width - 1)), {file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, FER_EDGE_HERE) {
  return emulation::shuffle(mask, value, emulation::within(emulation::lane_index() ^ lanes, width), {file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, FER_EDGE_HERE) {
  const int source = emulation::lane_index() + static_cast<int>(delta);
  return emulation::shuffle(mask, value, emulation::within(source, width), {file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, FER_EDGE_HERE) {
  const int source = emulation::lane_index() - static_cast<int>(delta);
  return emulation::shuffle(mask, value, emulation::within(source, width), {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, FER_EDGE_HERE) {
  struct Arguments {
    int predicate;
    unsigned votes;
  } arguments{predicate, 0};
  emulation::block->warp_operation(
      mask, &arguments,
      [](void* const* lanes, unsigned) {
        unsigned votes = 0;
        for (int i = 0; i < 32; ++i)
          if (lanes[i] && static_cast<Arguments*>(lanes[i])->predicate) votes |= 1u << i;
        for (int i = 0; i < 32; ++i)
          if (lanes[i]) static_cast<Arguments*>(lanes[i])->votes = votes;
      },
      {file, line});
  return arguments.votes;
}
inline int __any_sync(unsigned mask, int predicate, FER_EDGE_HERE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, FER_EDGE_HERE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

// ---- the primitives of ../device.cuh

namespace fer_edge {

inline void require_aligned(const void* address, std::size_t bytes, const char* what) {
  if (reinterpret_cast<std::uintptr_t>(address) % bytes)
    throw emulation::Failure(std::string(what) + " of " + std::to_string(bytes) + " bytes at a misaligned address");
}

template <typename T>
T load_global(const T* address) {
  require_aligned(address, sizeof(T), "global load");
  auto& counters = emulation::block->counters;
  counters.loaded_bytes += sizeof(T);
  ++(sizeof(T) == 16 ? counters.wide_loads : counters.narrow_loads);
  return *address;
}

template <typename T>
void store_global(T* address, T value) {
  require_aligned(address, sizeof(T), "global store");
  auto& counters = emulation::block->counters;
  counters.stored_bytes += sizeof(T);
  ++(sizeof(T) == 16 ? counters.wide_stores : counters.narrow_stores);
  *address = value;
}

inline float multiply_add(float a, float b, float c) {
  ++emulation::block->counters.scalar_multiply_adds;
  return std::fma(a, b, c);
}

inline float multiply(float a, float b) {
  ++emulation::block->counters.scalar_multiply_adds;
  return a * b;
}

inline float exp2_approximate(float x) { return std::exp2(x); }

// The target is NaN from here to the wait: the device may write it at any moment in between.
template <int kBytes>
void copy_async(void* shared, const void* global, bool exist) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  require_aligned(shared, kBytes, "asynchronous copy to shared memory");
  require_aligned(global, kBytes, "asynchronous copy from global memory");
  auto& counters = emulation::block->counters;
  if (exist) {
    counters.loaded_bytes += kBytes;
    ++(kBytes == 16 ? counters.wide_loads : counters.narrow_loads);
  }
  std::memset(shared, 0xFF, kBytes);
  emulation::block->current_thread().copies.back().push_back({shared, exist ? global : nullptr, kBytes});
}

inline void copy_async_commit() { emulation::block->current_thread().copies.emplace_back(); }

// Waits until at most `kPending` committed groups are under way.
template <int kPending>
void copy_async_wait() {
  auto& groups = emulation::block->current_thread().copies;
  while (static_cast<int>(groups.size()) > kPending + 1) {
    for (const emulation::Copy& copy : groups.front()) {
      if (copy.source)
        std::memcpy(copy.target, copy.source, copy.bytes);
      else
        std::memset(copy.target, 0, copy.bytes);
    }
    groups.pop_front();
  }
}

// Four 8×8 matrices of halves; lanes 8m … 8m+7 name the rows of matrix m.
template <bool kTransposed>
void ldmatrix_x4(unsigned (&registers)[4], const void* row, FER_EDGE_HERE) {
  require_aligned(row, 16, "ldmatrix");
  struct Arguments {
    unsigned* registers;
    const std::uint16_t* row;
  } arguments{registers, static_cast<const std::uint16_t*>(row)};
  emulation::block->warp_operation(
      ~0u, &arguments,
      [](void* const* lanes, unsigned) {
        const auto at = [&](int lane) { return static_cast<const Arguments*>(lanes[lane]); };
        for (int matrix = 0; matrix < 4; ++matrix) {
          unsigned rows_per_bank_group[8] = {};
          for (int r = 0; r < 8; ++r)
            ++rows_per_bank_group[reinterpret_cast<std::uintptr_t>(at(8 * matrix + r)->row) / 16 % 8];
          emulation::block->counters.bank_conflicts +=
              *std::max_element(rows_per_bank_group, rows_per_bank_group + 8) - 1;
          for (int lane = 0; lane < 32; ++lane) {
            const int major = lane / 4, minor = lane % 4 * 2;
            std::uint16_t pair[2];
            for (int i = 0; i < 2; ++i)
              pair[i] = kTransposed ? at(8 * matrix + minor + i)->row[major] : at(8 * matrix + major)->row[minor + i];
            std::memcpy(&at(lane)->registers[matrix], pair, sizeof pair);
          }
        }
      },
      {file, line});
}

// D += A·B with A [16, 16] and B [16, 8] in halves, D [16, 8] in single precision, spread over the lanes as
// PTX lays down for mma.m16n8k16. The device adds in another order, and truncates.
inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], FER_EDGE_HERE) {
  struct Arguments {
    float* d;
    const unsigned *a, *b;
  } arguments{d, a, b};
  emulation::block->warp_operation(
      ~0u, &arguments,
      [](void* const* lanes, unsigned) {
        float left[16][16], right[16][8], sum[16][8];
        const auto unpack = [](unsigned bits, float& first, float& second) {
          __half2 pair;
          std::memcpy(&pair, &bits, sizeof pair);
          first = __half2float(pair.x);
          second = __half2float(pair.y);
        };
        for (int lane = 0; lane < 32; ++lane) {
          const auto& mine = *static_cast<const Arguments*>(lanes[lane]);
          const int group = lane / 4, pair = lane % 4 * 2;
          for (int i = 0; i < 4; ++i) {
            const int row = group + i % 2 * 8, column = pair + i / 2 * 8;
            unpack(mine.a[i], left[row][column], left[row][column + 1]);
            sum[group + i / 2 * 8][pair + i % 2] = mine.d[i];
          }
          for (int i = 0; i < 2; ++i) unpack(mine.b[i], right[pair + 8 * i][group], right[pair + 8 * i + 1][group]);
        }
        for (int row = 0; row < 16; ++row)
          for (int k = 0; k < 16; ++k)
            for (int column = 0; column < 8; ++column) sum[row][column] += left[row][k] * right[k][column];
        for (int lane = 0; lane < 32; ++lane) {
          const auto& mine = *static_cast<const Arguments*>(lanes[lane]);
          for (int i = 0; i < 4; ++i) mine.d[i] = sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        }
        emulation::block->counters.tensor_multiply_adds += 16 * 8 * 16;
      },
      {file, line});
}

}  // namespace fer_edge

// ---- launch

namespace fer_edge {

// Runs the grid to its end, blocks in turn over options.os_threads; throws what the first bad block did.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 shape, std::size_t shared_bytes, cudaStream_t,
                   Arguments... arguments) {
  using namespace emulation;
  const std::uint64_t count = std::uint64_t{grid.x} * grid.y * grid.z;
  if (!count || shape.x * shape.y * shape.z - 1 >= 1024) return cudaErrorInvalidValue;
  const std::function<void()> body = [=] { kernel(static_cast<Parameters>(arguments)...); };
  std::atomic<std::uint64_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    Block mine(options);
    gridDim = grid;
    try {
      for (std::uint64_t i; (i = next++) < count;)
        mine.run(body, shape,
                 {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                  static_cast<unsigned>(i / grid.x / grid.y)},
                 shared_bytes);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
    const std::lock_guard lock(mutex);
    totals += mine.counters;
  };
  std::vector<std::thread> others;
  for (unsigned i = 1; i < std::min<std::uint64_t>(options.os_threads, count); ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
  return cudaSuccess;
}

}  // namespace fer_edge
