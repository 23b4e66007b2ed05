#include "product.h"

#include <cstring>

#include "order.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

// The functions between BEGIN_TARGET and END_TARGET may use these instructions.
#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_TARGET(names) \
  PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
#define BEGIN_TARGET(names) PRAGMA(GCC push_options) PRAGMA(GCC target(names))
#define END_TARGET PRAGMA(GCC pop_options)
#endif

BEGIN_TARGET("avx2,fma")
namespace avx2 {
typedef __m256 Vector, Eight;
constexpr int kWidth = 8, kVectors = 2, kRows = 6;  // 15 of 16 registers
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#include "tile.h"
}  // namespace avx2
END_TARGET

BEGIN_TARGET("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")
namespace avx512 {
typedef __m512 Vector;
typedef __m256 Eight;
constexpr int kWidth = 16, kVectors = 2, kRows = 12;  // 27 of 32 registers
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Eight multiply_add(Eight a, Eight b, Eight c) { return _mm256_fmadd_ps(a, b, c); }
#include "tile.h"
}  // namespace avx512
END_TARGET

#elif defined(__aarch64__)

#include <arm_neon.h>

namespace neon {
typedef float32x4_t Vector;
typedef float Eight __attribute__((vector_size(8 * sizeof(float))));
constexpr int kWidth = 4, kVectors = 4, kRows = 6;  // 29 of 32 registers
inline Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
inline Eight multiply_add(Eight a, Eight b, Eight c) {
  for (int i = 0; i < 8; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
#include "tile.h"
}  // namespace neon

#endif

namespace simd {
namespace {

#if defined(__x86_64__)
const Variant kAvx2 = {"AVX2",       avx2::packed_size, avx2::pack,
                       avx2::unpack, avx2::multiply,    avx2::floor_row};
const Variant kAvx512 = {"AVX-512",      avx512::packed_size, avx512::pack,
                         avx512::unpack, avx512::multiply,    avx512::floor_row};

/// Whether the processor has these features (bits of ECX in leaf 1 and of EBX in leaf 7 of CPUID),
/// and the kernel saves these registers (bits of XCR0): Intel's Software Developer's Manual, volume
/// 1, 14.3 and 15.2. Not the compilers' built-in: Clang's answer needs its own run-time library.
bool runs(unsigned leaf_1, unsigned leaf_7, unsigned registers) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0 || (c & leaf_1) != leaf_1)
    return false;
  unsigned saved, high;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  return (saved & registers) == registers && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
         (b & leaf_7) == leaf_7;
}

constexpr unsigned kAvx512Features =
    bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;

bool runs_avx2() { return runs(bit_FMA, bit_AVX2, 0x6); }

bool runs_avx512() { return runs(bit_FMA, bit_AVX2 | kAvx512Features, 0xe6); }
#elif defined(__aarch64__)
const Variant kNeon = {"NEON",       neon::packed_size, neon::pack,
                       neon::unpack, neon::multiply,    neon::floor_row};
#endif

}  // namespace

const Variant* find_variant(const char* name) {
#if defined(__x86_64__)
  if (std::strcmp(name, kAvx512.name) == 0 && runs_avx512()) return &kAvx512;
  if (std::strcmp(name, kAvx2.name) == 0 && runs_avx2()) return &kAvx2;
#elif defined(__aarch64__)
  if (std::strcmp(name, kNeon.name) == 0) return &kNeon;
#else
  (void)name;
#endif
  return nullptr;
}

}  // namespace simd
