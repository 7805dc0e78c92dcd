#include "conmon/log.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace berth::monitor {
namespace {

void put_digits(char* out, unsigned value, int width) {
  for (int i = width - 1; i >= 0; --i) {
    out[i] = static_cast<char>('0' + value % 10);
    value /= 10;
  }
}

// Civil date of a day since the epoch, in the proleptic Gregorian calendar: years are counted from March, so that the leap
// day is the last of its year, in eras of 400 years.
void put_date(char* out, int64_t day) {
  const int64_t shifted = day + 719468;
  const int64_t era = shifted / 146097;
  const auto day_of_era = static_cast<unsigned>(shifted - era * 146097);
  const unsigned year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const unsigned month_from_march = (5 * day_of_year + 2) / 153;
  const unsigned day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
  const unsigned month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9;
  const auto year = static_cast<unsigned>(era * 400 + year_of_era + (month <= 2 ? 1 : 0));
  put_digits(out, year, 4);
  out[4] = '-';
  put_digits(out + 5, month, 2);
  out[7] = '-';
  put_digits(out + 8, day_of_month, 2);
}

int open_log(int directory, const char* name, uint64_t* size) {
  const int fd = ::openat(directory, name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC | O_NONBLOCK, 0640);
  if (fd < 0) return -1;
  struct stat about = {};
  if (::fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) {
    ::close(fd);
    errno = EINVAL;
    return -1;
  }
  *size = static_cast<uint64_t>(about.st_size);
  return fd;
}

}  // namespace

int Log::open(int directory, const char* name, uint64_t max_bytes) {
  const size_t size = std::strlen(name);
  if (size == 0 || size >= sizeof(name_)) return ENAMETOOLONG;
  std::memcpy(name_, name, size + 1);
  directory_ = directory;
  max_bytes_ = max_bytes;
  file_ = open_log(directory_, name_, &bytes_);
  return file_ < 0 ? errno : 0;
}

int Log::reopen() {
  uint64_t size = 0;
  const int fd = open_log(directory_, name_, &size);
  if (fd < 0) return errno;
  ::close(file_);
  file_ = fd;
  bytes_ = size;
  torn_ = false;
  return 0;
}

void Log::stamp(char* out) {
  struct timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (now.tv_sec != second_) {
    second_ = now.tv_sec;
    const int64_t day = second_ / 86400;
    const auto of_day = static_cast<unsigned>(second_ % 86400);
    put_date(second_text_, day);
    second_text_[10] = 'T';
    put_digits(second_text_ + 11, of_day / 3600, 2);
    second_text_[13] = ':';
    put_digits(second_text_ + 14, of_day / 60 % 60, 2);
    second_text_[16] = ':';
    put_digits(second_text_ + 17, of_day % 60, 2);
    second_text_[19] = '.';
  }
  std::memcpy(out, second_text_, sizeof(second_text_));
  put_digits(out + 20, static_cast<unsigned>(now.tv_nsec), 9);
  out[29] = 'Z';
}

void Log::feed(StreamName stream, const char* data, size_t size) {
  auto& carry = carry_[static_cast<int>(stream)];
  while (size > 0) {
    const size_t space = kMaxLine - carry.size;
    // One byte more than fits: a newline right after a full line still ends it whole.
    const size_t window = size < space + 1 ? size : space + 1;
    const void* newline = std::memchr(data, '\n', window);
    if (newline != nullptr) {
      const size_t length = static_cast<size_t>(static_cast<const char*>(newline) - data);
      emit(stream, 'F', data, length + 1, true);
      data += length + 1;
      size -= length + 1;
    } else if (window == space + 1) {
      emit(stream, 'P', data, space, false);
      data += space;
      size -= space;
    } else {
      std::memcpy(carry.text + carry.size, data, size);
      carry.size += size;
      break;
    }
  }
  flush();
}

void Log::finish(StreamName stream) {
  if (carry_[static_cast<int>(stream)].size == 0) return;
  emit(stream, 'P', "", 0, false);
  flush();
}

void Log::trim() {
  constexpr uintptr_t page = 4096;
  const auto give_back = [](char* begin, size_t keep, size_t size) {
    const uintptr_t from = (reinterpret_cast<uintptr_t>(begin) + keep + page - 1) & ~(page - 1);
    const uintptr_t to = (reinterpret_cast<uintptr_t>(begin) + size) & ~(page - 1);
    if (from < to) (void)::madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
  };
  give_back(text_, page, sizeof(text_));
  for (auto& carry : carry_) give_back(carry.text, carry.size, sizeof(carry.text));
}

void Log::emit(StreamName stream, char tag, const char* rest, size_t rest_size, bool has_newline) {
  auto& carry = carry_[static_cast<int>(stream)];
  const bool by_reference = rest_size >= kByReference;
  reserve(kPrefix + carry.size + (by_reference ? 0 : rest_size) + 1);
  char prefix[kPrefix];
  stamp(prefix);
  std::memcpy(prefix + kStamp, stream == StreamName::kStdout ? " stdout " : " stderr ", 8);
  prefix[kStamp + 8] = tag;
  prefix[kStamp + 9] = ' ';
  add_copy(prefix, sizeof(prefix));
  // The carry is used again before the batch is written, so it is always copied.
  add_copy(carry.text, carry.size);
  carry.size = 0;
  if (by_reference) {
    add_reference(rest, rest_size);
  } else {
    add_copy(rest, rest_size);
  }
  if (!has_newline) add_copy("\n", 1);
}

// Room for `text` copied bytes and for one referenced piece with copied text before and after it.
void Log::reserve(size_t text) {
  if (text_size_ + text > kText || part_count_ + 3 > kParts) flush();
}

void Log::add_copy(const char* data, size_t size) {
  if (size == 0) return;
  char* const to = text_ + text_size_;
  std::memcpy(to, data, size);
  text_size_ += size;
  if (part_count_ > 0) {
    struct iovec& last = parts_[part_count_ - 1];
    if (static_cast<char*>(last.iov_base) + last.iov_len == to) {
      last.iov_len += size;
      return;
    }
  }
  parts_[part_count_++] = {to, size};
}

void Log::add_reference(const char* data, size_t size) {
  // SAFETY: writev only reads.
  parts_[part_count_++] = {const_cast<char*>(data), size};
}

void Log::flush() {
  size_t left = 0;
  for (int i = 0; i < part_count_; ++i) left += parts_[i].iov_len;
  struct iovec* part = parts_;
  int count = part_count_;
  part_count_ = 0;
  text_size_ = 0;
  if (left == 0 || file_ < 0) return;
  if (max_bytes_ != 0 && bytes_ + left > max_bytes_) {
    dropped_ += left;
    return;
  }
  if (torn_) {
    if (::write(file_, "\n", 1) != 1) {
      dropped_ += left;
      return;
    }
    torn_ = false;
    ++bytes_;
  }
  char last = '\n';
  while (left > 0) {
    const ssize_t written = ::writev(file_, part, count);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      dropped_ += left;
      torn_ = last != '\n';
      return;
    }
    auto done = static_cast<size_t>(written);
    bytes_ += done;
    left -= done;
    while (count > 0 && done >= part->iov_len) {
      done -= part->iov_len;
      if (part->iov_len > 0) last = static_cast<char*>(part->iov_base)[part->iov_len - 1];
      ++part;
      --count;
    }
    if (count > 0 && done > 0) {
      last = static_cast<char*>(part->iov_base)[done - 1];
      part->iov_base = static_cast<char*>(part->iov_base) + done;
      part->iov_len -= done;
    }
  }
}

}  // namespace berth::monitor
