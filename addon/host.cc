#include "addon/host.h"

#include <dlfcn.h>
#include <fcntl.h>

#include <cstdlib>

#include "core/sys/file_text.h"
#include "core/sys/overlay.h"

namespace berth::addon {
namespace {

constexpr const char* kPrograms[] = {"berth-monitor", "berth-pause", "berth-unpack", "berth-oci"};

std::string program_directory() {
  const char* chosen = std::getenv("BERTH_NATIVE_DIR");
  if (chosen != nullptr && chosen[0] != '\0') return chosen;
  Dl_info self = {};
  if (::dladdr(reinterpret_cast<const void*>(&sha256_hex), &self) == 0 || self.dli_fname == nullptr) return ".";
  const std::string path = self.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

}  // namespace

Host::Host() : probe_(sys::probe_kernel()), layout_(cgroup::detect_layout()), directory_(program_directory()) {
  for (const char* name : kPrograms) {
    const std::string path = directory_ + "/" + name;
    Result<Fd> mount = sys::open_mount_tree(path, true, false, true);
    // Without CAP_SYS_ADMIN there are no mounts: unit tests load the addon as anybody.
    if (!mount.ok() && mount.error().error_number == EPERM) mount = Fd(::open(path.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW));
    if (!mount.ok() || !mount->valid()) continue;
    programs_.emplace(name, std::move(mount).value());
  }
}

Result<const cgroup::Layout*> Host::layout() const {
  if (!layout_.ok()) return layout_.error();
  return &layout_.value();
}

Result<FdRef> Host::program(const std::string& name) const {
  const auto found = programs_.find(name);
  if (found == programs_.end()) return make_error(ENOENT, "program.open", "open_tree", directory_ + "/" + name);
  return found->second.ref();
}

std::vector<std::pair<std::string, std::string>> Host::digests() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& [name, mount] : programs_) {
    // Through the link: the descriptor itself is good for executing alone.
    Fd file(::open(("/proc/self/fd/" + std::to_string(mount.get())).c_str(), O_RDONLY | O_CLOEXEC));
    Result<std::string> bytes = sys::read_all(file.ref(), 256u << 20, "program.digest", name);
    if (bytes.ok()) out.emplace_back(name, sha256_hex(bytes->data(), bytes->size()));
  }
  return out;
}

const Host& host() {
  static const Host* const made = new Host();
  return *made;
}

}  // namespace berth::addon
