// Products with a matrix that was laid out in advance, for the processors that have a variant.
// All variants give the same bits: those of OpenBLAS's Haswell kernel (order.h).

#pragma once

namespace simd {

/// C = alpha A B' + beta C for one kind of processor, all row major: A of m rows and k columns, B
/// of n rows and k columns, as `pack` has laid it out.
struct Variant {
  const char* name;
  /// How many floats are made of a matrix of n rows and k columns: all, and some padding.
  long (*packed_size)(long n, long k);
  void (*pack)(long n, long k, const float* b, long ldb, float* packed);
  /// Back again: the n rows of k floats, and nothing between them.
  void (*unpack)(long n, long k, const float* packed, float* b, long ldb);
  /// `c` must not overlap `a`; it is not read if beta is 0.
  void (*multiply)(long m, long n, long k, float alpha, const float* a, long lda,
                   const float* packed, float beta, float* c, long ldc);
  void (*floor_row)(long columns, const float* from, float least, float* to);
};

/// The variant of that name ("AVX-512", "AVX2", "NEON"), if this processor can run it, or null.
const Variant* find_variant(const char* name);

}  // namespace simd
