#include "core/spec/parse.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstdlib>

#include "core/spec/json.h"
#include "test/native/check.h"
#include "test/native/spec/sample.h"

namespace {

using berth::Error;
using berth::Result;
using berth::spec::parse_config;
using berth::spec::parse_process;
using berth::spec::Spec;
using berth::test::kSample;
using berth::test::replaced;

// The text is refused at this field.
void check_refused(const std::string& json, std::string_view field, int line) {
  const auto parsed = parse_config(json);
  if (parsed.ok()) {
    berth::test::report(false, __FILE__, line, "accepted, expected a refusal at " + std::string(field));
    return;
  }
  berth::test::equal(parsed.error().path, std::string(field), __FILE__, line, "field", "the field");
  berth::test::equal(parsed.error().error_number, EINVAL, __FILE__, line, "errno", "EINVAL");
  berth::test::report(!parsed.error().detail.empty(), __FILE__, line, "a refusal without a reason");
}
#define CHECK_REFUSED(json, field) check_refused((json), (field), __LINE__)

std::string changed(std::string_view from, std::string_view to) { return replaced(kSample, from, to); }

}  // namespace

TEST(reads_every_section) {
  const auto parsed = parse_config(kSample);
  REQUIRE(parsed.ok());
  const Spec& spec = parsed.value();
  REQUIRE(spec.process.has_value());
  CHECK_EQ(spec.process->user.uid, 1000u);
  CHECK_EQ(spec.process->user.gid, 1001u);
  CHECK_EQ(spec.process->user.additional_gids.size(), 2u);
  CHECK_EQ(*spec.process->user.umask, 23u);
  CHECK_EQ(spec.process->args.size(), 2u);
  CHECK_EQ(spec.process->args[1], "--flag");
  CHECK_EQ(spec.process->cwd, "/app");
  CHECK_EQ(spec.process->capabilities->bounding, (1ull << 0) | (1ull << 5));
  CHECK_EQ(spec.process->capabilities->effective, 1ull << 0);
  CHECK_EQ(spec.process->rlimits->size(), 1u);
  CHECK_EQ((*spec.process->rlimits)[0].resource, static_cast<int>(RLIMIT_CORE));
  CHECK_EQ(*spec.process->oom_score_adj, 100);
  CHECK_EQ(*spec.process->no_new_privileges, false);
  CHECK(spec.root.readonly);
  CHECK_EQ(spec.hostname, "pod");
  CHECK_EQ(spec.mounts.size(), 5u);
  CHECK(spec.mounts[4].options.recursive_bind);
  CHECK_EQ(spec.mounts[4].options.propagation, static_cast<uint64_t>(MS_SLAVE | MS_REC));
  CHECK_EQ(spec.linux_section.namespaces.size(), 6u);
  CHECK(spec.find_namespace(CLONE_NEWNET) != nullptr);
  CHECK(spec.find_namespace(CLONE_NEWUSER) == nullptr);
  CHECK_EQ(spec.linux_section.sysctl[0].path, "net/ipv4/ip_unprivileged_port_start");
  CHECK_EQ(spec.linux_section.masked_paths.size(), 2u);
  CHECK_EQ(spec.linux_section.cgroups_path, "/berth-test/one");
  CHECK(!spec.linux_section.seccomp.empty());
}

TEST(strings_end_in_nul) {
  const auto parsed = parse_config(kSample);
  REQUIRE(parsed.ok());
  CHECK_EQ(std::string(parsed.value().mounts[4].source.data()), "/srv/data");
}

TEST(passes_over_unknown_properties_and_null) {
  CHECK(parse_config(changed("\"hostname\": \"pod\",", "\"hostname\": \"pod\", \"x-custom\": {\"a\": [1]}, \"hooks\": null,")).ok());
  CHECK(parse_config(changed("\"hostname\": \"pod\",", "\"hooks\": {\"prestart\": []}, \"annotations\": {\"a\": \"b\"},")).ok());
}

TEST(refuses_what_is_not_json) {
  for (const char* text : {"", "[]", "{", "null", "{\"a\":}", "{\"ociVersion\":\"1.0.0\"} x"}) CHECK(!parse_config(text).ok());
  CHECK(!parse_config(std::string("{\"ociVersion\":\"1.0.0\"}") + '\0' + "{}").ok());
}

