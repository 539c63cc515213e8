// Fibers: stacks that run in turns on one OS thread. x86-64 and aarch64, System V calling convention.
//
// A hand-written switch takes nanoseconds; swapcontext() asks the kernel for the signal mask each time,
// and an emulated attention map needs millions of switches.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a called function must preserve, stores the stack pointer in *save, and continues on `load`.
extern "C" void fer_edge_switch_stack(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.weak fer_edge_switch_stack
.type fer_edge_switch_stack, @function
fer_edge_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size fer_edge_switch_stack, .-fer_edge_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.weak fer_edge_switch_stack
.type fer_edge_switch_stack, %function
fer_edge_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size fer_edge_switch_stack, .-fer_edge_switch_stack
)");
#else
#error "the emulation switches stacks on x86-64 and aarch64 only"
#endif

namespace emulation {

// What AddressSanitizer must be told about a stack, so that it follows the switches.
struct StackBounds {
  const void* bottom = nullptr;
  std::size_t size = 0;
  void* fake_stack = nullptr;
};

class Fiber {
 public:
  Fiber() {
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, page_ + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    mprotect(memory_, page_, PROT_NONE);  // a stack that is too small ends in a fault, not in a wrong result
  }
  ~Fiber() { munmap(memory_, page_ + kStackBytes); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Forgets what ran here; the next enter() starts `entry`, which must never return.
  void prepare(void (*entry)()) {
    unsigned char* const stack = memory_ + page_;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);
#endif
    bounds_ = {stack, kStackBytes, nullptr};
    auto* top = reinterpret_cast<std::uintptr_t*>(stack + kStackBytes);
#if defined(__x86_64__)
    top -= 2;  // the return address, placed so that the stack is aligned as after a call
    *top = reinterpret_cast<std::uintptr_t>(entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
#else
    top -= 20;
    for (int i = 0; i < 20; ++i) top[i] = 0;
    top[11] = reinterpret_cast<std::uintptr_t>(entry);  // x30, the link register
#endif
    stack_pointer_ = top;
  }

  // From the scheduler: runs the fiber until it leaves.
  void enter() {
    [[maybe_unused]] StackBounds& scheduler = scheduler_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler.fake_stack, bounds_.bottom, bounds_.size);
#endif
    fer_edge_switch_stack(&scheduler_pointer_, stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler.fake_stack, nullptr, nullptr);
#endif
  }

  // At the start of `entry`.
  void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_.bottom, &scheduler_.size);
#endif
  }

  // From the fiber: back to the scheduler. The last time, `for_good` frees what AddressSanitizer keeps.
  void leave([[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &bounds_.fake_stack, scheduler_.bottom, scheduler_.size);
#endif
    fer_edge_switch_stack(&stack_pointer_, scheduler_pointer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(bounds_.fake_stack, &scheduler_.bottom, &scheduler_.size);
#endif
  }

 private:
  static constexpr std::size_t kStackBytes = std::size_t{256} << 10;

  std::size_t page_ = 0;
  unsigned char* memory_ = nullptr;
  void* stack_pointer_ = nullptr;
  void* scheduler_pointer_ = nullptr;
  StackBounds bounds_;
  StackBounds scheduler_;
};

}  // namespace emulation
