// berth-oci on this kernel: bundles made of the host's busybox, run through compiler and executor.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "test/native/check.h"

namespace {

struct Outcome {
  int code = -1;
  std::string out;  // stdout and stderr
  [[nodiscard]] bool has(std::string_view part) const { return out.find(part) != std::string::npos; }
};

Outcome shell(const std::string& command) {
  Outcome outcome;
  FILE* stream = popen((command + " 2>&1").c_str(), "r");
  if (stream == nullptr) return outcome;
  char buffer[4096];
  while (const size_t count = fread(buffer, 1, sizeof(buffer), stream)) outcome.out.append(buffer, count);
  const int status = pclose(stream);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

// A config.json; tests set what they are about.
struct Config {
  std::string script = "true";
  std::vector<std::string> args = {};  // in place of the script
  std::string user = R"({"uid": 0, "gid": 0})";
  std::string capabilities = R"(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"])";
  std::string process = {};  // further members of process, each with its comma before it
  std::string cwd = "/";
  bool readonly = true;
  std::string mounts = {};  // further mounts, each with its comma before it
  std::string section = {};  // further members of linux
  std::string top = R"(, "hostname": "inside")";
  std::string namespaces = R"({"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"})";

  [[nodiscard]] std::string json() const {
    std::string program = "\"sh\", \"-c\", \"" + script + "\"";
    if (!args.empty()) {
      program.clear();
      for (const std::string& arg : args) program += (program.empty() ? "\"" : ", \"") + arg + "\"";
    }
    return R"({"ociVersion": "1.1.0", "process": {"args": [)" + program + R"(], "cwd": ")" + cwd + R"(", "user": )" + user +
           R"(, "env": ["PATH=/bin", "HOME=/"], "capabilities": {"bounding": )" + capabilities + R"(, "effective": )" + capabilities +
           R"(, "permitted": )" + capabilities + "}" + process + R"(}, "root": {"path": "rootfs", "readonly": )" + (readonly ? "true" : "false") +
           R"(}, "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]})" + mounts + "]" +
           top + R"(, "linux": {"namespaces": [)" + namespaces +
           R"(], "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"], "readonlyPaths": ["/proc/sys", "/proc/bus"])" + section + "}}";
  }
};

// A directory with a bundle and a place for states; gone at the end, with whatever still runs in it.
class Bundle {
 public:
  Bundle() {
    char name[] = "/tmp/berth-run-test-XXXXXX";
    if (mkdtemp(name) == nullptr) std::abort();
    directory_ = name;
    const std::string made = shell("set -e; cd " + directory_ +
                                   "; mkdir -p rootfs/bin rootfs/proc rootfs/sys rootfs/dev rootfs/tmp rootfs/etc rootfs/full states; chmod 1777 rootfs/tmp;"
                                   " cp /bin/busybox rootfs/bin/; for lib in $(ldd /bin/busybox | grep -o '/lib[^ ]*'); do mkdir -p rootfs$(dirname $lib);"
                                   " cp -L $lib rootfs$lib; done; for name in sh ls cat cut id true false sleep grep stat mount hostname echo env touch head mkdir wc tr kill ps uname;"
                                   " do ln -s busybox rootfs/bin/$name; done; echo inside > rootfs/full/file; ln -s file rootfs/full/link; echo nobody > rootfs/etc/data")
                                 .out;
    if (!made.empty()) std::printf("%s\n", made.c_str());
  }
  Bundle(const Bundle&) = delete;
  Bundle& operator=(const Bundle&) = delete;
  ~Bundle() {
    for (const std::string& id : ids_) (void)oci("delete --force " + id);
    (void)shell("rm -rf " + directory_);
  }

  [[nodiscard]] const std::string& directory() const { return directory_; }
  void configure(const Config& config) const { write_text(directory_ + "/config.json", config.json()); }

