// The Python module as it is, on emulated kernels: what the binding asks of the CUDA runtime, with memory and
// streams that the tests state. Compiled as _kernels.so.
#pragma GCC optimize("fp-contract=off")  // see crop_resize_normalize_driver.cpp

#define FER_EDGE_ARCHITECTURES "the CPU"
#define CUDART_VERSION 13000

#include <map>
#include <string>

#include "crop_resize_normalize.cuh"
#include "self_attention.cuh"

enum cudaMemoryType { cudaMemoryTypeUnregistered = 0, cudaMemoryTypeHost = 1, cudaMemoryTypeDevice = 2 };
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void* devicePointer;
};
using cudaEvent_t = int;
constexpr unsigned cudaEventDisableTiming = 2;

namespace fake {

bool driver_works = true;
int current_device = 0;
std::map<const void*, cudaPointerAttributes> memory;  // by the first byte of each array
std::string log;                                      // what was asked for, in order

void note(const std::string& line) { log += line + "\n"; }

}  // namespace fake

// For the tests, through ctypes.
#pragma GCC visibility push(default)
extern "C" {
void fake_reset(bool driver_works) {
  fake::driver_works = driver_works;
  fake::current_device = 0;
  fake::memory.clear();
  fake::log.clear();
}
void fake_memory(void* pointer, int type, int device) {
  fake::memory[pointer] = {static_cast<cudaMemoryType>(type), device, type ? pointer : nullptr};
}
const char* fake_log() { return fake::log.c_str(); }
}
#pragma GCC visibility pop

inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  if (!fake::driver_works) return cudaErrorInvalidValue;
  *attributes = fake::memory.count(pointer) ? fake::memory[pointer] : cudaPointerAttributes{};
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = fake::driver_works ? 1 : 0;
  return fake::driver_works ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = fake::current_device;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device != fake::current_device) fake::note("device " + std::to_string(device));
  fake::current_device = device;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = 7;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t stream) {
  fake::note("record " + std::to_string(reinterpret_cast<std::uintptr_t>(stream)));
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t, unsigned) {
  fake::note("wait " + std::to_string(reinterpret_cast<std::uintptr_t>(stream)));
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t) {
  fake::note("destroy");
  return cudaSuccess;
}

#include "bindings.cpp"
