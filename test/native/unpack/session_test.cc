// The daemon's half against programs that do not keep to the protocol: a parser taken over by its input. The test program is
// its own unpacker: the media type says how it misbehaves.
#include "core/unpack/session.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "test/native/check.h"

namespace {

using berth::Fd;
using berth::unpack::apply_item;
using berth::unpack::decode_frame;
using berth::unpack::encode_frame;
using berth::unpack::Failure;
using berth::unpack::Frame;
using berth::unpack::Item;
using berth::unpack::ItemKind;
using berth::unpack::Outcome;
using berth::unpack::Session;
using berth::unpack::SessionOptions;
using berth::unpack::SessionResult;

Item device_item(const std::string& path) {
  Item item;
  item.kind = ItemKind::kDevice;
  item.mode = S_IFCHR | 0666;
  item.device_major = 1;
  item.device_minor = 3;
  item.path = path;
  return item;
}

// ---- the misbehaving program --------------------------------------------------------------------------------------

void send_bytes(const std::string& bytes) { (void)!::send(berth::unpack::kResultFd, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
void send_outcome(uint64_t items) {
  Outcome outcome;
  outcome.items = items;
  send_bytes(encode_frame(Frame(outcome)));
}
void read_all() {
  char buffer[4096];
  while (::read(berth::unpack::kInputFd, buffer, sizeof(buffer)) > 0) {
  }
}

int misbehave(const std::string& how) {
  if (how == "dies") {
    ::raise(SIGKILL);
  } else if (how == "exits") {
    return 3;
  } else if (how == "says nothing") {
    read_all();
  } else if (how == "rubbish") {
    send_bytes("rubbish");
  } else if (how == "too long") {
    send_bytes(std::string(berth::unpack::kMaxFrameBytes + 1, 'x'));
  } else if (how == "missing items") {
    read_all();
    send_outcome(2);
  } else if (how == "result twice") {
    send_outcome(0);
    send_outcome(0);
    read_all();
  } else if (how == "hangs") {
    for (;;) ::pause();
  } else if (how == "result and hangs") {
    read_all();
    send_outcome(0);
    ::close(berth::unpack::kResultFd);
    for (;;) ::pause();
  } else if (how == "escapes") {
    // As the jailed program could: it may put any link into the layer, and name any path.
    if (::symlinkat("/proc/self/cwd", berth::unpack::kTargetFd, "out") != 0) return 4;
    send_bytes(encode_frame(Frame(device_item("out/escaped"))));
    read_all();
    send_outcome(1);
  } else if (how == "floods") {
    Item item;
    for (int i = 0; i < 300000; ++i) send_bytes(encode_frame(Frame(item)));
  } else if (how == "fails") {
    send_bytes(encode_frame(Frame(berth::make_error(EBADMSG, "unpack.extract", "entry", "some/path", "why"))));
    return 1;
  } else if (how == "fails while fed") {
    send_bytes(encode_frame(Frame(berth::make_error(EFBIG, "unpack.decompress", "limit"))));
    ::close(berth::unpack::kInputFd);
    ::usleep(50000);
    return 1;
  } else if (how == "behaves") {
    // What it was started with: no descriptor beyond its own, and default signals.
    for (int fd = 5; fd < 64; ++fd) {
      if (::fcntl(fd, F_GETFD) >= 0) return 5;
    }
    struct sigaction action;
    if (::sigaction(SIGPIPE, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return 6;
    sigset_t mask;
    if (::sigprocmask(SIG_SETMASK, nullptr, &mask) != 0 || ::sigismember(&mask, SIGTERM) != 0) return 7;
    read_all();
    send_outcome(0);
  }
  return 0;
}

// ---- the tests ----------------------------------------------------------------------------------------------------

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/berth-session-XXXXXX";
    if (::mkdtemp(name) != nullptr) path_ = name;
  }
  ~Directory() { (void)!::system(("rm -rf " + path_).c_str()); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

berth::Result<SessionResult> run(const std::string& how, const std::string& target, size_t bytes = 0) {
  const Fd program(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
  SessionOptions options;
  options.program = program.ref();
  options.target = target;
  options.media_type = how;
  options.max_bytes = 1;
  options.max_entries = 1;
  auto session = Session::start(options);
  if (!session.ok()) return std::move(session).error();
  const std::string data(bytes, 'x');
  auto written = (*session)->write(data.data(), data.size());
  if (!written.ok()) return std::move(written).error();
  return (*session)->finish();
}

int error_of(const std::string& how, size_t bytes = 0) {
  const Directory directory;
  auto result = run(how, directory.path(), bytes);
  return result.ok() ? 0 : result.error().error_number;
}

TEST(a_program_that_behaves_gets_a_clean_start) { CHECK_EQ(error_of("behaves", 100), 0); }

TEST(a_program_that_ends_without_a_result_is_an_error) {
  CHECK_EQ(error_of("dies"), EPIPE);
  CHECK_EQ(error_of("exits"), EPIPE);
  CHECK_EQ(error_of("says nothing"), EPIPE);
  CHECK_EQ(error_of("dies", 4 << 20), EPIPE);
}

TEST(frames_that_are_none_are_refused) {
  CHECK_EQ(error_of("rubbish"), EPROTO);
  CHECK_EQ(error_of("too long"), EPROTO);
  CHECK_EQ(error_of("missing items"), EPROTO);
  CHECK_EQ(error_of("result twice"), EPROTO);
}

TEST(a_list_without_end_is_cut_off) { CHECK_EQ(error_of("floods"), EFBIG); }

TEST(the_programs_reason_comes_through) {
  const Directory directory;
  auto result = run("fails", directory.path());
  REQUIRE(!result.ok());
  CHECK_EQ(result.error().error_number, EBADMSG);
  CHECK_EQ(result.error().path, std::string("some/path"));
  CHECK_EQ(result.error().detail, std::string("why"));
  CHECK_EQ(error_of("fails while fed", 8 << 20), EFBIG);
}

TEST(an_item_cannot_leave_the_layer) {
  const Directory directory;
  auto result = run("escapes", directory.path());
  REQUIRE(!result.ok());
  CHECK_EQ(result.error().step, std::string("unpack.apply"));
  struct stat status;
  CHECK_EQ(::stat("escaped", &status), -1);
}

TEST(a_program_that_closes_its_socket_and_stays_is_killed_before_items_are_applied) {
  const auto before = std::chrono::steady_clock::now();
  CHECK_EQ(error_of("result and hangs"), EPIPE);
  CHECK(std::chrono::steady_clock::now() - before < std::chrono::seconds(10));
}

TEST(an_abort_ends_a_write_that_waits) {
  const Directory directory;
  const Fd program(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
  SessionOptions options;
  options.program = program.ref();
  options.target = directory.path();
  options.media_type = "hangs";
  options.max_bytes = options.max_entries = 1;
  auto session = Session::start(options);
  REQUIRE(session.ok());
  Session& running = **session;
  std::thread aborter([&running] {
    ::usleep(100000);
    running.abort();
    running.abort();
  });
  const std::string data(8 << 20, 'x');
  auto written = running.write(data.data(), data.size());
  aborter.join();
  REQUIRE(!written.ok());
  CHECK_EQ(written.error().error_number, ECANCELED);
  auto finished = running.finish();
  REQUIRE(!finished.ok());
  CHECK_EQ(finished.error().error_number, ECANCELED);
  CHECK_EQ(::kill(running.pid(), 0), -1);
}

TEST(a_session_that_is_dropped_leaves_no_process) {
  const Directory directory;
  pid_t pid = 0;
  {
    const Fd program(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
    SessionOptions options;
    options.program = program.ref();
    options.target = directory.path();
    options.media_type = "hangs";
    options.max_bytes = options.max_entries = 1;
    auto session = Session::start(options);
    REQUIRE(session.ok());
    pid = (*session)->pid();
  }
  CHECK_EQ(::kill(pid, 0), -1);
}

TEST(a_program_that_cannot_be_executed_is_an_error_of_the_start) {
  const Directory directory;
  const Fd program(::open("/etc/passwd", O_PATH | O_CLOEXEC));
  SessionOptions options;
  options.program = program.ref();
  options.target = directory.path();
  options.max_bytes = options.max_entries = 1;
  auto session = Session::start(options);
  REQUIRE(!session.ok());
  CHECK_EQ(session.error().error_number, EACCES);
  CHECK_EQ(session.error().step, std::string("unpack.start"));
}

TEST(items_replace_placeholders_alone) {
  if (::geteuid() != 0) SKIP("device nodes need root");
  const Directory directory;
  const Fd target(::open(directory.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto touch = [&](const char* name, const char* content) {
    const Fd file(::openat(target.get(), name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    (void)!::write(file.get(), content, std::strlen(content));
  };
  touch("node", "");
  touch("data", "content");
  CHECK(apply_item(target.ref(), device_item("node")).ok());
  struct stat status;
  REQUIRE(::fstatat(target.get(), "node", &status, AT_SYMLINK_NOFOLLOW) == 0);
  CHECK(S_ISCHR(status.st_mode));
  CHECK_EQ(status.st_rdev, ::makedev(1, 3));
  auto over_data = apply_item(target.ref(), device_item("data"));
  REQUIRE(!over_data.ok());
  CHECK_EQ(over_data.error().error_number, EPROTO);
  CHECK_EQ(apply_item(target.ref(), device_item("absent")).ok(), false);
  Item opaque;
  opaque.path = "data";
  CHECK_EQ(apply_item(target.ref(), opaque).ok(), false);
}

TEST(every_frame_survives_its_encoding) {
  Item item = device_item("a/b");
  item.uid = 7;
  item.time_seconds = -5;
  item.time_nanoseconds = 999999999;
  auto frame = decode_frame(encode_frame(Frame(item)));
  REQUIRE(frame.ok());
  const Item* back = std::get_if<Item>(&*frame);
  REQUIRE(back != nullptr);
  CHECK_EQ(back->path, item.path);
  CHECK_EQ(back->uid, 7U);
  CHECK_EQ(back->time_seconds, -5);
  Outcome outcome;
  outcome.bytes = 1ULL << 60;
  outcome.sha256[31] = 9;
  frame = decode_frame(encode_frame(Frame(outcome)));
  REQUIRE(frame.ok());
  CHECK_EQ(std::get_if<Outcome>(&*frame)->bytes, 1ULL << 60);
  frame = decode_frame(encode_frame(Frame(berth::make_error(ENOSPC, "s", "c", std::string(10000, 'p'), std::string(10000, 'd')))));
  REQUIRE(frame.ok());
  CHECK_EQ(std::get_if<Failure>(&*frame)->path.size(), berth::unpack::kMaxPathBytes);
}

TEST(a_frame_with_an_unplain_path_is_none) {
  for (const char* path : {"", "/a", "a/", "a//b", "./a", "a/.", "..", "a/../b", "../a"}) {
    CHECK_EQ(decode_frame(encode_frame(Frame(device_item(path)))).ok(), false);
  }
  CHECK_EQ(decode_frame(encode_frame(Frame(device_item(std::string("a\0b", 3))))).ok(), false);
  Item link = device_item("a");
  link.kind = ItemKind::kLink;
  link.target = "../a";
  CHECK_EQ(decode_frame(encode_frame(Frame(link))).ok(), false);
  Item file = device_item("a");
  file.mode = S_IFREG;
  CHECK_EQ(decode_frame(encode_frame(Frame(file))).ok(), false);
}

TEST(damaged_frames_never_decode_beyond_their_end) {
  const std::string good = encode_frame(Frame(device_item("some/path")));
  for (size_t size = 0; size < good.size(); ++size) CHECK_EQ(decode_frame(good.substr(0, size)).ok(), false);
  CHECK_EQ(decode_frame(good + "x").ok(), false);
  for (size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = good;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      auto frame = decode_frame(damaged);
      if (!frame.ok()) continue;
      const Item* item = std::get_if<Item>(&*frame);
      CHECK(item == nullptr || item->path.find("..") == std::string::npos);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  // The session gives the program its name; started otherwise, this is the test.
  if (argc == 4 && std::strcmp(argv[0], "berth-unpack") == 0) return misbehave(argv[1]);
  ::signal(SIGPIPE, SIG_IGN);
  return ::berth::test::run_all(argc, argv);
}
