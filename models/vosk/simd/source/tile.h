// The product of a few rows with columns that were laid out before, in vectors of one width. No
// include guard: it is included once for each kind of processor, in a namespace that defines
// the types Vector, of kWidth floats, and Eight, of eight; multiply_add(a, b, c) = a b + c for both,
// rounded once; kVectors (vectors in a panel) and kRows (rows worked on at once), such that the sums,
// a panel's vectors and one more fit into the processor's registers.
//
// How the sums are made, and why so, is in order.h.

constexpr long kPanel = kWidth * kVectors;
constexpr long kGroupsInPanel = kPanel / simd::kGroup;

template <typename V>
static V spread(float one) {
  return one - V{};
}

template <typename V>
static V at(const float* from, int number) {
  V vector;
  __builtin_memcpy(&vector, from + number * (sizeof(V) / sizeof(float)), sizeof(V));
  return vector;
}

/// `rows` rows of `a` times some columns of a panel, each `depth` long: `count` vectors of the type V
/// a row, as one chain of sums or as two; added to what is at `to`, or put there.
template <typename V, int count, int rows, int chains, bool add>
static void tile(long depth, const float* __restrict a, long lda, const float* __restrict columns,
                 float* __restrict to, long ldt) {
  V sum[chains][rows][count];
  for (int c = 0; c < chains; ++c)
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < count; ++v) sum[c][r][v] = V{};
  // The last places, fewer than eight, all go to the first chain.
  const long paired = chains == 1 ? 0 : depth / 8 * 8;
  for (long k = 0; k < paired; k += chains)
    for (int c = 0; c < chains; ++c) {
      V weights[count];
      for (int v = 0; v < count; ++v) weights[v] = at<V>(columns + (k + c) * kPanel, v);
      for (int r = 0; r < rows; ++r) {
        const V one = spread<V>(a[r * lda + k + c]);
        for (int v = 0; v < count; ++v)
          sum[c][r][v] = multiply_add(weights[v], one, sum[c][r][v]);
      }
    }