TEST(refuses_deep_nesting) {
  std::string text = "{\"ociVersion\":\"1.0.0\",\"x\":";
  for (int i = 0; i < 100000; ++i) text += '[';
  const auto parsed = parse_config(text);
  REQUIRE(!parsed.ok());
  CHECK(parsed.error().detail.find("nested") != std::string::npos);
}

TEST(brackets_in_strings_are_no_nesting) {
  std::string brackets(200, '[');
  CHECK(parse_config(changed("\"hostname\"", "\"annotations\": {\"a\": \"\\\"" + brackets + "\"}, \"hostname\"")).ok());
}

TEST(refuses_repeated_keys) {
  CHECK_REFUSED(changed("\"hostname\": \"pod\"", "\"hostname\": \"pod\", \"hostname\": \"other\""), "hostname");
  std::string annotations = "\"annotations\": {";
  for (int i = 0; i < 50; ++i) annotations += "\"k" + std::to_string(i) + "\": \"\", ";
  CHECK_REFUSED(changed("\"hostname\": \"pod\"", annotations + "\"k7\": \"\"}"), "annotations.k7");
}

TEST(refuses_nul_in_strings) { CHECK_REFUSED(changed("\"/app\"", "\"/ap\\u0000p\""), "process.cwd"); }

TEST(refuses_wrong_types_with_the_path) {
  CHECK_REFUSED(changed("\"terminal\": false", "\"terminal\": \"false\""), "process.terminal");
  CHECK_REFUSED(changed("\"uid\": 1000", "\"uid\": \"1000\""), "process.user.uid");
  CHECK_REFUSED(changed("[5, 6]", "[5, 6.5]"), "process.user.additionalGids[1]");
  CHECK_REFUSED(changed("\"--flag\"", "7"), "process.args[1]");
  CHECK_REFUSED(changed("\"noexec\", \"nodev\"]", "\"noexec\", 3]"), "mounts[0].options[2]");
  CHECK_REFUSED(changed("\"limit\": 67108864", "\"limit\": \"64M\""), "linux.resources.memory.limit");
  CHECK_REFUSED(changed("\"maskedPaths\": [", "\"maskedPaths\": [\"proc/x\", "), "linux.maskedPaths[0]");
}

TEST(refuses_ids_that_mean_unchanged_or_overflow) {
  for (const char* id : {"4294967295", "4294967296", "-1", "1e3"}) {
    CHECK_REFUSED(changed("\"uid\": 1000", std::string("\"uid\": ") + id), "process.user.uid");
    CHECK_REFUSED(changed("\"gid\": 1001", std::string("\"gid\": ") + id), "process.user.gid");
    CHECK_REFUSED(changed("[5, 6]", std::string("[") + id + "]"), "process.user.additionalGids[0]");
  }
}

TEST(refuses_environment_without_a_value) {
  CHECK_REFUSED(changed("\"A=b\"", "\"SECRET\""), "process.env[1]");
  CHECK_REFUSED(changed("\"A=b\"", "\"*\""), "process.env[1]");
  CHECK_REFUSED(changed("\"A=b\"", "\"\""), "process.env[1]");
}

TEST(refuses_contradictions_in_the_process) {
  CHECK_REFUSED(changed("\"effective\": [\"CAP_CHOWN\"]", "\"effective\": [\"CAP_SYS_ADMIN\"]"), "process.capabilities");
  CHECK_REFUSED(changed("\"soft\": 0, \"hard\": 0", "\"soft\": 2, \"hard\": 1"), "process.rlimits[0]");
  CHECK_REFUSED(changed("RLIMIT_CORE", "RLIMIT_NOPE"), "process.rlimits[0].type");
  CHECK_REFUSED(changed("\"/app\"", "\"app\""), "process.cwd");
  CHECK_REFUSED(changed("[\"/bin/app\", \"--flag\"]", "[]"), "process");
  CHECK_REFUSED(changed("\"oomScoreAdj\": 100", "\"oomScoreAdj\": 1001"), "process.oomScoreAdj");
}