  // Output goes to a file: a container that goes on running must not keep a pipe of ours open.
  Outcome oci(const std::string& arguments) const {
    const std::string output = directory_ + "/output";
    return shell(std::string(BERTH_OCI) + " --root " + directory_ + "/states " + arguments + " </dev/null >" + output + " 2>&1; code=$?; cat " + output + "; exit $code");
  }

  // `berth-oci run` of a configuration.
  Outcome run(const Config& config) {
    configure(config);
    const std::string id = name();
    return oci("run --bundle " + directory_ + " " + id);
  }

  // A name that no other container on this host has.
  std::string name() {
    ids_.push_back("run-test-" + std::to_string(getpid()) + "-" + std::to_string(ids_.size()));
    return ids_.back();
  }

 private:
  std::string directory_;
  std::vector<std::string> ids_;
};

std::string missing_on_this_host() {
  if (geteuid() != 0) return "needs root";
  if (access("/bin/busybox", X_OK) != 0) return "needs /bin/busybox";
  return {};
}

#define NEEDS_HOST() \
  if (const std::string why = missing_on_this_host(); !why.empty()) SKIP(why)

std::string field(const std::string& status, const std::string& name) {
  std::istringstream lines(status);
  std::string line;
  while (std::getline(lines, line)) {
    if (line.rfind(name + ":", 0) == 0) return line.substr(name.size() + 2);
  }
  return "(none)";
}

// Builtins alone: a pipe or a directory of the shell's own would be among them.
constexpr const char* kOpenDescriptors =
    "i=0; while [ $i -lt 64 ]; do [ -L /proc/self/fd/$i ] && echo $i; i=$((i+1)); done; echo end";

// A filter that denies one call and allows the rest: installed or not is easy to see.
constexpr const char* kFilter = R"(, "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]})";

}  // namespace

TEST(runs_and_gives_the_exit_code) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "echo out; exit 7"});
  CHECK_EQ(outcome.code, 7);
  CHECK_EQ(outcome.out, "out\n");
}

TEST(a_signal_is_128_and_its_number) {
  NEEDS_HOST();
  Bundle bundle;
  // Init of a pid namespace is spared by its own signals; its parent's kill it.
  bundle.configure({.args = {"sleep", "100"}});
  const std::string id = bundle.name();
  CHECK_EQ(bundle.oci("run --detach --bundle " + bundle.directory() + " " + id).code, 0);
  CHECK_EQ(bundle.oci("kill " + id + " KILL").code, 0);
  for (int i = 0; i < 100 && !bundle.oci("state " + id).has("stopped"); ++i) usleep(20'000);
  CHECK_EQ(read_text(bundle.directory() + "/states/" + id + "/exit"), "137\n");
}

TEST(has_its_own_namespaces_and_names) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "hostname; echo $$; ls /proc/self/ns >/dev/null; ps | grep -c .; cat /proc/net/dev | grep -c :"});
  // Heading, sh, ps and grep; the loopback alone.
  CHECK_EQ(outcome.out, "inside\n1\n4\n1\n");
}

TEST(sees_the_mounts_of_the_bundle_and_no_others) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "cat /proc/self/mountinfo"});
  std::istringstream lines(outcome.out);
  std::string line;
  std::vector<std::string> targets;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string id, parent, device, root, target;
    words >> id >> parent >> device >> root >> target;
    targets.push_back(target);
    CHECK(line.find(bundle.directory()) == std::string::npos || target == "/");
    // Nothing propagates out of it or into it.
    CHECK(line.find(" shared:") == std::string::npos);
    CHECK(line.find(" master:") == std::string::npos);
    if (target == "/proc") CHECK(line.find("nosuid,nodev,noexec") != std::string::npos);
    if (target == "/sys" || target == "/proc/sys" || target == "/") CHECK(line.find(target + " ro,") != std::string::npos);
  }
  for (const char* expected : {"/", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/proc/sys", "/proc/bus", "/proc/keys"}) {
    CHECK_EQ(std::count(targets.begin(), targets.end(), expected), 1);
  }
  for (const std::string& target : targets) {
    CHECK(target == "/" || target.starts_with("/proc") || target.starts_with("/dev") || target.starts_with("/sys"));
  }
}

