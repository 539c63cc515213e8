// A device array of any library (CuPy, PyTorch, pycuda, …) as an argument: its description by __cuda_array_interface__
// or DLPack, and the checks that a launcher cannot do. Nothing is copied.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "stream.hpp"

namespace fer_edge {

namespace py = pybind11;

// Becomes the exception of this name in fer_edge.errors.
struct Refusal : std::runtime_error {
  const char* exception;
  Refusal(const char* exception_, const std::string& message) : std::runtime_error(message), exception(exception_) {}
};

[[noreturn]] inline void refuse(const std::string& message) { throw Refusal("UsageError", message); }

inline void require_cuda(cudaError_t error) {
  if (error != cudaSuccess)
    throw Refusal("BackendError", std::string("CUDA cannot be used: ") + cudaGetErrorString(error) +
                                      "; run fer-edge doctor, which lists the missing parts");
}

struct DeviceArray {
  std::string name;  // of the argument
  std::string type;  // as NumPy writes it: u1, f2, f4, …
  std::uintptr_t pointer = 0;
  std::vector<py::ssize_t> shape, strides_bytes;
  bool read_only = false;
  std::optional<std::uintptr_t> producer;  // a stream whose work comes first
  py::object description;                  // what keeps the memory alive, for DLPack

  bool empty() const {
    for (const py::ssize_t side : shape)
      if (side == 0) return true;
    return false;
  }

  // Elements from axis `first` on lie together in order.
  bool contiguous_from(std::size_t first) const {
    py::ssize_t expected = std::stoi(type.substr(1));
    for (std::size_t axis = shape.size(); axis-- > first;) {
      if (shape[axis] > 1 && strides_bytes[axis] != expected) return false;
      expected *= shape[axis];
    }
    return true;
  }
};

inline std::string text_of(const std::vector<py::ssize_t>& shape) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + "]";
}

// ---------------------------------------------------------------------------------------------------
// The two protocols
// ---------------------------------------------------------------------------------------------------

// An optional attribute. Only AttributeError means that it is absent; other exceptions go to the caller.
inline py::object optional_attribute(py::handle object, const char* name) {
  try {
    return object.attr(name);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_AttributeError)) throw;
    return py::none();
  }
}

inline DeviceArray from_array_interface(DeviceArray array, const py::dict& interface) {
  const auto entry = [&](const char* key) -> py::object {
    return interface.contains(key) ? py::object(interface[key]) : py::none();
  };
  try {
    const auto data = entry("data").cast<py::tuple>();
    array.pointer = data[0].is_none() ? 0 : data[0].cast<std::uintptr_t>();
    array.read_only = data[1].cast<bool>();
    for (const py::handle side : entry("shape").cast<py::tuple>()) array.shape.push_back(side.cast<py::ssize_t>());
    array.type = entry("typestr").cast<std::string>();
    if (!entry("strides").is_none())
      for (const py::handle stride : entry("strides").cast<py::tuple>())
        array.strides_bytes.push_back(stride.cast<py::ssize_t>());
    if (!entry("stream").is_none()) array.producer = entry("stream").cast<std::uintptr_t>();
  } catch (const py::cast_error&) {
    refuse(array.name + ": the entries of __cuda_array_interface__ do not follow its specification");
  } catch (const py::error_already_set&) {
    refuse(array.name + ": the entries of __cuda_array_interface__ do not follow its specification");
  }
  if (!entry("mask").is_none()) refuse(array.name + ": masked arrays cannot be used");
  if (array.type.size() < 3 || array.type.find_first_not_of("0123456789", 2) != std::string::npos || array.type.size() > 6)
    refuse(array.name + ": expected a type such as <f4, found " + array.type);
  if (array.type[0] == '>') refuse(array.name + ": expected numbers in the byte order of this machine, found " + array.type);
  array.type.erase(0, 1);
  return array;
}

// The first members of the struct behind a capsule "dltensor": https://dmlc.github.io/dlpack
struct DLTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t dimensions;
  std::uint8_t type_code, type_bits;
  std::uint16_t type_lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous
  std::uint64_t byte_offset;
};

inline DeviceArray from_dlpack(const char* name, const py::object& source, std::uintptr_t stream) {
  DeviceArray array;
  array.name = name;
  constexpr int kCuda = 2, kCudaHost = 3, kCudaManaged = 13;
  const int device = source.attr("__dlpack_device__")().cast<py::tuple>()[0].cast<int>();
  if (device != kCuda && device != kCudaHost && device != kCudaManaged)
    refuse(array.name + ": expected an array on a CUDA device, found one on DLPack device " + std::to_string(device) +
           (device == 1 ? " (the CPU)" : "") + ": copy it to the device first");
  // The producer orders its work before this stream; DLPack calls the default stream 1, and pinned memory of the host
  // belongs to no stream.
  const py::object waiting = device == kCudaHost ? py::object(py::none()) : py::object(py::int_(stream ? stream : 1));
  const auto capsule = source.attr("__dlpack__")(py::arg("stream") = waiting).cast<py::capsule>();
  const auto* tensor = static_cast<const DLTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (!tensor) throw py::error_already_set();
  const char kinds[] = {'i', 'u', 'f'};
  array.type = tensor->type_code < 3 && tensor->type_lanes == 1 && tensor->type_bits % 8 == 0
                   ? kinds[tensor->type_code] + std::to_string(tensor->type_bits / 8)
                   : "?1";  // bfloat16, complex, vectors: no kernel takes them
  const py::ssize_t item = std::stoi(array.type.substr(1));
  array.pointer = reinterpret_cast<std::uintptr_t>(tensor->data) + tensor->byte_offset;
  array.shape.assign(tensor->shape, tensor->shape + tensor->dimensions);
  if (tensor->strides)
    for (int axis = 0; axis < tensor->dimensions; ++axis) array.strides_bytes.push_back(tensor->strides[axis] * item);
  array.description = capsule;  // not taken over: its destructor gives the memory back
  return array;
}