TEST(keeps_capabilities_that_nobody_knows_for_a_warning) {
  const auto parsed = parse_config(changed("[\"CAP_CHOWN\", \"CAP_KILL\"]", "[\"CAP_CHOWN\", \"CAP_FUTURE\"]"));
  REQUIRE(parsed.ok());
  CHECK_EQ(parsed.value().process->capabilities->unknown.size(), 1u);
  CHECK_EQ(parsed.value().process->capabilities->bounding, 1ull << 0);
}

TEST(refuses_unsupported_fields_instead_of_passing_them_over) {
  CHECK_REFUSED(changed("\"hostname\": \"pod\"", "\"hooks\": {\"prestart\": [{\"path\": \"/bin/true\"}]}"), "hooks.prestart");
  CHECK_REFUSED(changed("\"cgroupsPath\"", "\"intelRdt\": {\"closID\": \"a\"}, \"cgroupsPath\""), "linux.intelRdt");
  CHECK_REFUSED(changed("\"cgroupsPath\"", "\"uidMappings\": [{\"containerID\": 0}], \"cgroupsPath\""), "linux.uidMappings");
  CHECK_REFUSED(changed("\"cgroupsPath\"", "\"netDevices\": {\"eth0\": {}}, \"cgroupsPath\""), "linux.netDevices");
  CHECK_REFUSED(changed("{\"type\": \"pid\"}", "{\"type\": \"user\"}"), "linux.namespaces[0].type");
  CHECK_REFUSED(changed("\"ro\", \"nosuid\"]", "\"idmap\"]"), "mounts[4].options[2]");
  CHECK_REFUSED(changed("\"ro\", \"nosuid\"]", "\"remount\"]"), "mounts[4].options[2]");
  CHECK_REFUSED(changed("\"hostname\": \"pod\"", "\"windows\": {\"layerFolders\": [\"a\"]}"), "windows");
}

TEST(refuses_bad_namespaces) {
  CHECK_REFUSED(changed("{\"type\": \"ipc\"}", "{\"type\": \"network\"}"), "linux.namespaces[2]");
  CHECK_REFUSED(changed("{\"type\": \"ipc\"}", "{\"type\": \"ipcs\"}"), "linux.namespaces[2].type");
  CHECK_REFUSED(changed("{\"type\": \"ipc\"}", "{\"type\": \"ipc\", \"path\": \"ns/ipc\"}"), "linux.namespaces[2].path");
  CHECK_REFUSED(changed("{\"type\": \"ipc\"}", "{\"path\": \"/x\"}"), "linux.namespaces[2]");
}

TEST(refuses_sysctls_of_the_host) {
  const auto sysctl = [](const char* name) {
    return changed("net.ipv4.ip_unprivileged_port_start", name);
  };
  for (const char* name : {"kernel.core_pattern", "vm.overcommit_memory", "net", "net/../kernel/core_pattern", "fs.file-max", "user.max_user_namespaces"}) {
    CHECK_REFUSED(sysctl(name), "linux.sysctl." + std::string(name));
  }
  CHECK_REFUSED(changed("\"0\"}", "\"1\\nkernel.core_pattern=x\"}"), "linux.sysctl.net.ipv4.ip_unprivileged_port_start");
  for (const char* name : {"kernel.shmmax", "fs.mqueue.msg_max", "net/ipv4/tcp_syncookies", "kernel.domainname"}) {
    CHECK(parse_config(sysctl(name)).ok());
  }
}

TEST(sysctl_names_keep_dots_of_interfaces) {
  const auto parsed = parse_config(changed("net.ipv4.ip_unprivileged_port_start", "net/ipv4/conf/eth0.1/forwarding"));
  REQUIRE(parsed.ok());
  CHECK_EQ(parsed.value().linux_section.sysctl[0].path, "net/ipv4/conf/eth0.1/forwarding");
  const auto dotted = parse_config(changed("net.ipv4.ip_unprivileged_port_start", "net.ipv4.conf.eth0/1.forwarding"));
  REQUIRE(dotted.ok());
  CHECK_EQ(dotted.value().linux_section.sysctl[0].path, "net/ipv4/conf/eth0.1/forwarding");
}