TEST(masked_and_read_only_paths) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/domainname || echo denied;"
                                                " touch /file || echo denied; touch /sys/fs/cgroup/x || echo denied"});
  CHECK(outcome.out.starts_with("0\n0\n"));
  CHECK(outcome.has("can't create /proc/sys/kernel/domainname: Read-only file system"));
  CHECK(outcome.has("/file: Read-only file system"));
  CHECK(outcome.has("/sys/fs/cgroup/x: Read-only file system"));
}

TEST(devices_work) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "echo x > /dev/null && head -c 4 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c;"
                                                " stat -c '%t:%T %a' /dev/null /dev/tty; ls -l /dev/ptmx /dev/fd /dev/stdin | grep -o '[^ ]* -> .*'"});
  CHECK_EQ(outcome.out, "4\n3\n1:3 666\n5:0 666\n/dev/fd -> /proc/self/fd\n/dev/ptmx -> pts/ptmx\n/dev/stdin -> /proc/self/fd/0\n");
}

TEST(only_stdio_is_inherited) {
  NEEDS_HOST();
  Bundle bundle;
  bundle.configure({.script = kOpenDescriptors});
  const Outcome outcome = shell("exec 5</etc 7</etc/passwd; " + std::string(BERTH_OCI) + " --root " + bundle.directory() + "/states run --bundle " +
                                bundle.directory() + " " + bundle.name() + " </dev/null");
  CHECK_EQ(outcome.out, "0\n1\n2\nend\n");
}

TEST(user_groups_and_umask) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "id -u; id -g; grep Groups /proc/self/status; umask; touch /tmp/made && stat -c '%u %a' /tmp/made",
                                      .user = R"({"uid": 1234, "gid": 77, "additionalGids": [5, 9], "umask": 63})",
                                      .readonly = false});
  CHECK(outcome.out.starts_with("1234\n77\nGroups:\t5 9 \n0077\n1234 600\n"));
  // Without a umask of its own, the usual one.
  CHECK_EQ(bundle.run({.script = "umask"}).out, "0022\n");
}

TEST(capabilities_are_exactly_those_asked_for) {
  NEEDS_HOST();
  Bundle bundle;
  const std::string root = bundle.run({.script = "cat /proc/self/status"}).out;
  // CHOWN (0), KILL (5), SETUID (7).
  CHECK_EQ(field(root, "CapPrm"), "00000000000000a1");
  CHECK_EQ(field(root, "CapEff"), "00000000000000a1");
  CHECK_EQ(field(root, "CapBnd"), "00000000000000a1");
  CHECK_EQ(field(root, "CapInh"), "0000000000000000");
  CHECK_EQ(field(root, "CapAmb"), "0000000000000000");
  const std::string user = bundle.run({.script = "cat /proc/self/status", .user = R"({"uid": 1000, "gid": 1000})"}).out;
  CHECK_EQ(field(user, "CapPrm"), "0000000000000000");
  CHECK_EQ(field(user, "CapEff"), "0000000000000000");
  CHECK_EQ(field(user, "CapBnd"), "00000000000000a1");
}

TEST(ambient_capabilities_reach_a_user) {
  NEEDS_HOST();
  Bundle bundle;
  Config config{.script = "cat /proc/self/status", .user = R"({"uid": 1000, "gid": 1000})"};
  config.capabilities = R"(["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"], "x-rest": ["CAP_KILL"])";
  // The list is used three times in the text; what is appended to it may only be given once.
  std::string json = Config(config).json();
  const std::string extra = R"(, "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"], "x-rest": ["CAP_KILL"])";
  for (size_t at = json.find(extra); at != std::string::npos; at = json.find(extra, at)) json.erase(at, extra.size());
  json.insert(json.find(R"("bounding")"), R"("inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"], )");
  write_text(bundle.directory() + "/config.json", json);
  const std::string status = bundle.oci("run --bundle " + bundle.directory() + " " + bundle.name()).out;
  CHECK_EQ(field(status, "CapAmb"), "0000000000000020");
  CHECK_EQ(field(status, "CapEff"), "0000000000000020");
}