inline DeviceArray describe(const char* name, const py::object& source, std::uintptr_t stream) {
  DeviceArray array;
  array.name = name;
  const py::object interface = optional_attribute(source, "__cuda_array_interface__");
  const bool has_interface = py::isinstance<py::dict>(interface);
  if (has_interface) array = from_array_interface(array, interface);
  // DLPack first, as in fer_edge/engines/device_arrays.py: its producer makes our stream wait for pending
  // writes. The interface need not name that stream, and PyTorch's does not; but only the interface has a read-only flag.
  if (py::hasattr(source, "__dlpack__") && py::hasattr(source, "__dlpack_device__")) {
    const bool read_only = array.read_only;
    array = from_dlpack(name, source, stream);
    array.read_only = read_only;
  } else if (!has_interface) {
    refuse(array.name + ": expected a device array with __cuda_array_interface__ or __dlpack__, found " +
           py::str(py::type::of(source).attr("__name__")).cast<std::string>());
  } else if (array.producer == 0) {
    refuse(array.name + ": stream 0 is not allowed in __cuda_array_interface__");
  }

  py::ssize_t bytes = std::stoi(array.type.substr(1));
  for (const py::ssize_t side : array.shape) {
    if (side < 0) refuse(array.name + ": a side is negative: " + text_of(array.shape));
    if (__builtin_mul_overflow(bytes, std::max<py::ssize_t>(side, 1), &bytes))
      refuse(array.name + ": is too large: " + text_of(array.shape));
  }
  if (array.strides_bytes.empty()) {
    array.strides_bytes.resize(array.shape.size());
    py::ssize_t stride = std::stoi(array.type.substr(1));
    for (std::size_t axis = array.shape.size(); axis-- > 0; stride *= array.shape[axis]) array.strides_bytes[axis] = stride;
  }
  if (array.strides_bytes.size() != array.shape.size())
    refuse(array.name + ": has " + std::to_string(array.shape.size()) + " axes, but strides for " +
           std::to_string(array.strides_bytes.size()));
  return array;
}

// ---------------------------------------------------------------------------------------------------
// Checks
// ---------------------------------------------------------------------------------------------------

inline std::string word_for(const std::string& type) {
  return type == "u1" ? "uint8" : type == "f2" ? "float16" : type == "f4" ? "float32" : type;
}

inline void require_type(const DeviceArray& array, const std::string& type) {
  if (array.type != type) refuse(array.name + ": expected " + word_for(type) + ", found " + word_for(array.type));
}

inline void require_float(const DeviceArray& array) {
  if (array.type != "f2" && array.type != "f4")
    refuse(array.name + ": expected float16 or float32, found " + word_for(array.type));
}

inline void require_shape(const DeviceArray& array, const std::vector<py::ssize_t>& shape) {
  if (array.shape != shape) refuse(array.name + ": expected the shape " + text_of(shape) + ", found " + text_of(array.shape));
}

inline void require_contiguous(const DeviceArray& array) {
  if (!array.empty() && !array.contiguous_from(0))
    refuse(array.name + ": must be C-contiguous; make a contiguous copy of it");
}

inline void require_writable(const DeviceArray& array) {
  if (array.read_only) refuse(array.name + ": is read-only, and would be written");
}

// The device that all the arrays lie on; -1 if all are empty.
inline int common_device(const std::vector<const DeviceArray*>& arrays) {
  int device = -1;
  const DeviceArray* first = nullptr;
  for (const DeviceArray* array : arrays) {
    if (array->empty()) continue;
    if (!array->pointer) refuse(array->name + ": is a null pointer");
    auto* const pointer = reinterpret_cast<void*>(array->pointer);
    cudaPointerAttributes attributes{};
    require_cuda(cudaPointerGetAttributes(&attributes, pointer));
    // Pinned and managed memory is good too, as long as the device sees it at this address.
    if (attributes.type == cudaMemoryTypeUnregistered || attributes.devicePointer != pointer)
      refuse(array->name + ": points to memory that a CUDA device cannot reach");
    if (device >= 0 && attributes.device != device)
      refuse(array->name + ": is on device " + std::to_string(attributes.device) + ", but " + first->name +
             " on device " + std::to_string(device));
    if (device < 0) first = array;
    device = attributes.device;
  }
  return device;
}

// ---------------------------------------------------------------------------------------------------
// Launch
// ---------------------------------------------------------------------------------------------------

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    require_cuda(cudaGetDevice(&before_));
    if (device != before_) require_cuda(cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

inline cudaStream_t stream_of(std::uintptr_t handle) {
  return reinterpret_cast<cudaStream_t>(handle == 1 ? 0 : handle);  // 1: the default stream, in both protocols
}

// Makes the stream wait for the work that is now in the producers' streams.
inline void wait_for_producers(const std::vector<const DeviceArray*>& arrays, cudaStream_t stream) {
  for (const DeviceArray* array : arrays) {
    if (!array->producer || stream_of(*array->producer) == stream) continue;
    cudaEvent_t event;
    require_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    cudaError_t error = cudaEventRecord(event, stream_of(*array->producer));
    if (error == cudaSuccess) error = cudaStreamWaitEvent(stream, event, 0);
    cudaEventDestroy(event);  // lives on until it has been reached
    require_cuda(error);
  }
}

}  // namespace fer_edge
