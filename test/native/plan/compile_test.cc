#include "core/plan/compile.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/plan/format.h"
#include "core/plan/host.h"
#include "core/plan/mount_ops.h"
#include "core/stages/check_plan.h"
#include "test/native/check.h"
#include "test/native/spec/sample.h"

namespace {

using namespace berth::plan;
using berth::Fd;
using berth::test::kSample;
using berth::test::replaced;

// MS_* of <sys/mount.h>, which cannot be included beside <linux/mount.h> everywhere.
constexpr uint64_t kPrivate = 1 << 18;
constexpr uint64_t kSlave = 1 << 19;
constexpr uint64_t kRecursive = 1 << 14;

constexpr uint64_t bit(int capability) { return 1ull << capability; }

// A plan read back from its memfd.
class Reader {
 public:
  explicit Reader(const CompiledPlan& plan) {
    data_.resize(plan.bytes / 8 + 1);
    const ssize_t count = pread(plan.memfd.get(), data_.data(), plan.bytes, 0);
    CHECK_EQ(count, static_cast<ssize_t>(plan.bytes));
    std::memcpy(&header_, bytes(), sizeof(header_));
    for (uint32_t i = 0; i < header_.op_count; ++i) {
      std::memcpy(&ops_.emplace_back(), bytes() + sizeof(Header) + i * sizeof(Op), sizeof(Op));
    }
    berth::stages::PlanFault fault;
    const bool valid = berth::stages::check_plan(bytes(), plan.bytes, static_cast<uint32_t>(plan.fds.size()), &fault);
    if (!valid) std::fprintf(stderr, "op %u: %s\n", fault.op_index, fault.reason);
    CHECK(valid);
  }

  [[nodiscard]] const Header& header() const { return header_; }
  [[nodiscard]] const std::vector<Op>& ops() const { return ops_; }
  [[nodiscard]] std::string text(const Ref& ref) const {
    return std::string(bytes() + header_.blob_offset + ref.offset, ref.size);
  }
  // Index of the n-th op with this code, or -1.
  [[nodiscard]] int find(OpCode code, int skip = 0) const {
    for (size_t i = 0; i < ops_.size(); ++i) {
      if (ops_[i].code == static_cast<uint16_t>(code) && skip-- == 0) return static_cast<int>(i);
    }
    return -1;
  }
  [[nodiscard]] int last(OpCode code) const {
    for (size_t i = ops_.size(); i > 0; --i) {
      if (ops_[i - 1].code == static_cast<uint16_t>(code)) return static_cast<int>(i - 1);
    }
    return -1;
  }
  [[nodiscard]] int count(OpCode code) const {
    int out = 0;
    for (const Op& op : ops_) out += op.code == static_cast<uint16_t>(code) ? 1 : 0;
    return out;
  }
  // The op with this target, or -1.
  [[nodiscard]] int find_target(OpCode code, std::string_view target) const {
    for (size_t i = 0; i < ops_.size(); ++i) {
      if (ops_[i].code == static_cast<uint16_t>(code) && text(ops_[i].s[1]) == target) return static_cast<int>(i);
    }
    return -1;
  }
  [[nodiscard]] const Op& at(int index) const {
    if (index < 0) {
      std::fprintf(stderr, "no such op\n");
      std::abort();
    }
    return ops_[static_cast<size_t>(index)];
  }

 private:
  [[nodiscard]] const char* bytes() const { return reinterpret_cast<const char*>(data_.data()); }
  std::vector<uint64_t> data_;
  Header header_{};
  std::vector<Op> ops_;
};

CompileInput input_of(std::string_view json) {
  CompileInput input;
  input.config_json = json;
  input.bundle = "/bundle";
  input.container_id = "c1";
  return input;
}

CompiledPlan compiled(const CompileInput& input) {
  auto plan = compile_create(input);
  if (!plan.ok()) {
    std::fprintf(stderr, "%s: %s\n", plan.error().path.c_str(), plan.error().detail.c_str());
    std::abort();
  }
  return std::move(plan).value();
}

CompiledPlan compiled(std::string_view json) { return compiled(input_of(json)); }

std::string changed(std::string_view from, std::string_view to) { return replaced(kSample, from, to); }

void check_refused(const std::string& json, std::string_view field, int line) {
  const auto plan = compile_create(input_of(json));
  if (!berth::test::report(!plan.ok(), __FILE__, line, "accepted")) return;
  berth::test::equal(plan.error().path, std::string(field), __FILE__, line, "field", "the field");
}
#define CHECK_REFUSED(json, field) check_refused((json), (field), __LINE__)

// Each op comes before the next one.
void check_order(const std::vector<int>& indexes, int line) {
  for (size_t i = 0; i < indexes.size(); ++i) {
    berth::test::report(indexes[i] >= 0, __FILE__, line, "op " + std::to_string(i) + " is missing");
    if (i > 0) berth::test::report(indexes[i - 1] < indexes[i], __FILE__, line, "op " + std::to_string(i) + " is too early");
  }
}
#define CHECK_ORDER(...) check_order({__VA_ARGS__}, __LINE__)

}  // namespace

