// Parsers of core/sys; its system calls are tested through the addon.
#include "core/sys/file_text.h"
#include "core/sys/overlay.h"
#include "core/sys/pause.h"
#include "core/sys/process.h"
#include "core/sys/spawn.h"
#include "core/sys/tree.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "core/sys/pidfd.h"
#include "test/native/check.h"

using namespace berth;

TEST(numbers_are_decimal_and_bounded) {
  uint64_t value = 7;
  CHECK(sys::parse_u64(" 18446744073709551615\n", &value) && value == UINT64_MAX);
  for (const char* bad : {"", "-1", "1x", "18446744073709551616", "0x1", "max"}) CHECK(!sys::parse_u64(bad, &value));
}

TEST(mountinfo_escapes_and_optional_fields) {
  const auto mounts = sys::parse_mountinfo(
      "36 35 98:0 /mnt1 /mnt\\040with\\134odd\\011name rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "37 35 0:5 / /a rw shared:2 propagate_from:3 - tmpfs my\\040source rw\n"
      "not a mount\n");
  REQUIRE(mounts.size() == 2);
  CHECK_EQ(mounts[0].mount_point, "/mnt with\\odd\tname");
  CHECK(!mounts[0].shared);
  CHECK_EQ(mounts[0].type, "ext3");
  CHECK_EQ(mounts[0].device, "98:0");
  CHECK(mounts[1].shared);
  CHECK_EQ(mounts[1].source, "my source");
}

TEST(lower_directories_are_escaped) {
  CHECK_EQ(sys::join_lowers({"/a", "/b:c", "/d\\e"}), "/a:/b\\:c:/d\\\\e");
}

// Longer together than one option of a mount may be, and one that the option's syntax would take apart.
TEST(overlays_of_many_lowers) {
  if (::geteuid() != 0) SKIP("needs root");
  char base[] = "/tmp/berth-sys-test.XXXXXX";
  REQUIRE(::mkdtemp(base) != nullptr);
  sys::OverlayOptions options;
  for (int i = 0; i < 24; ++i) {
    const std::string lower = std::string(base) + "/" + std::string(64, static_cast<char>('a' + i)) + (i == 3 ? ":," : "");
    REQUIRE(::mkdir(lower.c_str(), 0755) == 0);
    Fd file(::open((lower + "/file-" + std::to_string(i)).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    REQUIRE(file.valid());
    options.lowers.push_back(lower);
  }
  const auto shows_all = [](const Fd& root) {
    for (int i = 0; i < 24; ++i) {
      if (::faccessat(root.get(), ("file-" + std::to_string(i)).c_str(), F_OK, 0) != 0) return false;
    }
    return true;
  };
  char before[4096];
  REQUIRE(::getcwd(before, sizeof(before)) != nullptr);
  {
    Result<Fd> mount = sys::mount_overlay(options);
    CHECK(mount.ok() && shows_all(*mount));
  }
  options.upper = std::string(base) + "/" + std::string(200, 'u');
  options.work = std::string(base) + "/" + std::string(200, 'w');
  REQUIRE(::mkdir(options.upper.c_str(), 0755) == 0 && ::mkdir(options.work.c_str(), 0755) == 0);
  {
    Result<Fd> mount = sys::mount_overlay(options);
    CHECK(mount.ok() && shows_all(*mount));
    if (mount.ok()) {
      Fd file(::openat(mount->get(), "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
      CHECK(file.valid() && ::access((options.upper + "/new").c_str(), F_OK) == 0);
    }
  }
  char after[4096];
  CHECK(::getcwd(after, sizeof(after)) != nullptr && std::string_view(before) == after);
  CHECK(sys::remove_tree(base).ok());
}

TEST(sysctl_keys_with_either_separator) {
  CHECK_EQ(sys::sysctl_path("net.ipv4.ip_unprivileged_port_start"), "net/ipv4/ip_unprivileged_port_start");
  CHECK_EQ(sys::sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
  CHECK_EQ(sys::sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
}

TEST(start_time_of_a_process_with_a_hostile_name) {
  CHECK(sys::process_start_time(::getpid()).ok());
  const auto nobody = sys::process_start_time(0x3ffffffe);
  CHECK(!nobody.ok() && nobody.error().error_number == ESRCH);
}

// The stack, the shared memory and the errors of a vfork'ed child, once more where sanitizers look on.
TEST(spawn_runs_and_reports) {
  sys::SpawnOptions options;
  options.path = "/bin/sh";
  options.args = {"sh", "-c", "exit 7"};
  options.fds = {-1, -1, -1};
  Result<sys::Spawned> spawned = sys::spawn(options, "test");
  REQUIRE(spawned.ok());
  siginfo_t info = {};
  CHECK_EQ(sys::waitid_pidfd(spawned->pidfd.get(), &info, WEXITED), 0);
  CHECK_EQ(info.si_status, 7);
  options.path = "/does/not/exist";
  const auto missing = sys::spawn(options, "test");
  REQUIRE(!missing.ok());
  CHECK_EQ(missing.error().error_number, ENOENT);
  CHECK_EQ(missing.error().syscall, "execve");
  CHECK_EQ(missing.error().path, "/does/not/exist");
  options.path = "/bin/sh";
  options.cwd = "/nowhere";
  const auto lost = sys::spawn(options, "test");
  REQUIRE(!lost.ok());
  CHECK_EQ(lost.error().syscall, "chdir");
  // Nothing of the failed ones is left to reap.
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD);
}

TEST(descriptors_that_are_in_each_others_way) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  // The child's 0 and 1 are swapped against the parent's: stdin gets the write end's place and the other way round.
  Fd low_read(::fcntl(ends[0], F_DUPFD_CLOEXEC, 3));
  Fd low_write(::fcntl(ends[1], F_DUPFD_CLOEXEC, 3));
  ::close(ends[0]);
  ::close(ends[1]);
  sys::SpawnOptions options;
  options.path = "/bin/sh";
  options.args = {"sh", "-c", "echo through >&4; read line <&3; test \"$line\" = through"};
  options.fds = {-1, -1, -1, low_write.get(), low_read.get()};
  // 3 is to be the read end, 4 the write end, whatever numbers they have here.
  options.fds[3] = low_read.get();
  options.fds[4] = low_write.get();
  if (low_read.get() == 3) std::swap(options.fds[3], options.fds[4]), options.args[2] = "echo through >&3; read line <&4; test \"$line\" = through";
  Result<sys::Spawned> spawned = sys::spawn(options, "test");
  REQUIRE(spawned.ok());
  siginfo_t info = {};
  sys::waitid_pidfd(spawned->pidfd.get(), &info, WEXITED);
  CHECK_EQ(info.si_code, CLD_EXITED);
  CHECK_EQ(info.si_status, 0);
}

CHECK_MAIN()
