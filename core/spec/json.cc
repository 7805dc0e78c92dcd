#include "core/spec/json.h"

#include <rapidjson/error/en.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <cstring>
#include <unordered_set>

namespace berth::spec::json {

namespace {

// Nesting outside of strings. Linear, and done before the parser sees the text.
bool nests_deeper(std::string_view json, unsigned max_depth) {
  unsigned depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case '{':
      case '[':
        if (++depth > max_depth) return true;
        break;
      case '}':
      case ']':
        if (depth > 0) --depth;
        break;
      default:
        break;
    }
  }
  return false;
}

}  // namespace

std::string Path::text() const {
  std::string out = parent != nullptr ? parent->text() : std::string();
  if (index >= 0) {
    out += '[';
    out += std::to_string(index);
    out += ']';
    return out;
  }
  if (!out.empty()) out += '.';
  // A hostile key is quoted no longer than a reader wants it.
  out += key.substr(0, 64);
  return out;
}

std::string_view Node::string(bool empty_ok) const {
  if (!value_.IsString()) {
    refuse("not a string");
    return std::string_view("", 0);
  }
  const std::string_view text(value_.GetString(), value_.GetStringLength());
  if (text.find('\0') != std::string_view::npos) {
    refuse("contains a NUL character");
    return std::string_view("", 0);
  }
  if (text.empty() && !empty_ok) refuse("is empty");
  return text;
}

bool Node::boolean() const {
  if (!value_.IsBool()) {
    refuse("not a boolean");
    return false;
  }
  return value_.GetBool();
}

int64_t Node::signed_integer(int64_t low, int64_t high) const {
  if (!value_.IsInt64()) {
    refuse(value_.IsNumber() ? "out of range or no integer" : "not an integer");
    return 0;
  }
  const int64_t number = value_.GetInt64();
  if (number < low || number > high) {
    refuse("out of range");
    return 0;
  }
  return number;
}

uint64_t Node::unsigned_integer(uint64_t low, uint64_t high) const {
  if (!value_.IsUint64()) {
    refuse(value_.IsNumber() ? "out of range or no integer" : "not an integer");
    return 0;
  }
  const uint64_t number = value_.GetUint64();
  if (number < low || number > high) {
    refuse("out of range");
    return 0;
  }
  return number;
}

bool Node::expect_object() const {
  if (value_.IsObject()) return true;
  refuse("not an object");
  return false;
}

bool Node::expect_array() const {
  if (value_.IsArray()) return true;
  refuse("not an array");
  return false;
}

bool Node::keys_differ() const {
  const auto key_of = [](const rapidjson::Value::Member& member) {
    return std::string_view(member.name.GetString(), member.name.GetStringLength());
  };
  const auto refuse_key = [this](std::string_view key) {
    const Path path{path_, key, -1};
    refusal_->set(&path, "given twice");
    return false;
  };
  if (value_.MemberCount() > 32) {
    std::unordered_set<std::string_view> seen;
    seen.reserve(value_.MemberCount());
    for (const auto& member : value_.GetObject()) {
      if (!seen.insert(key_of(member)).second) return refuse_key(key_of(member));
    }
    return true;
  }
  for (auto member = value_.MemberBegin(); member != value_.MemberEnd(); ++member) {
    for (auto earlier = value_.MemberBegin(); earlier != member; ++earlier) {
      if (key_of(*earlier) == key_of(*member)) return refuse_key(key_of(*member));
    }
  }
  return true;
}

Result<Document> parse(std::string_view json, size_t max_bytes, unsigned max_depth) {
  if (json.size() > max_bytes) return field_error("config.parse", "", "longer than " + std::to_string(max_bytes) + " bytes");
  // The parser ends at a NUL and would take the part before it for the whole.
  if (json.find('\0') != std::string_view::npos) return field_error("config.parse", "", "contains a NUL byte");
  if (nests_deeper(json, max_depth)) {
    return field_error("config.parse", "", "nested deeper than " + std::to_string(max_depth));
  }
  Document document;
  document.text = std::make_unique_for_overwrite<char[]>(json.size() + 1);
  if (!json.empty()) std::memcpy(document.text.get(), json.data(), json.size());
  document.text[json.size()] = '\0';
  document.dom.ParseInsitu<rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag>(document.text.get());
  if (document.dom.HasParseError()) {
    return field_error("config.parse", "",
                       std::string(rapidjson::GetParseError_En(document.dom.GetParseError())) + " at byte " +
                           std::to_string(document.dom.GetErrorOffset()));
  }
  if (!document.dom.IsObject()) return field_error("config.parse", "", "not an object");
  return document;
}

std::string_view find_object(std::string_view json, std::string_view outer, std::string_view inner) {
  unsigned depth = 0;
  bool in_outer = false;
  std::string_view last;  // the string that was read last, at this depth
  std::string_view key;   // and, behind a colon, the key that the next value belongs to
  size_t begin = 0;       // of the object that is looked for, behind its bracket
  for (size_t i = 0; i < json.size(); ++i) {
    switch (json[i]) {
      case '"': {
        const size_t start = ++i;
        while (i < json.size() && json[i] != '"') i += json[i] == '\\' ? 2 : 1;
        if (i >= json.size()) return {};
        last = json.substr(start, i - start);
        break;
      }
      case ':':
        key = last;
        break;
      case ',':
        key = {};
        break;
      case '{':
      case '[':
        ++depth;
        if (depth == 2) in_outer = json[i] == '{' && key == outer;
        if (depth == 3 && in_outer && begin == 0 && json[i] == '{' && key == inner) begin = i + 1;
        key = {};
        break;
      case '}':
      case ']':
        if (depth == 0) return {};
        if (depth == 3 && begin != 0) return json.substr(begin - 1, i + 1 - (begin - 1));
        --depth;
        break;
      default:
        break;
    }
  }
  return {};
}

std::string minified(const rapidjson::Value& value) {
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  value.Accept(writer);
  return std::string(buffer.GetString(), buffer.GetSize());
}

}  // namespace berth::spec::json
