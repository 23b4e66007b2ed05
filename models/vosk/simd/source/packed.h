// The packed weights.

#pragma once

#include <cstddef>

#include "product.h"

namespace simd {

/// A matrix in memory of the caller's: n rows of k floats, each row `ldb` after the one before.
struct Matrix {
  const float* data;
  long n, k, ldb;

  std::size_t bytes() const { return sizeof(float) * ((n - 1) * ldb + k); }
  bool operator==(const Matrix& o) const {
    return data == o.data && n == o.n && k == o.k && ldb == o.ldb;
  }
};

/// The matrix laid out for `variant`, or null: it is not known to be constant, there is no room for
/// more, or packing has stopped and it was not packed before. The returned pointer stays valid.
/// Any number of threads may call this.
const float* packed(const Variant& variant, const Matrix& matrix);

/// Release the memory of matrices that can be made again from their packed form: a read still finds
/// them unchanged. Returns their bytes.
std::size_t set_packed_aside();

/// Pack up to so many bytes from now on; 0: no more.
void set_packing_limit(std::size_t bytes);

/// Number of packed bytes.
std::size_t packed_bytes();

}  // namespace simd
