// What needs no real cgroup: layout, resources, conversions, paths. The rest is tested through the addon.
#include "core/cgroup/cgroup.h"

#include "core/cgroup/convert.h"
#include "test/native/check.h"

using namespace berth;
using namespace berth::cgroup;

namespace {

constexpr const char* kHybrid =
    "24 1 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "26 24 0:24 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children\n"
    "27 24 0:25 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio\n"
    "28 24 0:26 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
    "29 24 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    "30 1 0:23 / /var/lib/other/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";

std::string field_of(const char* json) {
  const Result<Resources> parsed = parse_resources(json);
  return parsed.ok() ? "" : parsed.error().path;
}

}  // namespace

TEST(layout_of_a_hybrid_host) {
  const Layout layout = parse_layout(kHybrid);
  CHECK(layout.mode == Mode::kHybrid);
  REQUIRE(layout.hierarchies.size() == 4);
  // cpuset is attached to first, and a hierarchy that is mounted twice counts once.
  CHECK_EQ(layout.hierarchies[0].mount, "/sys/fs/cgroup/cpuset");
  CHECK_EQ(layout.hierarchies[1].mount, "/sys/fs/cgroup/cpu,cpuacct");
  CHECK(layout.hierarchies[1].has("cpuacct"));
  CHECK(layout.hierarchies[3].has("name=systemd"));
  CHECK(layout.has("io"));
  CHECK(!layout.has("blkio"));
  CHECK(!layout.has("memory"));
}

TEST(layout_of_a_pure_v2_host) {
  const Layout layout = parse_layout("35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
  CHECK(layout.v2());
  REQUIRE(layout.hierarchies.size() == 1);
  CHECK_EQ(layout.mounts[0].second, "/sys/fs/cgroup");
}

TEST(layout_of_a_pure_v1_host) {
  const Layout layout = parse_layout("25 24 0:23 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  CHECK(layout.mode == Mode::kV1);
  CHECK(parse_layout("1 0 0:1 / / rw - ext4 /dev/vda rw\n").hierarchies.empty());
}

TEST(weight_meets_shares_at_both_defaults_and_both_ends) {
  CHECK_EQ(weight_from_shares(0), uint64_t{0});
  CHECK_EQ(weight_from_shares(1), uint64_t{1});
  CHECK_EQ(weight_from_shares(2), uint64_t{1});
  CHECK_EQ(weight_from_shares(1024), uint64_t{100});
  CHECK_EQ(weight_from_shares(262144), uint64_t{10000});
  CHECK_EQ(weight_from_shares(1u << 30), uint64_t{10000});
  uint64_t before = 0;
  for (uint64_t shares = 2; shares <= 262144; shares += 97) {
    const uint64_t weight = weight_from_shares(shares);
    if (!CHECK(weight >= before)) break;
    before = weight;
  }
}

TEST(io_weight) {
  CHECK_EQ(io_weight_from_blkio(0), uint64_t{0});
  CHECK_EQ(io_weight_from_blkio(10), uint64_t{1});
  CHECK_EQ(io_weight_from_blkio(1000), uint64_t{10000});
  CHECK_EQ(io_weight_from_blkio(5), uint64_t{1});
}

TEST(swap_is_what_is_above_the_memory_limit) {
  const auto value = [](std::optional<int64_t> limit, std::optional<int64_t> sum) { return swap_max(limit, sum); };
  CHECK(value(100, 100).value() == std::optional<int64_t>(0));
  CHECK(value(100, 300).value() == std::optional<int64_t>(200));
  CHECK(value(100, -1).value() == std::optional<int64_t>(-1));
  CHECK(value(-1, std::nullopt).value() == std::optional<int64_t>(-1));
  CHECK(!value(100, std::nullopt).value().has_value());
  CHECK(!value(std::nullopt, 0).value().has_value());
  CHECK(!value(300, 100).ok());
  CHECK(!value(std::nullopt, 100).ok());
  CHECK(!value(-1, 100).ok());
}

TEST(resources_are_read_whole) {
  Result<Resources> parsed = parse_resources(R"({
    "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
                {"allow": true, "type": "u", "major": 10}],
    "memory": {"limit": 1048576, "reservation": 524288, "swap": -1, "swappiness": 60, "disableOOMKiller": true, "checkBeforeUpdate": true},
    "cpu": {"shares": 1024, "quota": -1, "period": 100000, "burst": 10, "cpus": "0-1", "mems": "0", "idle": 1},
    "pids": {"limit": 0},
    "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 300}, {"major": 8, "minor": 16, "leafWeight": 9}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
    "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
    "rdma": {"mlx5_1": {"hcaHandles": 3}},
    "unified": {"memory.high": "1000"},
    "somethingOfTomorrow": {"a": 1}})");
  REQUIRE(parsed.ok());
  const Resources& r = *parsed;
  REQUIRE(r.devices.has_value() && r.devices->size() == 3);
  CHECK_EQ(v1_line((*r.devices)[0]), "a *:* rwm");
  CHECK_EQ(v1_line((*r.devices)[1]), "c 1:3 rw");
  CHECK_EQ(v1_line((*r.devices)[2]), "c 10:* rwm");
  CHECK(r.memory.limit == 1048576 && r.memory.swap == -1 && r.memory.swappiness == 60u && r.memory.disable_oom_killer == true);
  CHECK(r.memory.check_before_update);
  CHECK(r.cpu.shares == 1024u && r.cpu.quota == -1 && r.cpu.idle == 1);
  CHECK_EQ(r.cpu.cpus, "0-1");
  CHECK(r.pids_limit == 0);
  CHECK_EQ(r.block_io.weight_device.size(), size_t{1});
  CHECK_EQ(r.block_io.leaf_weight_device.size(), size_t{1});
  CHECK_EQ(r.block_io.read_bps.size(), size_t{1});
  CHECK_EQ(r.hugepages[0].page_size, "2MB");
  CHECK_EQ(r.network_priorities[0].name, "eth0");
  CHECK(r.rdma[0].handles == 3u && !r.rdma[0].objects.has_value());
  CHECK_EQ(r.unified[0].file, "memory.high");
}

