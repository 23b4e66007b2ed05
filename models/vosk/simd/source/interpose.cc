// What takes the place of functions of the C library's allocator and of libvosk's, for the process
// that this library is preloaded into, and how that process steers it.

#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cells.h"
#include "libraries.h"
#include "packed.h"
#include "product.h"
#include "search.h"
#include "weights.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

/// What the engine finds in the global scope, and must find here. It frees memory that is not the
/// allocator's under the first six names: another library before us would give it to the allocator.
constexpr const char* kTaken[] = {"free",   "posix_memalign", "realloc",     "malloc_usable_size",
                                  "_ZdlPv", "_ZdlPvm",        "cblas_sgemm"};

/// Whether the global scope has ours first, whatever else is preloaded. Its address would not tell:
/// in a shared library that is the first one's, too.
bool comes_here(const char* name) {
  Dl_info found, own;
  return dladdr(dlsym(RTLD_DEFAULT, name), &found) != 0 && dladdr(kTaken, &own) != 0 &&
         found.dli_fbase == own.dli_fbase;
}

using simd::Matrix;
using simd::Variant;

// --- the allocator -------------------------------------------------------------------------------

/// The function of that name that comes after ours: the allocator's own.
template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

EXPORTED int posix_memalign(void** to, std::size_t alignment, std::size_t bytes) {
  static const auto original = next<int (*)(void**, std::size_t, std::size_t)>("posix_memalign");
  if (void* weights = simd::allocate_weights(alignment, bytes)) {
    *to = weights;
    return 0;
  }
  return original(to, alignment, bytes);
}

EXPORTED void free(void* memory) {
  static const auto original = next<void (*)(void*)>("free");
  if (__builtin_expect(simd::in_weights(memory), 0)) return simd::free_weights(memory);
  if (simd::is_cell(memory)) return simd::free_cell(memory);
  original(memory);
}

/// `operator delete`: the allocator may have one that does not call `free`.
EXPORTED void deleted(void* memory) __asm__("_ZdlPv");
EXPORTED void deleted_of_size(void* memory, std::size_t bytes) __asm__("_ZdlPvm");

EXPORTED void deleted(void* memory) {
  static const auto original = next<void (*)(void*)>("_ZdlPv");
  if (simd::is_cell(memory)) return simd::free_cell(memory);
  original == nullptr ? free(memory) : original(memory);
}

EXPORTED void deleted_of_size(void* memory, std::size_t bytes) {
  static const auto original = next<void (*)(void*, std::size_t)>("_ZdlPvm");
  if (simd::is_cell(memory)) return simd::free_cell(memory);
  original == nullptr ? free(memory) : original(memory, bytes);
}

/// How `supervisor/trim.py` has freed memory given back.
EXPORTED int malloc_trim(std::size_t kept) {
  static const auto original = next<int (*)(std::size_t)>("malloc_trim");
  simd::release_cells();
  return original == nullptr ? 1 : original(kept);
}

EXPORTED std::size_t malloc_usable_size(void* memory) {
  static const auto original = next<std::size_t (*)(void*)>("malloc_usable_size");
  if (simd::in_weights(memory)) return simd::weights_size(memory);
  return original(memory);
}

EXPORTED void* realloc(void* memory, std::size_t bytes) {
  static const auto original = next<void* (*)(void*, std::size_t)>("realloc");
  if (!simd::in_weights(memory)) return original(memory, bytes);
  void* moved = original(nullptr, bytes);
  if (moved == nullptr) return nullptr;
  const std::size_t held = simd::weights_size(memory);
  std::memcpy(moved, memory, held < bytes ? held : bytes);
  simd::free_weights(memory);
  return moved;
}

// --- the engine ----------------------------------------------------------------------------------

namespace kaldi {

/// Only its name and its accessors, which libvosk exports: how it is laid out is not our business.
template <typename Real>
class MatrixBase {
 public:
  void Floor(const MatrixBase<Real>& source, Real least);
};

}  // namespace kaldi

