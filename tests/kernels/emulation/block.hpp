// One thread block on one OS thread: its threads are fibers, and what they wait for is checked.
//
// A thread runs until it waits: at __syncthreads() for its block, in a warp operation for the lanes of the
// mask. Which thread runs next is the schedule: always the first that can (its warp runs far ahead of the
// others), always the last, or any, drawn from a seed. A result that depends on it lacks a barrier.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fibers.hpp"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline thread_local uint3 threadIdx{0, 0, 0};
inline thread_local uint3 blockIdx{0, 0, 0};
inline thread_local dim3 blockDim{1, 1, 1};
inline thread_local dim3 gridDim{1, 1, 1};
inline constexpr int warpSize = 32;

namespace emulation {

enum class Order { kForward, kReverse, kRandom };

struct Options {
  Order order = Order::kForward;
  std::uint64_t seed = 0;
  unsigned os_threads = 1;       // how many blocks run at once
  int skipped_barrier_line = 0;  // a __syncthreads() in this line does nothing: would the tests notice?
};

struct Counters {
  std::uint64_t loaded_bytes = 0, stored_bytes = 0;    // global memory
  std::uint64_t wide_loads = 0, narrow_loads = 0;      // accesses of 16 bytes, and of fewer
  std::uint64_t wide_stores = 0, narrow_stores = 0;    //
  std::uint64_t tensor_multiply_adds = 0;              // padding included
  std::uint64_t scalar_multiply_adds = 0;              // plain multiplications included
  std::uint64_t block_barriers = 0, warp_operations = 0;
  std::uint64_t bank_conflicts = 0;                    // extra cycles of ldmatrix

  template <typename Visit>
  void each(Visit visit) {
    visit("loaded_bytes", loaded_bytes), visit("stored_bytes", stored_bytes);
    visit("wide_loads", wide_loads), visit("narrow_loads", narrow_loads);
    visit("wide_stores", wide_stores), visit("narrow_stores", narrow_stores);
    visit("tensor_multiply_adds", tensor_multiply_adds), visit("scalar_multiply_adds", scalar_multiply_adds);
    visit("block_barriers", block_barriers), visit("warp_operations", warp_operations);
    visit("bank_conflicts", bank_conflicts);
  }

  void operator+=(Counters other) {
    std::vector<std::uint64_t> values;
    other.each([&](const char*, std::uint64_t value) { values.push_back(value); });
    std::size_t i = 0;
    each([&](const char*, std::uint64_t& value) { value += values[i++]; });
  }

  std::string json() {
    std::string text;
    each([&](const char* name, std::uint64_t value) {
      text += (text.empty() ? "{\"" : ", \"") + std::string(name) + "\": " + std::to_string(value);
    });
    return text + "}";
  }
};

// What a kernel did that a GPU would not forgive.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Site {
  const char* file = "";
  int line = 0;
  bool operator==(const Site& other) const { return line == other.line && !std::strcmp(file, other.file); }
  std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

// Carries out one warp operation for all lanes of the mask at once; each lane passed its own arguments.
using WarpOperation = void (*)(void* const* lane_arguments, unsigned mask);

// Bytes on their way to shared memory, as cp.async leaves them; zeros if there is no source.
struct Copy {
  void* target;
  const void* source;
  std::size_t bytes;
};

struct Thread {
  enum class State { kReady, kAtBlockBarrier, kInWarpOperation, kEnded };
  Fiber fiber;
  State state = State::kReady;
  Site site;
  WarpOperation operation = nullptr;
  void* arguments = nullptr;
  unsigned mask = 0;
  std::deque<std::vector<Copy>> copies;  // committed groups, then the open one
};

class Block;
inline thread_local Block* block = nullptr;

class Block {
 public:
  explicit Block(const Options& options) : options_(options) {}

  void run(const std::function<void()>& body, dim3 shape, uint3 index, std::size_t shared_bytes) {
    count_ = shape.x * shape.y * shape.z;
    while (threads_.size() < count_) threads_.push_back(std::make_unique<Thread>());
    // Exactly the bytes asked for, so that AddressSanitizer sees an access beyond; all NaN until written.
    shared_.reset(new unsigned char[shared_bytes]);
    std::memset(shared_.get(), 0xFF, shared_bytes);
    ready_.assign((count_ + 63) / 64, 0);
    body_ = &body;
    shape_ = shape;
    failure_ = nullptr;
    random_.seed(options_.seed + 0x9E3779B97F4A7C15u * (index.x + 1) + 131u * index.y + 65537u * index.z);
    block = this;
    blockIdx = index;
    blockDim = shape;
    ended_ = 0;
    for (unsigned i = 0; i < count_; ++i) {
      Thread& thread = *threads_[i];
      thread.fiber.prepare(&Block::entry);
      thread.copies.assign(1, {});
      make_ready(i);
    }
    while (ended_ < count_) {
      const int next = pick();
      if (next < 0) {
        open_barrier();
        continue;
      }
      current_ = static_cast<unsigned>(next);
      ready_[current_ / 64] &= ~(std::uint64_t{1} << current_ % 64);
      threadIdx = {current_ % shape.x, current_ / shape.x % shape.y, current_ / (shape.x * shape.y)};
      threads_[current_]->fiber.enter();
      if (failure_) std::rethrow_exception(failure_);
    }
  }

