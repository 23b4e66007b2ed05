// The search in a static graph: what kaldi::LatticeIncrementalDecoderTpl does of every frame of
// sound, over the same data, in the same order of additions and comparisons, so that every token,
// link and cost comes out the same. What differs: the network is asked once for each input of a
// frame, not for each arc; an arc is compared without a branch, as most lead nowhere; and since the
// graph is larger than the processor's caches, arcs, and their targets' places in the table of
// tokens, are asked for some states before they are needed.

#include "search.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "build_id.h"
#include "cells.h"
#include "libraries.h"
#include "search_data.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace simd;

namespace {

// --- what the engine does itself -----------------------------------------------------------------

struct Engine {
  float (*emitting)(Decoder*, Decodable*);
  void (*nonemitting)(Decoder*, float cutoff);
  void (*prune_links)(Decoder*, std::int32_t frame, bool* costs_changed, bool* pruned, float delta);
  float (*cutoff)(Decoder*, Element* list, std::size_t* count, float* beam, Element** best);
  void (*resize)(Decoder*, std::size_t tokens);
  float (*log_likelihood)(Decodable*, std::int32_t frame, std::int32_t input);

  bool complete() const {
    return emitting != nullptr && nonemitting != nullptr && prune_links != nullptr &&
           cutoff != nullptr && resize != nullptr && log_likelihood != nullptr;
  }
};

Engine engine_in(void* library) {
  Engine found = {};
  if (library == nullptr) return found;
  find(library, PROCESS_EMITTING, found.emitting);
  find(library, PROCESS_NONEMITTING, found.nonemitting);
  find(library, PRUNE_FORWARD_LINKS, found.prune_links);
  find(library, GET_CUTOFF, found.cutoff);
  find(library, POSSIBLY_RESIZE_HASH, found.resize);
  find(library, LOG_LIKELIHOOD, found.log_likelihood);
  return found;
}

Engine engine = {};
/// Where a graph's arrays are; 0: not known.
std::atomic<std::size_t> arrays_at{0};
std::atomic<bool> in_use{false};
std::atomic<unsigned long> frames{0};

/// For a caller in a process that has not attached us: the library that it is in.
Engine engine_of(const void* caller) {
  if (engine.complete()) return engine;
  return engine_in(library_of(caller));
}

bool ours() { return in_use.load(std::memory_order_relaxed); }

// --- the table of tokens -------------------------------------------------------------------------

/// The remainder of a state's number without a division (Lemire, Kaser, Kurz: Faster remainder by
/// direct computation, 2019).
class Remainder {
 public:
  explicit Remainder(std::size_t by) : by_(by), reciprocal_(~std::uint64_t{0} / by + 1) {}

  std::size_t of(std::int32_t state) const {
    const std::uint64_t fraction = reciprocal_ * static_cast<std::uint32_t>(state);
    return static_cast<std::size_t>((static_cast<unsigned __int128>(fraction) * by_) >> 64);
  }

