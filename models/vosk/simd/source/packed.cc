#include "packed.h"

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>

#include "weights.h"

namespace simd {
namespace {

struct Entry {
  Matrix matrix;
  const Weights* from;
  const float* packed;
  const Variant* variant;
};

constexpr std::size_t kPlaces = 8192, kMostEntries = kPlaces / 2;

// Open addressing. An entry is written once, before its pointer is, and never changed.
std::atomic<const Entry*> places[kPlaces];
Entry entries[kMostEntries];
std::atomic<std::size_t> count{0};
std::atomic<std::size_t> bytes_packed{0}, bytes_allowed{0};
std::mutex packing;

std::size_t place_of(const Matrix& matrix) {
  auto mixed = reinterpret_cast<std::uintptr_t>(matrix.data) / sizeof(float);
  mixed = mixed * 31 + static_cast<std::uintptr_t>(matrix.n);
  mixed = mixed * 31 + static_cast<std::uintptr_t>(matrix.k);
  mixed *= 0x9E3779B97F4A7C15u;
  return mixed >> 32 & (kPlaces - 1);
}

/// The matrix's entry, or null and the place where it would be.
const Entry* look_up(const Matrix& matrix, std::size_t& place) {
  for (place = place_of(matrix);; place = (place + 1) & (kPlaces - 1)) {
    const Entry* entry = places[place].load(std::memory_order_acquire);
    if (entry == nullptr || entry->matrix == matrix) return entry;
  }
}

const Entry* add(const Variant& variant, const Matrix& matrix) {
  const Weights* from = constant_weights(matrix.data, matrix.bytes());
  if (from == nullptr) return nullptr;
  std::lock_guard<std::mutex> lock(packing);
  std::size_t place;
  if (const Entry* entry = look_up(matrix, place)) return entry;
  const std::size_t bytes = sizeof(float) * variant.packed_size(matrix.n, matrix.k);
  const std::size_t at = count.load();
  if (at == kMostEntries || bytes > bytes_allowed.load() - bytes_packed.load()) return nullptr;
  // Pages of its own: beside what a process changes they would be copied in every worker.
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  variant.pack(matrix.n, matrix.k, matrix.data, matrix.ldb, static_cast<float*>(memory));
  mprotect(memory, bytes, PROT_READ);
  bytes_packed += bytes;
  entries[at] = {matrix, from, static_cast<const float*>(memory), &variant};
  places[place].store(&entries[at], std::memory_order_release);
  count.store(at + 1, std::memory_order_release);
  return &entries[at];
}

/// Of all matrices that were packed of the allocation.
void unpack_all(const Weights& weights, void* to) {
  const std::size_t all = count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < all; ++i) {
    const Entry& each = entries[i];
    if (each.from != &weights) continue;
    const auto offset = reinterpret_cast<std::uintptr_t>(each.matrix.data) - weights.begin;
    each.variant->unpack(each.matrix.n, each.matrix.k, each.packed,
                         reinterpret_cast<float*>(static_cast<char*>(to) + offset),
                         each.matrix.ldb);
  }
}

}  // namespace

const float* packed(const Variant& variant, const Matrix& matrix) {
  std::size_t place;
  const Entry* entry = look_up(matrix, place);
  if (entry == nullptr && bytes_packed.load(std::memory_order_relaxed) <
                              bytes_allowed.load(std::memory_order_relaxed))
    entry = add(variant, matrix);
  // What was written to, or freed, since it was packed is what it is now.
  return entry != nullptr && entry->from->constant() ? entry->packed : nullptr;
}

std::size_t set_packed_aside() {
  std::lock_guard<std::mutex> lock(packing);
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < count.load(); ++i)
    if (set_aside(*entries[i].from, unpack_all)) bytes += entries[i].from->bytes;
  return bytes;
}

void set_packing_limit(std::size_t bytes) {
  std::lock_guard<std::mutex> lock(packing);
  bytes_allowed.store(bytes < bytes_packed.load() ? bytes_packed.load() : bytes);
}

std::size_t packed_bytes() { return bytes_packed.load(); }

}  // namespace simd
