// Composes a Vosk model's HCLr.fst and Gr.fst into one static, aligned const HCLG.fst.
//
//   compile-graph compose HCLr.fst Gr.fst DISAMBIG_TID.int OUT.fst WORDS.txt MAX_BYTES
//   compile-graph align   HCLG.fst OUT.fst MAX_BYTES
//   compile-graph compare HCLr.fst Gr.fst DISAMBIG_TID.int OUT.fst STATES
//   compile-graph same    HCLG.fst OUT.fst
//   compile-graph version
//
// `compose` is OpenFst's own composition, the same that the recogniser makes lazily while it
// decodes: visited once, in order, and streamed to disk. ComposeFst numbers its states in the
// order in which they are discovered; visiting them in the order of their numbers therefore gives
// numbers that are final at once, and nothing but the table of state pairs is held in memory.
// `align` rewrites a const graph so that it can be mapped.
//
// `compare` walks the composition and OUT.fst side by side from the start, in random order, until
// it has visited STATES states or all of them, and requires every arc, label and weight to be the
// same. `same` requires that of OUT.fst and the graph that it was aligned from, state by state.
//
// Progress goes to standard output, a line "states arcs" about once a second; the last line is
// "done states arcs". Exit status: 0; 1 with a sentence on standard error; 3 if the result would
// be larger than MAX_BYTES (0: no limit); 4 if the disk is full but for its reserve; 5 if the
// graphs differ; 6 if memory is exhausted (`ulimit -d`).
//
// If standard input is a pipe, the program ends when its other end is closed: with the process that
// waits for it, however that one ends.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <random>
#include <sstream>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <fst/extensions/ngram/ngram-fst.h>
#include <fst/fstlib.h>
#include <fst/matcher-fst.h>

namespace {

using fst::StdArc;
using StdFst = fst::Fst<StdArc>;
using Weight = StdArc::Weight;

// The two types that Vosk's models use and plain OpenFst does not register.
fst::FstRegisterer<fst::NGramFst<StdArc>> ngram_registerer;
fst::FstRegisterer<fst::StdOLabelLookAheadFst> olabel_lookahead_registerer;

constexpr int kAlignment = 16;            // MappedFile::kArchAlignment
constexpr int kAlignedFileVersion = 1;    // ConstFst::kAlignedFileVersion
constexpr size_t kComposeCacheBytes = 16 << 20;
constexpr uint64_t kDiskReserve = 256 << 20;  // never more than a twentieth of the disk

enum Status { kFailed = 1, kTooLarge = 3, kDiskFull = 4, kDiffers = 5, kOutOfMemory = 6 };

// On disk, as ConstFst<StdArc, uint32> lays them out.
struct ConstState {
  float final_weight;
  uint32_t first_arc;
  uint32_t arcs;
  uint32_t input_epsilons;
  uint32_t output_epsilons;
};
struct ConstArc {
  int32_t input;
  int32_t output;
  float weight;
  int32_t next_state;
};
static_assert(sizeof(ConstState) == 20 && sizeof(ConstArc) == 16, "ConstFst's layout");

[[noreturn]] void Fail(const std::string &sentence, Status status = kFailed) {
  std::cerr << sentence << std::endl;
  std::exit(status);
}

[[noreturn]] void CannotWrite(const std::string &path, int error) {
  Fail("cannot write " + path + ": " + std::strerror(error),
       error == ENOSPC || error == EDQUOT ? kDiskFull : kFailed);
}

// A file written from front to back, whose errors (a full disk) end the program.
class Writer {
 public:
  explicit Writer(const std::string &path) : path_(path), file_(std::fopen(path.c_str(), "wb+")) {
    if (!file_) CannotWrite(path, errno);
    std::setvbuf(file_, nullptr, _IOFBF, 1 << 20);
  }
  ~Writer() { std::fclose(file_); }
  void Write(const void *data, size_t bytes) {
    if (std::fwrite(data, 1, bytes, file_) != bytes) CannotWrite(path_, errno);
    size_ += bytes;
  }
  void Align() {
    static const char zeros[kAlignment] = {};
    Write(zeros, (kAlignment - size_ % kAlignment) % kAlignment);
  }
  void Append(Writer *other) {
    std::vector<char> block(1 << 20);
    std::rewind(other->file_);
    while (size_t got = std::fread(block.data(), 1, block.size(), other->file_)) {
      Write(block.data(), got);
    }
    if (std::ferror(other->file_)) Fail("cannot read back " + other->path_);
  }
  void Rewind() { std::rewind(file_); }
  void Flush() {
    if (std::fflush(file_) != 0) CannotWrite(path_, errno);
  }
  uint64_t size() const { return size_; }

