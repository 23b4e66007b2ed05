// Preloaded before the SIMD library: sums up the results of a search by any code, frame by frame and
// token by token, costs to the bit. The sums of two searches are equal only if the searches are.

#include <dlfcn.h>

#include "search_data.h"

using namespace simd;

namespace {

std::uint64_t sum = 14695981039346656037u;  // FNV-1a
unsigned long tokens = 0, links = 0, pruned_links = 0;

template <typename Value>
void add(const Value& value) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&value);
  for (std::size_t n = 0; n < sizeof(value); ++n) sum = (sum ^ bytes[n]) * 1099511628211u;
}

void add_token(const Token& token) {
  ++tokens;
  add(token.cost);
  add(token.extra_cost);
  add(token.backpointer == nullptr ? 0.0f : token.backpointer->cost);
  for (const Link* link = token.links; link != nullptr; link = link->next) {
    ++links;
    add(link->input);
    add(link->output);
    add(link->graph_cost);
    add(link->acoustic_cost);
    add(link->to->cost);
  }
}

template <typename Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" float emitting(Decoder*, Decodable*) __asm__(PROCESS_EMITTING);
extern "C" void nonemitting(Decoder*, float) __asm__(PROCESS_NONEMITTING);
extern "C" void prune(Decoder*, std::int32_t, bool*, bool*, float) __asm__(PRUNE_FORWARD_LINKS);

extern "C" void nonemitting(Decoder* decoder, float cutoff) {
  next<decltype(&nonemitting)>(PROCESS_NONEMITTING)(decoder, cutoff);
  add(cutoff);
  add(decoder->tokens);
  add(decoder->table.size);
  for (const Element* one = decoder->table.first; one != nullptr; one = one->next) {
    add(one->state);
    add_token(*one->token);
  }
}

extern "C" void prune(Decoder* decoder, std::int32_t frame, bool* changed, bool* pruned,
                      float delta) {
  next<decltype(&prune)>(PRUNE_FORWARD_LINKS)(decoder, frame, changed, pruned, delta);
  add(*changed);
  add(*pruned);
  pruned_links += *pruned;
  for (const Token* token = decoder->frames.begin[frame].tokens; token; token = token->next)
    add_token(*token);
}

extern "C" std::uint64_t search_trace_sum() { return sum; }
extern "C" unsigned long search_trace_tokens() { return tokens; }
extern "C" unsigned long search_trace_links() { return links; }
extern "C" unsigned long search_trace_pruned() { return pruned_links; }
