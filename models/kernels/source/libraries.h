// The libraries that are loaded, and their functions.

#pragma once

#include <dlfcn.h>

namespace kernels {

/// The library at `path` if it is loaded, else null.
inline void* loaded_library(const char* path) {
  return path == nullptr ? nullptr : dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
}

/// The library that `address` is in, or null.
inline void* library_of(const void* address) {
  Dl_info info;
  return loaded_library(dladdr(address, &info) == 0 ? nullptr : info.dli_fname);
}

/// What `library` has under that name, or null.
template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace kernels
