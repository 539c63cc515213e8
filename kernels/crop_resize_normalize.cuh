// crop_resize_normalize: K crops of a frame → the input batch [K, C, H, W] of a network, in one pass.
//
// Each output pixel reads the four frame pixels around its sample point and is written once, so the traffic is
// at most 12 bytes in (neighbours share most of them in L1) and C · sizeof(T) out; no image in between is stored.
// Every thread makes one 4-byte word of each channel plane, a warp whole lines of 128 bytes. Wider words would
// save store instructions only, and leave too few threads to hide the loads of a single face.
//
// Crop rectangles travel with the launch, by value: no copy to the device precedes it, and a CUDA graph keeps them.
#pragma once

#include <cmath>

#include "crop_resize_normalize.hpp"
#include "device.cuh"

namespace fer_edge {

constexpr int kCropThreads = 256;
constexpr int kRectanglesPerLaunch = 64;  // 1 KiB of the 4 KiB that a launch may carry

template <typename T>
struct CropParameters {
  Frame frame;
  float gain[3], offset[3];
  int channels, height, width;
  bool swap_red_blue;
  bool whole_words;  // every channel plane starts at a multiple of 4 bytes
  T* out;
  Rectangle rectangles[kRectanglesPerLaunch];
};

// ---------------------------------------------------------------------------------------------------
// 1. Device functions
// ---------------------------------------------------------------------------------------------------

struct Bgr {
  int blue, green, red;
};

__device__ __forceinline__ int clamp(int value, int low, int high) { return min(max(value, low), high); }

__device__ __forceinline__ Bgr read_bgr(const Frame& frame, int x, int y) {
  const uint8_t* const pixel = frame.pixels + y * frame.pitch_bytes + 3 * static_cast<size_t>(x);
  return {load_global(pixel), load_global(pixel + 1), load_global(pixel + 2)};
}

// BT.601 with 20 fractional bits: the integers of OpenCV.
__device__ __forceinline__ Bgr read_nv12(const Frame& frame, int x, int y) {
  const uint8_t* const pair = frame.chroma + (y / 2) * frame.chroma_pitch_bytes + x / 2 * 2;
  const int u = load_global(pair) - 128, v = load_global(pair + 1) - 128;
  const int luma = max(load_global(frame.pixels + y * frame.pitch_bytes + x) - 16, 0) * 1220542 + (1 << 19);
  return {clamp((luma + 2116026 * u) >> 20, 0, 255), clamp((luma - 409993 * u - 852492 * v) >> 20, 0, 255),
          clamp((luma + 1673527 * v) >> 20, 0, 255)};
}

template <PixelFormat kFormat>
__device__ __forceinline__ Bgr read_pixel(const Frame& frame, int x, int y) {
  x = clamp(x, 0, frame.width - 1);
  y = clamp(y, 0, frame.height - 1);
  if constexpr (kFormat == PixelFormat::kBgr)
    return read_bgr(frame, x, y);
  else
    return read_nv12(frame, x, y);
}

// BT.601 with 15 fractional bits: the integers of OpenCV.
__device__ __forceinline__ int gray_of(Bgr pixel) {
  return (pixel.blue * 3735 + pixel.green * 19235 + pixel.red * 9798 + (1 << 14)) >> 15;
}

// The two pixels along one axis around a sample point, and their weights in 1/2048.
struct Taps {
  int first, second;
  int first_weight, second_weight;
};

// In the frame's coordinates, from output pixel `index` of `out_size` over [begin, end). At the ends of a row
// OpenCV gives all weight to the outermost pixel; at the ends of a column it keeps both weights, which rounds
// differently. The division is exact to the last bit, since the launcher keeps both integers below 2^24.
__device__ __forceinline__ Taps find_taps(int index, int out_size, int begin, int end, bool along_row) {
  const int last = end - begin - 1;
  const float point =
      static_cast<float>((2 * index + 1) * (end - begin) - out_size) / static_cast<float>(2 * out_size);
  const float below = floorf(point);
  const int first = static_cast<int>(below);
  const float fraction = along_row && (first < 0 || first >= last) ? 0.0f : point - below;
  return {begin + clamp(first, 0, last), begin + clamp(first + 1, 0, last),
          static_cast<int>(rintf((1.0f - fraction) * 2048.0f)), static_cast<int>(rintf(fraction * 2048.0f))};
}

// OpenCV drops bits in between so that 16-bit lanes hold the rest.
__device__ __forceinline__ int interpolate(int top_left, int top_right, int bottom_left, int bottom_right, Taps row,
                                           Taps column) {
  const int top = (top_left * row.first_weight + top_right * row.second_weight) >> 4;
  const int bottom = (bottom_left * row.first_weight + bottom_right * row.second_weight) >> 4;
  return (((top * column.first_weight) >> 16) + ((bottom * column.second_weight) >> 16) + 2) >> 2;
}

// The colour of one output pixel, 0 to 255; all three alike if gray.
template <PixelFormat kFormat, bool kGray>
__device__ __forceinline__ Bgr sample(const Frame& frame, Taps row, Taps column) {
  const Bgr a = read_pixel<kFormat>(frame, row.first, column.first);
  const Bgr b = read_pixel<kFormat>(frame, row.second, column.first);
  const Bgr c = read_pixel<kFormat>(frame, row.first, column.second);
  const Bgr d = read_pixel<kFormat>(frame, row.second, column.second);
  if constexpr (kGray) {
    const int gray = interpolate(gray_of(a), gray_of(b), gray_of(c), gray_of(d), row, column);
    return {gray, gray, gray};
  } else {
    return {interpolate(a.blue, b.blue, c.blue, d.blue, row, column),
            interpolate(a.green, b.green, c.green, d.green, row, column),
            interpolate(a.red, b.red, c.red, d.red, row, column)};
  }
}

// `count` neighbours, at most one 4-byte word of them.
__device__ __forceinline__ void store_pixels(float* address, const float (&values)[1], int, bool) {
  store_global(address, values[0]);
}

__device__ __forceinline__ void store_pixels(__half* address, const float (&values)[2], int count, bool whole_words) {
  if (whole_words) {
    store_global(reinterpret_cast<__half2*>(address), __floats2half2_rn(values[0], values[1]));
    return;
  }
  store_global(address, __float2half_rn(values[0]));
  if (count > 1) store_global(address + 1, __float2half_rn(values[1]));
}

// ---------------------------------------------------------------------------------------------------
// 2. Kernel
// ---------------------------------------------------------------------------------------------------

// Grid: (ceil(words of a plane / kCropThreads), rectangles).
template <typename T, PixelFormat kFormat, bool kGray>
__global__ void __launch_bounds__(kCropThreads) crop_resize_normalize_kernel(CropParameters<T> parameters) {
  constexpr int kPixels = 4 / static_cast<int>(sizeof(T));
  const int plane = parameters.height * parameters.width;
  const int first = static_cast<int>(blockIdx.x * kCropThreads + threadIdx.x) * kPixels;
  if (first >= plane) return;
  const int count = min(kPixels, plane - first);
  const Rectangle rectangle = parameters.rectangles[blockIdx.y];

  Bgr colors[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const int pixel = min(first + i, plane - 1);
    const Taps row = find_taps(pixel % parameters.width, parameters.width, rectangle.left, rectangle.right, true);
    const Taps column = find_taps(pixel / parameters.width, parameters.height, rectangle.top, rectangle.bottom, false);
    colors[i] = sample<kFormat, kGray>(parameters.frame, row, column);
  }

  T* out = parameters.out + static_cast<size_t>(blockIdx.y) * parameters.channels * plane + first;
#pragma unroll
  for (int channel = 0; channel < 3; ++channel) {
    if (channel >= parameters.channels) break;
    float values[kPixels];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int outer = (channel == 2) != parameters.swap_red_blue ? colors[i].red : colors[i].blue;
      const int level = channel == 1 ? colors[i].green : outer;
      values[i] = multiply(static_cast<float>(level), parameters.gain[channel]) + parameters.offset[channel];
    }
    store_pixels(out, values, count, parameters.whole_words);
    out += plane;
  }
}

