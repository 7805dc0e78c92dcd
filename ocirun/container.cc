#include "ocirun/container.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <utility>

#include "core/spec/json.h"
#include "core/sys/file_text.h"
#include "core/sys/process.h"

namespace berth::ocirun {

namespace {

constexpr std::string_view kDefaultParent = "/berth-oci";

std::string now() {
  struct timespec time = {};
  clock_gettime(CLOCK_REALTIME, &time);
  struct tm parts = {};
  gmtime_r(&time.tv_sec, &parts);
  char text[64];
  const size_t size = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  char fraction[16];
  snprintf(fraction, sizeof(fraction), ".%09ldZ", time.tv_nsec);
  return std::string(text, size) + fraction;
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// What every container may use beside what its bundle allows: the default devices of the runtime-spec, its own ptys, and
// making nodes that it then cannot open.
void append_default_devices(std::vector<cgroup::DeviceRule>& rules) {
  const auto allow = [&](char type, int64_t major, int64_t minor, uint32_t access) {
    rules.push_back(cgroup::DeviceRule{true, type, major, minor, access});
  };
  allow('c', cgroup::kAnyDevice, cgroup::kAnyDevice, cgroup::kAccessMknod);
  allow('b', cgroup::kAnyDevice, cgroup::kAnyDevice, cgroup::kAccessMknod);
  for (const int64_t minor : {3, 5, 7, 8, 9}) allow('c', 1, minor, cgroup::kAccessAll);  // null zero full random urandom
  for (const int64_t minor : {0, 1, 2}) allow('c', 5, minor, cgroup::kAccessAll);        // tty console ptmx
  allow('c', 136, cgroup::kAnyDevice, cgroup::kAccessAll);                               // pts
}

// A process that has ended but was not waited for yet.
bool is_zombie(pid_t pid) {
  const auto text = sys::read_file(AT_FDCWD, ("/proc/" + std::to_string(pid) + "/stat").c_str(), "state");
  if (!text.ok()) return true;
  const size_t end = text.value().rfind(") ");
  return end == std::string::npos || end + 2 >= text.value().size() || text.value()[end + 2] == 'Z' || text.value()[end + 2] == 'X';
}

}  // namespace

Result<void> write_text(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".new";
  const Fd file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return errno_error("write", "open", temporary);
  BERTH_TRY(sys::write_all(file.ref(), text.data(), text.size(), "write", temporary));
  if (rename(temporary.c_str(), path.c_str()) != 0) return errno_error("write", "rename", path);
  return {};
}

Result<Container> make_container(const std::string& root, const std::string& id, const BundleConfig& config) {
  if (mkdir(root.c_str(), 0700) != 0 && errno != EEXIST) return errno_error("container.make", "mkdir", root);
  Container out;
  out.directory = root + "/" + id;
  if (mkdir(out.directory.c_str(), 0700) != 0) return errno_error("container.make", "mkdir", out.directory);
  out.id = id;
  out.bundle = config.bundle;
  out.rootfs = config.rootfs;
  out.oci_version = config.oci_version;
  out.annotations_json = config.annotations_json;
  out.created = now();
  return out;
}

Result<void> save_container(const Container& container) {
  std::string text = "{\"ociVersion\":" + quoted(container.oci_version) + ",\"id\":" + quoted(container.id) +
                     ",\"pid\":" + std::to_string(container.pid) + ",\"startTime\":" + quoted(container.start_time) +
                     ",\"bundle\":" + quoted(container.bundle) + ",\"rootfs\":" + quoted(container.rootfs) +
                     ",\"created\":" + quoted(container.created) + ",\"cgroup\":" + quoted(container.cgroup) +
                     ",\"annotations\":" + container.annotations_json + "}\n";
  return write_text(container.directory + "/state.json", text);
}

Result<Container> load_container(const std::string& root, const std::string& id) {
  Container out;
  out.directory = root + "/" + id;
  out.id = id;
  BERTH_ASSIGN(const std::string text, read_text(out.directory + "/state.json"));
  BERTH_ASSIGN(const spec::json::Document document, spec::json::parse(text, 4u << 20, 32));
  const auto string = [&](const char* name) {
    const auto found = document.dom.FindMember(name);
    return found != document.dom.MemberEnd() && found->value.IsString() ? std::string(found->value.GetString()) : std::string();
  };
  out.bundle = string("bundle");
  out.rootfs = string("rootfs");
  out.oci_version = string("ociVersion");
  out.created = string("created");
  out.cgroup = string("cgroup");
  out.start_time = string("startTime");
  const auto pid = document.dom.FindMember("pid");
  if (pid != document.dom.MemberEnd() && pid->value.IsInt()) out.pid = pid->value.GetInt();
  const auto annotations = document.dom.FindMember("annotations");
  if (annotations != document.dom.MemberEnd()) out.annotations_json = spec::json::minified(annotations->value);
  return out;
}

void remove_directory(const Container& container) {
  for (const char* name : {"/state.json", "/state.json.new", "/start.sock", "/exit", "/exit.new"}) {
    unlink((container.directory + name).c_str());
  }
  rmdir(container.directory.c_str());
}

Live look(const Container& container) {
  Live out;
  if (container.pid <= 0 || exists(container.directory + "/exit")) return out;
  auto process = sys::open_process(container.pid, container.start_time);
  if (!process.ok() || !process.value().has_value() || is_zombie(container.pid)) return out;
  out.pidfd = std::move((*process)->pidfd);
  out.status = exists(container.directory + "/start.sock") ? Status::kCreated : Status::kRunning;
  return out;
}

std::string_view status_name(Status status) {
  switch (status) {
    case Status::kCreated:
      return "created";
    case Status::kRunning:
      return "running";
    case Status::kStopped:
      return "stopped";
  }
  return "unknown";
}

Result<std::unique_ptr<cgroup::Cgroup>> make_cgroup(const cgroup::Layout& layout, Container& container, const BundleConfig& config) {
  std::string path = config.cgroups_path;
  if (path.empty()) path = std::string(kDefaultParent) + "/" + container.id;
  if (!path.starts_with('/')) return field_error("cgroup.make", "linux.cgroupsPath", "only absolute paths are supported");
  std::optional<cgroup::Resources> resources;
  if (!config.resources_json.empty()) {
    BERTH_ASSIGN(resources.emplace(), cgroup::parse_resources(config.resources_json));
    if (resources->devices) append_default_devices(*resources->devices);
  }
  BERTH_ASSIGN(auto made, cgroup::Cgroup::create(layout, path, resources ? &*resources : nullptr, false));
  container.cgroup = path;
  return made;
}

Result<void> remove_cgroup(const cgroup::Layout& layout, const Container& container) {
  if (container.cgroup.empty()) return {};
  BERTH_TRY(cgroup::remove(layout, container.cgroup, 5000));
  // The parent that we made for it goes with the last of them.
  if (container.cgroup.starts_with(std::string(kDefaultParent) + "/")) {
    for (const cgroup::Hierarchy& hierarchy : layout.hierarchies) rmdir((hierarchy.mount + std::string(kDefaultParent)).c_str());
  }
  return {};
}

}  // namespace berth::ocirun
