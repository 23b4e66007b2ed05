// Asks the SIMD library one product a line, and says how it compares: with a plain product in double
// precision and, where the engine's library is given, with its own to the bit.
//
//   kernel_driver [LIBVOSK]
//   product VARIANT m n k spare_a spare_b spare_c alpha beta aliased seed
//     -> (error over what float summation allows) (results that differ from the engine's, or -1)
//   weights -> "right", or what is wrong
//   variants -> those that run here
//
// "wide" and "narrow" are the shapes of the AVX-512 and the NEON variant in plain C++, so that their
// logic is tested wherever this runs. Everything around the matrices is watched: by the address
// sanitizer, and by values between rows that must stay.

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "order.h"
#include "packed.h"
#include "product.h"
#include "weights.h"

/// For the vectors of both shapes below.
template <typename V>
V multiply_add(V a, V b, V c) {
  for (unsigned i = 0; i < sizeof(V) / sizeof(float); ++i) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
}

namespace wide {
typedef float Vector __attribute__((vector_size(64)));
typedef float Eight __attribute__((vector_size(32)));
constexpr int kWidth = 16, kVectors = 2, kRows = 12;
#include "tile.h"
}  // namespace wide

namespace narrow {
typedef float Vector __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));
constexpr int kWidth = 4, kVectors = 4, kRows = 6;
#include "tile.h"
}  // namespace narrow

using simd::Variant;

