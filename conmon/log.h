// The container's log in the CRI format: `2024-02-29T23:59:59.123456789Z stdout F text`, one line of output each.
//
// - A line is joined across reads, however it was written. Past 16 KiB it is split into parts tagged P; its last part is F.
// - A line that has no newline when its stream ends is tagged P, as containerd tags it: a reader then adds no newline that
//   the program never wrote.
// - Every byte passes through, NUL and carriage return too; only a newline ends a line.
// - What cannot be written (a full disk, the size limit) is dropped and counted; after a write that broke off inside a line
//   the next one begins on a line of its own.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

namespace berth::monitor {

enum class StreamName : uint8_t { kStdout, kStderr };

class Log {
 public:
  // Zeroed memory and this make a log without a file, which drops what it is fed.
  void reset() {
    file_ = -1;
    second_ = -1;
  }

  static constexpr size_t kMaxLine = 16384;
  static constexpr size_t kStamp = 30;   // the timestamp
  static constexpr size_t kPrefix = 40;  // with stream and tag

  // Opens `name` (O_APPEND, made with 0640) in `directory`, which stays the caller's. 0, or errno. `max_bytes` 0: no limit.
  int open(int directory, const char* name, uint64_t max_bytes);
  // The same name anew; the old file is closed once the new one exists. 0, or errno with the old file kept.
  int reopen();

  // Takes what was read of a stream and writes every line that is complete.
  void feed(StreamName stream, const char* data, size_t size);
  // The stream has ended: writes what has no newline.
  void finish(StreamName stream);

  // Gives back memory that lines between batches do not need.
  void trim();

  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] uint64_t dropped_bytes() const { return dropped_; }

 private:
  static constexpr int kParts = 64;
  static constexpr size_t kText = 65536;
  // A piece of a line at least this long is written from where it lies instead of being copied.
  static constexpr size_t kByReference = 1024;

  void emit(StreamName stream, char tag, const char* rest, size_t rest_size, bool has_newline);
  void stamp(char* out);
  void add_copy(const char* data, size_t size);
  void add_reference(const char* data, size_t size);
  void reserve(size_t text);
  void flush();

  int file_;
  int directory_;
  bool torn_;
  uint64_t bytes_;
  uint64_t dropped_;
  uint64_t max_bytes_;
  int64_t second_;        // of `second_text_`
  char second_text_[20];  // 2024-02-29T23:59:59.
  char name_[256];
  struct {
    size_t size;
    char text[kMaxLine];
  } carry_[2];
  int part_count_;
  size_t text_size_;
  struct iovec parts_[kParts];
  char text_[kText];
};

}  // namespace berth::monitor