TEST(reads_devices) {
  const auto parsed = parse_config(changed(
      "\"cgroupsPath\"", "\"devices\": [{\"path\": \"/dev/fuse\", \"type\": \"c\", \"major\": 10, \"minor\": 229, \"fileMode\": 8630, \"uid\": 1}], \"cgroupsPath\""));
  REQUIRE(parsed.ok());
  const auto& device = parsed.value().linux_section.devices.at(0);
  CHECK_EQ(device.type, static_cast<mode_t>(S_IFCHR));
  CHECK_EQ(device.minor, 229u);
  CHECK_EQ(device.mode, 0666u);
  CHECK_EQ(device.uid, 1u);
  CHECK_REFUSED(changed("\"cgroupsPath\"", "\"devices\": [{\"path\": \"dev/fuse\", \"type\": \"c\"}], \"cgroupsPath\""), "linux.devices[0].path");
  CHECK_REFUSED(changed("\"cgroupsPath\"", "\"devices\": [{\"path\": \"/dev/fuse\", \"type\": \"x\"}], \"cgroupsPath\""), "linux.devices[0].type");
  CHECK_REFUSED(changed("\"cgroupsPath\"", "\"devices\": [{\"type\": \"c\"}], \"cgroupsPath\""), "linux.devices[0]");
}

TEST(reads_a_process_alone) {
  const auto parsed = parse_process(R"({"args": ["sh"], "cwd": "/", "user": {"uid": 7}, "terminal": true, "consoleSize": {"height": 24, "width": 80}})");
  REQUIRE(parsed.ok());
  CHECK_EQ(parsed.value().process.user.uid, 7u);
  CHECK_EQ(parsed.value().process.rows, 24);
  CHECK_EQ(parsed.value().process.columns, 80);
  CHECK(!parsed.value().process.capabilities.has_value());
  const auto refused = parse_process(R"({"args": ["sh"], "cwd": "/", "user": {"uid": -7}})");
  REQUIRE(!refused.ok());
  CHECK_EQ(refused.error().path, "process.user.uid");
}

TEST(finds_the_seccomp_object) {
  const auto find = [](std::string_view json) { return std::string(berth::spec::json::find_object(json, "linux", "seccomp")); };
  CHECK_EQ(find(R"({"linux": {"seccomp": {"a": [1, {"b": "}"}]}, "c": 1}})"), R"({"a": [1, {"b": "}"}]})");
  CHECK_EQ(find(R"({"linux": {"a": {"seccomp": {}}, "x": "seccomp"}})"), "");
  CHECK_EQ(find(R"({"seccomp": {}, "other": {"seccomp": {"a": 1}}})"), "");
  CHECK_EQ(find(R"({"x": "linux", "y": {"seccomp": {}}})"), "");
  CHECK_EQ(find(R"({"linux": [{"seccomp": {}}]})"), "");
  CHECK_EQ(find(R"({"linux": {"seccomp": [1]}})"), "");
  CHECK_EQ(find(R"({"linux": {"a": "\"", "seccomp" : {"k\"": 1}}})"), R"({"k\"": 1})");
  CHECK_EQ(find(R"({"linux": {"seccomp": {"a")"), "");
  CHECK_EQ(find("\"\\"), "");
  CHECK_EQ(find("}"), "");
}

TEST(the_seccomp_object_is_kept_as_it_is_written) {
  const auto parsed = parse_config(kSample);
  REQUIRE(parsed.ok());
  CHECK(parsed.value().linux_section.seccomp.find("\"defaultErrnoRet\": 38") != std::string::npos);
  CHECK(parse_config(changed("\"seccomp\": {", "\"seccomp\": null, \"x\": {")).value().linux_section.seccomp.empty());
  // An escape hides it from the quick look, not from the parser.
  const auto escaped = parse_config(changed("\"seccomp\"", "\"\\u0073eccomp\""));
  REQUIRE(escaped.ok());
  CHECK(escaped.value().linux_section.seccomp.starts_with("{\"defaultAction\":"));
  CHECK_REFUSED(changed("\"seccomp\": {", "\"seccomp\": {}, \"seccomp\": {"), "linux.seccomp");
  CHECK_REFUSED(changed("\"seccomp\": {", "\"seccomp\": 7, \"x\": {"), "linux.seccomp");
}

// Cutting the sample anywhere gives a refusal and nothing worse.
TEST(every_prefix_is_refused) {
  for (size_t size = 0; size + 1 < kSample.size(); ++size) CHECK(!parse_config(kSample.substr(0, size)).ok());
}

CHECK_MAIN()