namespace {

const Variant kWide = {"wide",       wide::packed_size, wide::pack,
                       wide::unpack, wide::multiply,    wide::floor_row};
const Variant kNarrow = {"narrow",       narrow::packed_size, narrow::pack,
                         narrow::unpack, narrow::multiply,    narrow::floor_row};

const Variant* variant_of(const std::string& name) {
  for (const Variant* emulated : {&kWide, &kNarrow})
    if (name == emulated->name) return emulated;
  return simd::find_variant(name.c_str());
}

typedef void (*Sgemm)(int, int, int, int, int, int, float, const float*, int, const float*, int,
                      float, float*, int);
Sgemm engine = nullptr;

constexpr float kUntouched = -77.25f;

/// Rows with spare places between them, which hold a value of their own.
std::vector<float> matrix(long rows, long columns, long stride, std::mt19937& random) {
  std::uniform_real_distribution<float> value(-2, 2);
  std::vector<float> made((rows - 1) * stride + columns, kUntouched);
  for (long r = 0; r < rows; ++r)
    for (long c = 0; c < columns; ++c) made[r * stride + c] = value(random);
  return made;
}

void product() {
  std::string name;
  long m, n, k, spare_a, spare_b, spare_c, aliased, seed;
  float alpha, beta;
  std::cin >> name >> m >> n >> k >> spare_a >> spare_b >> spare_c >> alpha >> beta >> aliased >>
      seed;
  const Variant* variant = variant_of(name);
  if (variant == nullptr) {
    std::cout << "none" << std::endl;
    return;
  }
  std::mt19937 random(seed);
  const long lda = k + spare_a, ldb = aliased ? lda : k + spare_b, ldc = n + spare_c;
  // BLAS allows the two factors to be the same memory: the first rows of one matrix.
  const auto b = matrix(aliased ? std::max(m, n) : n, k, ldb, random);
  const auto own = matrix(m, k, lda, random);
  const std::vector<float>& a = aliased ? b : own;
  const auto before = matrix(m, n, ldc, random);
  auto ours = before, theirs = before;
  if (beta == 0)
    for (long i = 0; i < m; ++i)
      for (long j = 0; j < n; ++j) ours[i * ldc + j] = theirs[i * ldc + j] = NAN;  // is not read

  std::vector<float> packed(variant->packed_size(n, k));
  variant->pack(n, k, b.data(), ldb, packed.data());
  variant->multiply(m, n, k, alpha, a.data(), lda, packed.data(), beta, ours.data(), ldc);
  auto again = b;
  for (long j = 0; j < n; ++j) std::fill_n(again.begin() + j * ldb, k, -kUntouched);
  variant->unpack(n, k, packed.data(), again.data(), ldb);
  double worst = again == b ? 0 : INFINITY;
  if (engine != nullptr)
    engine(101, 111, 112, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, theirs.data(), ldc);

  long differ = engine == nullptr ? -1 : 0;
  for (long i = 0; i < m; ++i)
    for (long j = 0; j < ldc; ++j) {
      const long at = i * ldc + j;
      if (at >= long(ours.size())) break;
      if (j >= n) {
        if (ours[at] != kUntouched) worst = INFINITY;
        continue;
      }
      double sum = 0, size = 0;
      for (long p = 0; p < k; ++p) {
        const double term = double(a[i * lda + p]) * b[j * ldb + p];
        sum += term;
        size += std::abs(term);
      }
      const double old = beta == 0 ? 0 : double(beta) * before[at];
      const double right = alpha * sum + old;
      // Higham, Accuracy and Stability of Numerical Algorithms, 3.5: k products, and the result's.
      const double allowed = (k + 3) * 5.97e-8 * (std::abs(alpha) * size + std::abs(old)) + 1e-37;
      const double error = std::abs(ours[at] - right);
      worst = std::max(worst, std::isnan(error) ? INFINITY : error / allowed);
      if (engine != nullptr && std::memcmp(&ours[at], &theirs[at], sizeof(float)) != 0) ++differ;
    }
  std::cout << worst << " " << differ << std::endl;
}

/// After all else: some weights are packed whole, some in part, some with something between the rows.
std::string check_aside(float* const whole, float* const part, float* const spare, float* const two,
                        float* const dropped) {
  const Variant& variant = kNarrow;
  constexpr long n = 64, k = 128;
  simd::set_packing_limit(4 << 20);
  const simd::Matrix matrix{whole, n, k, k};
  const float* packed = simd::packed(variant, matrix);
  const bool all = packed && simd::packed(variant, {part, n, k - 8, k}) &&
                   simd::packed(variant, {spare, n, k - 4, k}) &&
                   simd::packed(variant, {two, n, k / 2, k}) &&
                   simd::packed(variant, {two + k / 2, n, k / 2, k}) &&
                   simd::packed(variant, {dropped, n, k, k});
  if (!all) return "not packed";
  simd::set_packing_limit(0);
  constexpr std::size_t bytes = n * k * sizeof(float);
  // `whole`, `spare`, `two` and `dropped`, and what was packed before.
  if (simd::set_packed_aside() != 5 * bytes) return "set something else aside";
  if (simd::set_packed_aside() != 0) return "set it aside twice";
  if (simd::packed(variant, matrix) != packed) return "forgot what was packed";
  if (simd::restored() != 0) return "brought back memory that was not touched";
  if (part[5] != 5 || simd::restored() != 0) return "set aside what is packed in part";
  if (spare[5] != 5 || simd::restored() != 1) return "zeros between the rows are not made again";

  simd::free_weights(dropped);
  if (simd::packed(variant, {dropped, n, k, k})) return "used what was freed";
  const pid_t child = fork();
  if (child == 0) {
    two[3] += 1;  // in a process of its own, a write before a read
    const bool right = two[3] == 4 && two[4] == 4 && two[k] == float(k % 97) &&
                       !simd::packed(variant, {two, n, k / 2, k});
    _exit(right ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) return "a write to what was set aside was lost";
  if (!simd::packed(variant, {two, n, k / 2, k})) return "a child's write came over";

  std::vector<std::thread> threads;
  std::atomic<long> wrong{0};
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (long i = 0; i < n * k; ++i) wrong += whole[i] != float(i % 97);
    });
  for (auto& thread : threads) thread.join();
  if (wrong != 0) return "threads see something else";
  if (simd::restored() != 2) return "made again more than once";
  if (simd::packed(variant, matrix) != packed) return "forgot what was made again";
  return "right";
}