// ---------------------------------------------------------------------------------------------------
// 3. Checked launcher
// ---------------------------------------------------------------------------------------------------

struct Plane {
  const char* name;
  const uint8_t* data;
  size_t rows, row_bytes, pitch_bytes;
};

// Of an output [out, out + out_bytes); none if empty.
inline Status check_plane(const Plane& plane, const void* out, size_t out_bytes) {
  if (!plane.data) return failed(StatusCode::kBadPointer, "%s is a null pointer", plane.name);
  if (plane.pitch_bytes < plane.row_bytes)
    return failed(StatusCode::kBadShape, "the rows of %s need %zu bytes, found a pitch of %zu", plane.name,
                  plane.row_bytes, plane.pitch_bytes);
  const auto begin = reinterpret_cast<uintptr_t>(plane.data), out_begin = reinterpret_cast<uintptr_t>(out);
  const size_t bytes = (plane.rows - 1) * plane.pitch_bytes + plane.row_bytes;
  if (out_bytes && begin < out_begin + out_bytes && out_begin < begin + bytes)
    return failed(StatusCode::kBadPointer, "out overlaps %s: it must have memory of its own", plane.name);
  return {};
}

inline Status check_frame(const Frame& frame, const void* out, size_t out_bytes) {
  if (frame.height < 1 || frame.width < 1 || frame.height > 32768 || frame.width > 32768)
    return failed(StatusCode::kBadShape, "a frame must have 1 to 32768 pixels a side, found %d×%d", frame.width,
                  frame.height);
  const auto height = static_cast<size_t>(frame.height), width = static_cast<size_t>(frame.width);
  if (frame.format == PixelFormat::kBgr)
    return check_plane({"the frame", frame.pixels, height, 3 * width, frame.pitch_bytes}, out, out_bytes);
  if (frame.height % 2 || frame.width % 2)
    return failed(StatusCode::kBadShape, "an NV12 frame must have even sides, found %d×%d", frame.width, frame.height);
  const Status status = check_plane({"the luma plane", frame.pixels, height, width, frame.pitch_bytes}, out, out_bytes);
  if (!status.ok()) return status;
  return check_plane({"the chroma plane", frame.chroma, height / 2, width, frame.chroma_pitch_bytes}, out, out_bytes);
}

