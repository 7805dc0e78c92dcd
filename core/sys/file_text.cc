#include "core/sys/file_text.h"

#include <fcntl.h>
#include <unistd.h>

namespace berth::sys {

Result<std::string> read_all(FdRef fd, size_t limit, std::string_view step, std::string_view path) {
  std::string text;
  size_t used = 0;
  for (;;) {
    if (used == text.size()) text.resize(text.empty() ? 4096 : text.size() * 2);
    const ssize_t count = ::read(fd.get(), text.data() + used, text.size() - used);
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno_error(step, "read", path);
    }
    if (count == 0) break;
    used += static_cast<size_t>(count);
    if (used > limit) return make_error(EFBIG, step, "read", path);
  }
  text.resize(used);
  return text;
}

Result<std::string> read_file(int directory, const char* path, std::string_view step) {
  Fd fd(::openat(directory, path, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_error(step, "openat", path);
  return read_all(fd.ref(), 16u << 20, step, path);
}

Result<void> write_file(int directory, const char* path, std::string_view value, std::string_view step) {
  Fd fd(::openat(directory, path, O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_error(step, "openat", path);
  for (;;) {
    const ssize_t count = ::write(fd.get(), value.data(), value.size());
    if (count == static_cast<ssize_t>(value.size())) return {};
    if (count < 0 && errno == EINTR) continue;
    if (count >= 0) errno = EIO;
    Error error = errno_error(step, "write", path);
    error.detail = "writing \"" + std::string(trim(value)) + "\"";
    return error;
  }
}

Result<void> write_all(FdRef fd, const void* data, size_t size, std::string_view step, std::string_view path) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::write(fd.get(), next, size);
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno_error(step, "write", path);
    }
    next += count;
    size -= static_cast<size_t>(count);
  }
  return {};
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

bool parse_u64(std::string_view text, uint64_t* value) {
  text = trim(text);
  if (text.empty()) return false;
  uint64_t result = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    const auto digit = static_cast<uint64_t>(c - '0');
    if (__builtin_mul_overflow(result, uint64_t{10}, &result) || __builtin_add_overflow(result, digit, &result)) return false;
  }
  *value = result;
  return true;
}

std::string_view next_word(std::string_view* text) {
  const size_t first = text->find_first_not_of(" \t");
  if (first == std::string_view::npos) {
    *text = {};
    return {};
  }
  text->remove_prefix(first);
  const std::string_view word = text->substr(0, text->find_first_of(" \t\n"));
  text->remove_prefix(word.size());
  return word;
}

}  // namespace berth::sys