TEST(no_new_privs_as_asked) {
  NEEDS_HOST();
  Bundle bundle;
  CHECK_EQ(field(bundle.run({.script = "cat /proc/self/status", .process = R"(, "noNewPrivileges": true)"}).out, "NoNewPrivs"), "1");
  CHECK_EQ(field(bundle.run({.script = "cat /proc/self/status"}).out, "NoNewPrivs"), "0");
}

TEST(the_filter_is_installed_with_and_without_no_new_privs) {
  NEEDS_HOST();
  Bundle bundle;
  for (const char* flag : {"true", "false"}) {
    for (const char* user : {R"({"uid": 0, "gid": 0})", R"({"uid": 1000, "gid": 1000})"}) {
      const std::string out = bundle.run({.script = "cat /proc/self/status; mkdir /tmp/x 2>&1", .user = user, .process = std::string(R"(, "noNewPrivileges": )") + flag,
                                          .readonly = false, .section = kFilter}).out;
      CHECK_EQ(field(out, "Seccomp"), "2");
      CHECK_EQ(field(out, "NoNewPrivs"), flag == std::string("true") ? "1" : "0");
      // CAP_SYS_ADMIN, kept for the filter, is gone.
      CHECK_EQ(field(out, "CapPrm"), user == std::string(R"({"uid": 0, "gid": 0})") ? "00000000000000a1" : "0000000000000000");
      CHECK(out.find("mkdir: can't create directory '/tmp/x': Not supported") != std::string::npos ||
            out.find("Operation not supported") != std::string::npos);
    }
  }
}

// What a runtime itself does before the program need not be allowed by its profile, but for getcwd, close_range, capset and
// execve, which come after the filter.
TEST(a_profile_need_not_allow_what_the_runtime_does) {
  NEEDS_HOST();
  Bundle bundle;
  for (const char* flag : {"true", "false"}) {
    const Outcome outcome = bundle.run({.args = {"true"}, .process = std::string(R"(, "noNewPrivileges": )") + flag,
                                        .section = R"(, "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["setuid", "setresuid", "setgid", "setresgid",
        "setgroups", "chdir", "fchdir", "openat2", "socketpair", "recvmsg", "sendmsg", "recvfrom", "sendto", "pivot_root", "mount", "umount2", "move_mount",
        "mount_setattr", "clone3", "unshare", "setns", "seccomp", "keyctl", "setrlimit", "poll", "ppoll", "faccessat2", "memfd_create"], "action": "SCMP_ACT_KILL_PROCESS"}]})"});
    CHECK_EQ(outcome.code, 0);
    CHECK_EQ(outcome.out, "");
  }
}

TEST(rlimits_and_oom_score) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj",
                                      .process = R"(, "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}], "oomScoreAdj": 321)"});
  CHECK_EQ(outcome.out, "5\n6\n321\n");
}

TEST(scheduling_personality_and_time) {
  NEEDS_HOST();
  if (access("/proc/self/ns/time", F_OK) != 0) SKIP("needs time namespaces");
  Bundle bundle;
  Config config{.script = "cut -d ' ' -f 19,41 /proc/self/stat; uname -m; cut -d . -f 1 /proc/uptime",
                .process = R"(, "scheduler": {"policy": "SCHED_BATCH", "nice": 5}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE"})",
                .section = R"(, "personality": {"domain": "LINUX32"}, "timeOffsets": {"boottime": {"secs": 1000000000}})"};
  config.namespaces += R"(, {"type": "time"})";
  const Outcome outcome = bundle.run(config);
  CHECK(outcome.out.starts_with("5 3\n"));
#if defined(__x86_64__)
  CHECK(outcome.has("\ni686\n"));