inline Status check_rectangle(int index, const Rectangle& r, const Frame& frame, int out_height, int out_width) {
  constexpr int kFarthest = 1 << 22;
  if (r.left >= r.right || r.top >= r.bottom)
    return failed(StatusCode::kBadShape, "rectangle %d is empty: (%d, %d, %d, %d)", index, r.left, r.top, r.right,
                  r.bottom);
  if (r.right <= 0 || r.bottom <= 0 || r.left >= frame.width || r.top >= frame.height)
    return failed(StatusCode::kBadShape, "rectangle %d lies outside of the frame of %d×%d: (%d, %d, %d, %d)", index,
                  frame.width, frame.height, r.left, r.top, r.right, r.bottom);
  if (r.left < -kFarthest || r.top < -kFarthest || r.right > kFarthest || r.bottom > kFarthest ||
      2LL * (r.right - r.left) * out_width > 1 << 24 || 2LL * (r.bottom - r.top) * out_height > 1 << 24)
    return failed(StatusCode::kBadShape,
                  "rectangle %d is too large: its side times that of the output must be at most 2^23, found "
                  "(%d, %d, %d, %d) for %d×%d",
                  index, r.left, r.top, r.right, r.bottom, out_width, out_height);
  return {};
}

template <typename T>
Status check_crop_resize_normalize(const CropResizeNormalizeArguments<T>& a) {
  if (a.count < 0) return failed(StatusCode::kBadShape, "count must be at least 0, found %d", a.count);
  if (a.channels != 3 && !(a.channels == 1 && a.color == ColorOrder::kGray))
    return failed(StatusCode::kBadShape, "the output must have 3 channels, or 1 if it is gray, found %d", a.channels);
  if (a.height < 1 || a.width < 1 || a.height > 4096 || a.width > 4096)
    return failed(StatusCode::kBadShape, "the output must have 1 to 4096 pixels a side, found %d×%d", a.width,
                  a.height);
  for (int channel = 0; channel < a.channels; ++channel)
    if (!std::isfinite(a.gain[channel]) || !std::isfinite(a.offset[channel]))
      return failed(StatusCode::kBadShape, "gain and offset of channel %d must be finite", channel);
  const size_t out_bytes = sizeof(T) * static_cast<size_t>(a.count) * a.channels * a.height * a.width;
  const Status status = check_frame(a.frame, a.out, out_bytes);
  if (!status.ok() || a.count == 0) return status;
  if (!a.rectangles) return failed(StatusCode::kBadPointer, "rectangles is a null pointer");
  if (!a.out) return failed(StatusCode::kBadPointer, "out is a null pointer");
  if (reinterpret_cast<uintptr_t>(a.out) % sizeof(T))
    return failed(StatusCode::kBadPointer, "out must be aligned to %zu bytes", sizeof(T));
  for (int i = 0; i < a.count; ++i) {
    const Status fits = check_rectangle(i, a.rectangles[i], a.frame, a.height, a.width);
    if (!fits.ok()) return fits;
  }
  return {};
}

