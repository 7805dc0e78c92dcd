#include "core/unpack/pipeline.h"

// The one-shot interface of libcrypto 3 drags in its provider machinery; the block functions alone are what is wanted,
// with SHA extensions where the processor has them.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "core/unpack/protocol.h"

namespace berth::unpack {

Pipeline::Pipeline(FdRef input, uint64_t max_bytes)
    : input_(input),
      max_bytes_(max_bytes),
      slots_(kChunks),
      decompressor_([this] { decompress(); }),
      hasher_([this] { hash(); }) {}

Pipeline::~Pipeline() {
  decompressor_.join();
  if (hasher_.joinable()) hasher_.join();
}

void Pipeline::run() {
  const std::lock_guard lock(mutex_);
  started_ = true;
  changed_.notify_all();
}

void Pipeline::wait_for_start() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return started_; });
}

void Pipeline::decompress() {
  wait_for_start();
  Result<void> result = produce();
  const std::lock_guard lock(mutex_);
  if (!result.ok()) error_ = std::move(result).error();
  ended_ = true;
  changed_.notify_all();
}

Result<void> Pipeline::produce() {
  BERTH_ASSIGN(const std::unique_ptr<Decompressor> source, open_decompressor(input_));
  for (;;) {
    Slot* slot = nullptr;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return produced_ - std::min(hashed_, taken_) < kChunks; });
      slot = &slots_[produced_ % kChunks];
    }
    slot->bytes.resize(kChunkBytes);
    BERTH_ASSIGN(slot->size, source->read(slot->bytes.data(), slot->bytes.size()));
    const std::lock_guard lock(mutex_);
    if (slot->size == 0) return {};
    produced_bytes_ += slot->size;
    if (produced_bytes_ > max_bytes_) {
      return make_error(EFBIG, "unpack.decompress", "limit", {},
                        "the layer has more than " + std::to_string(max_bytes_) + " uncompressed bytes");
    }
    if (produced_bytes_ > kRatioFloor && produced_bytes_ / kMaxRatio > source->consumed()) {
      return make_error(EFBIG, "unpack.decompress", "limit", {},
                        "the layer grows more than " + std::to_string(kMaxRatio) + " times when it is uncompressed");
    }
    ++produced_;
    changed_.notify_all();
  }
}

void Pipeline::hash() {
  wait_for_start();
  SHA256_CTX context;
  SHA256_Init(&context);
  for (;;) {
    const Slot* slot = nullptr;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return hashed_ < produced_ || ended_; });
      if (hashed_ == produced_) break;
      slot = &slots_[hashed_ % kChunks];
    }
    SHA256_Update(&context, slot->bytes.data(), slot->size);
    const std::lock_guard lock(mutex_);
    ++hashed_;
    changed_.notify_all();
  }
  SHA256_Final(digest_, &context);
}

Result<Pipeline::Chunk> Pipeline::next() {
  std::unique_lock lock(mutex_);
  if (holding_) {
    ++taken_;
    holding_ = false;
    changed_.notify_all();
  }
  changed_.wait(lock, [this] { return taken_ < produced_ || ended_; });
  if (taken_ < produced_) {
    holding_ = true;
    const Slot& slot = slots_[taken_ % kChunks];
    return Chunk{slot.bytes.data(), slot.size};
  }
  if (error_.has_value()) return *error_;
  return Chunk{};
}

Result<void> Pipeline::finish(uint8_t (&sha256)[32]) {
  for (;;) {
    BERTH_ASSIGN(const Chunk chunk, next());
    if (chunk.size == 0) break;
  }
  hasher_.join();
  std::memcpy(sha256, digest_, sizeof(digest_));
  return {};
}

}  // namespace berth::unpack
