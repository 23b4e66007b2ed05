// In which order OpenBLAS's Haswell kernel adds up a product, so that ours gives the same bits.
//
// libvosk's own products are what everything of ours is compared with, and floating-point sums
// depend on their order. The order follows from how OpenBLAS divides the work (its
// driver/level3/level3.c and kernel/x86_64/sgemm_kernel_8x4_haswell_2.c): a product of `rows` rows
// of activations with `columns` rows of weights, each `depth` long, is cut
//  - along the depth, into blocks whose sums are added to the result one after the other,
//  - along the columns, into blocks, and those into groups of 8,
//  - along the rows, into groups of 12, 8, 4, 2 and 1.
// Most sums are one chain of fused multiplications and additions. Some are two, of the even and of
// the odd places of the depth, added at the end: where 4 rows meet 8 columns, and at the ends of a
// column block where 12 rows do.

#pragma once

namespace simd {

constexpr long kDepthBlock = 320, kColumnBlock = 320;  // OpenBLAS: SGEMM_DEFAULT_Q and _P
constexpr long kGroup = 8;                             // OpenBLAS: SGEMM_DEFAULT_UNROLL_M

/// How much of `left` the next block has, of at most about `most`.
inline long next_block(long left, long most) {
  if (left >= 2 * most) return most;
  return left > most ? (left / 2 + kGroup - 1) / kGroup * kGroup : left;
}

/// Consecutive rows whose sums are made alike, but for the ends of a column block.
struct Rows {
  long first, count;
  bool half_of_twelve;  // the first six rows of twelve, or the last six
  bool last_six;
  bool two_chains;
};

/// The next rows after `at` of `rows`, in the first column block of a product or in a later one.
inline Rows next_rows(long at, long rows, bool first_block) {
  const long twelves = rows / 12 * 12, left = rows - at;
  if (at < twelves) return {at, 6, true, at % 12 == 6, false};
  long count = left;
  if (first_block && left > 4) count = 4;
  if (count >= 8) return {at, 8, false, false, false};
  if (count >= 4) return {at, 4, false, false, true};
  if (count >= 2) return {at, 2, false, false, false};
  return {at, 1, false, false, false};
}

/// Whether the sums of these rows with column group `group` of `groups` whole ones are two chains.
inline bool two_chains(const Rows& rows, long group, long groups) {
  if (group >= groups) return false;  // fewer than eight columns
  if (!rows.half_of_twelve) return rows.two_chains;
  if (groups < 2) return false;
  if (!rows.last_six) return group == 0 || (group == groups - 1 && groups % 2 == 0);
  return group == groups - 1 && groups % 2 == 1;
}

}  // namespace simd
