// Writes a const graph anew with its states in another order, to see what order is worth.
//   reorder-graph dfs IN OUT        depth first from the start
//   reorder-graph hot IN OUT PAGES  first those whose arcs lie in the 4 KiB pages listed (numbers
//                                   in the file, one a line), each part in the order it had
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <fst/fstlib.h>

using fst::StdArc;
using Graph = fst::ConstFst<StdArc>;

static std::vector<int32_t> DepthFirst(const Graph &graph) {
  std::vector<int32_t> order, stack{graph.Start()};
  std::vector<bool> seen(graph.NumStates());
  while (!stack.empty()) {
    const int32_t state = stack.back();
    stack.pop_back();
    if (seen[state]) continue;
    seen[state] = true;
    order.push_back(state);
    for (fst::ArcIterator<Graph> arc(graph, state); !arc.Done(); arc.Next()) {
      if (!seen[arc.Value().nextstate]) stack.push_back(arc.Value().nextstate);
    }
  }
  return order;
}

static std::vector<int32_t> HotFirst(const Graph &graph, const std::string &pages_path) {
  std::ifstream pages(pages_path);
  std::vector<bool> hot((size_t{1} << 32) / 4096);
  for (uint64_t page; pages >> page;) hot[page] = true;
  const uint64_t states_at = 80;  // the aligned header
  uint64_t arcs_at = states_at + graph.NumStates() * 20ull;
  arcs_at = (arcs_at + 15) / 16 * 16;
  std::vector<int32_t> first, rest;
  uint64_t arc = 0;
  for (int32_t state = 0; state < graph.NumStates(); ++state) {
    const uint64_t from = arcs_at + arc * 16, to = from + graph.NumArcs(state) * 16;
    const bool touched = hot[from / 4096] && hot[to / 4096] && hot[(states_at + state * 20ull) / 4096];
    (touched ? first : rest).push_back(state);
    arc += graph.NumArcs(state);
  }
  std::cerr << first.size() << " states are hot" << std::endl;
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

int main(int argc, char **argv) {
  const std::string how = argv[1];
  std::unique_ptr<Graph> graph(Graph::Read(argv[2]));
  if (!graph) return 1;
  const auto order = how == "dfs" ? DepthFirst(*graph) : HotFirst(*graph, argv[4]);
  std::vector<int32_t> number(graph->NumStates(), -1);
  for (size_t at = 0; at < order.size(); ++at) number[order[at]] = at;
  std::ofstream out(argv[3], std::ios::binary);
  fst::FstHeader header;
  uint64_t arcs = 0;
  for (int32_t state : order) arcs += graph->NumArcs(state);
  header.SetFstType("const");
  header.SetArcType(StdArc::Type());
  header.SetVersion(1);
  header.SetFlags(fst::FstHeader::IS_ALIGNED);
  header.SetProperties(fst::kExpanded);
  header.SetStart(number[graph->Start()]);
  header.SetNumStates(order.size());
  header.SetNumArcs(arcs);
  header.Write(out, argv[3]);
  const auto align = [&out] { while (out.tellp() % 16) out.put(0); };
  align();
  uint32_t position = 0;
  for (int32_t state : order) {
    const float final_weight = graph->Final(state).Value();
    const uint32_t counts[] = {position, static_cast<uint32_t>(graph->NumArcs(state)),
                               static_cast<uint32_t>(graph->NumInputEpsilons(state)),
                               static_cast<uint32_t>(graph->NumOutputEpsilons(state))};
    out.write(reinterpret_cast<const char *>(&final_weight), 4);
    out.write(reinterpret_cast<const char *>(counts), 16);
    position += counts[1];
  }
  align();
  for (int32_t state : order) {
    for (fst::ArcIterator<Graph> it(*graph, state); !it.Done(); it.Next()) {
      StdArc arc = it.Value();
      arc.nextstate = number[arc.nextstate];
      out.write(reinterpret_cast<const char *>(&arc), 16);
    }
  }
  return out.good() ? 0 : 1;
}
