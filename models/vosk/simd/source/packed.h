// Which weights are packed already, and where.

#pragma once

#include <cstddef>

#include "product.h"

namespace simd {

/// A matrix inside somebody's memory: n rows of k floats, each row `ldb` after the one before.
struct Matrix {
  const float* data;
  long n, k, ldb;

  std::size_t bytes() const { return sizeof(float) * ((n - 1) * ldb + k); }
  bool operator==(const Matrix& o) const {
    return data == o.data && n == o.n && k == o.k && ldb == o.ldb;
  }
};

/// The matrix laid out for `variant`, or null: it is not known to be constant, there is no room for
/// more, or nothing is packed any more and it was not before. What is returned stays good for ever.
/// Any number of threads may ask.
const float* packed(const Variant& variant, const Matrix& matrix);

/// Give back the memory of matrices that can be made again of what is packed: who reads them still
/// finds them as they were. Returns their bytes.
std::size_t set_packed_aside();

/// Pack up to so many bytes from now on; 0: no more.
void set_packing_limit(std::size_t bytes);

/// How much has been packed, in bytes.
std::size_t packed_bytes();

}  // namespace simd