namespace {

enum Order { kRowMajor = 101 };
enum Transpose { kNoTranspose = 111, kTranspose = 112 };

/// As cblas_sgemm is declared (the reference CBLAS of netlib.org).
typedef void (*Sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                      const float* a, int lda, const float* b, int ldb, float beta, float* c,
                      int ldc);
typedef void (*Floor)(void* self, const void* source, float least);
typedef int (*Dimension)(const void* self);
typedef float* (*Data)(const void* self);

/// What libvosk has itself.
struct Engine {
  Sgemm sgemm;
  Floor floor;
  Dimension rows, columns, stride;
  Data data;

  bool complete() const {
    return sgemm != nullptr && floor != nullptr && rows != nullptr && columns != nullptr &&
           stride != nullptr && data != nullptr;
  }
};

constexpr const char* kFloor = "_ZN5kaldi10MatrixBaseIfE5FloorERKS1_f";

/// What a library has of it. Names as the Itanium C++ ABI mangles the members of
/// kaldi::MatrixBase<float>.
Engine engine_in(void* library) {
  Engine found = {};
  if (library == nullptr) return found;
  simd::find(library, "cblas_sgemm", found.sgemm);
  simd::find(library, kFloor, found.floor);
  simd::find(library, "_ZNK5kaldi10MatrixBaseIfE7NumRowsEv", found.rows);
  simd::find(library, "_ZNK5kaldi10MatrixBaseIfE7NumColsEv", found.columns);
  simd::find(library, "_ZNK5kaldi10MatrixBaseIfE6StrideEv", found.stride);
  simd::find(library, "_ZNK5kaldi10MatrixBaseIfE4DataEv", found.data);
  return found;
}

Engine engine = {};
simd::Range engine_code;

/// What a call in the library that `caller` is in would have reached without us: the engine's own
/// function; for any other library what comes after ours in the global scope, or else what that
/// library brings. There is always one, or the call would not have been linked.
template <typename Function>
Function original_for(const void* caller, Function Engine::*own, const char* name) {
  if (engine_code.holds(caller) && engine.*own != nullptr) return engine.*own;
  Function found = next<Function>(name);
  if (found == nullptr) found = engine_in(simd::library_of(caller)).*own;
  if (found == nullptr) {
    std::fprintf(stderr, "modelserver-simd: %s is called, and no library has it\n", name);
    std::abort();
  }
  return found;
}

std::atomic<const Variant*> variant{nullptr};
std::atomic<bool> in_use{false};
std::atomic<unsigned long> products{0};

/// Weights of fewer elements than this are not worth a look.
constexpr long kLeastElements = 2048;

const Variant* variant_in_use() {
  return in_use.load(std::memory_order_relaxed) ? variant.load(std::memory_order_relaxed) : nullptr;
}

/// The product that pays: few rows, times the weights' transpose. False if it is another.
bool multiplied(int order, int transpose_a, int transpose_b, long m, long n, long k, float alpha,
                const float* a, long lda, const float* b, long ldb, float beta, float* c,
                long ldc) {
  const Variant* with = variant_in_use();
  if (with == nullptr || order != kRowMajor || transpose_a != kNoTranspose ||
      transpose_b != kTranspose || m <= 0 || n <= 0 || k <= 0 || n * k < kLeastElements ||
      lda < k || ldb < k || ldc < n)
    return false;
  const float* packed = simd::packed(*with, Matrix{b, n, k, ldb});
  if (packed == nullptr) return false;
  with->multiply(m, n, k, alpha, a, lda, packed, beta, c, ldc);
  products.fetch_add(1, std::memory_order_relaxed);
  return true;
}

}  // namespace

