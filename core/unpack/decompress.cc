#include "core/unpack/decompress.h"

#include <isa-l.h>
#include <unistd.h>
#include <zstd.h>

#include <cstring>
#include <vector>

#include "core/unpack/protocol.h"

namespace berth::unpack {
namespace {

constexpr const char* kStep = "unpack.decompress";
constexpr size_t kInputBytes = 256 * 1024;

Error bad(std::string_view why) { return make_error(EBADMSG, kStep, "decompress", {}, why); }

// Compressed bytes, read ahead in blocks.
class Input {
 public:
  explicit Input(FdRef fd) : fd_(fd), buffer_(kInputBytes) {}

  // Reads on until at least `want` bytes are there or the input ends.
  Result<void> fill(size_t want) {
    if (size() >= want) return {};
    if (start_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + start_, size());
      end_ -= start_;
      start_ = 0;
    }
    while (!ended_ && size() < want) {
      const ssize_t got = ::read(fd_.get(), buffer_.data() + end_, buffer_.size() - end_);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno_error(kStep, "read");
      if (got == 0) ended_ = true;
      end_ += static_cast<size_t>(got);
    }
    return {};
  }
  [[nodiscard]] uint8_t* data() { return buffer_.data() + start_; }
  [[nodiscard]] size_t size() const { return end_ - start_; }
  [[nodiscard]] bool at_end() const { return ended_ && size() == 0; }
  void consume(size_t count) {
    start_ += count;
    consumed_ += count;
    if (start_ == end_) start_ = end_ = 0;
  }
  [[nodiscard]] uint64_t consumed() const { return consumed_; }

 private:
  FdRef fd_;
  std::vector<uint8_t> buffer_;
  size_t start_ = 0;
  size_t end_ = 0;
  bool ended_ = false;
  uint64_t consumed_ = 0;
};

class PlainDecompressor final : public Decompressor {
 public:
  explicit PlainDecompressor(Input input) : input_(std::move(input)) {}
  Result<size_t> read(uint8_t* out, size_t size) override {
    BERTH_TRY(input_.fill(1));
    const size_t count = std::min(size, input_.size());
    std::memcpy(out, input_.data(), count);
    input_.consume(count);
    return count;
  }
  [[nodiscard]] uint64_t consumed() const override { return input_.consumed(); }

 private:
  Input input_;
};

// A gzip file is a row of members (RFC 1952 section 2.2); pigz and seekable layers have many. Zero bytes may pad the end.
class GzipDecompressor final : public Decompressor {
 public:
  explicit GzipDecompressor(Input input) : input_(std::move(input)), state_(std::make_unique<inflate_state>()) {
    start_member();
  }

  Result<size_t> read(uint8_t* out, size_t size) override {
    size_t done = 0;
    while (done < size && !ended_) {
      BERTH_TRY(input_.fill(1));
      state_->next_in = input_.data();
      state_->avail_in = static_cast<uint32_t>(input_.size());
      state_->next_out = out + done;
      state_->avail_out = static_cast<uint32_t>(size - done);
      const bool starved = input_.size() == 0;
      const int code = isal_inflate(state_.get());
      const size_t taken = input_.size() - state_->avail_in;
      const size_t made = size - done - state_->avail_out;
      input_.consume(taken);
      done += made;
      if (code != ISAL_DECOMP_OK && code != ISAL_END_INPUT) return bad(explain(code));
      if (state_->block_state == ISAL_BLOCK_FINISH) {
        BERTH_TRY(next_member());
      } else if (starved && made == 0) {
        return bad("the gzip stream is truncated");
      }
    }
    return done;
  }
  [[nodiscard]] uint64_t consumed() const override { return input_.consumed(); }

 private:
  void start_member() {
    isal_inflate_init(state_.get());
    state_->crc_flag = ISAL_GZIP;
  }

