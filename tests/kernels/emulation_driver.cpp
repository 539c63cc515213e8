// Small kernels, most of them wrong on purpose: what the emulation must carry out, and what it must catch.
//
//   emulation_driver COMMAND [forward|reverse|random] [SEED]     numbers on stdout; a caught mistake: exit 3

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>

#include "device.cuh"

using namespace fer_edge;

constexpr unsigned kAll = 0xFFFFFFFFu;

// Each thread reads what a thread of another warp wrote.
__global__ void reverse_kernel(const float* in, float* out) {
  FER_EDGE_DYNAMIC_SHARED(raw);
  auto* shared = reinterpret_cast<float*>(raw);
  shared[threadIdx.x] = load_global(in + threadIdx.x);
#ifndef INJECT_MISSING_BARRIER
  __syncthreads();
#endif
  store_global(out + threadIdx.x, shared[blockDim.x - 1 - threadIdx.x]);
}

// A running sum through two buffers: the second barrier keeps the writer from overtaking a reader.
__global__ void overtaken_kernel(float* out) {
  FER_EDGE_DYNAMIC_SHARED(raw);
  auto* shared = reinterpret_cast<float*>(raw);
  float sum = 0;
  for (int step = 0; step < 4; ++step) {
    shared[threadIdx.x] = static_cast<float>(step * 1000 + static_cast<int>(threadIdx.x));
    __syncthreads();
    sum += shared[(threadIdx.x + 32) % blockDim.x];
#ifndef INJECT_MISSING_BARRIER
    __syncthreads();
#endif
  }
  store_global(out + threadIdx.x, sum);
}

__global__ void early_exit_kernel() {
  if (threadIdx.x >= 32) return;
  __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void divergent_shuffle_kernel(float* out) {
  float value = static_cast<float>(threadIdx.x);
  if (threadIdx.x % 2) value = __shfl_xor_sync(kAll, value, 1);
  store_global(out + threadIdx.x, value);
}

__global__ void foreign_mask_kernel() { __syncwarp(0xFu); }

__global__ void unwritten_kernel(float* out) {
  FER_EDGE_DYNAMIC_SHARED(raw);
  store_global(out + threadIdx.x, reinterpret_cast<float*>(raw)[threadIdx.x]);
}

__global__ void out_of_bounds_kernel(float* out) {
  FER_EDGE_DYNAMIC_SHARED(raw);
  auto* shared = reinterpret_cast<float*>(raw);
  shared[threadIdx.x + 1] = 1;  // the last thread writes beyond
  store_global(out + threadIdx.x, shared[threadIdx.x + 1]);
}

__global__ void misaligned_kernel(const float* in, float* out) {
  const auto value = load_global(reinterpret_cast<const uint4*>(in + 1));
  store_global(out, static_cast<float>(value.x));
}

// 16 bytes; 8 and 4 and 4 that do not exist; `wait` false reads the latter too early.
__global__ void copy_kernel(const float* in, float* out, bool wait) {
  FER_EDGE_DYNAMIC_SHARED(raw);
  auto* shared = reinterpret_cast<float*>(raw);
  copy_async<16>(shared + 8 * threadIdx.x, in, true);
  copy_async_commit();
  copy_async<8>(shared + 8 * threadIdx.x + 4, in + 4, true);
  copy_async<4>(shared + 8 * threadIdx.x + 6, in + 6, true);
  copy_async<4>(shared + 8 * threadIdx.x + 7, in, false);
  copy_async_commit();
  if (wait)
    copy_async_wait<0>();
  else
    copy_async_wait<1>();
  for (unsigned i = 0; i < 8; ++i) store_global(out + 8 * threadIdx.x + i, shared[8 * threadIdx.x + i]);
}

__global__ void warp_kernel(float* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float value = static_cast<float>(threadIdx.x);
  float* mine = out + 7 * threadIdx.x;
  store_global(mine + 0, __shfl_sync(kAll, value, 5));
  store_global(mine + 1, __shfl_xor_sync(kAll, value, 3));
  store_global(mine + 2, __shfl_down_sync(kAll, value, 2));
  store_global(mine + 3, __shfl_up_sync(kAll, value, 2u, 8));
  store_global(mine + 4, static_cast<float>(__ballot_sync(kAll, lane % 3 == 0) >> lane & 1));
  store_global(mine + 5, static_cast<float>(__any_sync(kAll, lane == 7) + 2 * __all_sync(kAll, lane < 31)));
  float half_warp = value;
  if (lane < 16) half_warp = __shfl_xor_sync(0xFFFFu, value, 1);
  __syncwarp();
  store_global(mine + 6, half_warp);
}

// A·B with fragments filled element by element, as the PTX manual numbers them.
__global__ void mma_kernel(const __half* a, const __half* b, float* d) {
  const int group = static_cast<int>(threadIdx.x / 4), member = static_cast<int>(threadIdx.x % 4);
  __half left[8], right[4];
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (4 <= i && i < 6) ? group : group + 8;
    const int column = member * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    left[i] = load_global(a + row * 16 + column);
  }
  for (int i = 0; i < 4; ++i) {
    const int row = member * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    right[i] = load_global(b + row * 8 + group);
  }
  unsigned left_bits[4], right_bits[2];
  std::memcpy(left_bits, left, sizeof left);
  std::memcpy(right_bits, right, sizeof right);
  float sum[4] = {};
  mma_m16n8k16(sum, left_bits, right_bits);
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? group : group + 8;
    store_global(d + row * 8 + member * 2 + (i & 1), sum[i]);
  }
}

