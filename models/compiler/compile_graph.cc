// Composes a Vosk model's HCLr.fst and Gr.fst into one static, aligned const HCLG.fst.
//
//   compile-graph compose HCLr.fst Gr.fst DISAMBIG_TID.int OUT.fst WORDS.txt MAX_BYTES
//   compile-graph align   HCLG.fst OUT.fst
//   compile-graph check   HCLG.fst
//
// `compose` is OpenFst's own composition, the same that the recogniser makes lazily while it
// decodes: visited once, in order, and streamed to disk. ComposeFst numbers its states in the
// order in which they are discovered; visiting them in the order of their numbers therefore gives
// numbers that are final at once, and nothing but the table of state pairs is held in memory.
// `align` rewrites a const graph so that it can be mapped. `check` reads a graph once and makes
// sure that no arc leads out of it.
//
// Progress goes to standard output, a line "states arcs" about once a second; the last line is
// "done states arcs". Exit status: 0, 1 with a sentence on standard error, 3 if the result would
// be larger than MAX_BYTES (0: no limit).

#include <signal.h>
#include <sys/prctl.h>

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
#include <sstream>
#include <string>
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

[[noreturn]] void Fail(const std::string &sentence, int status = 1) {
  std::cerr << sentence << std::endl;
  std::exit(status);
}

// A file written from front to back, whose errors (a full disk) end the program.
class Writer {
 public:
  explicit Writer(const std::string &path) : path_(path), file_(std::fopen(path.c_str(), "wb+")) {
    if (!file_) Fail("cannot write " + path + ": " + std::strerror(errno));
    std::setvbuf(file_, nullptr, _IOFBF, 1 << 20);
  }
  ~Writer() { std::fclose(file_); }
  void Write(const void *data, size_t bytes) {
    if (std::fwrite(data, 1, bytes, file_) != bytes) {
      Fail("cannot write " + path_ + ": " + std::strerror(errno));
    }
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
    if (std::fflush(file_) != 0) Fail("cannot write " + path_ + ": " + std::strerror(errno));
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
      Fail("the graph is larger than " + std::to_string(max_bytes_) + " bytes", 3);
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
    std::cout << state_count_ << ' ' << arc_count_ << std::endl;
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
  if (!file.eof()) Fail(path + " holds something that is no number");
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

int Align(const std::string &in_path, const std::string &out_path) {
  const auto graph = ReadGraph(in_path);
  GraphWriter writer(out_path, 0);
  std::vector<ConstArc> arcs;
  int64_t highest = 0;
  for (fst::StateIterator<StdFst> it(*graph); !it.Done(); it.Next()) {
    CopyArcs(*graph, it.Value(), {}, &arcs, &highest);
    writer.AddState(graph->Final(it.Value()).Value(), arcs);
  }
  writer.Finish(graph->Start());
  return 0;
}

int Check(const std::string &path) {
  const auto graph = ReadGraph(path);
  uint64_t states = 0, arcs = 0;
  int64_t highest = graph->Start(), lowest = graph->Start();
  for (fst::StateIterator<StdFst> it(*graph); !it.Done(); it.Next(), ++states) {
    for (fst::ArcIterator<StdFst> arc(*graph, it.Value()); !arc.Done(); arc.Next(), ++arcs) {
      highest = std::max<int64_t>(highest, arc.Value().nextstate);
      lowest = std::min<int64_t>(lowest, arc.Value().nextstate);
    }
  }
  if (lowest < 0 || highest >= static_cast<int64_t>(states)) {
    Fail(path + " has an arc that leads out of it");
  }
  std::cout << "done " << states << ' ' << arcs << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char **argv) {
  std::ios::sync_with_stdio(false);
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // whoever started this may be killed: nobody would wait
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 7 && words[0] == "compose") {
    return Compose(words[1], words[2], words[3], words[4], words[5],
                   std::strtoull(words[6].c_str(), nullptr, 10));
  }
  if (words.size() == 3 && words[0] == "align") return Align(words[1], words[2]);
  if (words.size() == 2 && words[0] == "check") return Check(words[1]);
  Fail("usage: compile-graph compose HCLR G DISAMBIG OUT WORDS MAX_BYTES | align IN OUT | check IN");
}
