// The search in a static graph, in place of the engine's, for the builds of it that are known.

#pragma once

namespace simd {

/// Search for the engine in the loaded shared library at `path`. If that is not a known build, or
/// its calls do not come here, the engine searches itself.
void attach_search(const char* path);

/// Search here, if the engine is known, or leave it to that.
void use_search(bool use);

/// Whether the search is done here.
bool searches();

/// Number of audio frames searched here.
unsigned long searched_frames();

}  // namespace simd
