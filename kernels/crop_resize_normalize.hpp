// From a frame on the device to the input batch of a network: arguments of the launcher. For host compilers too.
//
// The rule is that of fer_edge/preprocess.py, bit for bit: OpenCV's cvtColor and its INTER_LINEAR in fixed point.
#pragma once

#include <cstddef>
#include <cstdint>

#include "status.hpp"
#include "stream.hpp"

namespace fer_edge {

enum class PixelFormat { kBgr, kNv12 };  // NV12: BT.601, limited range, as COLOR_YUV2BGR_NV12
enum class ColorOrder { kGray, kBgr, kRgb };

// On the device. Rows may be any number of bytes apart.
struct Frame {
  PixelFormat format;
  const uint8_t* pixels;  // [height, width, 3] blue, green, red; or the luma [height, width] of NV12
  const uint8_t* chroma;  // [height / 2, width / 2, 2] of NV12, U then V; else null
  int height, width;
  size_t pitch_bytes, chroma_pitch_bytes;
};

// Pixels [left, right) × [top, bottom). Pixels outside of the frame repeat its border.
struct Rectangle {
  int left, top, right, bottom;
};

template <typename T>
struct CropResizeNormalizeArguments {
  Frame frame;
  const Rectangle* rectangles;  // [count] on the host, read before the launcher returns
  int count;                    // 0 or more
  ColorOrder color;
  int channels, height, width;  // 3 channels, or 1 of kGray
  float gain[3], offset[3];     // per channel: out = pixel · gain + offset, both rounded
  T* out;                       // [count, channels, height, width]
};

// Enqueues the batch on the stream, and returns at once. Allocates nothing. T: float or __half.
template <typename T>
Status launch_crop_resize_normalize(const CropResizeNormalizeArguments<T>& arguments, cudaStream_t stream);

}  // namespace fer_edge