std::string check_weights() {
  const Variant& variant = kNarrow;
  constexpr long n = 64, k = 128;
  constexpr std::size_t bytes = n * k * sizeof(float);
  if (simd::allocate_weights(16, bytes) != nullptr) return "taken before it began";
  if (!simd::begin_weights(64 << 20)) return "cannot begin";
  if (simd::begin_weights(64 << 20)) return "began twice";
  if (simd::allocate_weights(16, 100) != nullptr) return "took what is small";
  if (simd::allocate_weights(16, 128 << 20) != nullptr) return "took more than there is";
  auto* dropped = static_cast<float*>(simd::allocate_weights(16, bytes));
  auto* kept = static_cast<float*>(simd::allocate_weights(16, bytes));
  auto* changed = static_cast<float*>(simd::allocate_weights(16, bytes));
  auto* freed = static_cast<float*>(simd::allocate_weights(16, bytes));
  float* aside[5];
  for (float*& each : aside) each = static_cast<float*>(simd::allocate_weights(16, bytes));
  if (!dropped || !kept || !changed || !freed || !aside[4]) return "no memory";
  for (long i = 0; i < n * k; ++i) {
    kept[i] = changed[i] = freed[i] = float(i % 97);
    for (float* each : aside) each[i] = float(i % 97);
    if (i % k >= k - 4) aside[2][i] = 0;
  }
  simd::set_packing_limit(1 << 20);
  const simd::Matrix matrix{kept, n, k, k};
  if (simd::packed(variant, matrix)) return "packed what was not sealed";
  simd::free_weights(dropped);
  if (simd::seal_weights() != 8 * bytes) return "sealed something else";
  if (simd::allocate_weights(16, bytes) != nullptr) return "taken after it was sealed";
  const float* packed = simd::packed(variant, matrix);
  if (!packed || simd::packed(variant, matrix) != packed) return "not packed once";
  if (simd::packed(variant, {kept + 1, n, k, k})) return "packed more than the allocation";
  if (simd::packed(variant, {dropped, n, k, k})) return "packed what was freed";
  const float* part = simd::packed(variant, {kept + 8, n, k - 8, k});
  if (!part || part == packed) return "a part of it is not another matrix";

  if (!simd::packed(variant, {changed, n, k, k})) return "not packed";
  changed[5] += 1;  // a fault that is not an error
  if (changed[5] != 6) return "a write was lost";
  if (simd::packed(variant, {changed, n, k, k})) return "used what was written to";

  if (!simd::packed(variant, {freed, n, k, k})) return "not packed";
  simd::free_weights(freed);
  if (simd::packed(variant, {freed, n, k, k})) return "used what was freed";
  if (!simd::in_weights(freed)) return "gave its addresses away";

  std::vector<std::thread> threads;
  std::vector<const float*> seen(8);
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (long shift = 16; shift < 64; shift += 4)
        seen[t] = simd::packed(variant, {kept + shift, n - 1, k - 64, k});
    });
  for (auto& thread : threads) thread.join();
  for (const float* each : seen)
    if (!each || each != seen[0]) return "threads see different ones";

  simd::set_packing_limit(0);
  if (simd::packed(variant, {kept + 64, n - 1, k - 64, k})) return "packed after the end";
  if (simd::packed(variant, matrix) != packed) return "forgot what was packed";

  // A fault outside of the weights has its usual effect, and so does a signal from another process.
  for (const bool sent : {false, true}) {
    const pid_t child = fork();
    if (child == 0) {
      if (sent) kill(getpid(), SIGSEGV);
      freed[0] = 1;
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) return "a real fault was lost";
  }
  return check_aside(aside[0], aside[1], aside[2], aside[3], aside[4]);
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library != nullptr) engine = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
    if (engine == nullptr) return 1;
  }
  for (std::string what; std::cin >> what;) {
    if (what == "product") product();
    if (what == "weights") std::cout << check_weights() << std::endl;
    if (what == "variants") {
      std::cout << "wide narrow";
      for (const char* name : {"AVX-512", "AVX2", "NEON"})
        if (simd::find_variant(name) != nullptr) std::cout << " " << name;
      std::cout << std::endl;
    }
  }
}