#endif
  CHECK(outcome.has("\n1000"));
}

TEST(sysctls_are_the_containers_own) {
  NEEDS_HOST();
  Bundle bundle;
  const std::string before = read_text("/proc/sys/net/ipv4/ip_unprivileged_port_start");
  const Outcome outcome = bundle.run({.script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni",
                                      .section = R"(, "sysctl": {"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shmmni": "99"})"});
  CHECK_EQ(outcome.out, "81\n99\n");
  CHECK_EQ(read_text("/proc/sys/net/ipv4/ip_unprivileged_port_start"), before);
}

TEST(bind_mounts) {
  NEEDS_HOST();
  Bundle bundle;
  CHECK_EQ(shell("cd " + bundle.directory() + " && mkdir -p host/sub && echo a > host/file && echo b > single && mkdir other && echo c > other/file"
                 " && mount -t tmpfs tmpfs host/sub && echo d > host/sub/file").out, "");
  const std::string source = bundle.directory() + "/";
  const Outcome outcome = bundle.run(
      {.script = "cat /v/file /v/sub/file /s/single; echo x > /v/file || echo ro; echo x > /v/sub/file && echo rw; echo x > /r/sub/file || echo rro; ls /n/sub | wc -l; cat /proc/self/mountinfo",
       .readonly = false,
       .mounts = R"(, {"destination": "/v", "type": "bind", "source": ")" + source + R"(host", "options": ["rbind", "ro"]})" +
                 R"(, {"destination": "/r", "type": "bind", "source": ")" + source + R"(host", "options": ["rbind", "rro", "rslave"]})" +
                 R"(, {"destination": "/n", "type": "bind", "source": ")" + source + R"(host", "options": ["bind", "rw", "nosuid", "noexec"]})" +
                 R"(, {"destination": "/s/single", "type": "bind", "source": "single", "options": ["bind"]})"});
  CHECK_EQ(shell("umount " + bundle.directory() + "/host/sub").code, 0);
  CHECK(outcome.out.starts_with("a\nd\nb\n"));
  CHECK(outcome.has("ro\n"));
  CHECK(outcome.has("rw\n"));
  CHECK(outcome.has("rro\n0\n"));
  CHECK(outcome.has(" /n rw,nosuid,noexec"));
  CHECK_EQ(read_text(bundle.directory() + "/host/file"), "a\n");
}

TEST(copy_up) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "cat /full/file /full/link; echo changed > /full/file && cat /full/file",
                                      .mounts = R"(, {"destination": "/full", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]})"});
  CHECK_EQ(outcome.out, "inside\ninside\nchanged\n");
  CHECK_EQ(read_text(bundle.directory() + "/rootfs/full/file"), "inside\n");
}

TEST(the_working_directory_is_made_for_the_user) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "pwd; stat -c '%u:%g' .", .user = R"({"uid": 42, "gid": 43})", .cwd = "/made/deep", .readonly = false});
  CHECK_EQ(outcome.out, "/made/deep\n42:43\n");
}

TEST(errors_name_the_step_and_leave_nothing) {
  NEEDS_HOST();
  Bundle bundle;
  const Outcome program = bundle.run({.args = {"no-such-program"}});
  CHECK_EQ(program.code, 1);
  CHECK(program.has("no-such-program"));
  CHECK(program.has("No such file or directory"));
  const Outcome source = bundle.run({.mounts = R"(, {"destination": "/v", "type": "bind", "source": "/no/such/source", "options": ["bind"]})"});
  CHECK_EQ(source.code, 1);
  CHECK(source.has("/no/such/source"));
  const Outcome type = bundle.run({.mounts = R"(, {"destination": "/v", "type": "nosuchfs", "source": "x", "options": []})"});
  CHECK_EQ(type.code, 1);
  CHECK(type.has("mount /v"));
  const Outcome escape = bundle.run({.mounts = R"(, {"destination": "/full/../../proc/sys", "type": "tmpfs", "source": "x", "options": []})"});
  CHECK_EQ(escape.code, 1);
  CHECK(escape.has("mounts[6].destination"));
  CHECK_EQ(shell("ls -A " + bundle.directory() + "/states").out, "");
  CHECK_EQ(shell("find /sys/fs/cgroup -maxdepth 3 -name 'run-test-" + std::to_string(getpid()) + "-*'").out, "");
}