TEST(the_memfd_is_sealed_and_not_executable) {
  const CompiledPlan plan = compiled(kSample);
  const int seals = fcntl(plan.memfd.get(), F_GET_SEALS);
  CHECK_EQ(seals & (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  CHECK(pwrite(plan.memfd.get(), "x", 1, 0) < 0);
  CHECK_EQ(lseek(plan.memfd.get(), 0, SEEK_CUR), 0);
  CHECK((fcntl(plan.memfd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  for (const Fd& fd : plan.fds) CHECK((fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
  struct stat status = {};
  REQUIRE(fstat(plan.memfd.get(), &status) == 0);
  CHECK_EQ(status.st_size, static_cast<off_t>(plan.bytes));
}

TEST(mounts_happen_in_the_containers_namespace_and_sources_outside) {
  const Reader plan(compiled(kSample));
  CHECK_ORDER(plan.last(OpCode::kOpenSource), plan.find(OpCode::kUnshare), plan.find(OpCode::kRootPropagation),
              plan.find(OpCode::kAttachRoot), plan.find(OpCode::kMountFilesystem));
  CHECK_EQ(plan.at(plan.find(OpCode::kUnshare)).a[0], static_cast<uint64_t>(CLONE_NEWNS | CLONE_NEWCGROUP));
  CHECK_EQ(plan.header().clone_flags, static_cast<uint64_t>(CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS));
  CHECK_EQ(plan.at(plan.find(OpCode::kRootPropagation)).a[0], kPrivate | kRecursive);
  // The root and /srv/data.
  CHECK_EQ(plan.count(OpCode::kOpenSource), 2);
  CHECK_EQ(plan.text(plan.at(plan.find(OpCode::kOpenSource)).s[0]), "/bundle/rootfs");
}

TEST(mounts_keep_their_order) {
  const Reader plan(compiled(kSample));
  CHECK_ORDER(plan.find_target(OpCode::kMountFilesystem, "/proc"), plan.find_target(OpCode::kMountFilesystem, "/dev"),
              plan.find_target(OpCode::kMountFilesystem, "/dev/pts"), plan.find_target(OpCode::kMountFilesystem, "/sys"),
              plan.find_target(OpCode::kMountSlot, "/data"), plan.find_target(OpCode::kMakeNode, "/dev/null"),
              plan.find_target(OpCode::kMakeSymlink, "/dev/ptmx"), plan.find(OpCode::kSysctl), plan.find(OpCode::kReadonlyPath),
              plan.find(OpCode::kMask), plan.last(OpCode::kMask), plan.find(OpCode::kPivot));
}

TEST(mount_arguments) {
  const Reader plan(compiled(kSample));
  const Op& dev = plan.at(plan.find_target(OpCode::kMountFilesystem, "/dev"));
  CHECK_EQ(plan.text(dev.s[0]), "tmpfs");
  CHECK_EQ(plan.text(dev.s[2]), std::string("mode=755\0size=65536k\0", 21));
  CHECK_EQ(dev.a[0], static_cast<uint64_t>(MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME));
  const Op& proc = plan.at(plan.find_target(OpCode::kMountFilesystem, "/proc"));
  CHECK((proc.a[1] & kMountPlainTarget) != 0);
  const Op& sys = plan.at(plan.find_target(OpCode::kMountFilesystem, "/sys"));
  CHECK((sys.a[0] & MOUNT_ATTR_RDONLY) != 0);
  CHECK((sys.a[1] & kMountPlainTarget) != 0);
  const Op& data = plan.at(plan.find_target(OpCode::kMountSlot, "/data"));
  CHECK_EQ(data.a[1], static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID));
  CHECK_EQ(data.a[4], kSlave | kRecursive);
  CHECK_EQ(plan.at(plan.find(OpCode::kPivot)).a[0], kPivotReadonlyRoot);
}

TEST(bind_mounts_are_private_unless_told) {
  const Reader recursive(compiled(changed("\"rbind\", \"rslave\", \"ro\", \"nosuid\"", "\"rbind\"")));
  CHECK_EQ(recursive.at(recursive.find_target(OpCode::kMountSlot, "/data")).a[4], kPrivate | kRecursive);
  const Reader single(compiled(changed("\"rbind\", \"rslave\", \"ro\", \"nosuid\"", "\"bind\"")));
  CHECK_EQ(single.at(single.find_target(OpCode::kMountSlot, "/data")).a[4], kPrivate);
  CHECK_EQ(single.at(single.find(OpCode::kOpenSource, 1)).a[1], 1u);  // OPEN_TREE_CLONE without AT_RECURSIVE
}

TEST(recursive_attributes_are_set_before_the_tree_is_attached) {
  const Reader plan(compiled(changed("\"rslave\", \"ro\"", "\"rro\"")));
  const int attributes = plan.find(OpCode::kSetAttributes);
  const int mount = plan.find_target(OpCode::kMountSlot, "/data");
  CHECK_ORDER(attributes, mount);
  CHECK_EQ(plan.at(attributes).a[0], static_cast<uint64_t>(MOUNT_ATTR_RDONLY));
  CHECK_EQ(plan.at(attributes).a[4], plan.at(mount).a[0]);
}

TEST(read_only_tmpfs_is_furnished_first) {
  const Reader plan(compiled(changed("\"strictatime\", \"mode=755\"", "\"ro\", \"mode=755\"")));
  CHECK_EQ(plan.at(plan.find_target(OpCode::kMountFilesystem, "/dev")).a[0] & MOUNT_ATTR_RDONLY, 0u);
  CHECK_ORDER(plan.find_target(OpCode::kMakeNode, "/dev/null"), plan.find_target(OpCode::kSetAttributes, "/dev"), plan.find(OpCode::kPivot));
}

TEST(proc_is_left_alone) {
  const auto data_at = [](std::string_view destination) { return changed("\"/data\"", "\"" + std::string(destination) + "\""); };
  for (const char* path : {"/proc/sys", "/proc/./self/../sys/kernel", "//proc//1", "/x/../proc/bus", "proc/kcore"}) {
    CHECK_REFUSED(data_at(path), "mounts[4].destination");
  }
  CHECK_REFUSED(data_at("/proc"), "mounts[4].destination");
  CHECK_REFUSED(data_at("/"), "mounts[4].destination");
  CHECK_REFUSED(changed("\"type\": \"proc\", \"source\": \"proc\"", "\"type\": \"tmpfs\", \"source\": \"x\""), "mounts[0].destination");
  const Reader plan(compiled(data_at("/proc/meminfo")));
  CHECK_EQ(plan.at(plan.find_target(OpCode::kMountSlot, "/proc/meminfo")).a[3], kMountOnProc);
  // Nowhere else may a mount land on procfs.
  CHECK_EQ(Reader(compiled(kSample)).at(plan.find_target(OpCode::kMountSlot, "/proc/meminfo")).a[3] & kMountOnProc, 0u);
}

TEST(lexically_clean_paths) {
  CHECK_EQ(lexically_clean("//a/./b/../c/"), "/a/c");
  CHECK_EQ(lexically_clean("../.."), "/");
  CHECK_EQ(lexically_clean("a"), "/a");
  CHECK_EQ(lexically_clean(""), "/");
}

TEST(dev_of_the_host_is_not_furnished) {
  const Reader plan(compiled(changed("\"type\": \"tmpfs\", \"source\": \"tmpfs\", \"options\": [\"nosuid\", \"strictatime\", \"mode=755\", \"size=65536k\"]",
                                     "\"type\": \"bind\", \"source\": \"/dev\", \"options\": [\"rbind\"]")));
  CHECK_EQ(plan.count(OpCode::kMakeNode), 0);
  CHECK_EQ(plan.count(OpCode::kMakeSymlink), 0);
}

TEST(devices_of_the_bundle_replace_defaults_but_not_the_terminals) {
  const Reader plan(compiled(changed("\"cgroupsPath\"",
                                     "\"devices\": [{\"path\": \"/dev/null\", \"type\": \"c\", \"major\": 1, \"minor\": 3, \"fileMode\": 384},"
                                     "{\"path\": \"/dev/ptmx\", \"type\": \"c\", \"major\": 5, \"minor\": 2},"
                                     "{\"path\": \"/dev/sda\", \"type\": \"b\", \"major\": 8, \"minor\": 0, \"uid\": 3, \"gid\": 4}], \"cgroupsPath\"")));
  CHECK_EQ(plan.count(OpCode::kMakeNode), 7);
  CHECK_EQ(plan.at(plan.find_target(OpCode::kMakeNode, "/dev/null")).a[0], static_cast<uint64_t>(S_IFCHR | 0600));
  CHECK_EQ(plan.find_target(OpCode::kMakeNode, "/dev/ptmx"), -1);
  const Op& disk = plan.at(plan.find_target(OpCode::kMakeNode, "/dev/sda"));
  CHECK_EQ(disk.a[0], static_cast<uint64_t>(S_IFBLK | 0666));
  CHECK_EQ(disk.a[2], 3u);
  CHECK_EQ(disk.a[3], 4u);
}

TEST(privileges_go_in_a_safe_order) {
  const Reader plan(compiled(kSample));
  CHECK_ORDER(plan.find(OpCode::kPivot), plan.find(OpCode::kRlimit), plan.find(OpCode::kChdir), plan.find(OpCode::kBoundingSet),
              plan.find(OpCode::kSetGroups), plan.find(OpCode::kSetGid), plan.find(OpCode::kKeepCaps), plan.find(OpCode::kSetUid),
              plan.find(OpCode::kCapabilities), plan.find(OpCode::kAmbient), plan.find(OpCode::kChdir, 1), plan.find(OpCode::kLookupProgram),
              plan.find(OpCode::kSeccomp), plan.find(OpCode::kExec));
  CHECK_EQ(plan.find(OpCode::kExec), static_cast<int>(plan.ops().size()) - 1);
  CHECK_EQ(plan.header().barrier_op, static_cast<uint32_t>(plan.find(OpCode::kLookupProgram) + 1));
  CHECK_EQ(plan.at(plan.find(OpCode::kBoundingSet)).a[0] & ~(bit(CAP_CHOWN) | bit(CAP_KILL)), 0u);
  CHECK_EQ(plan.text(plan.at(plan.find(OpCode::kSetGroups)).s[0]), std::string("\5\0\0\0\6\0\0\0", 8));
  CHECK_EQ(plan.at(plan.find(OpCode::kUmask)).a[0], 23u);
}

// Without no_new_privs a filter needs CAP_SYS_ADMIN: it stays just long enough, and under the filter only capset and execve remain.
TEST(filter_without_no_new_privs_keeps_admin_until_it_is_installed) {
  const Reader plan(compiled(kSample));
  CHECK_EQ(plan.count(OpCode::kCapabilities), 2);
  CHECK_EQ(plan.count(OpCode::kNoNewPrivileges), 0);
  const int filter = plan.find(OpCode::kSeccomp);
  CHECK_ORDER(plan.find(OpCode::kCapabilities), filter, plan.find(OpCode::kCapabilities, 1), plan.find(OpCode::kExec));
  CHECK((plan.at(plan.find(OpCode::kCapabilities)).a[0] & bit(CAP_SYS_ADMIN)) != 0);
  const Op& final_set = plan.at(plan.find(OpCode::kCapabilities, 1));
  CHECK_EQ(final_set.a[0] & bit(CAP_SYS_ADMIN), 0u);
  CHECK_EQ(final_set.a[1] & bit(CAP_SYS_ADMIN), 0u);
  CHECK_EQ(static_cast<int>(plan.ops().size()), filter + 3);
}

TEST(filter_with_no_new_privs_comes_last) {
  const Reader plan(compiled(changed("\"noNewPrivileges\": false", "\"noNewPrivileges\": true")));
  CHECK_EQ(plan.count(OpCode::kCapabilities), 1);
  CHECK_EQ(plan.at(plan.find(OpCode::kCapabilities)).a[0] & bit(CAP_SYS_ADMIN), 0u);
  CHECK_ORDER(plan.find(OpCode::kCapabilities), plan.find(OpCode::kNoNewPrivileges), plan.find(OpCode::kSeccomp), plan.find(OpCode::kExec));
  CHECK_EQ(plan.find(OpCode::kSeccomp) + 1, plan.find(OpCode::kExec));
}

TEST(root_needs_no_keepcaps_and_no_capabilities_means_none) {
  const Reader root(compiled(changed("\"uid\": 1000", "\"uid\": 0")));
  CHECK_EQ(root.count(OpCode::kKeepCaps), 0);
  CHECK_EQ(root.count(OpCode::kSetUid), 1);
  std::string json = changed("\"capabilities\"", "\"x-capabilities\"");
  const Reader none(compiled(replaced(json, "\"noNewPrivileges\": false", "\"noNewPrivileges\": true")));
  CHECK_EQ(none.at(none.find(OpCode::kBoundingSet)).a[0], 0u);
  CHECK_EQ(none.at(none.find(OpCode::kCapabilities)).a[1], 0u);
}

TEST(ambient_capabilities_only_where_the_kernel_takes_them) {
  const Reader plan(compiled(changed("\"ambient\": []", "\"ambient\": [\"CAP_CHOWN\", \"CAP_KILL\"]")));
  CHECK_EQ(plan.at(plan.find(OpCode::kAmbient)).a[0], 0u);
  const std::string json = changed("\"inheritable\": []", "\"inheritable\": [\"CAP_CHOWN\"]");
  const CompiledPlan compiled_plan = compiled(replaced(json, "\"ambient\": []", "\"ambient\": [\"CAP_CHOWN\", \"CAP_KILL\"]"));
  const Reader granted(compiled_plan);
  CHECK_EQ(granted.at(granted.find(OpCode::kAmbient)).a[0], bit(CAP_CHOWN));
  CHECK_EQ(compiled_plan.clamped.size(), 1u);
}

TEST(the_terminal_belongs_to_the_user_and_makes_the_session) {
  const std::string json = changed("\"terminal\": false", "\"terminal\": true, \"consoleSize\": {\"height\": 30, \"width\": 100}");
  const CompiledPlan compiled_plan = compiled(json);
  const Reader plan(compiled_plan);
  CHECK(compiled_plan.terminal);
  CHECK_EQ(plan.header().terminal, 1u);
  const int terminal = plan.find(OpCode::kTerminal);
  CHECK_ORDER(plan.find_target(OpCode::kMountFilesystem, "/dev/pts"), terminal, plan.find(OpCode::kSetsid), plan.find(OpCode::kConsole), plan.find(OpCode::kPivot));
  CHECK_EQ(plan.at(terminal).a[0], 1000u);
  CHECK_EQ(plan.at(terminal).a[2], 30u);
  CHECK_EQ(plan.at(plan.find(OpCode::kSetsid)).a[0], 1u);
  const Reader plain(compiled(kSample));
  CHECK_EQ(plain.count(OpCode::kSetsid), 1);
  CHECK_EQ(plain.at(plain.find(OpCode::kSetsid)).a[0], 0u);
}

TEST(a_detached_root_travels_as_a_descriptor) {
  const Fd root(open("/", O_PATH | O_CLOEXEC));
  CompileInput input = input_of(kSample);
  input.rootfs_fd = root.get();
  const CompiledPlan compiled_plan = compiled(input);
  const Reader plan(compiled_plan);
  const Op& attach = plan.at(plan.find(OpCode::kAttachRoot));
  REQUIRE(attach.a[0] < compiled_plan.fds.size());
  CHECK_EQ(attach.a[1], static_cast<uint64_t>(kNone));
  struct stat ours = {};
  struct stat theirs = {};
  CHECK_EQ(fstat(root.get(), &ours), 0);
  CHECK_EQ(fstat(compiled_plan.fds[attach.a[0]].get(), &theirs), 0);
  CHECK_EQ(ours.st_ino, theirs.st_ino);
  CHECK(compiled_plan.fds[attach.a[0]].get() != root.get());
}

TEST(cgroups_are_entered_before_anything_else) {
  const Fd first(open("/dev/null", O_WRONLY | O_CLOEXEC));
  const Fd directory(open("/", O_PATH | O_CLOEXEC));
  CompileInput input = input_of(kSample);
  input.cgroup.v1_tasks = {first.get(), first.get()};
  input.cgroup.v2_directory = directory.get();
  const Reader plan(compiled(input));
  CHECK_EQ(plan.count(OpCode::kCgroupAttach), 2);
  CHECK_EQ(plan.find(OpCode::kCgroupAttach), 0);
  CHECK(plan.header().cgroup_fd != kNone);
  CHECK_ORDER(plan.last(OpCode::kCgroupAttach), plan.find(OpCode::kUnshare));
  CHECK_EQ(Reader(compiled(kSample)).header().cgroup_fd, kNone);
}

TEST(namespaces_of_the_joined_process_go_by_its_pidfd) {
  const Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  REQUIRE(pidfd.valid());
  const std::string prefix = "\"path\": \"/proc/" + std::to_string(getpid()) + "/ns/";
  std::string json = replaced(kSample, "{\"type\": \"pid\"}", "{\"type\": \"pid\", " + prefix + "pid\"}");
  json = replaced(json, "{\"type\": \"ipc\"}", "{\"type\": \"ipc\", " + prefix + "ipc\"}");
  json = replaced(json, "{\"type\": \"uts\"}", "{\"type\": \"uts\", " + prefix + "uts\"}");
  json = replaced(json, "\"hostname\": \"pod\",", "");
  CompileInput input = input_of(json);
  input.join = {getpid(), pidfd.get()};
  const CompiledPlan compiled_plan = compiled(input);
  const Reader plan(compiled_plan);
  REQUIRE(plan.count(OpCode::kJoinNamespace) == 1);
  const Op& join = plan.at(plan.find(OpCode::kJoinNamespace));
  CHECK_EQ(join.a[1], static_cast<uint64_t>(CLONE_NEWIPC | CLONE_NEWUTS));
  CHECK_EQ(plan.header().pid_namespace_fd, static_cast<uint32_t>(join.a[0]));
  CHECK_EQ(plan.header().clone_flags, static_cast<uint64_t>(CLONE_NEWNET));
  CHECK_EQ(compiled_plan.fds.size(), 1u);
  CHECK_ORDER(plan.find(OpCode::kJoinNamespace), plan.find(OpCode::kUnshare));
}

TEST(namespaces_by_path_are_opened_and_checked) {
  const auto network_at = [](std::string_view path) {
    return replaced(replaced(kSample, "{\"type\": \"network\"}", "{\"type\": \"network\", \"path\": \"" + std::string(path) + "\"}"),
                    "\"sysctl\": {\"net.ipv4.ip_unprivileged_port_start\": \"0\"},", "");
  };
  const CompiledPlan compiled_plan = compiled(network_at("/proc/self/ns/net"));
  const Reader plan(compiled_plan);
  const Op& join = plan.at(plan.find(OpCode::kJoinNamespace));
  CHECK_EQ(join.a[1], static_cast<uint64_t>(CLONE_NEWNET));
  CHECK_EQ(compiled_plan.fds.size(), 1u);
  CHECK_REFUSED(network_at("/proc/self/ns/ipc"), "linux.namespaces(network).path");
  CHECK_REFUSED(network_at("/dev/null"), "linux.namespaces(network).path");
  char directory[] = "/tmp/plan-test-XXXXXX";
  REQUIRE(mkdtemp(directory) != nullptr);
  const std::string fifo = std::string(directory) + "/fifo";
  REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
  // Must not wait for a writer.
  CHECK_REFUSED(network_at(fifo), "linux.namespaces(network).path");
  unlink(fifo.c_str());
  rmdir(directory);
  const auto absent = compile_create(input_of(network_at("/no/such/ns")));
  REQUIRE(!absent.ok());
  CHECK_EQ(absent.error().error_number, ENOENT);
}

TEST(the_hosts_parameters_and_names_stay_the_hosts) {
  CHECK_REFUSED(changed("{\"type\": \"network\"}, ", ""), "linux.sysctl.net.ipv4.ip_unprivileged_port_start");
  CHECK_REFUSED(changed("{\"type\": \"network\"}", "{\"type\": \"network\", \"path\": \"/proc/self/ns/net\"}"),
                "linux.sysctl.net.ipv4.ip_unprivileged_port_start");
  CHECK_REFUSED(changed("{\"type\": \"uts\"}, ", ""), "hostname");
  CHECK_REFUSED(changed("{\"type\": \"uts\"}", "{\"type\": \"uts\", \"path\": \"/proc/self/ns/uts\"}"), "hostname");
}

TEST(a_mount_namespace_of_its_own_is_needed) {
  CHECK_REFUSED(changed(", {\"type\": \"mount\"}", ""), "linux.namespaces");
  CHECK_REFUSED(changed("{\"type\": \"mount\"}", "{\"type\": \"mount\", \"path\": \"/proc/self/ns/mnt\"}"), "linux.namespaces(mount).path");
}

TEST(a_cgroup_mount_without_a_namespace_never_touches_the_hosts_options) {
  std::string json = changed("{\"destination\": \"/data\"", "{\"destination\": \"/sys/fs/cgroup\", \"type\": \"cgroup\", \"source\": \"cgroup\","
                             " \"options\": [\"ro\", \"nosuid\"]}, {\"destination\": \"/data\"");
  const Reader own(compiled(json));
  CHECK(own.find_target(OpCode::kMountFilesystem, "/sys/fs/cgroup") >= 0);
  json = replaced(json, ", {\"type\": \"cgroup\"}", "");
  const Reader shared(compiled(json));
  for (const Op& op : shared.ops()) {
    if (op.code == static_cast<uint16_t>(OpCode::kMountFilesystem)) CHECK(!shared.text(op.s[0]).starts_with("cgroup"));
  }
  // What it sees instead is its own group of each hierarchy (v1), or the host's mount itself.
  int found = 0;
  for (const Op& op : shared.ops()) {
    if (op.code != static_cast<uint16_t>(OpCode::kOpenSource)) continue;
    const std::string source = shared.text(op.s[0]);
    if (!source.starts_with("/sys/fs/cgroup")) continue;
    ++found;
    if (!host_cgroups().unified) CHECK(source.ends_with("/berth-test/one"));
  }
  CHECK(found > 0 || (!host_cgroups().unified && host_cgroups().hierarchies.empty()));
}

TEST(what_cannot_be_granted_is_clamped_and_said) {
  CompileInput input = input_of("");
  std::string json = changed("\"soft\": 0, \"hard\": 0", "\"soft\": 5, \"hard\": 18446744073709551615");
  json = replaced(json, "RLIMIT_CORE", "RLIMIT_NOFILE");
  json = replaced(json, "\"oomScoreAdj\": 100", "\"oomScoreAdj\": -999");
  input.config_json = json;
  const Reader literal(compiled(input));
  CHECK_EQ(literal.at(literal.find(OpCode::kRlimit)).a[2], static_cast<uint64_t>(RLIM_INFINITY));
  CHECK_EQ(static_cast<int64_t>(literal.at(literal.find(OpCode::kOomScoreAdj)).a[0]), -999);
  input.clamp.enabled = true;
  const CompiledPlan compiled_plan = compiled(input);
  const Reader clamped(compiled_plan);
  if (caller_privileges().has(CAP_SYS_RESOURCE)) {
    CHECK_EQ(clamped.at(clamped.find(OpCode::kRlimit)).a[2], static_cast<uint64_t>(RLIM_INFINITY));
    CHECK(compiled_plan.clamped.empty());
    return;
  }
  struct rlimit own = {};
  getrlimit(RLIMIT_NOFILE, &own);
  const Op& limit = clamped.at(clamped.find(OpCode::kRlimit));
  CHECK_EQ(limit.a[2], static_cast<uint64_t>(own.rlim_max));
  CHECK_EQ(limit.a[1], 5u);
  const Op& score = clamped.at(clamped.find(OpCode::kOomScoreAdj));
  CHECK_EQ(static_cast<int64_t>(score.a[0]), static_cast<int64_t>(caller_privileges().oom_score_adj));
  CHECK_EQ(score.a[1], 1u);
  CHECK(compiled_plan.clamped.size() >= 2);
}

TEST(capabilities_that_the_caller_lacks_are_not_asked_for) {
  CompileInput input = input_of("");
  const std::string json = changed("[\"CAP_CHOWN\", \"CAP_KILL\"],\n      \"effective\": [\"CAP_CHOWN\"],\n      \"permitted\": [\"CAP_CHOWN\", \"CAP_KILL\"]",
                                   "[\"CAP_CHOWN\", \"CAP_SYS_RESOURCE\"], \"effective\": [\"CAP_SYS_RESOURCE\"], \"permitted\": [\"CAP_SYS_RESOURCE\"]");
  input.config_json = json;
  input.clamp.enabled = true;
  const CompiledPlan compiled_plan = compiled(input);
  const Reader plan(compiled_plan);
  const uint64_t asked = plan.at(plan.find(OpCode::kBoundingSet)).a[0];
  CHECK_EQ(asked & ~caller_privileges().capabilities, 0u);
  CHECK_EQ(compiled_plan.clamped.empty(), caller_privileges().has(CAP_SYS_RESOURCE) && caller_privileges().has(CAP_CHOWN));
}

TEST(an_apparmor_profile_is_never_dropped_silently) {
  const std::string json = changed("\"oomScoreAdj\"", "\"apparmorProfile\": \"berth-default\", \"oomScoreAdj\"");
  if (apparmor_enabled()) {
    const Reader plan(compiled(json));
    const Op& label = plan.at(plan.find(OpCode::kLabelProcess));
    CHECK_EQ(plan.text(label.s[1]), "exec berth-default");
    CHECK_ORDER(plan.find(OpCode::kLabelProcess), plan.find(OpCode::kSetUid));
  } else {
    CHECK_REFUSED(json, "process.apparmorProfile");
    CHECK_EQ(Reader(compiled(changed("\"oomScoreAdj\"", "\"apparmorProfile\": \"unconfined\", \"oomScoreAdj\""))).count(OpCode::kLabelProcess), 0);
  }
}

TEST(a_plan_too_long_is_refused) {
  std::string environment = "\"A=b\"";
  for (int i = 0; i < 3; ++i) environment += ", \"V" + std::to_string(i) + "=" + std::string(1'500'000, 'x') + "\"";
  const auto plan = compile_create(input_of(changed("\"A=b\"", environment)));
  REQUIRE(!plan.ok());
  CHECK(plan.error().error_number == E2BIG || plan.error().error_number == EINVAL);
}

TEST(too_many_sources_are_refused) {
  std::string mounts;
  for (uint32_t i = 0; i < kMaxSlots; ++i) mounts += "{\"destination\": \"/m" + std::to_string(i) + "\", \"source\": \"/srv\", \"options\": [\"bind\"]},";
  const auto plan = compile_create(input_of(changed("{\"destination\": \"/data\"", mounts + "{\"destination\": \"/data\"")));
  REQUIRE(!plan.ok());
  CHECK(plan.error().path.starts_with("mounts["));
}

// -- exec

namespace {

ExecInput exec_of(std::string_view process, std::string_view config, const Fd& pidfd) {
  ExecInput input;
  input.process_json = process;
  input.config_json = config;
  input.container_id = "c1";
  input.init_pidfd = pidfd.get();
  return input;
}

Fd own_pidfd() { return Fd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0))); }

constexpr std::string_view kCommand = R"({"args": ["ls"], "cwd": "/", "user": {"uid": 5, "gid": 6}, "env": ["PATH=/x"]})";

}  // namespace

TEST(an_exec_drops_everything_before_it_enters_the_pid_namespace) {
  const Fd pidfd = own_pidfd();
  auto compiled_plan = compile_exec(exec_of(kCommand, kSample, pidfd));
  REQUIRE(compiled_plan.ok());
  const Reader plan(*compiled_plan);
  CHECK_EQ(plan.header().kind, static_cast<uint32_t>(Kind::kExec));
  CHECK_EQ(plan.header().clone_flags, 0u);
  CHECK_ORDER(plan.find(OpCode::kOomScoreAdj), plan.find(OpCode::kJoinNamespace), plan.find(OpCode::kChdir), plan.find(OpCode::kBoundingSet),
              plan.find(OpCode::kSetGroups), plan.find(OpCode::kSetUid), plan.find(OpCode::kCapabilities), plan.find(OpCode::kLookupProgram),
              plan.find(OpCode::kMakeDetached), plan.find(OpCode::kSetsid), plan.find(OpCode::kSeccomp), plan.find(OpCode::kExec));
  CHECK_EQ(plan.header().barrier_op, static_cast<uint32_t>(plan.find(OpCode::kMakeDetached) + 1));
  CHECK_EQ(plan.at(plan.find(OpCode::kJoinNamespace)).a[1],
           static_cast<uint64_t>(CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWCGROUP));
  CHECK_EQ(plan.at(plan.find(OpCode::kSetUid)).a[0], 5u);
  CHECK_EQ(plan.text(plan.at(plan.find(OpCode::kLookupProgram)).s[1]), "/x");
  CHECK_EQ(plan.count(OpCode::kMountFilesystem) + plan.count(OpCode::kMountSlot) + plan.count(OpCode::kUnshare), 0);
}

TEST(an_exec_takes_what_it_leaves_open_from_the_container) {
  const Fd pidfd = own_pidfd();
  auto inherited = compile_exec(exec_of(kCommand, kSample, pidfd));
  REQUIRE(inherited.ok());
  const Reader plan(*inherited);
  CHECK_EQ(plan.at(plan.find(OpCode::kBoundingSet)).a[0] & ~(bit(CAP_CHOWN) | bit(CAP_KILL)), 0u);
  CHECK_EQ(plan.count(OpCode::kRlimit), 1);
  CHECK_EQ(plan.at(plan.find(OpCode::kOomScoreAdj)).a[0], 100u);
  CHECK_EQ(plan.count(OpCode::kSeccomp), 1);
  auto own = compile_exec(exec_of(
      R"({"args": ["ls"], "cwd": "/", "capabilities": {"bounding": ["CAP_KILL"]}, "rlimits": [], "noNewPrivileges": true})", kSample, pidfd));
  REQUIRE(own.ok());
  const Reader changed_plan(*own);
  CHECK_EQ(changed_plan.at(changed_plan.find(OpCode::kBoundingSet)).a[0] & ~bit(CAP_KILL), 0u);
  CHECK_EQ(changed_plan.count(OpCode::kRlimit), 0);
  CHECK_EQ(changed_plan.count(OpCode::kNoNewPrivileges), 1);
  CHECK_EQ(changed_plan.count(OpCode::kSeccomp), 1);
}

TEST(an_exec_joins_only_what_the_container_has_of_its_own) {
  const Fd pidfd = own_pidfd();
  auto plan = compile_exec(exec_of(kCommand, changed("{\"type\": \"network\"}, ", ""), pidfd));
  REQUIRE(plan.ok());
  const Reader reader(*plan);
  CHECK_EQ(reader.at(reader.find(OpCode::kJoinNamespace)).a[1] & CLONE_NEWNET, 0u);
  CHECK_EQ(reader.count(OpCode::kJoinNamespace), 1);
}

TEST(an_exec_with_a_terminal) {
  const Fd pidfd = own_pidfd();
  auto plan = compile_exec(exec_of(R"({"args": ["sh"], "cwd": "/", "terminal": true})", kSample, pidfd));
  REQUIRE(plan.ok());
  const Reader reader(*plan);
  CHECK_ORDER(reader.find(OpCode::kJoinNamespace), reader.find(OpCode::kTerminal), reader.find(OpCode::kSetUid),
              reader.find(OpCode::kMakeDetached), reader.find(OpCode::kSetsid));
  CHECK_EQ(reader.at(reader.find(OpCode::kSetsid)).a[0], 1u);
  CHECK_EQ(reader.count(OpCode::kConsole), 0);
}

TEST(an_exec_refuses_with_the_field) {
  const Fd pidfd = own_pidfd();
  const auto bad = compile_exec(exec_of(R"({"args": [], "cwd": "/"})", kSample, pidfd));
  REQUIRE(!bad.ok());
  CHECK_EQ(bad.error().path, "process");
  ExecInput closed = exec_of(kCommand, kSample, pidfd);
  closed.init_pidfd = -1;
  const auto refused = compile_exec(closed);
  REQUIRE(!refused.ok());
  CHECK_EQ(refused.error().error_number, EBADF);
}

TEST(compiles_on_many_threads) {
  std::vector<std::thread> threads;
  std::vector<uint32_t> sizes(8);
  for (uint32_t& size : sizes) {
    threads.emplace_back([&size] {
      for (int i = 0; i < 50; ++i) {
        auto plan = compile_create(input_of(kSample));
        size = plan.ok() ? plan->bytes : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const uint32_t size : sizes) CHECK(size > 0 && size == sizes[0]);
}

// No descriptor is left by a compilation, whether it succeeds or not.
TEST(leaves_no_descriptors) {
  const auto lowest = [] {
    const Fd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    return fd.get();
  };
  (void)compiled(kSample);
  const int before = lowest();
  for (int i = 0; i < 20; ++i) {
    (void)compiled(kSample);
    CHECK(!compile_create(input_of(changed("{\"type\": \"ipc\"}", "{\"type\": \"ipc\", \"path\": \"/proc/self/ns/net\"}"))).ok());
  }
  CHECK_EQ(lowest(), before);
}

CHECK_MAIN()
