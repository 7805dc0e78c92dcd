#include "core/unpack/protocol.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

namespace berth::unpack {
namespace {


// A writer and a reader of numbers and length-prefixed texts, in host order.
class Writer {
 public:
  explicit Writer(FrameType type) {
    number(kFrameMagic);
    number(static_cast<uint32_t>(type));
  }
  template <typename T>
  void number(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(std::string_view value, size_t limit) {
    value = value.substr(0, limit);
    number(static_cast<uint32_t>(value.size()));
    out_.append(value);
  }
  void raw(const void* data, size_t size) { out_.append(static_cast<const char*>(data), size); }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  template <typename T>
  T number() {
    T value = {};
    raw(&value, sizeof(value));
    return value;
  }
  std::string text() {
    const uint32_t size = number<uint32_t>();
    if (size > kMaxPathBytes || size > bytes_.size()) {
      good_ = false;
      return {};
    }
    std::string value(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return value;
  }
  void raw(void* out, size_t size) {
    if (bytes_.size() < size) {
      good_ = false;
      return;
    }
    std::memcpy(out, bytes_.data(), size);
    bytes_.remove_prefix(size);
  }
  // Everything was there, and nothing more.
  [[nodiscard]] bool complete() const { return good_ && bytes_.empty(); }

 private:
  std::string_view bytes_;
  bool good_ = true;
};

Error malformed(const char* what) { return make_error(EPROTO, "unpack.result", "decode", {}, what); }

// Relative, not empty unless the layer's root is meant, without `.`, `..`, empty components or NUL.
bool plain_path(std::string_view path, bool may_be_root) {
  if (path.empty()) return may_be_root;
  if (path.find('\0') != std::string_view::npos) return false;
  size_t start = 0;
  while (start <= path.size()) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string_view component = path.substr(start, end - start);
    if (component.empty() || component == "." || component == "..") return false;
    start = end + 1;
  }
  return true;
}

bool valid_item(const Item& item) {
  switch (item.kind) {
    case ItemKind::kOpaque:
    case ItemKind::kWhiteouts:
      return plain_path(item.path, true);
    case ItemKind::kDevice:
      return plain_path(item.path, false) && (S_ISCHR(item.mode) || S_ISBLK(item.mode)) && item.time_nanoseconds < 1000000000U;
    case ItemKind::kLink:
      return plain_path(item.path, false) && plain_path(item.target, false);
  }
  return false;
}

}  // namespace

std::string encode_frame(const Frame& frame) {
  if (const Item* item = std::get_if<Item>(&frame)) {
    Writer out(FrameType::kItem);
    out.number(static_cast<uint32_t>(item->kind));
    out.number(item->mode);
    out.number(item->uid);
    out.number(item->gid);
    out.number(item->device_major);
    out.number(item->device_minor);
    out.number(item->time_seconds);
    out.number(item->time_nanoseconds);
    out.text(item->path, kMaxPathBytes);
    out.text(item->target, kMaxPathBytes);
    return out.take();
  }
  if (const Outcome* outcome = std::get_if<Outcome>(&frame)) {
    Writer out(FrameType::kResult);
    out.raw(outcome->sha256, sizeof(outcome->sha256));
    out.number(outcome->stream_bytes);
    out.number(outcome->bytes);
    out.number(outcome->entries);
    out.number(outcome->inodes);
    out.number(outcome->items);
    return out.take();
  }
  const Failure& failure = *std::get_if<Failure>(&frame);
  Writer out(FrameType::kFailure);
  out.number(static_cast<int32_t>(failure.error_number));
  out.text(failure.step, 128);
  out.text(failure.syscall, 128);
  out.text(failure.path, kMaxPathBytes);
  out.text(failure.detail, kMaxPathBytes);
  return out.take();
}

Result<Frame> decode_frame(std::string_view bytes) {
  Reader in(bytes);
  if (in.number<uint32_t>() != kFrameMagic) return malformed("no frame");
  switch (static_cast<FrameType>(in.number<uint32_t>())) {
    case FrameType::kItem: {
      Item item;
      item.kind = static_cast<ItemKind>(in.number<uint32_t>());
      item.mode = in.number<uint32_t>();
      item.uid = in.number<uint32_t>();
      item.gid = in.number<uint32_t>();
      item.device_major = in.number<uint32_t>();
      item.device_minor = in.number<uint32_t>();
      item.time_seconds = in.number<int64_t>();
      item.time_nanoseconds = in.number<uint32_t>();
      item.path = in.text();
      item.target = in.text();
      if (!in.complete() || !valid_item(item)) return malformed("a bad item");
      return Frame(std::move(item));
    }
    case FrameType::kResult: {
      Outcome outcome;
      in.raw(outcome.sha256, sizeof(outcome.sha256));
      outcome.stream_bytes = in.number<uint64_t>();
      outcome.bytes = in.number<uint64_t>();
      outcome.entries = in.number<uint64_t>();
      outcome.inodes = in.number<uint64_t>();
      outcome.items = in.number<uint64_t>();
      if (!in.complete()) return malformed("a bad result");
      return Frame(outcome);
    }
    case FrameType::kFailure: {
      Failure failure;
      failure.error_number = in.number<int32_t>();
      failure.step = in.text();
      failure.syscall = in.text();
      failure.path = in.text();
      failure.detail = in.text();
      if (!in.complete() || failure.error_number <= 0 || failure.error_number > 4095) return malformed("a bad failure");
      return Frame(std::move(failure));
    }
  }
  return malformed("an unknown frame");
}

}  // namespace berth::unpack
