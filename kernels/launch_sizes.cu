// Prints the launch configuration of each kernel, one line each: NAME THREADS SHARED_BYTES. No GPU is touched.
#include <cstdio>

#include "crop_resize_normalize.cuh"
#include "self_attention.cuh"

namespace {

using namespace fer_edge;

template <typename T, int kChannels>
void print_self_attention(const char* type) {
  using Shape = Tiling<T, kChannels>;
  std::printf("self_attention<%s,%d> %d %d\n", type, kChannels, Shape::kThreads, Shape::kSharedBytes);
}

template <typename T, int kDepth>
void print_received(const char* type) {
  using Shape = ReceivedTiling<T, kDepth>;
  std::printf("received<%s,%d> %d %d\n", type, kDepth, Shape::kThreads, Shape::kSharedBytes);
}

// As the template arguments are counted: formats BGR and NV12, colour and gray.
void print_crops(const char* type) {
  for (int format = 0; format < 2; ++format)
    for (int gray = 0; gray < 2; ++gray)
      std::printf("crop_resize_normalize<%s,%d,%d> %d 0\n", type, format, gray, kCropThreads);
}

template <typename T>
void print_all(const char* type) {
  print_self_attention<T, 32>(type);
  print_self_attention<T, 64>(type);
  print_self_attention<T, 128>(type);
  print_self_attention<T, 256>(type);
  print_self_attention<T, 512>(type);
  print_received<T, 16>(type);
  print_received<T, 32>(type);
  print_received<T, 64>(type);
  print_crops(type);
}

}  // namespace

int main() {
  print_all<float>("float");
  print_all<__half>("half");
  print_received<float, 4>("float");
  print_received<float, 8>("float");
}
