// Memory of the search's tokens and links: cells of one size, which a decoder takes and frees by the
// hundred thousand for a second of sound.
//
// Each decoder has chunks of its own, tokens and links in different ones, and takes the first cell of
// a chunk that is free: what is read together stays together, for as long as the recogniser lives.
// Which cells are free is in a bitmap beside them. A list that runs through the free cells would have
// to be read from memory that has left the processor's caches, one cell after the other.

#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace simd {

constexpr std::size_t kCellBytes = 32;
constexpr std::size_t kChunkBytes = 64 * 1024;
/// Addresses of all cells; who needs more takes them of the process's allocator.
constexpr std::size_t kCellsMostBytes = 256 << 20;
constexpr std::size_t kChunks = kCellsMostBytes / kChunkBytes;
constexpr std::size_t kCellsInChunk = kChunkBytes / kCellBytes;
constexpr std::size_t kBits = 64;
constexpr std::size_t kWords = kCellsInChunk / kBits;

enum Kind { kTokens, kLinks };
constexpr std::size_t kKinds = 2;

struct Chunk;

/// The chunks of a decoder. Only one thread at a time uses a decoder, and so these.
struct Cells {
  Chunk* current[kKinds];  // of which cells are taken
  Chunk* roomy[kKinds];    // list of the others that have a free cell
  std::size_t users;       // chunks that are not current, and holders
};

struct alignas(64) Chunk {
  Cells* owner;
  Chunk *next, *previous;  // of the roomy ones
  std::uint32_t used;      // cells
  std::uint32_t word;      // words of the bitmap before this one are 0
  Kind kind;
  bool full;  // no cell was free when the last one was looked for
};

extern std::uintptr_t cells_begin;
extern Chunk chunks[kChunks];
extern std::uint64_t free_cells[kChunks][kWords];  // a bit for each

/// Reserve the addresses. Without them every cell is taken of the process's allocator.
void reserve_cells();

/// Give the memory of unused chunks back to the kernel.
void release_cells();

/// Bytes of chunks that decoders have, and of unused ones that keep their memory.
struct CellBytes {
  std::size_t used, kept;
};
CellBytes cell_bytes();

inline bool is_cell(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) - cells_begin < kCellsMostBytes &&
         cells_begin != 0;
}

inline std::size_t cell_number(const void* cell) {
  return (reinterpret_cast<std::uintptr_t>(cell) - cells_begin) / kCellBytes;
}

/// The chunk was full and is not, or has no cell in use any more.
void chunk_freed(Chunk& chunk);

inline void free_cell(void* cell) {
  const std::size_t number = cell_number(cell);
  Chunk& chunk = chunks[number / kCellsInChunk];
  const auto word = static_cast<std::uint32_t>(number % kCellsInChunk / kBits);
  free_cells[number / kCellsInChunk][word] |= std::uint64_t{1} << (number % kBits);
  if (word < chunk.word) chunk.word = word;
  if (--chunk.used == 0 || chunk.full) chunk_freed(chunk);
}

/// Takes cells for one decoder.
class CellTaker {
 public:
  /// Of the decoder that has this token; of a new one if the token is not a cell.
  explicit CellTaker(const void* token);
  CellTaker(const CellTaker&) = delete;
  CellTaker& operator=(const CellTaker&) = delete;
  ~CellTaker();

  void* take(Kind kind) {
    for (Chunk* chunk = current(kind); chunk != nullptr; chunk = next_chunk(kind)) {
      const std::size_t index = chunk - chunks;
      for (; chunk->word != kWords; ++chunk->word) {
        std::uint64_t& word = free_cells[index][chunk->word];
        if (word == 0) continue;
        const std::size_t bit = __builtin_ctzll(word);
        word &= word - 1;
        ++chunk->used;
        const std::size_t number = index * kCellsInChunk + chunk->word * kBits + bit;
        return reinterpret_cast<void*>(cells_begin + number * kCellBytes);
      }
    }
    return ::operator new(kCellBytes);
  }

 private:
  Chunk* current(Kind kind) {
    if (cells_ == nullptr) return nullptr;
    Chunk* chunk = cells_->current[kind];
    return chunk != nullptr ? chunk : next_chunk(kind);
  }

  /// The chunk that takes the place of the current one, which is full; null if there is none.
  Chunk* next_chunk(Kind kind);

  Cells* cells_;
};

}  // namespace simd