 private:
  const std::string path_;
  std::FILE *file_;
  uint64_t size_ = 0;
};

// A const graph in the making: states straight into the file, arcs beside it until the end.
class GraphWriter {
 public:
  GraphWriter(const std::string &path, uint64_t max_bytes)
      : arcs_path_(path + ".arcs"), max_bytes_(max_bytes), out_(path), arcs_(arcs_path_) {
    WriteHeader(0);  // its length does not depend on what it says
    out_.Align();
  }
  ~GraphWriter() { std::remove(arcs_path_.c_str()); }

  void AddState(float final_weight, const std::vector<ConstArc> &arcs) {
    ConstState state{final_weight, static_cast<uint32_t>(arc_count_),
                     static_cast<uint32_t>(arcs.size()), 0, 0};
    for (const ConstArc &arc : arcs) {
      state.input_epsilons += arc.input == 0;
      state.output_epsilons += arc.output == 0;
    }
    out_.Write(&state, sizeof state);
    arcs_.Write(arcs.data(), arcs.size() * sizeof(ConstArc));
    ++state_count_;
    arc_count_ += arcs.size();
    if (max_bytes_ != 0 && out_.size() + arcs_.size() > max_bytes_) {
      std::remove(arcs_path_.c_str());
      Fail("the graph is larger than " + std::to_string(max_bytes_) + " bytes", kTooLarge);
    }
    if (arc_count_ > UINT32_MAX) Fail("the graph has more arcs than the format can hold");
    if (state_count_ % 4096 == 0) MaybeReport();
  }

  void Finish(int64_t start) {
    out_.Align();
    arcs_.Flush();
    out_.Append(&arcs_);
    out_.Rewind();
    WriteHeader(start);
    out_.Flush();
    std::cout << "done " << state_count_ << ' ' << arc_count_ << std::endl;
  }

 private:
  void WriteHeader(int64_t start) {
    fst::FstHeader header;
    header.SetFstType("const");
    header.SetArcType(StdArc::Type());
    header.SetVersion(kAlignedFileVersion);
    header.SetFlags(fst::FstHeader::IS_ALIGNED);
    header.SetProperties(fst::kExpanded);
    header.SetStart(start);
    header.SetNumStates(state_count_);
    header.SetNumArcs(arc_count_);
    std::ostringstream bytes;
    header.Write(bytes, "HCLG.fst");
    out_.Write(bytes.str().data(), bytes.str().size());
  }
  void MaybeReport() {
    const auto now = std::chrono::steady_clock::now();
    if (now - reported_ < std::chrono::milliseconds(500)) return;
    reported_ = now;
    MustLeaveRoom();
    std::cout << state_count_ << ' ' << arc_count_ << std::endl;
  }

  // The disk is other programs' too: they fail before this does if it is filled to the last byte.
  void MustLeaveRoom() const {
    struct statvfs disk;
    if (statvfs(arcs_path_.c_str(), &disk) != 0) return;
    const uint64_t total = static_cast<uint64_t>(disk.f_blocks) * disk.f_frsize;
    const uint64_t free = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
    if (free >= arcs_.size() + std::min(kDiskReserve, total / 20)) return;
    std::remove(arcs_path_.c_str());
    Fail("cannot write " + arcs_path_ + ": its disk has " + std::to_string(free >> 20) +
             " MB left",
         kDiskFull);
  }

