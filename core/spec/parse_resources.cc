// linux.resources is applied by core/cgroup; here it is only read through, so that a broken one is refused with its
// field's path before anything is made.
#include "core/spec/sections.h"

namespace berth::spec {

namespace {

using json::Node;

void check_unsigned(const Node& node) { (void)node.integer<uint64_t>(); }
void check_signed(const Node& node) { (void)node.integer<int64_t>(); }
void check_string(const Node& node) { (void)node.string(); }

bool one_of(string_view key, std::initializer_list<string_view> names) {
  for (const string_view name : names) {
    if (key == name) return true;
  }
  return false;
}

void check_device(const Node& node) {
  bool has_allow = false;
  node.members([&](string_view key, const Node& field) {
    if (key == "allow") {
      (void)field.boolean();
      has_allow = true;
    } else if (key == "type") {
      const string_view type = field.string();
      if (!one_of(type, {"", "a", "b", "c"})) field.refuse("not a, b or c");
    } else if (key == "major" || key == "minor") {
      (void)field.integer<int64_t>(-1, 0xffffffff);
    } else if (key == "access") {
      for (const char c : field.string()) {
        if (c != 'r' && c != 'w' && c != 'm') return field.refuse("not made of r, w and m");
      }
    }
  });
  if (!has_allow) node.refuse("allow is missing");
}

void check_memory(const Node& node) {
  node.members([](string_view key, const Node& field) {
    if (one_of(key, {"limit", "reservation", "swap", "kernel", "kernelTCP"})) {
      check_signed(field);
    } else if (key == "swappiness") {
      check_unsigned(field);
    } else if (one_of(key, {"disableOOMKiller", "useHierarchy", "checkBeforeUpdate"})) {
      (void)field.boolean();
    }
  });
}

void check_cpu(const Node& node) {
  node.members([](string_view key, const Node& field) {
    if (one_of(key, {"shares", "period", "realtimePeriod", "burst"})) {
      check_unsigned(field);
    } else if (one_of(key, {"quota", "realtimeRuntime", "idle"})) {
      check_signed(field);
    } else if (one_of(key, {"cpus", "mems"})) {
      check_string(field);
    }
  });
}

void check_throttle(const Node& node, bool weights) {
  node.elements([&](const Node& element) {
    element.members([&](string_view key, const Node& field) {
      if (one_of(key, {"major", "minor"})) {
        check_signed(field);
      } else if (weights ? one_of(key, {"weight", "leafWeight"}) : key == "rate") {
        check_unsigned(field);
      }
    });
  });
}

void check_block_io(const Node& node) {
  node.members([](string_view key, const Node& field) {
    if (one_of(key, {"weight", "leafWeight"})) {
      (void)field.integer<uint16_t>();
    } else if (key == "weightDevice") {
      check_throttle(field, true);
    } else if (one_of(key, {"throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice",
                            "throttleWriteIOPSDevice"})) {
      check_throttle(field, false);
    }
  });
}

}  // namespace

void check_resources(const Node& node) {
  node.members([](string_view key, const Node& field) {
    if (key == "devices") {
      field.elements([](const Node& element) { check_device(element); });
    } else if (key == "memory") {
      check_memory(field);
    } else if (key == "cpu") {
      check_cpu(field);
    } else if (key == "pids") {
      field.members([](string_view name, const Node& value) {
        if (name == "limit") check_signed(value);
      });
    } else if (key == "blockIO") {
      check_block_io(field);
    } else if (key == "hugepageLimits") {
      field.elements([](const Node& element) {
        element.members([](string_view name, const Node& value) {
          if (name == "pageSize") {
            check_string(value);
          } else if (name == "limit") {
            check_unsigned(value);
          }
        });
      });
    } else if (key == "network") {
      field.members([](string_view name, const Node& value) {
        if (name == "classID") {
          (void)value.integer<uint32_t>();
        } else if (name == "priorities") {
          value.elements([](const Node& element) {
            element.members([](string_view part, const Node& inner) {
              if (part == "name") {
                check_string(inner);
              } else if (part == "priority") {
                (void)inner.integer<uint32_t>();
              }
            });
          });
        }
      });
    } else if (key == "rdma") {
      field.members([](string_view, const Node& limits) {
        limits.members([](string_view, const Node& value) { (void)value.integer<uint32_t>(); });
      });
    } else if (key == "unified") {
      field.members([](string_view name, const Node& value) {
        check_string(value);
        if (name.empty() || name.find('/') != string_view::npos) value.refuse("not the name of a cgroup file");
      });
    }
  });
}

}  // namespace berth::spec
