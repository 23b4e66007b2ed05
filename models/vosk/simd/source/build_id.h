// Which build of a library is loaded.

#pragma once

#include <string>

namespace simd {

/// The id that the linker gave the library that `address` is in, in hexadecimal digits; empty if it
/// has none.
std::string build_id_of(const void* address);

}  // namespace simd