  const std::string arcs_path_;
  const uint64_t max_bytes_;
  Writer out_;
  Writer arcs_;
  uint64_t state_count_ = 0;
  uint64_t arc_count_ = 0;
  std::chrono::steady_clock::time_point reported_ = std::chrono::steady_clock::now();
};

std::unique_ptr<StdFst> ReadGraph(const std::string &path) {
  std::unique_ptr<StdFst> graph(StdFst::Read(path));
  if (!graph) Fail(path + " cannot be read as an OpenFst graph");
  return graph;
}

std::unordered_set<int32_t> ReadLabels(const std::string &path) {
  std::ifstream file(path);
  if (!file) Fail("cannot read " + path);
  std::unordered_set<int32_t> labels;
  for (int32_t label; file >> label;) labels.insert(label);
  if (!file.eof()) Fail(path + " contains something that is not a number");
  return labels;
}

// One state's arcs, with the labels in `removed` made epsilons on the input side.
template <class F>
void CopyArcs(const F &graph, int state, const std::unordered_set<int32_t> &removed,
              std::vector<ConstArc> *arcs, int64_t *highest_state) {
  arcs->clear();
  for (fst::ArcIterator<F> it(graph, state); !it.Done(); it.Next()) {
    const StdArc &arc = it.Value();
    arcs->push_back({removed.count(arc.ilabel) ? 0 : arc.ilabel, arc.olabel, arc.weight.Value(),
                     arc.nextstate});
    *highest_state = std::max<int64_t>(*highest_state, arc.nextstate);
  }
}

int Compose(const std::string &hcl_path, const std::string &g_path,
            const std::string &disambig_path, const std::string &out_path,
            const std::string &words_path, uint64_t max_bytes) {
  const auto removed = ReadLabels(disambig_path);
  const auto g = ReadGraph(g_path);
  if (!g->OutputSymbols()) Fail(g_path + " has no output symbols");
  if (!g->OutputSymbols()->WriteText(words_path)) Fail("cannot write " + words_path);
  const auto hcl = ReadGraph(hcl_path);
  // The cache holds what was expanded and not yet visited past; it is dropped behind us.
  const fst::ComposeFst<StdArc> graph(*hcl, *g, fst::CacheOptions(true, kComposeCacheBytes));
  const int64_t start = graph.Start();
  if (start == fst::kNoStateId) Fail("the composition is empty");
  if (start != 0) Fail("the composition does not begin at state 0");
  GraphWriter writer(out_path, max_bytes);
  std::vector<ConstArc> arcs;
  for (int64_t state = 0, highest = start; state <= highest; ++state) {
    CopyArcs(graph, state, removed, &arcs, &highest);
    writer.AddState(graph.Final(state).Value(), arcs);
  }
  if (graph.Properties(fst::kError, false)) Fail("OpenFst reports an error in the composition");
  writer.Finish(start);
  return 0;
}

int Align(const std::string &in_path, const std::string &out_path, uint64_t max_bytes) {
  const auto graph = ReadGraph(in_path);
  GraphWriter writer(out_path, max_bytes);
  std::vector<ConstArc> arcs;
  int64_t highest = 0;
  for (fst::StateIterator<StdFst> it(*graph); !it.Done(); it.Next()) {
    CopyArcs(*graph, it.Value(), {}, &arcs, &highest);
    writer.AddState(graph->Final(it.Value()).Value(), arcs);
  }
  writer.Finish(graph->Start());
  return 0;
}

// An aligned const graph, mapped: read as the bytes that it is, and not by OpenFst's word.
class MappedGraph {
 public:
  explicit MappedGraph(const std::string &path) : path_(path) {
    std::ifstream stream(path, std::ios::binary);
    fst::FstHeader header;
    if (!stream || !header.Read(stream, path)) Fail(path + " cannot be read as an OpenFst graph");
    const uint64_t header_bytes = stream.tellg();
    state_count = header.NumStates();
    arc_count_ = header.NumArcs();
    start = header.Start();
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (descriptor < 0 || fstat(descriptor, &status) != 0) Fail("cannot read " + path);
    const uint64_t states_at = Aligned(header_bytes);
    const uint64_t arcs_at = Aligned(states_at + state_count * sizeof(ConstState));
    const uint64_t bytes = arcs_at + arc_count_ * sizeof(ConstArc);
    if (state_count <= 0 || arc_count_ < 0 || static_cast<uint64_t>(status.st_size) != bytes) {
      Fail(path + " is not as long as its header says", kDiffers);
    }
    void *memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) Fail("cannot map " + path);
    close(descriptor);
    states_ = reinterpret_cast<const ConstState *>(static_cast<const char *>(memory) + states_at);
    arcs_ = reinterpret_cast<const ConstArc *>(static_cast<const char *>(memory) + arcs_at);
  }

  // The state's final weight and arcs are these. `next` receives each pair of following states.
  template <class Next>
  void MustEqual(int64_t state, float final_weight, const std::vector<ConstArc> &arcs, Next next) {
    const ConstState &own = states_[state];
    const uint64_t end = static_cast<uint64_t>(own.first_arc) + own.arcs;
    Require(end <= static_cast<uint64_t>(arc_count_) && own.arcs == arcs.size() &&
            Same(own.final_weight, final_weight), state);
    uint32_t input_epsilons = 0, output_epsilons = 0;
    for (size_t n = 0; n < arcs.size(); ++n) {
      const ConstArc &ours = arcs_[own.first_arc + n];
      Require(ours.input == arcs[n].input && ours.output == arcs[n].output &&
              Same(ours.weight, arcs[n].weight) && ours.next_state >= 0 &&
              ours.next_state < state_count, state);
      Require(next(arcs[n].next_state, ours.next_state), state);
      input_epsilons += ours.input == 0;
      output_epsilons += ours.output == 0;
    }
    Require(input_epsilons == own.input_epsilons && output_epsilons == own.output_epsilons, state);
    compared_arcs += arcs.size();
  }

  int64_t start = 0, state_count = 0, compared_arcs = 0;