#pragma GCC unroll 4
  for (long k = paired; k < depth; ++k) {
    V weights[count];
    for (int v = 0; v < count; ++v) weights[v] = at<V>(columns + k * kPanel, v);
    for (int r = 0; r < rows; ++r) {
      const V one = spread<V>(a[r * lda + k]);
      for (int v = 0; v < count; ++v)
        sum[0][r][v] = multiply_add(weights[v], one, sum[0][r][v]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < count; ++v) {
      V all = chains == 1 ? sum[0][r][v] : sum[0][r][v] + sum[chains - 1][r][v];
      float* place = to + r * ldt + v * (sizeof(V) / sizeof(float));
      if (add) all += at<V>(place, 0);
      __builtin_memcpy(place, &all, sizeof(V));
    }
}

typedef void (*Tile)(long, const float*, long, const float*, float*, long);

/// The tile of so many rows, 1 to `most`.
template <typename V, int count, int chains, bool add, int most>
struct TileOf {
  static Tile rows(long wanted) {
    return wanted == most ? tile<V, count, most, chains, add>
                          : TileOf<V, count, chains, add, most - 1>::rows(wanted);
  }
};
template <typename V, int count, int chains, bool add>
struct TileOf<V, count, chains, add, 0> {
  static Tile rows(long) { return nullptr; }
};

/// Where a product's sums go: c += alpha sums.
struct Target {
  float* c;
  long ldc;
  float alpha;
};

static void store(const float* sums, long rows, long columns, const Target& to) {
  for (long r = 0; r < rows; ++r) {
    const float* from = sums + r * kPanel;
    float* row = to.c + r * to.ldc;
    for (long j = 0; j < columns; ++j) row[j] = __builtin_fmaf(to.alpha, from[j], row[j]);
  }
}

/// All rows of a kind with some columns of a panel, as many rows at once as the registers hold, in
/// parts as equal as possible: one or two rows would wait for their own sums.
template <typename V, int count, int chains>
static void multiply_rows(long rows, long depth, const float* a, long lda, const float* columns,
                          long wanted, const Target& to) {
  constexpr int most = kRows / chains;
  alignas(64) float sums[most * kPanel];
  const bool in_place = to.alpha == 1 && wanted == count * long{sizeof(V) / sizeof(float)};
  const long parts = (rows + most - 1) / most;
  for (long part = 0, at = 0; part < parts; ++part) {
    const long here = rows / parts + (part < rows % parts);
    const float* from = a + at * lda;
    float* c = to.c + at * to.ldc;
    if (in_place) {
      TileOf<V, count, chains, true, most>::rows(here)(depth, from, lda, columns, c, to.ldc);
    } else {
      TileOf<V, count, chains, false, most>::rows(here)(depth, from, lda, columns, sums, kPanel);
      store(sums, here, wanted, {c, to.ldc, to.alpha});
    }
    at += here;
  }
}

/// Rows of one kind with one panel of `columns` columns, whose groups are numbered from `group` of
/// `groups` whole ones in their block.
static void multiply_panel(const simd::Rows& rows, long depth, const float* a, long lda,
                           const float* panel, long columns, long group, long groups,
                           const Target& to) {
  const bool first = simd::two_chains(rows, group, groups);
  bool alike = true;
  for (long g = 1; g < kGroupsInPanel && g * simd::kGroup < columns; ++g)
    alike = alike && simd::two_chains(rows, group + g, groups) == first;
  if (alike) {
    (first ? multiply_rows<Vector, kVectors, 2> : multiply_rows<Vector, kVectors, 1>)(
        rows.count, depth, a, lda, panel, columns, to);
    return;
  }
  for (long at = 0; at < columns; at += simd::kGroup) {
    const bool two = simd::two_chains(rows, group + at / simd::kGroup, groups);
    const long here = columns - at < simd::kGroup ? columns - at : simd::kGroup;
    constexpr int count = simd::kGroup / 8;
    (two ? multiply_rows<Eight, count, 2> : multiply_rows<Eight, count, 1>)(
        rows.count, depth, a, lda, panel + at, here, {to.c + at, to.ldc, to.alpha});
  }
}

/// The rows after `at` that are made alike, as far as one panel tells.
static simd::Rows rows_from(long at, long m, bool first_block, bool interior) {
  simd::Rows rows = simd::next_rows(at, m, first_block);
  if (!interior) return rows;
  // Away from the ends of a column block half of twelve is like all others of one chain.
  rows.half_of_twelve = false;
  for (long end = at + rows.count; end < m;) {
    const simd::Rows more = simd::next_rows(end, m, first_block);
    if (more.two_chains != rows.two_chains) break;
    rows.count += more.count;
    end += more.count;
  }
  return rows;
}

static void multiply(long m, long n, long k, float alpha, const float* a, long lda,
                     const float* packed, float beta, float* c, long ldc) {
  if (beta != 1)
    for (long i = 0; i < m; ++i)
      for (long j = 0; j < n; ++j) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
  for (long p = 0, depth; p < k; p += depth) {
    depth = simd::next_block(k - p, simd::kDepthBlock);
    for (long j = 0, block; j < n; j += block) {
      block = simd::next_block(n - j, simd::kColumnBlock);
      const long groups = block / simd::kGroup;
      for (long at = 0; at < block; at += kPanel, packed += depth * kPanel) {
        const long columns = block - at < kPanel ? block - at : kPanel;
        const long group = at / simd::kGroup;
        const bool whole = group + kGroupsInPanel <= groups;
        const bool interior = whole && (m < 12 || (group > 0 && group + kGroupsInPanel < groups));
        for (long i = 0; i < m;) {
          const simd::Rows rows = rows_from(i, m, j == 0, interior);
          multiply_panel(rows, depth, a + i * lda + p, lda, packed, columns, group, groups,
                         {c + i * ldc + j + at, ldc, alpha});
          i += rows.count;
        }
      }
    }
  }
}

/// How many floats `pack` writes.
static long packed_size(long n, long k) {
  long columns = 0;
  for (long j = 0, block; j < n; j += block) {
    block = simd::next_block(n - j, simd::kColumnBlock);
    columns += (block + kPanel - 1) / kPanel * kPanel;
  }
  return columns * k;
}

/// Tells `visit(row of b, its column)` each place of what is packed, in the order in which `multiply`
/// reads; a row of `n` or more is padding.
template <typename Visit>
static void walk(long n, long k, Visit visit) {
  for (long p = 0, depth; p < k; p += depth) {
    depth = simd::next_block(k - p, simd::kDepthBlock);
    for (long j = 0, block; j < n; j += block) {
      block = simd::next_block(n - j, simd::kColumnBlock);
      for (long at = 0; at < block; at += kPanel)
        for (long q = p; q < p + depth; ++q)
          for (long column = at; column < at + kPanel; ++column)
            visit(column < block ? j + column : n, q);
    }
  }
}

static void pack(long n, long k, const float* b, long ldb, float* packed) {
  walk(n, k, [&](long row, long q) { *packed++ = row < n ? b[row * ldb + q] : 0; });
}

static void unpack(long n, long k, const float* packed, float* b, long ldb) {
  walk(n, k, [&](long row, long q) {
    if (row < n) b[row * ldb + q] = *packed;
    ++packed;
  });
}

/// As `kaldi::MatrixBase::Floor`: what is less than `least`, and nothing else (no NaN, no -0 for
/// a 0), becomes it.
static void floor_row(long columns, const float* from, float least, float* to) {
  for (long j = 0; j < columns; ++j) to[j] = from[j] < least ? least : from[j];
}
