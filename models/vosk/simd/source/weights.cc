#include "weights.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace simd {
namespace {

constexpr std::size_t kLeastBytes = 16 * 1024;
constexpr std::size_t kMostAllocations = 16 * 1024;

std::atomic<std::uintptr_t> memory_begin{0}, memory_end{0};
std::uintptr_t next_free = 0;
std::atomic<bool> taking{false};
Weights allocations[kMostAllocations];  // in the order of their addresses
std::atomic<std::size_t> count{0};
std::mutex allocating;
struct sigaction handler_before;
std::atomic<Restore> restore_aside{nullptr};
std::atomic<unsigned long> times_restored{0};

std::size_t page() {
  static const std::size_t size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

std::size_t whole_pages(std::size_t bytes) { return (bytes + page() - 1) / page() * page(); }

void* pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

bool protect(const Weights& weights, int protection) {
  return mprotect(pointer(weights.begin), whole_pages(weights.bytes), protection) == 0;
}

/// The allocation that `address` is in, or null. Async-signal-safe.
Weights* find(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::size_t low = 0, high = count.load(std::memory_order_acquire);
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (allocations[middle].begin + whole_pages(allocations[middle].bytes) <= wanted)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == count.load(std::memory_order_acquire) || allocations[low].begin > wanted)
    return nullptr;
  return &allocations[low];
}

/// What `restore` makes of it, in pages of its own that no other code knows of, or null.
void* made_again(const Weights& weights, Restore restore) {
  void* made = mmap(nullptr, whole_pages(weights.bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return nullptr;
  restore(weights, made);
  return made;
}

/// Have what was set aside in its place again, read only and all of it at once. Async-signal-safe.
bool bring_back(Weights& weights) {
  State aside = State::kAside;
  if (!weights.state.compare_exchange_strong(aside, State::kReturning)) {
    // Another thread is at it.
    while (weights.state.load(std::memory_order_acquire) == State::kReturning) sched_yield();
    return true;
  }
  void* made = made_again(weights, restore_aside.load());
  const std::size_t bytes = whole_pages(weights.bytes);
  const bool done = made != nullptr && mprotect(made, bytes, PROT_READ) == 0 &&
                    mremap(made, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                           pointer(weights.begin)) != MAP_FAILED;
  times_restored += done;
  weights.state.store(done ? State::kConstant : State::kAside, std::memory_order_release);
  return done;
}

/// The address at which this thread faulted before, in weights that were constant then.
thread_local const void* fault_before __attribute__((tls_model("initial-exec"))) = nullptr;

/// Handle a fault: memory that was set aside is touched, or sealed memory is written to. That is
/// allowed, and recorded. Any other fault has its usual effect.
void on_fault(int number, siginfo_t* info, void* context) {
  if (info->si_code == SEGV_ACCERR && in_weights(info->si_addr)) {
    const int error_before = errno;
    Weights* touched = find(info->si_addr);
    bool mended = false;
    if (touched != nullptr) {
      State now = touched->state.load(std::memory_order_acquire);
      if (now == State::kAside || now == State::kReturning) {
        mended = bring_back(*touched);  // a write faults once more
      } else if (now == State::kConstant && fault_before != info->si_addr) {
        // Perhaps a read, and another thread has brought it back since: a write faults once more.
        fault_before = info->si_addr;
        mended = true;
      } else {
        // Two threads may fault at once: the second finds it done.
        mended = (now == State::kChanged ||
                  (now == State::kConstant &&
                   (touched->state.compare_exchange_strong(now, State::kChanged) ||
                    now == State::kChanged))) &&
                 protect(*touched, PROT_READ | PROT_WRITE);
      }
    }
    errno = error_before;
    if (mended) return;
  }
  if (handler_before.sa_flags & SA_SIGINFO) {
    handler_before.sa_sigaction(number, info, context);
  } else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN) {
    handler_before.sa_handler(number);
  } else {
    // The fault comes again on return, and ends the process as it would have; one that another
    // process has sent does not come again by itself.
    signal(SIGSEGV, SIG_DFL);
    if (info->si_code <= 0) raise(SIGSEGV);
  }
}

}  // namespace

bool begin_weights(std::size_t bytes) {
  std::lock_guard<std::mutex> lock(allocating);
  if (memory_begin.load() != 0) return false;
  bytes = whole_pages(bytes);
  void* memory =
      mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  next_free = reinterpret_cast<std::uintptr_t>(memory);
  memory_end.store(next_free + bytes);
  memory_begin.store(next_free, std::memory_order_release);
  taking.store(true, std::memory_order_release);
  return true;
}

void* allocate_weights(std::size_t alignment, std::size_t bytes) {
  if (!taking.load(std::memory_order_acquire) || bytes < kLeastBytes || alignment > page())
    return nullptr;
  std::lock_guard<std::mutex> lock(allocating);
  const std::size_t at = count.load();
  const std::size_t left = memory_end.load() - next_free;
  if (!taking.load() || at == kMostAllocations || bytes > left || whole_pages(bytes) > left)
    return nullptr;
  allocations[at].begin = next_free;
  allocations[at].bytes = bytes;
  if (!protect(allocations[at], PROT_READ | PROT_WRITE)) return nullptr;
  count.store(at + 1, std::memory_order_release);
  next_free += whole_pages(bytes);
  return pointer(allocations[at].begin);
}

std::size_t seal_weights() {
  std::lock_guard<std::mutex> lock(allocating);
  if (!taking.load()) return 0;
  taking.store(false);
  munmap(pointer(next_free), memory_end.load() - next_free);  // addresses only
  memory_end.store(next_free);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;  // where a thread has a stack for signals
  sigaction(SIGSEGV, &action, &handler_before);
  std::size_t sealed = 0;
  for (std::size_t i = 0; i < count.load(); ++i) {
    Weights& each = allocations[i];
    State taken = State::kTaken;
    if (each.state.load() == State::kTaken && protect(each, PROT_READ) &&
        each.state.compare_exchange_strong(taken, State::kConstant))
      sealed += each.bytes;
  }
  return sealed;
}

bool in_weights(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  return wanted >= memory_begin.load(std::memory_order_relaxed) &&
         wanted < memory_end.load(std::memory_order_relaxed);
}

void free_weights(void* address) {
  std::lock_guard<std::mutex> lock(allocating);
  Weights* freed = find(address);
  if (freed == nullptr || pointer(freed->begin) != address ||
      freed->state.exchange(State::kFreed) == State::kFreed)
    std::abort();
  // The addresses stay taken, so that nothing else can ever have them; the memory is given back.
  mmap(pointer(freed->begin), whole_pages(freed->bytes), PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

const Weights* constant_weights(const void* address, std::size_t bytes) {
  if (!in_weights(address)) return nullptr;
  const Weights* found = find(address);
  if (found == nullptr || !found->constant()) return nullptr;
  const auto offset = reinterpret_cast<std::uintptr_t>(address) - found->begin;
  return offset <= found->bytes && bytes <= found->bytes - offset ? found : nullptr;
}

bool set_aside(const Weights& weights, Restore restore) {
  std::lock_guard<std::mutex> lock(allocating);
  Weights* kept = find(pointer(weights.begin));
  const std::size_t bytes = whole_pages(weights.bytes);
  if (kept == nullptr || kept->state.load() != State::kConstant) return false;
  void* made = made_again(weights, restore);
  if (made == nullptr) return false;
  const bool same = std::memcmp(made, pointer(weights.begin), bytes) == 0;
  munmap(made, bytes);
  if (!same) return false;
  restore_aside.store(restore);
  State constant = State::kConstant;
  if (!kept->state.compare_exchange_strong(constant, State::kAside)) return false;
  // The same addresses, with nothing behind them.
  if (mmap(pointer(weights.begin), bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED)
    return true;
  kept->state.store(State::kConstant);  // they are still there
  return false;
}

bool handles_faults() {
  struct sigaction now;
  return sigaction(SIGSEGV, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
         now.sa_sigaction == on_fault;
}

unsigned long restored() { return times_restored.load(); }

std::size_t weights_size(const void* address) {
  const Weights* found = find(address);
  return found == nullptr ? 0 : found->bytes;
}

}  // namespace simd