EXPORTED void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k,
                          float alpha, const float* a, int lda, const float* b, int ldb, float beta,
                          float* c, int ldc) {
  if (multiplied(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc))
    return;
  original_for(__builtin_return_address(0), &Engine::sgemm, "cblas_sgemm")(
      order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

/// `kaldi::MatrixBase<float>::Floor`, of which libvosk's was compiled without vectors.
template <>
__attribute__((visibility("default"))) void kaldi::MatrixBase<float>::Floor(
    const MatrixBase<float>& source, float least) {
  const void* caller = __builtin_return_address(0);
  const Variant* with = engine_code.holds(caller) ? variant_in_use() : nullptr;
  const long rows = with == nullptr ? 0 : engine.rows(this);
  const long columns = with == nullptr ? 0 : engine.columns(this);
  if (with == nullptr || engine.rows(&source) != rows || engine.columns(&source) != columns)
    return original_for(caller, &Engine::floor, kFloor)(this, &source, least);
  const long from_stride = engine.stride(&source), to_stride = engine.stride(this);
  const float* from = engine.data(&source);
  float* to = engine.data(this);
  for (long row = 0; row < rows; ++row)
    with->floor_row(columns, from + row * from_stride, least, to + row * to_stride);
}

// --- how the process steers it -------------------------------------------------------------------

/// What `models/vosk/simd/__init__.py` expects of the functions below; a library of another version
/// says another number, or has no such function.
EXPORTED int modelserver_simd_abi() { return 2; }

/// Take the variant of that name, for the engine in the shared library at `path`, which is loaded.
/// 0; 1 if the processor cannot run it, 2 if the library is not as expected, 3 if its calls do not
/// come here (something else is preloaded before us).
EXPORTED int modelserver_simd_attach(const char* path, const char* name) {
  engine = engine_in(simd::loaded_library(path));
  for (const char* name : kTaken)
    if (!comes_here(name)) return 3;
  if (!engine.complete() || engine.sgemm == &cblas_sgemm) return 2;
  engine_code = simd::range_of(reinterpret_cast<const void*>(engine.sgemm));
  const Variant* found = simd::find_variant(name);
  if (found == nullptr) return 1;
  variant.store(found);
  in_use.store(true);
  simd::attach_search(path);
  return 0;
}

/// Keep the weights of a model that is loaded from now on; of so many bytes at the most, with what
/// is freed on the way. 0, or 1 if that cannot be.
EXPORTED int modelserver_simd_begin(std::size_t bytes) {
  return simd::begin_weights(bytes) ? 0 : 1;
}

/// The model is loaded: its weights are constant. Up to so many bytes may be packed. Returns the
/// weights' bytes.
EXPORTED std::size_t modelserver_simd_seal(std::size_t packed_most) {
  const std::size_t sealed = simd::seal_weights();
  simd::set_packing_limit(packed_most);
  return sealed;
}

/// Pack no more: what comes after the fork is not shared. Weights that are packed are there once
/// from now on. Returns how many bytes that gives back.
EXPORTED std::size_t modelserver_simd_freeze() {
  simd::set_packing_limit(0);
  const bool possible = variant_in_use() != nullptr && simd::handles_faults();
  return possible ? simd::set_packed_aside() : 0;
}

/// Use the variant, or leave everything to the engine.
EXPORTED void modelserver_simd_use(int use) {
  in_use.store(use != 0);
  simd::use_search(use != 0);
}

/// Search in the graph too, or leave only that to the engine.
EXPORTED void modelserver_simd_search(int use) { simd::use_search(use != 0); }

/// 1 if the search is done here.
EXPORTED int modelserver_simd_searches() { return simd::searches() ? 1 : 0; }

/// Number of products done here, and number of packed bytes.
EXPORTED unsigned long modelserver_simd_products() { return products.load(); }
EXPORTED std::size_t modelserver_simd_packed_bytes() { return simd::packed_bytes(); }

/// Number of weights that were read although only their packed form was retained.
EXPORTED unsigned long modelserver_simd_restored() { return simd::restored(); }

/// Bytes of the chunks whose cells a decoder has, and of unused ones that keep their memory.
EXPORTED std::size_t modelserver_simd_cell_bytes() { return simd::cell_bytes().used; }
EXPORTED std::size_t modelserver_simd_kept_cell_bytes() { return simd::cell_bytes().kept; }

/// Number of audio frames searched here; always 0 where the engine searches itself.
EXPORTED unsigned long modelserver_simd_searched() { return simd::searched_frames(); }