 private:
  std::uint64_t by_, reciprocal_;
};

Element* find_in(const Table& table, const Bucket& bucket, std::int32_t state) {
  if (bucket.last == nullptr) return nullptr;
  if (bucket.last->state == state) return bucket.last;
  Element* element = bucket.previous == kNone ? table.first
                                              : table.buckets.begin[bucket.previous].last->next;
  for (; element != bucket.last; element = element->next)
    if (element->state == state) return element;
  return nullptr;
}

Element* unused_in(Table& table) {
  if (table.unused == nullptr) {
    Element* block = static_cast<Element*>(::operator new(kElementsAtOnce * sizeof(Element)));
    for (std::size_t n = 0; n + 1 < kElementsAtOnce; ++n) block[n].next = block + n + 1;
    block[kElementsAtOnce - 1].next = nullptr;
    table.unused = block;
    table.allocated.grow() = block;
  }
  Element* element = table.unused;
  table.unused = element->next;
  return element;
}

/// It is not there.
void insert_into(Table& table, std::size_t index, std::int32_t state, Token* token) {
  Bucket& bucket = table.buckets.begin[index];
  Element* element = unused_in(table);
  element->state = state;
  element->token = token;
  if (bucket.last != nullptr) {
    element->next = bucket.last->next;
    bucket.last->next = element;
  } else {
    if (table.last_bucket == kNone)
      table.first = element;
    else
      table.buckets.begin[table.last_bucket].last->next = element;
    element->next = nullptr;
    bucket.previous = table.last_bucket;
    table.last_bucket = index;
  }
  bucket.last = element;
}

/// The token of a state in the newest frame, made or made cheaper; `changed` if it was.
Token* reach(Decoder& decoder, CellTaker& cells, const Remainder& remainder, std::int32_t state,
             float cost, Token* from, bool& changed) {
  Table& table = decoder.table;
  const std::size_t index = remainder.of(state);
  if (Element* found = find_in(table, table.buckets.begin[index], state)) {
    Token* token = found->token;
    changed = token->cost > cost;
    if (changed) {
      token->cost = cost;
      token->backpointer = from;
    }
    return token;
  }
  Token*& tokens = decoder.frames.end[-1].tokens;
  Token* token = static_cast<Token*>(cells.take(kTokens));
  *token = Token{cost, 0.0f, nullptr, tokens, from};
  tokens = token;
  ++decoder.tokens;
  insert_into(table, index, state, token);
  changed = true;
  return token;
}

void link(CellTaker& cells, Token* from, Token* to, std::int32_t input, std::int32_t output,
          float graph_cost, float acoustic_cost) {
  Link* made = static_cast<Link*>(cells.take(kLinks));
  *made = Link{to, input, output, graph_cost, acoustic_cost, from->links};
  from->links = made;
}

void free_link(Link* link) {
  if (is_cell(link))
    free_cell(link);
  else
    ::operator delete(link);  // there was no cell, or the engine has made it
}

// --- one frame -----------------------------------------------------------------------------------

/// How many states' arcs are looked at before the first of their targets is entered.
constexpr std::size_t kBlock = 16;
constexpr std::size_t kCacheLine = 64;

struct Active {
  std::int32_t state;
  float cost;
  Token* token;
};

struct Step {
  const Arc* arc;
  float cost;
  std::uint32_t from;
};

/// Memory that is kept from one frame to the next.
template <typename Value>
class Buffer {
 public:
  /// Room for so many, with what is in it.
  Value* room(std::size_t count) {
    if (count > values_.size()) values_.resize(2 * count);
    return values_.data();
  }

  std::size_t size() const { return values_.size(); }

 private:
  std::vector<Value> values_;
};

/// Puts values into such memory, one after the other.
template <typename Value>
class Filling {
 public:
  explicit Filling(Buffer<Value>& memory)
      : memory_(memory), begin_(memory.room(1)), room_(memory.size()) {}

  void add(const Value& value) {
    if (count_ == room_) {
      begin_ = memory_.room(room_ + 1);
      room_ = memory_.size();
    }
    begin_[count_++] = value;
  }

  Value take_last() { return begin_[--count_]; }
  Value* begin() const { return begin_; }
  std::size_t count() const { return count_; }

 private:
  Buffer<Value>& memory_;
  Value* begin_;
  std::size_t room_, count_ = 0;
};

/// What a thread needs for one frame after the other.
struct Scratch {
  Buffer<Active> active;
  Buffer<Step> steps;
  Buffer<float> acoustic_costs;
};

thread_local Scratch scratch_of_thread;

/// What the network says in one frame, by input.
class Likelihoods {
 public:
  Likelihoods(Decodable* decodable, std::int32_t frame)
      : decodable_(decodable), frame_(frame), count_(decodable->functions->inputs(decodable)) {
    decodable->functions->log_likelihood(decodable, frame, 1);  // computes the frame
    if (decodable->functions->log_likelihood != engine.log_likelihood) return;
    const std::int32_t row = frame + decodable->frame_offset - decodable->first_frame;
    row_ = decodable->rows + static_cast<std::ptrdiff_t>(row) * decodable->stride;
    pdfs_ = decodable->pdfs->of_input.begin;
  }

  std::int32_t count() const { return count_; }

  float of(std::int32_t input) const {
    return row_ != nullptr ? row_[pdfs_[input]]
                           : decodable_->functions->log_likelihood(decodable_, frame_, input);
  }

