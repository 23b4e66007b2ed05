#include "build_id.h"

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace simd {
namespace {

constexpr std::size_t padded(std::size_t bytes) { return (bytes + 3) / 4 * 4; }

/// In hexadecimal digits, of the notes in one segment of a library; empty where it is not there.
std::string build_id_in(const char* notes, std::size_t bytes) {
  const char* const end = notes + bytes;
  while (notes + sizeof(ElfW(Nhdr)) <= end) {
    const auto* note = reinterpret_cast<const ElfW(Nhdr)*>(notes);
    const char* name = notes + sizeof(*note);
    const char* id = name + padded(note->n_namesz);
    if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == sizeof("GNU") &&
        std::memcmp(name, "GNU", sizeof("GNU")) == 0) {
      std::string digits;
      for (std::size_t n = 0; n < note->n_descsz; ++n) {
        const unsigned char byte = static_cast<unsigned char>(id[n]);
        digits += "0123456789abcdef"[byte >> 4];
        digits += "0123456789abcdef"[byte & 15];
      }
      return digits;
    }
    notes = id + padded(note->n_descsz);
  }
  return "";
}

}  // namespace

std::string build_id_of(const void* address) {
  struct Asked {
    std::uintptr_t address;
    std::string found;
  } asked = {reinterpret_cast<std::uintptr_t>(address), ""};
  dl_iterate_phdr(
      [](dl_phdr_info* library, std::size_t, void* data) {
        Asked& asked = *static_cast<Asked*>(data);
        bool inside = false;
        std::string id;
        for (int n = 0; n < library->dlpi_phnum; ++n) {
          const ElfW(Phdr)& segment = library->dlpi_phdr[n];
          const std::uintptr_t begin = library->dlpi_addr + segment.p_vaddr;
          if (segment.p_type == PT_LOAD)
            inside |= begin <= asked.address && asked.address < begin + segment.p_memsz;
          if (segment.p_type == PT_NOTE && id.empty())
            id = build_id_in(reinterpret_cast<const char*>(begin), segment.p_memsz);
        }
        if (inside) asked.found = id;
        return inside ? 1 : 0;
      },
      &asked);
  return asked.found;
}

}  // namespace simd
