// Memory in which a model's weights live, so that they are known to be constant.
//
// While a model is loaded every large allocation gets pages of its own here. Sealing makes all of
// them read only: from then on nothing can change them unnoticed. A write is not an error: the
// fault makes the allocation writable again, and marks it as changed for good. Addresses are never
// given out twice, so one that was freed cannot become something else.
//
// An allocation that can be made again may be set aside: its memory is released, and a read or
// write of it makes it again.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace simd {

/// What may have become of an allocation. It goes from one to a later one, and back only from being
/// set aside: while one thread makes it again (`kReturning`) the others wait, then it is constant.
enum class State { kTaken, kConstant, kAside, kReturning, kChanged, kFreed };

/// One allocation. Never destroyed: a pointer to it stays good.
struct Weights {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
  std::atomic<State> state{State::kTaken};

  /// Whether it holds what it held when it was sealed, be it set aside or not.
  bool constant() const {
    const State now = state.load(std::memory_order_acquire);
    return now == State::kConstant || now == State::kAside || now == State::kReturning;
  }
};

/// Writes all that was in an allocation to the memory `to`, as large as it, of zeros. Called where a
/// fault is handled: it takes no lock and no memory.
typedef void (*Restore)(const Weights& weights, void* to);

/// Take allocations from now on, of this many bytes in total. False if the address space is not
/// available, or if this was called before: a process has one such memory.
bool begin_weights(std::size_t bytes);

/// Pages for an allocation while weights are taken, or null: it is too small, too much, or too late.
void* allocate_weights(std::size_t alignment, std::size_t bytes);

/// Take no more, and make what is there read only. Returns its bytes.
std::size_t seal_weights();

/// Whether `address` is in this memory at all. Cheap: asked at every free.
bool in_weights(const void* address);

/// Give an allocation's memory back, but not its addresses. Ends the process if there is none at
/// `address`, or none any more, as every allocator does.
void free_weights(void* address);

/// The constant allocation that holds all these bytes, or null.
const Weights* constant_weights(const void* address, std::size_t bytes);

/// Give the memory of a constant allocation back, until it is touched: then `restore`, the same one
/// for all, makes it again. False, and nothing is done, if what it makes is not what is there. No
/// other thread may touch it meanwhile.
bool set_aside(const Weights& weights, Restore restore);

/// The handler of faults is still ours: without it, what was set aside cannot be made again.
bool handles_faults();

/// How many allocations have been made again in this process.
unsigned long restored();

/// How large the allocation is that begins at `address`, in bytes.
std::size_t weights_size(const void* address);

}  // namespace simd