 private:
  Decodable* decodable_;
  std::int32_t frame_, count_;
  const float* row_ = nullptr;
  const std::int32_t* pdfs_ = nullptr;
};

struct List {
  Element *first, *last, *cheapest;
  std::size_t count;
};

/// Takes the elements out of the table, which is empty then; what is needed of them is in `active`.
List take(Table& table, Filling<Active>& active) {
  const Remainder remainder(table.size);
  List list = {table.first, nullptr, nullptr, 0};
  float least = std::numeric_limits<float>::infinity();
  for (Element* element = table.first; element != nullptr; element = element->next) {
    const float cost = element->token->cost;
    active.add(Active{element->state, cost, element->token});
    table.buckets.begin[remainder.of(element->state)].last = nullptr;
    list.last = element;
    if (cost < least) {
      least = cost;
      list.cheapest = element;
    }
  }
  list.count = active.count();
  table.first = nullptr;
  table.last_bucket = kNone;
  return list;
}

/// As GetCutoff of the engine; which is asked itself where the number of states, not the beam,
/// decides.
float cutoff_of(Decoder& decoder, const Active* active, List& list, float& beam) {
  const std::size_t most = static_cast<std::size_t>(decoder.most_active);
  const std::size_t least = static_cast<std::size_t>(decoder.least_active);
  if (list.cheapest != nullptr && list.count > least) {
    const float cutoff = list.cheapest->token->cost + decoder.beam;
    std::size_t below = 0, at = 0;
    for (std::size_t n = 0; n < list.count; ++n) {
      below += active[n].cost < cutoff;
      at += active[n].cost <= cutoff;
    }
    if (below <= most && at > least) {
      beam = decoder.beam;
      return cutoff;
    }
  }
  list.cheapest = nullptr;
  return engine.cutoff(&decoder, list.first, &list.count, &beam, &list.cheapest);
}

/// What those that the cheapest leads to allow the others of the next frame to cost.
float first_cutoff(const Element& cheapest, const Arrays& graph, const Likelihoods& likelihoods,
                   float beam) {
  const float cost = cheapest.token->cost;
  const State& state = graph.states[cheapest.state];
  float cutoff = std::numeric_limits<float>::infinity();
  for (const Arc *arc = graph.arcs + state.first_arc, *end = arc + state.arcs; arc != end; ++arc) {
    if (arc->input == 0) continue;
    const float reached = arc->weight - cost - likelihoods.of(arc->input) + cost;
    if (reached + beam < cutoff) cutoff = reached + beam;
  }
  return cutoff;
}

/// The elements are unused again, all at once.
void give_back(Table& table, const List& list) {
  if (list.first == nullptr) return;
  list.last->next = table.unused;
  table.unused = list.first;
}

struct Steps {
  const Step *first, *last;

