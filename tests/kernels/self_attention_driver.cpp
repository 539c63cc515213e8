// Runs launch_self_attention on tensors from a file.
//
//   self_attention_driver IN OUT type=half batch=1 channels=8 positions=4 [NAME=VALUE …]
//
// IN: query, key, value, residual, gamma. OUT: out, then received if received=1. All in the stated type.
// Further names: order, seed, threads and skip (emulation::Options); offset: elements by which every tensor is
// moved away from a 16-byte boundary; fault: a mistake of the caller. Counters as JSON on stdout; exit 3: the
// emulation stopped the kernel, 4: the launcher refused.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>

#include "self_attention.cuh"

using namespace fer_edge;

// A tensor in an allocation of its own, of exactly its size, so that AddressSanitizer sees an access beyond.
template <typename T>
struct Tensor {
  std::unique_ptr<unsigned char[]> memory;
  T* data;
  std::size_t count;

  Tensor(std::size_t count_, std::size_t offset)
      : memory(new unsigned char[(count_ + offset) * sizeof(T)]),
        data(reinterpret_cast<T*>(memory.get()) + offset),
        count(count_) {
    std::memset(memory.get(), 0xFF, (count + offset) * sizeof(T));
  }
  void read(std::ifstream& file) {
    file.read(reinterpret_cast<char*>(data), static_cast<std::streamsize>(count * sizeof(T)));
    if (!file) throw std::runtime_error("the input file is too short");
  }
  void write(std::ofstream& file) const {
    file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(count * sizeof(T)));
  }
};

template <typename T>
int run(const char* in, const char* out, std::map<std::string, std::string>& options) {
  const auto number = [&](const char* name) { return std::atoi(options[name].c_str()); };
  SelfAttentionArguments<T> a{};
  a.batch = number("batch");
  a.channels = number("channels");
  a.positions = number("positions");
  const auto row = static_cast<std::size_t>(std::max(a.batch, 0)) * static_cast<std::size_t>(std::max(a.positions, 0));
  const auto width = static_cast<std::size_t>(std::max(a.channels, 0)), depth = width / 8;
  const auto offset = static_cast<std::size_t>(number("offset"));

  Tensor<T> query(row * depth, offset), key(row * depth, offset), value(row * width, offset);
  Tensor<T> residual(row * width, offset), gamma(1, 0), result(row * width, offset), received(row, 0);
  Tensor<float> statistics(row_statistics_bytes(a.batch, a.positions) / sizeof(float), 0);
  std::ifstream file(in, std::ios::binary);
  for (Tensor<T>* tensor : {&query, &key, &value, &residual, &gamma}) tensor->read(file);
  a.query = query.data;
  a.key = key.data;
  a.value = value.data;
  a.residual = residual.data;
  a.gamma = gamma.data;
  a.out = result.data;
  if (number("received")) {
    a.received = received.data;
    a.row_statistics = statistics.data;
  }
  const std::string fault = options["fault"];
  if (fault == "null") a.key = nullptr;
  if (fault == "no_statistics") a.row_statistics = nullptr;
  if (fault == "misaligned") a.value = reinterpret_cast<const T*>(reinterpret_cast<std::uintptr_t>(a.value) + 1);
  if (fault == "in_place") a.out = residual.data;
  if (fault == "overlap") a.residual = a.out + 1;

  const Status status = launch_self_attention(a, nullptr);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", status.message);
    return 4;
  }
  std::ofstream output(out, std::ios::binary);
  result.write(output);
  if (a.received) received.write(output);
  std::printf("%s\n", emulation::totals.json().c_str());
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::map<std::string, std::string> options;
  for (int i = 3; i < argc; ++i) {
    const std::string text = argv[i];
    const auto equals = text.find('=');
    options[text.substr(0, equals)] = text.substr(equals + 1);
  }
  emulation::options.order = options["order"] == "reverse"  ? emulation::Order::kReverse
                             : options["order"] == "random" ? emulation::Order::kRandom
                                                            : emulation::Order::kForward;
  emulation::options.seed = std::strtoull(options["seed"].c_str(), nullptr, 10);
  emulation::options.os_threads = static_cast<unsigned>(std::max(1, std::atoi(options["threads"].c_str())));
  emulation::options.skipped_barrier_line = std::atoi(options["skip"].c_str());
  try {
    return options["type"] == "half" ? run<__half>(argv[1], argv[2], options) : run<float>(argv[1], argv[2], options);
  } catch (const emulation::Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 3;
  }
}