// The same product, with the fragments from shared memory; rows of 16 bytes lie apart by `stride`.
__global__ void ldmatrix_kernel(const __half* a, const __half* b, float* d, int stride) {
  FER_EDGE_DYNAMIC_SHARED(raw);
  auto* left = reinterpret_cast<__half*>(raw);
  auto* right = left + 16 * stride;
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) left[i / 16 * stride + i % 16] = load_global(a + i);
  for (int i = lane; i < 128; i += 32) right[i / 8 * stride + i % 8] = load_global(b + i);
  __syncwarp();
  unsigned left_bits[4], right_bits[4];
  ldmatrix_x4<false>(left_bits, left + lane % 16 * stride + lane / 16 * 8);
  ldmatrix_x4<true>(right_bits, right + lane % 16 * stride);
  float sum[4] = {};
  const unsigned pair[2] = {right_bits[0], right_bits[1]};
  mma_m16n8k16(sum, left_bits, pair);
  for (int i = 0; i < 4; ++i) store_global(d + (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2, sum[i]);
}

__global__ void index_kernel(float* out, int value) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const float number = multiply_add(1.0f, static_cast<float>(block * 1000 + thread), static_cast<float>(value));
  store_global(out + block * 12 + thread, number);
}

void print(const std::vector<float>& values) {
  for (const float value : values) std::printf("%.9g ", static_cast<double>(value));
  std::printf("\n");
}

void print_counters() { std::printf("%s\n", emulation::totals.json().c_str()); }

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "", order = argc > 2 ? argv[2] : "forward";
  emulation::options.order = order == "reverse"  ? emulation::Order::kReverse
                             : order == "random" ? emulation::Order::kRandom
                                                 : emulation::Order::kForward;
  emulation::options.seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;

  std::vector<float> in(128), out(128);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const float* const input = in.data();
  const auto halves = [](int count, int modulus) {
    std::vector<__half> values;
    for (int i = 0; i < count; ++i) values.push_back(__float2half_rn(static_cast<float>(i * 7 % modulus - 8)));
    return values;
  };
  const std::vector<__half> a = halves(256, 17), b = halves(128, 13);
  const cudaStream_t stream = nullptr;

  const std::map<std::string, std::function<void()>> commands = {
      {"reverse", [&] { launch(reverse_kernel, 1, 128, 512, stream, input, out.data()), print(out); }},
      {"overtaken", [&] { launch(overtaken_kernel, 1, 128, 512, stream, out.data()), print(out); }},
      {"early_exit", [&] { launch(early_exit_kernel, 1, 64, 0, stream); }},
      {"two_barriers", [&] { launch(two_barriers_kernel, 1, 64, 0, stream); }},
      {"divergent_shuffle", [&] { launch(divergent_shuffle_kernel, 1, 32, 0, stream, out.data()); }},
      {"foreign_mask", [&] { launch(foreign_mask_kernel, 1, 32, 0, stream); }},
      {"unwritten", [&] { launch(unwritten_kernel, 1, 128, 512, stream, out.data()), print(out); }},
      {"out_of_bounds", [&] { launch(out_of_bounds_kernel, 1, 128, 512, stream, out.data()); }},
      {"misaligned", [&] { launch(misaligned_kernel, 1, 1, 0, stream, input, out.data()); }},
      {"copy", [&] { launch(copy_kernel, 1, 2, 64, stream, input, out.data(), true), print(out), print_counters(); }},
      {"copy_too_early", [&] { launch(copy_kernel, 1, 2, 64, stream, input, out.data(), false), print(out); }},
      {"warp",
       [&] {
         out.resize(7 * 64);
         launch(warp_kernel, 1, 64, 0, stream, out.data()), print(out);
       }},
      {"mma", [&] { launch(mma_kernel, 1, 32, 0, stream, a.data(), b.data(), out.data()), print(out); }},
      {"ldmatrix",
       [&] {
         launch(ldmatrix_kernel, 1, 32, 32 * 24 * 2, stream, a.data(), b.data(), out.data(), 24), print(out);
         print_counters();
       }},
      {"ldmatrix_conflicts",
       [&] {
         launch(ldmatrix_kernel, 1, 32, 32 * 64 * 2, stream, a.data(), b.data(), out.data(), 64), print(out);
         print_counters();
       }},
      {"index",
       [&] {
         emulation::options.os_threads = 2;
         out.assign(12 * 24, -1);
         launch(index_kernel, dim3(2, 3, 4), dim3(3, 2, 2), 0, stream, out.data(), 5), print(out);
         print_counters();
       }},
      {"empty_grid", [&] { std::printf("%d\n", launch(unwritten_kernel, 0, 32, 0, stream, out.data())); }},
      {"half",  // floats on stdin, the bits of their halves and the floats of these on stdout
       [&] {
         for (float value; std::fread(&value, sizeof value, 1, stdin) == 1;) {
           const __half half = __float2half_rn(value);
           const float back = __half2float(half);
           std::fwrite(&half, sizeof half, 1, stdout);
           std::fwrite(&back, sizeof back, 1, stdout);
         }
       }},
  };
  const auto found = commands.find(command);
  if (found == commands.end()) return 2;
  try {
    found->second();
  } catch (const emulation::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 3;
  }
}
