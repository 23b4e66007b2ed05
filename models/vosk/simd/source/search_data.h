// How libvosk keeps what its search in a static graph works on, as far as that is read here. Written
// down from Kaldi's lattice-incremental-decoder.h, lattice-faster-decoder.h, hash-list.h and
// decodable-online-looped.h and OpenFst's const-fst.h, and compared with what the library's own
// instructions read (0.3.45, x86-64 and aarch64). Names are ours.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

namespace simd {

template <typename Value>
struct Vector {
  Value *begin, *end, *limit;

  std::size_t size() const { return end - begin; }

  /// As std::vector would: what is returned is the new last one, not set.
  Value& grow() {
    if (end == limit) {
      const std::size_t held = size(), room = held == 0 ? 1 : 2 * held;
      Value* moved = static_cast<Value*>(::operator new(room * sizeof(Value)));
      if (held != 0) std::memcpy(static_cast<void*>(moved), begin, held * sizeof(Value));
      ::operator delete(begin);
      begin = moved;
      end = moved + held;
      limit = moved + room;
    }
    return *end++;
  }
};

struct Link;

/// A state that is reached in a frame, and how.
struct Token {
  float cost, extra_cost;
  Link* links;
  Token* next;
  Token* backpointer;
};

/// A way from one token to another.
struct Link {
  Token* to;
  std::int32_t input, output;
  float graph_cost, acoustic_cost;
  Link* next;
};

struct Element {
  std::int32_t state;
  Token* token;
  Element* next;
};

struct Bucket {
  std::size_t previous;  // of the list of buckets that are not empty
  Element* last;         // null: empty
};

/// No bucket.
constexpr std::size_t kNone = static_cast<std::size_t>(-1);
/// How many the table allocates in one block.
constexpr std::size_t kElementsAtOnce = 1024;

/// Tokens by state: the elements are one list, those of one bucket next to each other in it.
struct Table {
  Element* first;
  std::size_t last_bucket;
  std::size_t size;
  Vector<Bucket> buckets;
  Element* unused;
  Vector<Element*> allocated;
};

/// The tokens of one frame.
struct Frame {
  Token* tokens;
  bool must_prune_links, must_prune_tokens;
  std::int32_t count;
};

/// A state of the graph; its arcs follow one another.
struct State {
  float final;
  std::uint32_t first_arc, arcs, input_epsilons, output_epsilons;
};

/// `input`: 0 for one that takes no sound.
struct Arc {
  std::int32_t input, output;
  float weight;
  std::int32_t to;
};

/// The last of fst::internal::ConstFstImpl. It begins with a std::string, which has 8 bytes in the
/// library for x86-64 and 32 in others: where this begins goes by the build.
struct Arrays {
  const State* states;
  const Arc* arcs;
};

/// fst::ConstFst.
struct Graph {
  void* functions;
  const char* data;

  const Arrays& arrays(std::size_t at) const {
    return *reinterpret_cast<const Arrays*>(data + at);
  }
};

/// kaldi::LatticeIncrementalDecoderTpl.
struct Decoder {
  Table table;
  Vector<Frame> frames;
  Vector<std::int32_t> queue;
  Vector<float> costs;
  const Graph* graph;
  bool owns_graph;
  Vector<float> cost_offsets;
  std::int32_t tokens;
  bool warned, finalized;
  char final_costs[56];
  float final_relative_cost, final_best_cost;
  float beam;
  std::int32_t most_active, least_active;
  float lattice_beam;
};

static_assert(sizeof(Table) == 0x50 && sizeof(Token) == 0x20 && sizeof(Link) == 0x20, "");
static_assert(sizeof(State) == 20 && sizeof(Arc) == 16 && sizeof(Frame) == 16, "");
static_assert(offsetof(Decoder, graph) == 0x98 && offsetof(Decoder, cost_offsets) == 0xa8, "");
static_assert(offsetof(Decoder, tokens) == 0xc0 && offsetof(Decoder, lattice_beam) == 0x114, "");

/// kaldi::TransitionModel: which output of the network stands for which input of the graph.
struct Pdfs {
  void* unused[19];
  Vector<std::int32_t> of_input;  // from 1
};

/// kaldi::nnet3::DecodableAmNnetLoopedOnline: what the network says of some frames.
struct Decodable {
  struct Functions {
    float (*log_likelihood)(Decodable*, std::int32_t frame, std::int32_t input);
    bool (*is_last_frame)(const Decodable*, std::int32_t frame);
    std::int32_t (*frames_ready)(const Decodable*);
    std::int32_t (*inputs)(const Decodable*);
  };
  const Functions* functions;
  const float* rows;
  std::int32_t columns, count, stride, chunks;
  std::int32_t unused, first_frame;
  const void* info;
  std::int32_t frame_offset;
  char more[0x128 - 0x34];
  const Pdfs* pdfs;
};

static_assert(offsetof(Decodable, stride) == 0x18 && offsetof(Decodable, first_frame) == 0x24, "");
static_assert(offsetof(Decodable, frame_offset) == 0x30 && offsetof(Decodable, pdfs) == 0x128, "");
static_assert(offsetof(Pdfs, of_input) == 0x98, "");

}  // namespace simd

// The functions that the engine calls by these names (Itanium C++ ABI).
#define DECODER                                                                       \
  "_ZN5kaldi28LatticeIncrementalDecoderTplIN3fst8ConstFstINS1_6ArcTplINS1_17TropicalWeight" \
  "TplIfEEEEjEENS_7decoder16BackpointerTokenEE"
#define PROCESS_EMITTING DECODER "15ProcessEmittingEPNS_18DecodableInterfaceE"
#define PROCESS_NONEMITTING DECODER "18ProcessNonemittingEf"
#define PRUNE_FORWARD_LINKS DECODER "17PruneForwardLinksEiPbSB_f"
#define GET_CUTOFF DECODER "9GetCutoffEPNS_8HashListIiPS9_E4ElemEPmPfPSF_"
#define POSSIBLY_RESIZE_HASH DECODER "18PossiblyResizeHashEm"
#define LOG_LIKELIHOOD "_ZN5kaldi5nnet327DecodableAmNnetLoopedOnline13LogLikelihoodEii"
