// The libraries that are loaded, and their functions.

#pragma once

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdint>

namespace simd {

/// The library at `path` if it is loaded, else null.
inline void* loaded_library(const char* path) {
  return path == nullptr ? nullptr : dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
}

/// The library that `address` is in, or null.
inline void* library_of(const void* address) {
  Dl_info info;
  return loaded_library(dladdr(address, &info) == 0 ? nullptr : info.dli_fname);
}

/// The addresses that a library takes.
struct Range {
  std::uintptr_t begin = 0, end = 0;

  bool holds(const void* address) const {
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    return begin <= wanted && wanted < end;
  }
};

/// Of the library that `address` is in; empty if there is none.
inline Range range_of(const void* address) {
  struct Asked {
    const void* address;
    Range found;
  } asked = {address, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* library, std::size_t, void* data) {
        Asked& asked = *static_cast<Asked*>(data);
        Range range = {UINTPTR_MAX, 0};
        for (int n = 0; n < library->dlpi_phnum; ++n) {
          const ElfW(Phdr)& segment = library->dlpi_phdr[n];
          if (segment.p_type != PT_LOAD) continue;
          const std::uintptr_t begin = library->dlpi_addr + segment.p_vaddr;
          range.begin = std::min(range.begin, begin);
          range.end = std::max(range.end, begin + segment.p_memsz);
        }
        if (!range.holds(asked.address)) return 0;
        asked.found = range;
        return 1;
      },
      &asked);
  return asked.found;
}

/// What `library` has under that name, or null.
template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace simd