template <typename T, PixelFormat kFormat>
cudaError_t launch_format(const CropParameters<T>& parameters, bool gray, dim3 grid, cudaStream_t stream) {
  return launch(gray ? crop_resize_normalize_kernel<T, kFormat, true> : crop_resize_normalize_kernel<T, kFormat, false>,
                grid, kCropThreads, 0, stream, parameters);
}

template <typename T>
Status launch_crop_resize_normalize(const CropResizeNormalizeArguments<T>& a, cudaStream_t stream) {
  const Status status = check_crop_resize_normalize(a);
  if (!status.ok() || a.count == 0) return status;

  CropParameters<T> parameters{};
  parameters.frame = a.frame;
  for (int channel = 0; channel < a.channels; ++channel) {
    parameters.gain[channel] = a.gain[channel];
    parameters.offset[channel] = a.offset[channel];
  }
  parameters.channels = a.channels;
  parameters.height = a.height;
  parameters.width = a.width;
  parameters.swap_red_blue = a.color == ColorOrder::kRgb;
  const int plane = a.height * a.width;
  constexpr int kPixels = 4 / static_cast<int>(sizeof(T));
  parameters.whole_words = plane % kPixels == 0 && reinterpret_cast<uintptr_t>(a.out) % 4 == 0;

  for (int first = 0; first < a.count; first += kRectanglesPerLaunch) {
    const int count = min(kRectanglesPerLaunch, a.count - first);
    parameters.out = a.out + static_cast<size_t>(first) * a.channels * plane;
    for (int i = 0; i < count; ++i) parameters.rectangles[i] = a.rectangles[first + i];
    const int words = (plane + kPixels - 1) / kPixels;
    const dim3 grid(static_cast<unsigned>((words + kCropThreads - 1) / kCropThreads), static_cast<unsigned>(count));
    const auto launch_kernel =
        a.frame.format == PixelFormat::kBgr ? launch_format<T, PixelFormat::kBgr> : launch_format<T, PixelFormat::kNv12>;
    const cudaError_t error = launch_kernel(parameters, a.color == ColorOrder::kGray, grid, stream);
    if (error != cudaSuccess)
      return failed(StatusCode::kLaunchFailed, "the launch of crop_resize_normalize failed: %s",
                    cudaGetErrorString(error));
  }
  return {};
}

}  // namespace fer_edge