  const Step* begin() const { return first; }
  const Step* end() const { return last; }
};

/// The arcs of the states `from` up to `to` that cost less than `cutoff`: of these some are not
/// within reach any more when their turn comes, as that falls; others never are.
Steps within_reach(const Active* active, std::size_t from, std::size_t to, const Arrays& graph,
                   const float* acoustic_costs, float cutoff, Buffer<Step>& memory) {
  std::size_t arcs = 0;
  for (std::size_t n = from; n < to; ++n) arcs += graph.states[active[n].state].arcs;
  Step* const steps = memory.room(arcs + 1);
  Step* step = steps;
  for (std::size_t n = from; n < to; ++n) {
    const State& state = graph.states[active[n].state];
    const float reached = active[n].cost;
    for (const Arc *arc = graph.arcs + state.first_arc, *end = arc + state.arcs; arc != end;
         ++arc) {
      const float cost = reached + acoustic_costs[arc->input] + arc->weight;
      *step = Step{arc, cost, static_cast<std::uint32_t>(n)};
      step += !(cost >= cutoff);  // no branch: most lead nowhere
    }
  }
  return {steps, step};
}

float process_emitting(Decoder& decoder, Decodable* decodable, Scratch& scratch) {
  Table& table = decoder.table;
  const std::int32_t frame = static_cast<std::int32_t>(decoder.frames.size()) - 1;
  CellTaker cells(decoder.frames.end[-1].tokens);
  decoder.frames.grow() = Frame{nullptr, true, true, -1};
  Filling<Active> taken(scratch.active);
  List list = take(table, taken);
  Active* active = taken.begin();
  float beam;
  const float cutoff = cutoff_of(decoder, active, list, beam);
  engine.resize(&decoder, list.count);

  const Arrays& graph = decoder.graph->arrays(arrays_at.load(std::memory_order_relaxed));
  const State* states = graph.states;
  const Arc* arcs = graph.arcs;
  const Likelihoods likelihoods(decodable, frame);
  float next_cutoff = std::numeric_limits<float>::infinity();
  float offset = 0.0f;  // keeps costs near zero, however long the sound
  if (list.cheapest != nullptr) {
    offset = -list.cheapest->token->cost;
    next_cutoff = first_cutoff(*list.cheapest, graph, likelihoods, beam);
  }
  while (decoder.cost_offsets.size() <= static_cast<std::size_t>(frame))
    decoder.cost_offsets.grow() = 0.0f;
  decoder.cost_offsets.begin[frame] = offset;
  give_back(table, list);

  // What takes no sound is out of reach here.
  float* acoustic_costs = scratch.acoustic_costs.room(likelihoods.count() + 1);
  acoustic_costs[0] = std::numeric_limits<float>::infinity();
  for (std::int32_t input = 1; input <= likelihoods.count(); ++input)
    acoustic_costs[input] = offset - likelihoods.of(input);

  std::size_t kept = 0;
  for (std::size_t n = 0; n < list.count; ++n) {
    active[kept] = active[n];
    kept += active[n].cost <= cutoff;
  }
  const Remainder remainder(table.size);
  const Bucket* buckets = table.buckets.begin;
  const auto fetch_arcs = [&](std::size_t from) {
    for (std::size_t n = from; n < from + kBlock && n < kept; ++n) {
      const State& state = states[active[n].state];
      const char* line = reinterpret_cast<const char*>(arcs + state.first_arc);
      const char* end = line + state.arcs * sizeof(Arc);
      for (int lines = 0; lines < 8 && line < end; ++lines, line += kCacheLine)
        __builtin_prefetch(line);
    }
  };
  fetch_arcs(0);
  for (std::size_t from = 0; from < kept; from += kBlock) {
    const std::size_t to = std::min(from + kBlock, kept);
    fetch_arcs(to);
    const Steps steps =
        within_reach(active, from, to, graph, acoustic_costs, next_cutoff, scratch.steps);
    for (const Step& step : steps) {
      __builtin_prefetch(buckets + remainder.of(step.arc->to));
      __builtin_prefetch(states + step.arc->to);
    }
    for (const Step& step : steps)
      __builtin_prefetch(buckets[remainder.of(step.arc->to)].last);
    for (const Step& step : steps) {
      if (step.cost >= next_cutoff) continue;
      if (step.arc->input == 0) continue;  // its weight is not a number
      if (step.cost + beam < next_cutoff) next_cutoff = step.cost + beam;
      const Arc& arc = *step.arc;
      Token* token = active[step.from].token;
      bool changed;
      Token* target = reach(decoder, cells, remainder, arc.to, step.cost, token, changed);
      link(cells, token, target, arc.input, arc.output, arc.weight, acoustic_costs[arc.input]);
    }
  }
  return next_cutoff;
}

void process_nonemitting(Decoder& decoder, float cutoff, Scratch& scratch) {
  const Arrays& graph = decoder.graph->arrays(arrays_at.load(std::memory_order_relaxed));
  const State* states = graph.states;
  const Arc* arcs = graph.arcs;
  const Remainder remainder(decoder.table.size);
  CellTaker cells(decoder.frames.end[-1].tokens);
  Filling<Active> queue(scratch.active);
  const auto enter = [&](std::int32_t state, Token* token) {
    queue.add(Active{state, 0.0f, token});
    __builtin_prefetch(arcs + states[state].first_arc);
  };
  for (Element* element = decoder.table.first; element != nullptr; element = element->next)
    if (states[element->state].input_epsilons != 0) enter(element->state, element->token);
  while (queue.count() != 0) {
    const Active one = queue.take_last();
    Token* token = one.token;
    const float reached = token->cost;
    if (reached >= cutoff) continue;
    for (Link* old = token->links; old != nullptr;) {
      Link* next = old->next;
      free_link(old);
      old = next;
    }
    token->links = nullptr;
    const State& state = states[one.state];
    std::uint32_t left = state.input_epsilons;
    const Arc* const end = arcs + state.first_arc + state.arcs;
    for (const Arc* arc = arcs + state.first_arc; left != 0 && arc != end; ++arc) {
      if (arc->input != 0) continue;
      --left;
      const float cost = reached + arc->weight;
      if (!(cost < cutoff)) continue;  // as the engine: a cost that is not a number is skipped
      bool changed;
      Token* to = reach(decoder, cells, remainder, arc->to, cost, token, changed);
      link(cells, token, to, 0, arc->output, arc->weight, 0.0f);
      if (changed && states[arc->to].input_epsilons != 0) enter(arc->to, to);
    }
  }
}

/// False where something is not as it should be: the engine begins again where this ended, and
/// finds it too.
bool prune_links(Decoder& decoder, std::int32_t frame, bool& costs_changed, bool& pruned,
                 float delta) {
  bool changed = true;
  while (changed) {
    changed = false;
    const Token* ahead = decoder.frames.begin[frame].tokens;
    for (int n = 0; n < 4 && ahead != nullptr; ++n) ahead = ahead->next;
    for (Token* token = decoder.frames.begin[frame].tokens; token != nullptr; token = token->next) {
      if (ahead != nullptr) {
        __builtin_prefetch(ahead->links);
        ahead = ahead->next;
      }
      if (token->next != nullptr && token->next->links != nullptr)
        __builtin_prefetch(token->next->links->to);
      float least = std::numeric_limits<float>::infinity();
      Link** place = &token->links;
      while (Link* one = *place) {
        const Token* to = one->to;
        float extra =
            to->extra_cost + ((token->cost + one->acoustic_cost + one->graph_cost) - to->cost);
        if (!(extra >= -0.01f)) {
          costs_changed |= changed;
          return false;
        }
        if (extra > decoder.lattice_beam) {
          *place = one->next;
          free_link(one);
          pruned = true;
          continue;
        }
        if (extra < 0.0f) extra = 0.0f;
        if (extra < least) least = extra;
        place = &one->next;
      }
      if (std::fabs(least - token->extra_cost) > delta) changed = true;
      token->extra_cost = least;
    }
    if (changed) costs_changed = true;
  }
  return true;
}

}  // namespace

