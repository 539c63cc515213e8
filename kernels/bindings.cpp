// The Python module fer_edge._kernels: device arrays in, launches on the caller's stream. It allocates no device
// memory, waits for nothing on the host, and leaves the interpreter to other threads while it launches.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifndef FER_EDGE_EMULATION
#include <cuda_fp16.h>
#endif

#include <array>
#include <limits>

#include "crop_resize_normalize.hpp"
#include "device_array.hpp"
#include "self_attention.hpp"

namespace fer_edge {
namespace {

using Arrays = std::vector<const DeviceArray*>;

template <typename T>
T* pointer_to(const DeviceArray& array) {
  return reinterpret_cast<T*>(array.pointer);
}

int size_of(const DeviceArray& array, std::size_t axis) {
  if (array.shape[axis] > std::numeric_limits<int>::max())
    refuse(array.name + ": axis " + std::to_string(axis) + " is too long");
  return static_cast<int>(array.shape[axis]);
}

void require_axes(const DeviceArray& array, std::size_t axes, const char* meaning) {
  if (array.shape.size() != axes) refuse(array.name + ": expected " + meaning + ", found " + text_of(array.shape));
}

// Calls launch(stream) on the arrays' device, after pending writes to them.
template <typename Launch>
void enqueue(const Arrays& arrays, std::uintptr_t stream_handle, Launch launch) {
  const int device = common_device(arrays);
  const cudaStream_t stream = stream_of(stream_handle);
  Status status;
  {
    const py::gil_scoped_release others_run;
    if (device < 0) {
      status = launch(stream);
    } else {
      const DeviceGuard guard(device);
      wait_for_producers(arrays, stream);
      status = launch(stream);
    }
  }
  if (status.code == StatusCode::kLaunchFailed)
    throw Refusal("BackendError", std::string(status.message) + " (compiled for " FER_EDGE_ARCHITECTURES ")");
  if (!status.ok()) refuse(status.message);
}

// ---------------------------------------------------------------------------------------------------
// self_attention
// ---------------------------------------------------------------------------------------------------

template <typename T>
void enqueue_self_attention(const Arrays& arrays, std::uintptr_t stream) {
  SelfAttentionArguments<T> a{};
  a.query = pointer_to<const T>(*arrays[0]);
  a.key = pointer_to<const T>(*arrays[1]);
  a.value = pointer_to<const T>(*arrays[2]);
  a.residual = pointer_to<const T>(*arrays[3]);
  a.gamma = pointer_to<const T>(*arrays[4]);
  a.out = pointer_to<T>(*arrays[5]);
  if (arrays.size() > 6) {
    a.received = pointer_to<T>(*arrays[6]);
    a.row_statistics = pointer_to<float>(*arrays[7]);
  }
  a.batch = size_of(*arrays[2], 0);
  a.channels = size_of(*arrays[2], 1);
  a.positions = size_of(*arrays[2], 2);
  enqueue(arrays, stream, [&](cudaStream_t s) { return launch_self_attention(a, s); });
}

void self_attention(const py::object& query, const py::object& key, const py::object& value,
                    const py::object& residual, const py::object& gamma, const py::object& out, std::uintptr_t stream,
                    const py::object& received, const py::object& row_statistics) {
  if (received.is_none() != row_statistics.is_none())
    refuse("received and row_statistics belong together: give both or neither");
  std::vector<DeviceArray> described;
  described.push_back(describe("query", query, stream));
  described.push_back(describe("key", key, stream));
  described.push_back(describe("value", value, stream));
  described.push_back(describe("residual", residual, stream));
  described.push_back(describe("gamma", gamma, stream));
  described.push_back(describe("out", out, stream));
  if (!received.is_none()) {
    described.push_back(describe("received", received, stream));
    described.push_back(describe("row_statistics", row_statistics, stream));
  }

  const DeviceArray& features = described[2];
  require_float(features);
  require_axes(features, 3, "[batch, channels, positions]");
  const py::ssize_t batch = features.shape[0], channels = features.shape[1], positions = features.shape[2];
  const std::vector<py::ssize_t> shallow{batch, channels / 8, positions}, deep{batch, channels, positions};
  const std::vector<py::ssize_t> scalar = described[4].shape.empty() ? std::vector<py::ssize_t>{} : std::vector<py::ssize_t>{1};
  const std::vector<py::ssize_t> shapes[] = {shallow, shallow, deep, deep, scalar, deep, {batch, positions}, {batch, 2, positions}};
  Arrays arrays;
  for (std::size_t i = 0; i < described.size(); ++i) {
    const bool written = i >= 5;
    require_type(described[i], i == 7 ? "f4" : features.type);
    require_shape(described[i], shapes[i]);
    require_contiguous(described[i]);
    if (written) require_writable(described[i]);
    arrays.push_back(&described[i]);
  }
  if (features.type == "f2")
    enqueue_self_attention<__half>(arrays, stream);
  else
    enqueue_self_attention<float>(arrays, stream);
}

// ---------------------------------------------------------------------------------------------------
// crop_resize_normalize
// ---------------------------------------------------------------------------------------------------

// Of uint8 [rows, …]. The stride of a single row says nothing: libraries may set it at will.
size_t pitch_of(const DeviceArray& plane) {
  const bool many_rows = plane.shape[0] > 1;
  if (!plane.contiguous_from(1) || (many_rows && plane.strides_bytes[0] < 0))
    refuse(plane.name + ": the pixels of a row must lie together, and rows follow each other from the top");
  if (many_rows) return static_cast<size_t>(plane.strides_bytes[0]);
  size_t row_bytes = 1;
  for (std::size_t axis = 1; axis < plane.shape.size(); ++axis) row_bytes *= static_cast<size_t>(plane.shape[axis]);
  return row_bytes;
}

Frame frame_of(const DeviceArray& pixels, const DeviceArray* chroma) {
  Frame frame{};
  require_type(pixels, "u1");
  if (!chroma) {
    require_axes(pixels, 3, "a BGR frame [height, width, 3]");
    if (pixels.shape[2] != 3) refuse("frame: expected a BGR frame [height, width, 3], found " + text_of(pixels.shape));
    frame.format = PixelFormat::kBgr;
  } else {
    require_axes(pixels, 2, "the luma plane [height, width] of an NV12 frame");
    require_type(*chroma, "u1");
    const py::ssize_t height = pixels.shape[0], width = pixels.shape[1];
    if (chroma->shape.size() == 2)
      require_shape(*chroma, {height / 2, width});
    else
      require_shape(*chroma, {height / 2, width / 2, 2});
    frame.format = PixelFormat::kNv12;
    frame.chroma = pointer_to<const uint8_t>(*chroma);
    frame.chroma_pitch_bytes = pitch_of(*chroma);
  }
  frame.pixels = pointer_to<const uint8_t>(pixels);
  frame.pitch_bytes = pitch_of(pixels);
  frame.height = size_of(pixels, 0);
  frame.width = size_of(pixels, 1);
  return frame;
}

ColorOrder color_order(const std::string& color) {
  if (color == "gray") return ColorOrder::kGray;
  if (color == "bgr") return ColorOrder::kBgr;
  if (color == "rgb") return ColorOrder::kRgb;
  refuse("color must be gray, rgb or bgr, found " + color);
}

template <typename T>
void enqueue_crops(const Arrays& arrays, const Frame& frame, const std::vector<Rectangle>& rectangles, ColorOrder color,
                   const std::vector<float>& gain, const std::vector<float>& offset, std::uintptr_t stream) {
  const DeviceArray& out = *arrays.back();
  CropResizeNormalizeArguments<T> a{};
  a.frame = frame;
  a.rectangles = rectangles.data();
  a.count = static_cast<int>(rectangles.size());
  a.color = color;
  a.channels = size_of(out, 1);
  a.height = size_of(out, 2);
  a.width = size_of(out, 3);
  for (std::size_t channel = 0; channel < std::min<std::size_t>(gain.size(), 3); ++channel) {
    a.gain[channel] = gain[channel];
    a.offset[channel] = offset[channel];
  }
  a.out = pointer_to<T>(out);
  enqueue(arrays, stream, [&](cudaStream_t s) { return launch_crop_resize_normalize(a, s); });
}

void crop_resize_normalize(const py::object& frame, const std::vector<std::array<int, 4>>& rectangles,
                           const py::object& out, const std::array<int, 3>& shape, const std::string& color,
                           const std::vector<float>& gain, const std::vector<float>& offset, std::uintptr_t stream,
                           const py::object& chroma) {
  const DeviceArray pixels = describe(chroma.is_none() ? "frame" : "luma", frame, stream);
  const std::optional<DeviceArray> colors =
      chroma.is_none() ? std::nullopt : std::optional(describe("chroma", chroma, stream));
  const Frame checked = frame_of(pixels, colors ? &*colors : nullptr);

  const DeviceArray batch = describe("out", out, stream);
  require_float(batch);
  require_shape(batch, {static_cast<py::ssize_t>(rectangles.size()), shape[0], shape[1], shape[2]});
  require_contiguous(batch);
  require_writable(batch);
  if (gain.size() != offset.size() || static_cast<py::ssize_t>(gain.size()) != batch.shape[1])
    refuse("gain and offset: expected one value for each of " + std::to_string(batch.shape[1]) + " channels, found " +
           std::to_string(gain.size()) + " and " + std::to_string(offset.size()));

  std::vector<Rectangle> corners;
  for (const auto& [left, top, right, bottom] : rectangles) corners.push_back({left, top, right, bottom});
  Arrays arrays{&pixels};
  if (colors) arrays.push_back(&*colors);
  arrays.push_back(&batch);
  if (batch.type == "f2")
    enqueue_crops<__half>(arrays, checked, corners, color_order(color), gain, offset, stream);
  else
    enqueue_crops<float>(arrays, checked, corners, color_order(color), gain, offset, stream);
}

// How many devices there are; if none, why.
std::pair<int, std::string> device_state() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return {0, cudaGetErrorString(error)};
  return {count, count ? "" : "no CUDA device"};
}

}  // namespace
}  // namespace fer_edge

PYBIND11_MODULE(_kernels, module) {
  using namespace fer_edge;
  using namespace pybind11::literals;

  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Refusal& refusal) {
      py::set_error(py::module_::import("fer_edge.errors").attr(refusal.exception), refusal.what());
    }
  });

  module.doc() = "CUDA kernels of FER-Edge; use them through fer_edge.cuda.kernels.";
  module.attr("architectures") = FER_EDGE_ARCHITECTURES;
  module.attr("cuda_version") = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  module.def("device_state", &device_state, "(count, reason): how many devices there are; if none, why.");
  module.def("self_attention", &self_attention, "query"_a, "key"_a, "value"_a, "residual"_a, "gamma"_a, "out"_a,
             py::kw_only(), "stream"_a, "received"_a = py::none(), "row_statistics"_a = py::none());
  module.def("crop_resize_normalize", &crop_resize_normalize, "frame"_a, "rectangles"_a, "out"_a, py::kw_only(),
             "shape"_a, "color"_a, "gain"_a, "offset"_a, "stream"_a, "chroma"_a = py::none());
}
