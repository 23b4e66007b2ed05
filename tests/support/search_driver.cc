// Decodes a file of raw samples (16 kHz, 16 bits) with the engine's library, the search in the
// SIMD library or not, both of them preloaded with search_trace.cc; for processors that are emulated.
//
//   search_driver LIBVOSK MODEL SAMPLES VARIANT SEARCH
//     -> a line of JSON: the sum of the trace, tokens, links, prunings, frames searched by the
//        SIMD library; and one of the text

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

namespace {

template <typename Function>
Function* find(void* library, const char* name) {
  auto* found = reinterpret_cast<Function*>(dlsym(library, name));
  if (found == nullptr) std::fprintf(stderr, "%s is not there\n", name);
  return found;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) return 2;
  void* engine = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
  if (engine == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  void* all = dlopen(nullptr, RTLD_NOW);
  const int refused = find<int(const char*, const char*)>(all, "modelserver_simd_attach")(
      arguments[1], arguments[4]);
  find<int(int)>(all, "modelserver_simd_search")(arguments[5][0] == '1');
  find<void(int)>(engine, "vosk_set_log_level")(-1);
  void* model = find<void*(const char*)>(engine, "vosk_model_new")(arguments[2]);
  if (refused != 0 || model == nullptr) return 1;
  void* recognizer = find<void*(void*, float)>(engine, "vosk_recognizer_new")(model, 16000.0f);
  std::ifstream file(arguments[3], std::ios::binary);
  std::vector<char> samples{std::istreambuf_iterator<char>(file), {}};
  const auto accept =
      find<int(void*, const char*, int)>(engine, "vosk_recognizer_accept_waveform");
  for (std::size_t at = 0; at < samples.size(); at += 8000) {
    const std::size_t left = samples.size() - at;
    accept(recognizer, samples.data() + at, static_cast<int>(left < 8000 ? left : 8000));
  }
  const char* said =
      find<const char*(void*)>(engine, "vosk_recognizer_final_result")(recognizer);
  std::printf("[%llu", static_cast<unsigned long long>(
                           find<std::uint64_t()>(all, "search_trace_sum")()));
  for (const char* name : {"search_trace_tokens", "search_trace_links", "search_trace_pruned",
                           "modelserver_simd_searched"})
    std::printf(", %lu", find<unsigned long()>(all, name)());
  std::printf("]\n");
  for (const char* at = said; *at != '\0'; ++at) std::putchar(*at == '\n' ? ' ' : *at);
  std::printf("\n");
}
