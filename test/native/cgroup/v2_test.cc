// The v2 side on a v2 hierarchy of this host: /sys/fs/cgroup, or the one of a hybrid host, which has no controllers but
// everything else.
#include "core/cgroup/cgroup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "core/sys/pidfd.h"
#include "core/sys/spawn.h"
#include "test/native/check.h"

using namespace berth;
using namespace berth::cgroup;

namespace {

const Layout* find_layout() {
  static std::unique_ptr<Layout> layout = [] {
    for (const char* mount : {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}) {
      Result<Layout> found = v2_layout(mount);
      if (found.ok()) return std::make_unique<Layout>(std::move(found).value());
    }
    return std::unique_ptr<Layout>();
  }();
  return layout.get();
}

std::string top() { return "/berth-v2-test-" + std::to_string(::getpid()); }

// Removes everything of the test, whatever its outcome.
struct CleanUp {
  const Layout& layout;
  ~CleanUp() { static_cast<void>(remove(layout, top(), 5000)); }
};

Result<sys::Spawned> sleeper_in(Cgroup& group) {
  Result<AttachFds> fds = group.open_attach();
  if (!fds.ok()) return fds.error();
  sys::SpawnOptions options;
  options.path = "/bin/sleep";
  options.args = {"sleep", "60"};
  options.fds = {-1, -1, -1};
  options.cgroup.v2_directory = fds->v2_directory.get();
  return sys::spawn(options, "test");
}

int exit_signal(const sys::Spawned& spawned) {
  siginfo_t info = {};
  if (sys::waitid_pidfd(spawned.pidfd.get(), &info, WEXITED) != 0) return -1;
  return info.si_code == CLD_KILLED ? info.si_status : 0;
}

#define NEEDS_V2()                                                       \
  const Layout* layout = find_layout();                                  \
  if (layout == nullptr) SKIP("no cgroup v2 hierarchy is mounted");      \
  {                                                                      \
    Result<std::unique_ptr<Cgroup>> probe = Cgroup::create(*layout, top(), nullptr, true); \
    if (!probe.ok()) SKIP("no cgroup can be made in it");                \
  }                                                                      \
  const CleanUp clean_up{*layout}

}  // namespace

TEST(is_made_with_its_parents_and_removed_with_its_children) {
  NEEDS_V2();
  const std::string path = top() + "/parent/leaf";
  Result<std::unique_ptr<Cgroup>> made = Cgroup::create(*layout, path, nullptr, false);
  REQUIRE(made.ok());
  const Result<std::unique_ptr<Cgroup>> again = Cgroup::create(*layout, path, nullptr, false);
  CHECK(!again.ok() && again.error().error_number == EEXIST);
  CHECK(Cgroup::open(*layout, path).ok());
  CHECK_EQ(children(*layout, top()).value().size(), size_t{1});
  CHECK(remove(*layout, top() + "/parent", 0).ok());
  CHECK(remove(*layout, top() + "/parent", 0).ok());
  CHECK(!Cgroup::open(*layout, path).ok());
  CHECK(!(*made)->stats().has_value());
}

TEST(processes_are_born_in_it_and_killed_together) {
  NEEDS_V2();
  Result<std::unique_ptr<Cgroup>> outer = Cgroup::create(*layout, top() + "/outer", nullptr, false);
  Result<std::unique_ptr<Cgroup>> inner = Cgroup::create(*layout, top() + "/outer/inner", nullptr, false);
  REQUIRE(outer.ok() && inner.ok());
  Result<sys::Spawned> first = sleeper_in(**inner);
  Result<sys::Spawned> second = sleeper_in(**inner);
  REQUIRE(first.ok() && second.ok());
  CHECK_EQ(processes(*layout, top() + "/outer").value().size(), size_t{2});
  const std::optional<Stats> stats = (*inner)->stats();
  REQUIRE(stats.has_value());
  CHECK(stats->cpu_usage_ns.has_value());
  CHECK(stats->process_count == 2u);
  CHECK((*outer)->stats()->process_count == 2u);
  CHECK(set_frozen(*layout, top() + "/outer", true).ok());
  CHECK(kill(*layout, top() + "/outer").ok());
  CHECK_EQ(exit_signal(*first), SIGKILL);
  CHECK_EQ(exit_signal(*second), SIGKILL);
  CHECK(remove(*layout, top() + "/outer", 1000).ok());
}

TEST(freezing_waits_until_the_kernel_says_so) {
  NEEDS_V2();
  Result<std::unique_ptr<Cgroup>> group = Cgroup::create(*layout, top() + "/frozen", nullptr, false);
  REQUIRE(group.ok());
  Result<sys::Spawned> process = sleeper_in(**group);
  REQUIRE(process.ok());
  CHECK(set_frozen(*layout, top() + "/frozen", true).ok());
  CHECK(set_frozen(*layout, top() + "/frozen", false).ok());
  CHECK(!set_frozen(*layout, top() + "/absent", true).ok());
  CHECK(remove(*layout, top() + "/frozen", 1000).ok());
  CHECK_EQ(exit_signal(*process), SIGKILL);
}

TEST(limits_without_their_controller_name_the_file) {
  NEEDS_V2();
  Result<Resources> resources = parse_resources(R"({"unified": {"no.such_file": "1"}})");
  REQUIRE(resources.ok());
  const Result<std::unique_ptr<Cgroup>> made = Cgroup::create(*layout, top() + "/limited", &*resources, false);
  REQUIRE(!made.ok());
  CHECK(made.error().path.ends_with("/limited/no.such_file"));
  CHECK_EQ(made.error().detail, "linux.resources.unified.no.such_file");
  CHECK(!Cgroup::open(*layout, top() + "/limited").ok());
  for (const char* refused : {R"({"memory": {"swappiness": 1}})", R"({"memory": {"disableOOMKiller": true}})", R"({"network": {"classID": 1}})",
                              R"({"cpu": {"realtimeRuntime": 1}})", R"({"blockIO": {"leafWeight": 10}})"}) {
    Result<Resources> v1_only = parse_resources(refused);
    REQUIRE(v1_only.ok());
    const Result<std::unique_ptr<Cgroup>> attempt = Cgroup::create(*layout, top() + "/limited", &*v1_only, false);
    CHECK(!attempt.ok() && attempt.error().error_number == EINVAL && attempt.error().path.starts_with("linux.resources."));
  }
}

CHECK_MAIN()