  void block_barrier(Site site) {
    Thread& thread = *threads_[current_];
    thread.site = site;
    thread.state = Thread::State::kAtBlockBarrier;
    thread.fiber.leave(false);
  }

  // Waits for the lanes of the mask to come to the same operation; the last one to come carries it out.
  void warp_operation(unsigned mask, void* arguments, WarpOperation operation, Site site) {
    const unsigned first = current_ / 32 * 32, lane = current_ % 32;
    if (!(mask >> lane & 1))
      throw Failure("thread " + std::to_string(current_) + " is not in the mask of its warp operation at " +
                    site.text());
    Thread& thread = *threads_[current_];
    thread.site = site;
    thread.operation = operation;
    thread.arguments = arguments;
    thread.mask = mask;
    thread.state = Thread::State::kInWarpOperation;
    void* lanes[32] = {};
    for (unsigned other = 0; other < 32; ++other) {
      if (!(mask >> other & 1)) continue;
      if (first + other >= count_)
        throw Failure("the mask at " + site.text() + " names lanes that the block does not have");
      const Thread& peer = *threads_[first + other];
      if (peer.state != Thread::State::kInWarpOperation || peer.operation != operation || peer.mask != mask ||
          !(peer.site == site)) {
        thread.fiber.leave(false);
        return;
      }
      lanes[other] = peer.arguments;
    }
    ++counters.warp_operations;
    operation(lanes, mask);
    for (unsigned other = 0; other < 32; ++other)
      if ((mask >> other & 1) && other != lane) make_ready(first + other);
    thread.state = Thread::State::kReady;
  }

  Thread& current_thread() { return *threads_[current_]; }
  unsigned char* shared_memory() { return shared_.get(); }

  Counters counters;

 private:
  static void entry() {
    Block& self = *block;
    Thread& thread = *self.threads_[self.current_];
    thread.fiber.entered();
    try {
      (*self.body_)();
    } catch (...) {
      self.failure_ = std::current_exception();
    }
    thread.state = Thread::State::kEnded;
    ++self.ended_;
    thread.fiber.leave(true);
  }

  void make_ready(unsigned index) {
    threads_[index]->state = Thread::State::kReady;
    ready_[index / 64] |= std::uint64_t{1} << index % 64;
  }

  int pick() {
    const int words = static_cast<int>(ready_.size());
    if (options_.order == Order::kForward) {
      for (int word = 0; word < words; ++word)
        if (ready_[word]) return word * 64 + std::countr_zero(ready_[word]);
    } else if (options_.order == Order::kReverse) {
      for (int word = words - 1; word >= 0; --word)
        if (ready_[word]) return word * 64 + 63 - std::countl_zero(ready_[word]);
    } else {
      const unsigned start = static_cast<unsigned>(random_()) % count_;
      for (unsigned step = 0; step < count_; ++step) {
        const unsigned index = (start + step) % count_;
        if (ready_[index / 64] >> index % 64 & 1) return static_cast<int>(index);
      }
    }
    return -1;
  }

  // Nobody can run: either all wait at one barrier, or the kernel would hang or corrupt data.
  void open_barrier() {
    const std::string first = describe(*threads_[0]);
    for (unsigned i = 0; i < count_; ++i) {
      const std::string here = describe(*threads_[i]);
      if (here != first)
        throw Failure("divergent barrier: thread 0 " + first + ", thread " + std::to_string(i) + " " + here);
    }
    if (threads_[0]->state != Thread::State::kAtBlockBarrier)
      throw Failure("divergent warp operation: every thread " + first + ", with masks that differ");
    for (unsigned i = 0; i < count_; ++i) make_ready(i);
    ++counters.block_barriers;
  }

  static std::string describe(const Thread& thread) {
    if (thread.state == Thread::State::kEnded) return "has ended";
    const bool at_barrier = thread.state == Thread::State::kAtBlockBarrier;
    return (at_barrier ? "waits at the barrier of " : "waits for its warp at ") + thread.site.text();
  }

  Options options_;
  unsigned count_ = 0, current_ = 0, ended_ = 0;
  dim3 shape_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<std::uint64_t> ready_;
  std::unique_ptr<unsigned char[]> shared_;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr failure_;
  std::mt19937_64 random_;
};

}  // namespace emulation
