// Device functions for all kernels beyond plain CUDA C++, once for nvcc and once for the CPU (tests/kernels/emulation).
//
// Every access to global memory goes through load_global, store_global or copy_async, so that the
// emulation counts the bytes; every multiplication of an inner loop through multiply, multiply_add or
// mma_m16n8k16.
#pragma once

#ifdef FER_EDGE_EMULATION
#include "emulation/device.hpp"
#else

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define FER_EDGE_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace fer_edge {

template <typename T>
__device__ __forceinline__ T load_global(const T* address) {
  return __ldg(address);
}

template <typename T>
__device__ __forceinline__ void store_global(T* address, T value) {
  *address = value;
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }

__device__ __forceinline__ float multiply(float a, float b) { return __fmul_rn(a, b); }

// 2^x to 2 ulp; results below the normal range are zero.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Copies 4, 8 or 16 bytes to shared memory without a register; zeros if they do not `exist`. Before sm_80 the
// copy is done at once.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool exist) {
#if __CUDA_ARCH__ >= 800
  if constexpr (kBytes == 16)  // past L1, which would keep data that is used once
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(exist ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(exist ? kBytes : 0)
                 : "memory");
#else
  if constexpr (kBytes == 16)
    *static_cast<uint4*>(shared) = exist ? __ldg(static_cast<const uint4*>(global)) : make_uint4(0, 0, 0, 0);
  else if constexpr (kBytes == 8)
    *static_cast<uint2*>(shared) = exist ? __ldg(static_cast<const uint2*>(global)) : make_uint2(0, 0);
  else
    *static_cast<unsigned*>(shared) = exist ? __ldg(static_cast<const unsigned*>(global)) : 0;
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `kPending` committed groups of this thread are under way; the block still needs a barrier.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Four 8×8 matrices of halves; lanes 8m … 8m+7 name the rows of matrix m.
template <bool kTransposed>
__device__ __forceinline__ void ldmatrix_x4(unsigned (&registers)[4], const void* row) {
  const unsigned address = shared_address(row);
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
}

// D += A·B with A [16, 16] and B [16, 8] in halves, D [16, 8] in single precision. sm_75 has the shape with
// half the depth: twice.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

// Starts the kernel on the stream; the error is that of this launch alone.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Arguments... arguments) {
  return [&](Parameters... values) {
    void* pointers[] = {static_cast<void*>(&values)...};
    return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes, stream);
  }(static_cast<Parameters>(arguments)...);
}

}  // namespace fer_edge

#endif  // FER_EDGE_EMULATION