  Result<void> next_member() {
    BERTH_TRY(input_.fill(2));
    if (input_.size() >= 2 && input_.data()[0] == 0x1f && input_.data()[1] == 0x8b) {
      start_member();
      return {};
    }
    while (!input_.at_end()) {
      for (size_t i = 0; i < input_.size(); ++i) {
        if (input_.data()[i] != 0) return bad("bytes that are not gzip after the end of the stream");
      }
      input_.consume(input_.size());
      BERTH_TRY(input_.fill(1));
    }
    ended_ = true;
    return {};
  }

  static std::string_view explain(int code) {
    switch (code) {
      case ISAL_INCORRECT_CHECKSUM:
        return "the gzip checksum differs";
      case ISAL_INVALID_WRAPPER:
      case ISAL_UNSUPPORTED_METHOD:
        return "the gzip header is invalid";
      case ISAL_INVALID_LOOKBACK:
        return "the gzip stream refers to bytes before its start";
      default:
        return "the gzip stream is corrupt";
    }
  }

  Input input_;
  std::unique_ptr<inflate_state> state_;
  bool ended_ = false;
};

struct FreeStream {
  void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
};

class ZstdDecompressor final : public Decompressor {
 public:
  explicit ZstdDecompressor(Input input) : input_(std::move(input)), stream_(ZSTD_createDStream()) {
    if (stream_ != nullptr) ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, static_cast<int>(kMaxZstdWindowLog));
  }

  Result<size_t> read(uint8_t* out, size_t size) override {
    if (stream_ == nullptr) return make_error(ENOMEM, kStep, "ZSTD_createDStream");
    ZSTD_outBuffer target = {out, size, 0};
    while (target.pos < size) {
      BERTH_TRY(input_.fill(1));
      if (input_.at_end() && frame_complete_) break;
      ZSTD_inBuffer source = {input_.data(), input_.size(), 0};
      const size_t before = target.pos;
      const size_t code = ZSTD_decompressStream(stream_.get(), &target, &source);
      if (ZSTD_isError(code)) return bad(std::string("zstd: ") + ZSTD_getErrorName(code));
      const bool stuck = source.pos == 0 && target.pos == before;
      input_.consume(source.pos);
      frame_complete_ = code == 0;
      if (stuck && !frame_complete_ && input_.at_end()) return bad("the zstd stream is truncated");
    }
    return target.pos;
  }
  [[nodiscard]] uint64_t consumed() const override { return input_.consumed(); }

 private:
  Input input_;
  std::unique_ptr<ZSTD_DStream, FreeStream> stream_;
  bool frame_complete_ = false;
};

bool starts_with(Input& input, std::string_view magic) {
  return input.size() >= magic.size() && std::memcmp(input.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

Result<std::unique_ptr<Decompressor>> open_decompressor(FdRef fd) {
  using namespace std::string_view_literals;
  Input input(fd);
  BERTH_TRY(input.fill(6));
  if (starts_with(input, "\x1f\x8b"sv)) return std::unique_ptr<Decompressor>(std::make_unique<GzipDecompressor>(std::move(input)));
  // A skippable frame (RFC 8878 section 3.1.2) may come before the first one.
  const bool skippable = input.size() >= 4 && (input.data()[0] & 0xf0) == 0x50 && std::memcmp(input.data() + 1, "\x2a\x4d\x18", 3) == 0;
  if (skippable || starts_with(input, "\x28\xb5\x2f\xfd"sv)) {
    return std::unique_ptr<Decompressor>(std::make_unique<ZstdDecompressor>(std::move(input)));
  }
  if (starts_with(input, "\xfd" "7zXZ\0"sv)) return bad("the layer is compressed with xz, which image layers may not be");
  if (starts_with(input, "BZh"sv)) return bad("the layer is compressed with bzip2, which image layers may not be");
  return std::unique_ptr<Decompressor>(std::make_unique<PlainDecompressor>(std::move(input)));
}

}  // namespace berth::unpack
