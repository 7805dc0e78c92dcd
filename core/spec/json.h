// Reading a RapidJSON document into typed values with the field's path in every refusal. The first refusal is kept and
// everything after it reads as empty, so that parsers are straight lines and check once, at the end.
#pragma once

#define RAPIDJSON_HAS_STDSTRING 0
#include <rapidjson/document.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace berth::spec::json {

// A component of a field's path, on the stack of whoever reads it.
struct Path {
  const Path* parent = nullptr;
  std::string_view key;
  int index = -1;  // >= 0: an array's element
  [[nodiscard]] std::string text() const;
};

// Keeps the first refusal.
class Refusal {
 public:
  void set(const Path* path, std::string_view why) {
    if (!error_) error_ = field_error("config.parse", path == nullptr ? std::string() : path->text(), why);
  }
  [[nodiscard]] bool any() const { return error_.has_value(); }
  [[nodiscard]] Error take() { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

class Node {
 public:
  Node(const rapidjson::Value& value, const Path* path, Refusal* refusal) : value_(value), path_(path), refusal_(refusal) {}

  void refuse(std::string_view why) const { refusal_->set(path_, why); }
  [[nodiscard]] bool refused() const { return refusal_->any(); }
  [[nodiscard]] const rapidjson::Value& value() const { return value_; }

  // A string without NUL; `empty_ok` false refuses "".
  [[nodiscard]] std::string_view string(bool empty_ok = true) const;
  [[nodiscard]] bool boolean() const;
  template <typename T>
  [[nodiscard]] T integer(T low = std::numeric_limits<T>::min(), T high = std::numeric_limits<T>::max()) const {
    if constexpr (std::is_signed_v<T>) {
      return static_cast<T>(signed_integer(low, high));
    } else {
      return static_cast<T>(unsigned_integer(low, high));
    }
  }

  // Calls visit(key, child) for each member that is not null. Keys that occur twice are refused.
  template <typename Visit>
  void members(const Visit& visit) const {
    if (!expect_object() || !keys_differ()) return;
    for (auto member = value_.MemberBegin(); member != value_.MemberEnd(); ++member) {
      if (refused()) return;
      const std::string_view key(member->name.GetString(), member->name.GetStringLength());
      const Path path{path_, key, -1};
      if (member->value.IsNull()) continue;
      visit(key, Node(member->value, &path, refusal_));
    }
  }

  // Calls visit(child) for each element.
  template <typename Visit>
  void elements(const Visit& visit) const {
    if (!expect_array()) return;
    int index = 0;
    for (const rapidjson::Value& element : value_.GetArray()) {
      if (refused()) return;
      const Path path{path_, {}, index++};
      visit(Node(element, &path, refusal_));
    }
  }

  [[nodiscard]] size_t array_size() const { return value_.IsArray() ? value_.Size() : 0; }
  // An array or object without members: what Go programs write for a feature that is not used.
  [[nodiscard]] bool is_empty() const {
    return (value_.IsArray() && value_.Empty()) || (value_.IsObject() && value_.ObjectEmpty()) ||
           (value_.IsString() && value_.GetStringLength() == 0);
  }

 private:
  [[nodiscard]] bool expect_object() const;
  [[nodiscard]] bool expect_array() const;
  [[nodiscard]] int64_t signed_integer(int64_t low, int64_t high) const;
  [[nodiscard]] uint64_t unsigned_integer(uint64_t low, uint64_t high) const;
  // Parsers disagree about which of two equal keys counts, so there may be none.
  [[nodiscard]] bool keys_differ() const;

  const rapidjson::Value& value_;
  const Path* path_;
  Refusal* refusal_;
};

// A parsed text: `text` is what the document's strings point into (they are decoded in place).
struct Document {
  std::unique_ptr<char[]> text;
  rapidjson::Document dom;
};

// Copies and parses. Refused: more than `max_bytes`, nesting deeper than `max_depth`, invalid UTF-8, what is no object.
Result<Document> parse(std::string_view json, size_t max_bytes, unsigned max_depth);

// Where the value of top-level member `outer`, member `inner` stands in the text, if it is an object; empty where there is
// none, or where the keys are written with escapes. Looks at brackets and quotes alone: what it finds in a text that is no JSON
// means nothing, but lies in the text.
std::string_view find_object(std::string_view json, std::string_view outer, std::string_view inner);

// The value, minified, members in their order.
std::string minified(const rapidjson::Value& value);

}  // namespace berth::spec::json
