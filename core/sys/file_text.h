// Small files of procfs, sysfs and cgroupfs, read and written whole.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

// The rest of `fd` from its position, at most `limit` bytes (EFBIG past them). EINTR is retried.
Result<std::string> read_all(FdRef fd, size_t limit, std::string_view step, std::string_view path);

// A whole file, at most 16 MiB. `directory` may be AT_FDCWD.
Result<std::string> read_file(int directory, const char* path, std::string_view step);

// One write(2) of `value` into an existing file, as kernfs wants it: never truncated, never split.
Result<void> write_file(int directory, const char* path, std::string_view value, std::string_view step);

// Writes all of `data`, over short writes and EINTR.
Result<void> write_all(FdRef fd, const void* data, size_t size, std::string_view step, std::string_view path);

// Decimal digits alone (surrounding blanks are passed over); false for anything else or an overflow.
bool parse_u64(std::string_view text, uint64_t* value);

// `text` without blanks and newlines at either end.
std::string_view trim(std::string_view text);

// Calls `visit(line)` for each line without its newline; the last one may lack it.
template <typename Visit>
void for_each_line(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    visit(text.substr(0, end));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

// Cuts the next word (no blanks) off the front of `text`; empty at the end.
std::string_view next_word(std::string_view* text);

}  // namespace berth::sys
