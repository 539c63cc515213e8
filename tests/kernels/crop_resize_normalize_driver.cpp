// Runs launch_crop_resize_normalize on a frame from a file.
//
//   crop_resize_normalize_driver IN OUT type=half format=nv12 frame_height=4 frame_width=4 pitch=4 chroma_pitch=4
//                                color=rgb channels=3 height=2 width=2 count=1 [NAME=VALUE …]
//
// IN: the rows of the frame, `pitch` bytes apart; of the chroma plane for nv12; rectangles [count, 4] int32; gain
// and offset, three floats each. OUT: the batch in the stated type. Further names: order, threads
// (emulation::Options); offset: elements by which the output is moved away from a 16-byte boundary; fault: a
// mistake of the caller. Counters as JSON on stdout; exit 3: the emulation stopped the kernel, 4: the launcher
// refused.

// Like __fmul_rn, multiply() is a rounded product, and stays one beside an addition.
#pragma GCC optimize("fp-contract=off")

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>

#include "crop_resize_normalize.cuh"

using namespace fer_edge;

using Options = std::map<std::string, std::string>;

// An allocation of exactly its size, so that AddressSanitizer sees an access beyond.
template <typename T>
std::unique_ptr<T[]> read(std::ifstream& file, std::size_t count) {
  std::unique_ptr<T[]> data(new T[count]);
  file.read(reinterpret_cast<char*>(data.get()), static_cast<std::streamsize>(count * sizeof(T)));
  if (!file) throw std::runtime_error("the input file is too short");
  return data;
}

template <typename T>
int run(const char* in, const char* out, Options& options) {
  const auto number = [&](const char* name) { return std::atoi(options[name].c_str()); };
  const auto size = [&](const char* name) { return static_cast<std::size_t>(std::max(number(name), 0)); };
  const bool nv12 = options["format"] == "nv12";
  const std::size_t rows = size("frame_height"), columns = size("frame_width");

  CropResizeNormalizeArguments<T> a{};
  a.frame.format = nv12 ? PixelFormat::kNv12 : PixelFormat::kBgr;
  a.frame.height = number("frame_height");
  a.frame.width = number("frame_width");
  a.frame.pitch_bytes = size("pitch");
  a.frame.chroma_pitch_bytes = size("chroma_pitch");
  a.color = options["color"] == "gray" ? ColorOrder::kGray : options["color"] == "rgb" ? ColorOrder::kRgb : ColorOrder::kBgr;
  a.channels = number("channels");
  a.height = number("height");
  a.width = number("width");
  a.count = number("count");

  std::ifstream file(in, std::ios::binary);
  const auto pixels = read<std::uint8_t>(file, (rows - 1) * size("pitch") + columns * (nv12 ? 1 : 3));
  const auto chroma = read<std::uint8_t>(file, nv12 ? (rows / 2 - 1) * size("chroma_pitch") + columns : 0);
  const auto rectangles = read<Rectangle>(file, size("count"));
  file.read(reinterpret_cast<char*>(a.gain), sizeof a.gain);
  file.read(reinterpret_cast<char*>(a.offset), sizeof a.offset);
  if (!file) throw std::runtime_error("the input file is too short");
  const std::size_t values = size("count") * size("channels") * size("height") * size("width");
  const std::unique_ptr<T[]> result(new T[values + size("offset")]);
  std::memset(static_cast<void*>(result.get()), 0xFF, (values + size("offset")) * sizeof(T));
  a.frame.pixels = pixels.get();
  a.frame.chroma = chroma.get();
  a.rectangles = rectangles.get();
  a.out = result.get() + size("offset");

  const std::string fault = options["fault"];
  if (fault == "null_frame") a.frame.pixels = nullptr;
  if (fault == "null_chroma") a.frame.chroma = nullptr;
  if (fault == "null_rectangles") a.rectangles = nullptr;
  if (fault == "null_out") a.out = nullptr;
  if (fault == "short_pitch") --a.frame.pitch_bytes;
  if (fault == "short_chroma_pitch") --a.frame.chroma_pitch_bytes;
  if (fault == "negative_count") a.count = -1;
  if (fault == "two_channels") a.channels = 2;
  if (fault == "huge_output") a.height = 4097;
  if (fault == "odd_frame") --a.frame.width;
  if (fault == "empty_frame") a.frame.height = 0;
  if (fault == "infinite_gain") a.gain[0] = INFINITY;
  if (fault == "misaligned") a.out = reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(a.out) + 1);
  if (fault == "in_place") a.out = reinterpret_cast<T*>(pixels.get());

  const Status status = launch_crop_resize_normalize(a, nullptr);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message);
    return 4;
  }
  std::ofstream output(out, std::ios::binary);
  output.write(reinterpret_cast<const char*>(a.out), static_cast<std::streamsize>(values * sizeof(T)));
  std::printf("%s\n", emulation::totals.json().c_str());
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  Options options;
  for (int i = 3; i < argc; ++i) {
    const std::string text = argv[i];
    const auto equals = text.find('=');
    options[text.substr(0, equals)] = text.substr(equals + 1);
  }
  if (options["order"] == "random") emulation::options.order = emulation::Order::kRandom;
  emulation::options.os_threads = static_cast<unsigned>(std::max(1, std::atoi(options["threads"].c_str())));
  try {
    return options["type"] == "half" ? run<__half>(argv[1], argv[2], options) : run<float>(argv[1], argv[2], options);
  } catch (const emulation::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 3;
  }
}
