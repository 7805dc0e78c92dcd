// Two threads beside the extracting one: the first decompresses into a ring of chunks, the second hashes them. A chunk is
// used again when both the hash and the extraction have let it go.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/unpack/decompress.h"

namespace berth::unpack {

class Pipeline {
 public:
  struct Chunk {
    const uint8_t* data = nullptr;
    size_t size = 0;  // 0 at the end of the stream
  };

  // `max_bytes` bounds the uncompressed stream. The threads exist from here on, so that the caller can confine them
  // together with itself; they touch nothing before `run`.
  Pipeline(FdRef input, uint64_t max_bytes);
  // Only after the end of the stream was seen; a program that gives up earlier just exits.
  ~Pipeline();

  void run();
  // The next chunk, valid until the next call. One thread alone calls it.
  Result<Chunk> next();
  // Takes what is left of the stream and returns its hash. Errors as next().
  Result<void> finish(uint8_t (&sha256)[32]);
  [[nodiscard]] uint64_t stream_bytes() const { return produced_bytes_; }
  // The error that `next` has returned, for a caller that had to lose it in a C callback.
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 private:
  static constexpr size_t kChunkBytes = 256 * 1024;
  static constexpr size_t kChunks = 12;

  struct Slot {
    std::vector<uint8_t> bytes;
    size_t size = 0;
  };

  void decompress();
  Result<void> produce();
  void hash();
  void wait_for_start();

  FdRef input_;
  uint64_t max_bytes_;
  std::vector<Slot> slots_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Chunks counted from the first: produced, hashed, and released by the extraction.
  uint64_t produced_ = 0;
  uint64_t hashed_ = 0;
  uint64_t taken_ = 0;
  bool holding_ = false;  // the extraction still looks at chunk `taken_`
  bool started_ = false;
  bool ended_ = false;
  std::optional<Error> error_;
  uint64_t produced_bytes_ = 0;
  uint8_t digest_[32] = {};
  std::thread decompressor_;
  std::thread hasher_;
};

}  // namespace berth::unpack