// --- what the engine's calls reach ---------------------------------------------------------------

EXPORTED float emitting(Decoder* decoder, Decodable* decodable) __asm__(PROCESS_EMITTING);
EXPORTED void nonemitting(Decoder* decoder, float cutoff) __asm__(PROCESS_NONEMITTING);
EXPORTED void prune_forward_links(Decoder* decoder, std::int32_t frame, bool* costs_changed,
                                  bool* pruned, float delta) __asm__(PRUNE_FORWARD_LINKS);

EXPORTED float emitting(Decoder* decoder, Decodable* decodable) {
  if (!ours() || decoder->table.size == 0 || decoder->frames.size() == 0)
    return engine_of(__builtin_return_address(0)).emitting(decoder, decodable);
  frames.fetch_add(1, std::memory_order_relaxed);
  return process_emitting(*decoder, decodable, scratch_of_thread);
}

EXPORTED void nonemitting(Decoder* decoder, float cutoff) {
  if (!ours() || decoder->table.first == nullptr || decoder->frames.size() == 0 ||
      decoder->queue.size() != 0)
    return engine_of(__builtin_return_address(0)).nonemitting(decoder, cutoff);
  process_nonemitting(*decoder, cutoff, scratch_of_thread);
}

EXPORTED void prune_forward_links(Decoder* decoder, std::int32_t frame, bool* costs_changed,
                                  bool* pruned, float delta) {
  bool changed_here = false, pruned_here = false;
  const bool can = ours() && frame >= 0 &&
                   static_cast<std::size_t>(frame) < decoder->frames.size() &&
                   decoder->frames.begin[frame].tokens != nullptr;
  const bool done = can && prune_links(*decoder, frame, changed_here, pruned_here, delta);
  *costs_changed = *pruned = false;
  if (!done)
    engine_of(__builtin_return_address(0))
        .prune_links(decoder, frame, costs_changed, pruned, delta);
  *costs_changed |= changed_here;
  *pruned |= pruned_here;
}

// --- how the process steers it -------------------------------------------------------------------

namespace {

/// A build of libvosk whose data is laid out as in search_data.h and whose search is this one.
struct Build {
  const char* id;  // that the linker gave it
  std::size_t arrays_at;
};

constexpr Build kBuilds[] = {
    {"2deead3f50350768e28bb3ef53d61738857890e3", 0x38},  // vosk 0.3.45, x86-64
    {"d3b46397d6496e80a7961f944e01b3e3541f4f21", 0x50},  // vosk 0.3.45, aarch64
};

}  // namespace

static_assert(sizeof(Token) == kCellBytes && sizeof(Link) == kCellBytes, "");

namespace simd {

void attach_search(const char* path) {
  engine = engine_in(loaded_library(path));
  arrays_at.store(0);
  // What the engine finds under these names is what the global scope has first.
  const auto first = [](const char* name) { return dlsym(RTLD_DEFAULT, name); };
  if (engine.complete() && engine.emitting != &emitting &&
      first(PROCESS_EMITTING) == reinterpret_cast<void*>(&emitting) &&
      first(PROCESS_NONEMITTING) == reinterpret_cast<void*>(&nonemitting) &&
      first(PRUNE_FORWARD_LINKS) == reinterpret_cast<void*>(&prune_forward_links)) {
    const std::string build = build_id_of(reinterpret_cast<void*>(engine.emitting));
    for (const Build& one : kBuilds)
      if (build == one.id) arrays_at.store(one.arrays_at);
  }
  if (arrays_at.load() != 0) reserve_cells();
  use_search(true);
}

void use_search(bool use) { in_use.store(use && arrays_at.load() != 0); }

bool searches() { return in_use.load(); }

unsigned long searched_frames() { return frames.load(); }

}  // namespace simd
