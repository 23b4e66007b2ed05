// One thread, the embedded model's products with its weights: the engine's own sgemm, our SIMD library, and
// libraries that can lay weights out beforehand. A line a shape: GFLOPS of each. See products.py.
//
//   products LIBVOSK VARIANT

#include <dlfcn.h>
#include <libxsmm.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <dnnl.hpp>
#include <functional>
#include <random>
#include <vector>

#include "product.h"

typedef void (*Sgemm)(int, int, int, int, int, int, float, const float*, int, const float*, int,
                      float, float*, int);

struct Shape {
  int rows, columns, depth, stride, calls;  // calls: in 100 s of speech
};

constexpr Shape kShapes[] = {
    {8, 768, 64, 128, 17564},  {8, 64, 768, 1536, 15880}, {24, 768, 64, 128, 3272},
    {24, 768, 220, 220, 794},  {24, 64, 768, 1536, 3176}, {23, 64, 768, 1536, 1684},
    {8, 2616, 64, 64, 842},    {8, 64, 768, 768, 2478},   {8, 768, 64, 64, 1636},
    {25, 40, 280, 280, 1224},
};
constexpr int kLayers = 24;  // as many weights as follow each other in a network

std::vector<float> numbers(std::size_t count) {
  static std::mt19937 random(1);
  std::uniform_real_distribution<float> value(-1, 1);
  std::vector<float> made(count);
  for (float& each : made) each = value(random);
  return made;
}

double seconds(const std::function<void(int)>& multiply) {
  const auto started = std::chrono::steady_clock::now();
  for (int i = 0; i < 4 * kLayers; ++i) multiply(i % kLayers);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  return took.count() / (4 * kLayers);
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const auto sgemm =
      reinterpret_cast<Sgemm>(dlsym(dlopen(arguments[1], RTLD_NOW), "cblas_sgemm"));
  const simd::Variant* ours = simd::find_variant(arguments[2]);
  if (sgemm == nullptr || ours == nullptr) return 1;
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  using dnnl::memory;
  const auto f32 = memory::data_type::f32;
  double total[4] = {};
  for (const Shape& s : kShapes) {
    const long m = s.rows, n = s.columns, k = s.depth;
    auto a = numbers(m * k), c = numbers(m * n);
    std::vector<std::vector<float>> weights, packed, transposed;
    for (int i = 0; i < kLayers; ++i) {
      weights.push_back(numbers(n * s.stride));
      packed.emplace_back(ours->packed_size(n, k));
      ours->pack(n, k, weights[i].data(), s.stride, packed[i].data());
      transposed.emplace_back(n * k);
      for (long j = 0; j < n; ++j)
        for (long p = 0; p < k; ++p) transposed[i][p * n + j] = weights[i][j * s.stride + p];
    }
    dnnl::primitive_attr add;
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    add.set_post_ops(sum);
    const memory::desc from({m, k}, f32, memory::format_tag::ab);
    const memory::desc any({k, n}, f32, memory::format_tag::any);
    const memory::desc to({m, n}, f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc how(dnnl::matmul::desc(from, any, to), add, engine);
    const dnnl::matmul matmul(how);
    memory of_a(from, engine, a.data()), of_c(to, engine, c.data());
    std::vector<memory> reordered;
    for (auto& each : weights) {
      memory plain({{k, n}, f32, memory::dims{1, s.stride}}, engine, each.data());
      reordered.emplace_back(how.weights_desc(), engine);
      dnnl::reorder(plain, reordered.back()).execute(stream, plain, reordered.back());
    }
    stream.wait();
    const int lda = n, ldb = k, ldc = n;
    const float one = 1;
    const auto xsmm = libxsmm_smmdispatch(n, m, k, &lda, &ldb, &ldc, &one, &one, nullptr, nullptr);
    const std::function<void(int)> ways[] = {
        [&](int i) {
          sgemm(101, 111, 112, m, n, k, 1, a.data(), k, weights[i].data(), s.stride, 1, c.data(), n);
        },
        [&](int i) { ours->multiply(m, n, k, 1, a.data(), k, packed[i].data(), 1, c.data(), n); },
        [&](int i) {
          matmul.execute(stream, {{DNNL_ARG_SRC, of_a},
                                  {DNNL_ARG_WEIGHTS, reordered[i]},
                                  {DNNL_ARG_DST, of_c}});
        },
        [&](int i) { xsmm(transposed[i].data(), a.data(), c.data()); },
    };
    double best[4] = {1, 1, 1, 1};
    for (int round = 0; round < 30; ++round)
      for (int way = 0; way < 4; ++way) best[way] = std::min(best[way], seconds(ways[way]));
    std::printf("%ld %ld %ld", m, n, k);
    for (int way = 0; way < 4; ++way) {
      std::printf(" %.1f", 2e-9 * m * n * k / best[way]);
      total[way] += best[way] * s.calls;
    }
    std::puts("");
  }
  std::printf("all");
  for (const double each : total) std::printf(" %.3f", each);
  std::puts("");
}