TEST(a_link_to_proc_in_the_image_diverts_nothing) {
  NEEDS_HOST();
  Bundle bundle;
  CHECK_EQ(shell("cd " + bundle.directory() + "/rootfs && rmdir proc && ln -s /full proc").out, "");
  const Outcome outcome = bundle.run({.script = "true"});
  CHECK_EQ(outcome.code, 1);
  CHECK(outcome.has("mount /proc"));
}

TEST(a_link_as_mount_target_stays_inside) {
  NEEDS_HOST();
  Bundle bundle;
  CHECK_EQ(shell("cd " + bundle.directory() + " && mkdir canary && ln -s ../../../../../.." + bundle.directory() + "/canary rootfs/v && echo x > single").out, "");
  const Outcome outcome = bundle.run({.script = "cat /v/deep/file", .readonly = false,
                                      .mounts = R"(, {"destination": "/v/deep/file", "type": "bind", "source": "single", "options": ["bind"]})"});
  CHECK_EQ(outcome.out, "x\n");
  CHECK_EQ(shell("ls -A " + bundle.directory() + "/canary").out, "");
}

TEST(created_then_started) {
  NEEDS_HOST();
  Bundle bundle;
  bundle.configure({.script = "echo started > /tmp/made; exec sleep 100", .readonly = false});
  const std::string id = bundle.name();
  const std::string made = bundle.directory() + "/rootfs/tmp/made";
  const std::string pid_file = bundle.directory() + "/pid";
  CHECK_EQ(bundle.oci("create --bundle " + bundle.directory() + " --pid-file " + pid_file + " " + id).out, "");
  CHECK(bundle.oci("state " + id).has("\"status\": \"created\""));
  usleep(50'000);
  CHECK(access(made.c_str(), F_OK) != 0);
  const std::string pid = read_text(pid_file);
  CHECK(bundle.oci("state " + id).has("\"pid\": " + pid + ","));
  // It waits with its final capabilities already.
  CHECK_EQ(field(read_text("/proc/" + pid + "/status"), "CapBnd"), "00000000000000a1");
  CHECK(bundle.oci("create --bundle " + bundle.directory() + " " + id).code != 0);
  CHECK(bundle.oci("exec " + id + " true").code != 0);
  CHECK_EQ(bundle.oci("start " + id).out, "");
  for (int i = 0; i < 100 && access(made.c_str(), F_OK) != 0; ++i) usleep(10'000);
  CHECK_EQ(read_text(made), "started\n");
  CHECK(bundle.oci("state " + id).has("\"status\": \"running\""));
  CHECK(bundle.oci("start " + id).code != 0);
  CHECK(bundle.oci("delete " + id).code != 0);

  const Outcome executed = bundle.oci("exec " + id + " sh -c 'echo $$; hostname; cat /proc/self/status; exit 9'");
  CHECK_EQ(executed.code, 9);
  CHECK(executed.out.starts_with("2\ninside\n"));
  CHECK_EQ(field(executed.out, "CapPrm"), "00000000000000a1");
  CHECK_EQ(field(executed.out, "CapBnd"), "00000000000000a1");
  CHECK_EQ(bundle.oci("exec --user 1000:1001 --additional-gids 7 --cwd /tmp --env A=b " + id + " sh -c 'id -u; id -g; pwd; echo $A'").out, "1000\n1001\n/tmp\nb\n");
  CHECK_EQ(bundle.oci("exec " + id + " no-such-program").code, 255);
  CHECK_EQ(bundle.oci("exec " + id + " sh -c '" + kOpenDescriptors + "'").out, "0\n1\n2\nend\n");

  CHECK_EQ(bundle.oci("kill --all " + id + " KILL").code, 0);
  for (int i = 0; i < 100 && !bundle.oci("state " + id).has("stopped"); ++i) usleep(20'000);
  CHECK(bundle.oci("state " + id).has("\"status\": \"stopped\""));
  CHECK_EQ(bundle.oci("delete " + id).out, "");
  CHECK_EQ(shell("ls -A " + bundle.directory() + "/states").out, "");
  CHECK(bundle.oci("state " + id).code != 0);
}

TEST(a_created_container_can_be_deleted) {
  NEEDS_HOST();
  Bundle bundle;
  bundle.configure({});
  const std::string id = bundle.name();
  CHECK_EQ(bundle.oci("create --bundle " + bundle.directory() + " " + id).code, 0);
  CHECK_EQ(bundle.oci("delete " + id).out, "");
  CHECK_EQ(shell("ls -A " + bundle.directory() + "/states").out, "");
}

TEST(namespaces_by_path) {
  NEEDS_HOST();
  Bundle bundle;
  bundle.configure({.args = {"sleep", "100"}});
  const std::string first = bundle.name();
  const std::string pid_file = bundle.directory() + "/pid";
  CHECK_EQ(bundle.oci("run --detach --pid-file " + pid_file + " --bundle " + bundle.directory() + " " + first).code, 0);
  const std::string pid = read_text(pid_file);
  const auto at = [&](const char* kind, const char* file) {
    return std::string(R"({"type": ")") + kind + R"(", "path": "/proc/)" + pid + "/ns/" + file + "\"}";
  };
  Config config{.script = "hostname; ps | grep -c sleep; for n in net ipc uts pid; do stat -Lc %i /proc/1/ns/$n /proc/self/ns/$n; done | sort -u | wc -l"};
  config.top = "";
  config.namespaces = at("pid", "pid") + "," + at("network", "net") + "," + at("ipc", "ipc") + "," + at("uts", "uts") + R"(, {"type": "mount"}, {"type": "cgroup"})";
  CHECK(bundle.run(config).out.starts_with("inside\n"));
  // init of the shared pid namespace is the other container's program.
  config.script = "head -c 5 /proc/1/cmdline";
  CHECK_EQ(bundle.run(config).out, "sleep");
}

TEST(cgroup_limits_are_applied) {
  NEEDS_HOST();
  if (access("/sys/fs/cgroup/pids/cgroup.procs", W_OK) != 0 && access("/sys/fs/cgroup/cgroup.procs", W_OK) != 0) SKIP("needs cgroups");
  Bundle bundle;
  const Outcome outcome = bundle.run({.script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; cat /proc/self/cgroup | grep -c ':/$'",
                                      .section = R"(, "resources": {"pids": {"limit": 33}})"});
  CHECK(outcome.out.starts_with("33\n"));
  // Its own cgroup is the root of what it sees.
  CHECK(!outcome.has("\n0\n"));
}

TEST(a_terminal) {
  NEEDS_HOST();
  if (access("/usr/bin/script", X_OK) != 0) SKIP("needs script(1)");
  Bundle bundle;
  bundle.configure({.script = "test -t 0 && echo tty; ls -l /dev/console | head -c 1; stat -c ' %u' /dev/pts/0; echo to-console > /dev/console",
                    .user = R"({"uid": 1000, "gid": 1000})",
                    .process = R"(, "terminal": true, "consoleSize": {"height": 33, "width": 111})"});
  const Outcome outcome = shell("script -qec '" + std::string(BERTH_OCI) + " --root " + bundle.directory() + "/states run --bundle " + bundle.directory() + " " +
                                bundle.name() + "' /dev/null </dev/null");
  CHECK(outcome.has("tty\r\n"));
  CHECK(outcome.has("c 1000\r\n"));
  CHECK(outcome.has("to-console\r\n"));
}

CHECK_MAIN()