TEST(refused_resources_name_their_field) {
  CHECK_EQ(field_of(R"({"memory": {"limit": "1G"}})"), "linux.resources.memory.limit");
  CHECK_EQ(field_of(R"({"memory": {"limit": 1.5}})"), "linux.resources.memory.limit");
  CHECK_EQ(field_of(R"({"memory": {"limit": -2}})"), "linux.resources.memory.limit");
  CHECK_EQ(field_of(R"({"memory": []})"), "linux.resources.memory");
  CHECK_EQ(field_of(R"({"cpu": {"shares": -1}})"), "linux.resources.cpu.shares");
  CHECK_EQ(field_of(R"({"devices": [{"allow": true}, {"allow": true, "access": "rx"}]})"), "linux.resources.devices[1].access");
  CHECK_EQ(field_of(R"({"devices": [{"allow": true, "type": "a", "major": 1}]})"), "linux.resources.devices[0].type");
  CHECK_EQ(field_of(R"({"devices": [{"type": "c"}]})"), "linux.resources.devices[0].allow");
  CHECK_EQ(field_of(R"({"unified": {"../cpu.max": "1"}})"), "linux.resources.unified.../cpu.max");
  CHECK_EQ(field_of(R"({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]})"), "linux.resources.hugepageLimits[0].pageSize");
  CHECK_EQ(field_of("[]"), "linux.resources");
  CHECK_EQ(field_of("{"), "linux.resources");
  CHECK_EQ(field_of("null"), "");
  CHECK_EQ(field_of(R"({"memory": null, "cpu": {"shares": null}})"), "");
}

TEST(deep_nesting_costs_no_stack) {
  std::string deep(200000, '[');
  CHECK_EQ(field_of(deep.c_str()), "linux.resources");
}

TEST(paths_that_are_no_cgroup) {
  CHECK(check_path("/kubepods/pod1/c").ok());
  for (const char* bad : {"", "/", "kubepods", "/a/../b", "/a//b", "/a/", "/./a", "/a\nb"}) CHECK(!check_path(bad).ok());
  CHECK(!check_path("/" + std::string(300, 'x')).ok());
}

CHECK_MAIN()
