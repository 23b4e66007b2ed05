#include "product.h"

#include <cstring>

#include "order.h"

#if defined(__x86_64__)

#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
typedef __m256 Vector, Eight;
constexpr int kWidth = 8, kVectors = 2, kRows = 6;  // 15 of 16 registers
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#include "tile.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")
namespace avx512 {
typedef __m512 Vector;
typedef __m256 Eight;
constexpr int kWidth = 16, kVectors = 2, kRows = 12;  // 27 of 32 registers
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Eight multiply_add(Eight a, Eight b, Eight c) { return _mm256_fmadd_ps(a, b, c); }
#include "tile.h"
}  // namespace avx512
#pragma GCC pop_options

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

// The compiler's built-in asks the processor and whether the kernel saves the registers.
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
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
