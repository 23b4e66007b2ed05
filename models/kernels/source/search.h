// The search in a static graph, in place of the engine's, for the builds of it that are known.

#pragma once

namespace kernels {

/// For the engine in the shared library at `path`, which is loaded. False where that is no build
/// that is known, or its calls do not come here: it goes on by itself.
bool attach_search(const char* path);

/// Search here, or leave it to the engine. True if it is done here from now on.
bool use_search(bool use);

/// How many frames of sound were searched here.
unsigned long searched_frames();

}  // namespace kernels
