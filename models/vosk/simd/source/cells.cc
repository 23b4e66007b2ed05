#include "cells.h"

#include <sys/mman.h>

#include <mutex>

namespace simd {

std::uintptr_t cells_begin = 0;
Chunk chunks[kChunks];
std::uint64_t free_cells[kChunks][kWords];

namespace {

/// Chunks that become writable at once.
constexpr std::size_t kAtOnce = 16;
/// Unused chunks that keep their memory: what a decoder needs for an utterance, and more.
constexpr std::size_t kMostKept = 128;

class Stack {
 public:
  void push(std::size_t index) { indices_[count_++] = static_cast<std::uint16_t>(index); }
  std::size_t pop() { return indices_[--count_]; }
  std::size_t count() const { return count_; }

 private:
  std::uint16_t indices_[kChunks];
  std::size_t count_ = 0;
};

/// Unused chunks, which any decoder may have.
class Unused {
 public:
  Chunk* take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (kept_.count() != 0) return chunks + kept_.pop();
    if (released_.count() == 0 && !make_writable()) return nullptr;
    return chunks + released_.pop();
  }

  void put(const Chunk* chunk) {
    std::lock_guard<std::mutex> lock(mutex_);
    const std::size_t index = chunk - chunks;
    if (kept_.count() < kMostKept)
      kept_.push(index);
    else
      release(index);
  }

  void release_all() {
    std::lock_guard<std::mutex> lock(mutex_);
    while (kept_.count() != 0) release(kept_.pop());
  }

  CellBytes bytes() {
    std::lock_guard<std::mutex> lock(mutex_);
    const std::size_t used = writable_ - kept_.count() - released_.count();
    return {used * kChunkBytes, kept_.count() * kChunkBytes};
  }

 private:
  static void* memory(std::size_t index) {
    return reinterpret_cast<void*>(cells_begin + index * kChunkBytes);
  }

  bool make_writable() {
    if (kChunks - writable_ < kAtOnce || mprotect(memory(writable_), kAtOnce * kChunkBytes,
                                                  PROT_READ | PROT_WRITE) != 0)
      return false;
    writable_ += kAtOnce;
    for (std::size_t n = 1; n <= kAtOnce; ++n) released_.push(writable_ - n);
    return true;
  }

  void release(std::size_t index) {
    madvise(memory(index), kChunkBytes, MADV_DONTNEED);
    released_.push(index);
  }

  std::mutex mutex_;
  Stack kept_, released_;  // with memory, and without
  std::size_t writable_ = 0;
};

Unused unused;

void list(Chunk& chunk) {
  Chunk*& first = chunk.owner->roomy[chunk.kind];
  chunk.previous = nullptr;
  chunk.next = first;
  if (first != nullptr) first->previous = &chunk;
  first = &chunk;
}

void unlist(Chunk& chunk) {
  if (chunk.next != nullptr) chunk.next->previous = chunk.previous;
  (chunk.previous != nullptr ? chunk.previous->next : chunk.owner->roomy[chunk.kind]) = chunk.next;
}

/// Drop the chunks of a decoder if no cell is in use and no taker holds them.
void drop_if_unused(Cells* cells) {
  if (cells->users != 0) return;
  for (const Chunk* chunk : cells->current)
    if (chunk != nullptr && chunk->used != 0) return;
  for (const Chunk* chunk : cells->current)
    if (chunk != nullptr) unused.put(chunk);
  delete cells;
}

}  // namespace

void reserve_cells() {
  if (cells_begin != 0) return;
  void* reserved = mmap(nullptr, kCellsMostBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved != MAP_FAILED) cells_begin = reinterpret_cast<std::uintptr_t>(reserved);
}

void release_cells() { unused.release_all(); }

CellBytes cell_bytes() { return unused.bytes(); }

void chunk_freed(Chunk& chunk) {
  Cells* cells = chunk.owner;
  const bool was_full = chunk.full;
  chunk.full = false;
  if (&chunk == cells->current[chunk.kind]) {
    // Its free cells are taken next.
  } else if (chunk.used != 0) {
    list(chunk);
  } else {
    if (!was_full) unlist(chunk);
    unused.put(&chunk);
    --cells->users;
  }
  drop_if_unused(cells);
}

CellTaker::CellTaker(const void* token) : cells_(nullptr) {
  if (is_cell(token))
    cells_ = chunks[cell_number(token) / kCellsInChunk].owner;
  else if (cells_begin != 0)
    cells_ = new (std::nothrow) Cells{};
  if (cells_ != nullptr) ++cells_->users;
}

CellTaker::~CellTaker() {
  if (cells_ == nullptr) return;
  --cells_->users;
  drop_if_unused(cells_);
}

Chunk* CellTaker::next_chunk(Kind kind) {
  if (Chunk* full = cells_->current[kind]) {
    full->full = true;
    ++cells_->users;
  }
  Chunk* chunk = cells_->roomy[kind];
  if (chunk != nullptr) {
    unlist(*chunk);
    --cells_->users;
  } else if ((chunk = unused.take()) != nullptr) {
    *chunk = Chunk{cells_, nullptr, nullptr, 0, 0, kind, false};
    for (std::uint64_t& word : free_cells[chunk - chunks]) word = ~std::uint64_t{0};
  }
  cells_->current[kind] = chunk;
  return chunk;
}

}  // namespace simd
