// The search in a static graph, in place of the engine's, for the builds of it that are known.

#pragma once

namespace simd {

/// For the engine in the shared library at `path`, which is loaded. Where that is no build that is
/// known, or its calls do not come here, it goes on by itself.
void attach_search(const char* path);

/// Search here, if the engine is known, or leave it to that.
void use_search(bool use);

/// The search is done here.
bool searches();

/// How many frames of sound were searched here.
unsigned long searched_frames();

}  // namespace simd