 private:
  static uint64_t Aligned(uint64_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }
  static bool Same(float one, float other) { return std::memcmp(&one, &other, sizeof one) == 0; }
  void Require(bool same, int64_t state) const {
    if (!same) {
      Fail("state " + std::to_string(state) + " of " + path_ + " is not that of the original",
           kDiffers);
    }
  }

  const std::string path_;
  int64_t arc_count_ = 0;
  const ConstState *states_ = nullptr;
  const ConstArc *arcs_ = nullptr;
};

int Compare(const std::string &hcl_path, const std::string &g_path,
            const std::string &disambig_path, const std::string &made_path, uint64_t most) {
  const auto removed = ReadLabels(disambig_path);
  const auto g = ReadGraph(g_path);
  const auto hcl = ReadGraph(hcl_path);
  const fst::ComposeFst<StdArc> graph(*hcl, *g, fst::CacheOptions(true, kComposeCacheBytes));
  MappedGraph made(made_path);
  // The composition numbers its states in the order of this walk, which is another than that of
  // composing: each of its states has one partner in what was made.
  std::unordered_map<int64_t, int64_t> partner{{graph.Start(), made.start}};
  std::unordered_set<int64_t> taken{made.start};
  std::vector<int64_t> frontier{graph.Start()};
  std::mt19937_64 random(most);
  std::vector<ConstArc> arcs;
  uint64_t visited = 0;
  int64_t highest = 0;
  for (; !frontier.empty() && visited < most; ++visited) {
    std::swap(frontier[random() % frontier.size()], frontier.back());
    const int64_t state = frontier.back();
    frontier.pop_back();
    CopyArcs(graph, state, removed, &arcs, &highest);
    made.MustEqual(partner[state], graph.Final(state).Value(), arcs, [&](int64_t to, int64_t ours) {
      const auto known = partner.find(to);
      if (known != partner.end()) return known->second == ours;
      if (!taken.insert(ours).second) return false;
      partner.emplace(to, ours);
      frontier.push_back(to);
      return true;
    });
  }
  if (frontier.empty() && static_cast<int64_t>(visited) != made.state_count) {
    Fail(made_path + " has states that the original has not", kDiffers);
  }
  std::cout << "done " << visited << ' ' << made.compared_arcs << std::endl;
  return 0;
}

int Same(const std::string &original_path, const std::string &made_path) {
  const auto graph = ReadGraph(original_path);
  MappedGraph made(made_path);
  std::vector<ConstArc> arcs;
  int64_t highest = 0, states = 0;
  for (fst::StateIterator<StdFst> it(*graph); !it.Done(); it.Next(), ++states) {
    if (states == made.state_count) break;
    CopyArcs(*graph, it.Value(), {}, &arcs, &highest);
    made.MustEqual(it.Value(), graph->Final(it.Value()).Value(), arcs,
                   [](int64_t to, int64_t ours) { return to == ours; });
  }
  if (graph->Start() != made.start || states != made.state_count || highest >= states) {
    Fail(made_path + " has not the states of the original", kDiffers);
  }
  std::cout << "done " << states << ' ' << made.compared_arcs << std::endl;
  return 0;
}

// The kernel sends SIGIO, which ends this process, when the other end is closed. A signal at the
// death of a parent (PR_SET_PDEATHSIG) would come when the thread that started us ends.
void EndWithPipe() {
  struct stat status;
  if (fstat(STDIN_FILENO, &status) != 0 || !S_ISFIFO(status.st_mode)) return;
  fcntl(STDIN_FILENO, F_SETOWN, getpid());
  fcntl(STDIN_FILENO, F_SETFL, O_ASYNC);
  pollfd closed{STDIN_FILENO, 0, 0};
  if (poll(&closed, 1, 0) > 0) raise(SIGIO);  // it was closed before that
}

uint64_t Number(const std::string &text) { return std::strtoull(text.c_str(), nullptr, 10); }

int Run(const std::vector<std::string> &words) {
  const std::string what = words.empty() ? "" : words[0];
  if (words.size() == 7 && what == "compose") {
    return Compose(words[1], words[2], words[3], words[4], words[5], Number(words[6]));
  }
  if (words.size() == 4 && what == "align") return Align(words[1], words[2], Number(words[3]));
  if (words.size() == 6 && what == "compare") {
    return Compare(words[1], words[2], words[3], words[4], Number(words[5]));
  }
  if (words.size() == 3 && what == "same") return Same(words[1], words[2]);
  if (words.size() == 1 && what == "version") return 0;
  Fail("usage: see the beginning of compile_graph.cc");
}

}  // namespace

int main(int argc, char **argv) {
  std::ios::sync_with_stdio(false);
  EndWithPipe();
  try {
    return Run({argv + 1, argv + argc});
  } catch (const std::bad_alloc &) {
    Fail("the memory that composing may use is exhausted", kOutOfMemory);
  }
}
