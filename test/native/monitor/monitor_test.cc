// berth-monitor as a whole: what the daemon sees of it over the protocol, and what it leaves in its files.
#include <linux/sched.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <time.h>

#include <algorithm>
#include <thread>

#include "core/sys/mount.h"
#include "test/native/monitor/driver.h"

namespace {

using namespace std::chrono_literals;
using berth::plan::Kind;
using berth::plan::kNone;
using berth::plan::OpCode;
using berth::test::add_container;
using berth::test::ConfigureOptions;
using berth::test::Connection;
using berth::test::make_root;
using berth::test::MonitorDriver;
using berth::test::PlanBuilder;
using berth::test::read_file;
using berth::test::Type;
namespace protocol = berth::protocol;

// A program in the monitor's own namespaces: what these tests look at is the monitor.
PlanBuilder program(std::vector<std::string> commands) {
  PlanBuilder builder(Kind::kCreate);
  commands.insert(commands.begin(), BERTH_PROBE);
  builder.exec(commands);
  return builder;
}

struct LogLine {
  std::string stamp;
  std::string stream;
  std::string tag;
  std::string text;
};

// The log, parsed as the kubelet does: stamp, stream and tag end at a blank each, the text at the newline.
std::vector<LogLine> parse_log(const std::string& log) {
  std::vector<LogLine> lines;
  for (size_t at = 0; at < log.size();) {
    const size_t end = log.find('\n', at);
    CHECK(end != std::string::npos);
    if (end == std::string::npos) break;
    const std::string line = log.substr(at, end - at);
    at = end + 1;
    const size_t first = line.find(' ');
    const size_t second = line.find(' ', first + 1);
    const size_t third = line.find(' ', second + 1);
    CHECK(third != std::string::npos);
    if (third == std::string::npos) continue;
    lines.push_back({line.substr(0, first), line.substr(first + 1, second - first - 1), line.substr(second + 1, third - second - 1), line.substr(third + 1)});
  }
  return lines;
}

int64_t parse_stamp(const std::string& stamp) {
  struct tm time = {};
  long nanoseconds = 0;
  CHECK_EQ(stamp.size(), size_t{30});
  CHECK_EQ(std::sscanf(stamp.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d.%9ldZ", &time.tm_year, &time.tm_mon, &time.tm_mday, &time.tm_hour, &time.tm_min,
                       &time.tm_sec, &nanoseconds),
           7);
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  return static_cast<int64_t>(::timegm(&time)) * 1'000'000'000 + nanoseconds;
}

int64_t now_ns() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

template <typename Predicate>
bool eventually(Predicate predicate, int timeout_ms = 5000) {
  for (int waited = 0; waited < timeout_ms; waited += 5) {
    if (predicate()) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

// ---- life

void says_who_it_is() {
  MonitorDriver monitor(BERTH_MONITOR);
  const auto frame = monitor.connection().expect(Type::kHello);
  CHECK(frame.has_value());
  const auto hello = frame->decode<protocol::Hello>();
  CHECK_EQ(hello.protocol_version, uint32_t{protocol::kProtocolVersion});
  CHECK_EQ(hello.plan_version, berth::plan::kVersion);
  CHECK_EQ(hello.pid, static_cast<uint32_t>(monitor.pid()));
  CHECK_EQ(std::string(hello.container_id), std::string());
}

void runs_and_reports_the_exit() {
  const int64_t before = now_ns();
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"outln", "hello", "exit", "42"});
  const pid_t pid = monitor.create(plan);
  CHECK(pid > 0);
  CHECK_EQ(monitor.log(), std::string());
  CHECK(!monitor.exit_file().has_value());
  const auto started = monitor.connection().request(2, protocol::Start{}, Type::kStarted);
  const int64_t started_at = started->decode<protocol::Started>().started_at_ns;
  const auto exited = monitor.exited();
  CHECK_EQ(exited->exit_code, 42);
  CHECK_EQ(exited->signal, 0u);
  CHECK(!exited->oom_killed);
  CHECK_EQ(exited->started_at_ns, started_at);
  CHECK(before < started_at && started_at <= exited->finished_at_ns && exited->finished_at_ns <= now_ns());
  CHECK_EQ(monitor.wait_end(), 0);
  const auto file = monitor.exit_file();
  CHECK(file.has_value());
  CHECK_EQ(file->exit_code, 42);
  CHECK_EQ(file->finished_at_ns, exited->finished_at_ns);
  const auto lines = parse_log(monitor.log());
  CHECK_EQ(lines.size(), size_t{1});
  CHECK_EQ(lines[0].stream + lines[0].tag + lines[0].text, std::string("stdoutFhello"));
  const int64_t stamp = parse_stamp(lines[0].stamp);
  CHECK(before < stamp && stamp < now_ns());
  // Nothing but the exit and the log.
  CHECK_EQ(read_file(monitor.path("exit/.new-exit-1")), std::string());
}

void reports_a_signal() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"sleep", "20000"});
  monitor.create_and_start(plan);
  protocol::Signal signal;
  signal.number = SIGTERM;
  monitor.connection().request(3, signal, Type::kOk);
  const auto exited = monitor.exited();
  CHECK_EQ(exited->exit_code, 128 + SIGTERM);
  CHECK_EQ(exited->signal, static_cast<uint32_t>(SIGTERM));
  CHECK_EQ(monitor.wait_end(), 0);
}

void failed_create_ends_the_monitor() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan(Kind::kCreate);
  plan.op(OpCode::kChdir, "enter", {0, 0, 0}, {"/does/not/exist"}).exec({BERTH_PROBE});
  CHECK(monitor.send_configure(plan));
  monitor.connection().expect(Type::kHello);
  const auto frame = monitor.connection().receive();
  CHECK(frame.has_value() && frame->type() == Type::kFailed);
  const auto failed = frame->decode<protocol::Failed>();
  CHECK_EQ(failed.error_number, ENOENT);
  CHECK_EQ(std::string(failed.step), std::string("enter"));
  CHECK_EQ(std::string(failed.path), std::string("/does/not/exist"));
  CHECK_EQ(monitor.wait_end(), 0);
  CHECK(!monitor.exit_file().has_value());
}

void failed_start_is_an_exit() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan(Kind::kCreate);
  plan.exec({"/does/not/exist"});
  monitor.create(plan);
  CHECK(monitor.connection().send(2, protocol::Start{}));
  const auto frame = monitor.connection().receive();
  CHECK(frame.has_value() && frame->type() == Type::kFailed);
  CHECK_EQ(frame->header.request_id, 2u);
  CHECK_EQ(frame->decode<protocol::Failed>().error_number, ENOENT);
  const auto exited = monitor.exited();
  CHECK_EQ(exited->exit_code, 127);
  CHECK_EQ(exited->started_at_ns, int64_t{0});
  CHECK_EQ(monitor.wait_end(), 0);
}

void ends_without_configure() {
  MonitorDriver monitor(BERTH_MONITOR);
  monitor.connection().expect(Type::kHello);
  monitor.connection().close();
  CHECK_EQ(monitor.wait_end(), 0);
}

void refuses_what_it_cannot_do() {
  MonitorDriver monitor(BERTH_MONITOR);
  monitor.connection().expect(Type::kHello);
  const auto refused = [&](uint32_t id, int error_number) {
    const auto frame = monitor.connection().receive();
    CHECK(frame.has_value() && frame->type() == Type::kFailed);
    CHECK_EQ(frame->header.request_id, id);
    CHECK_EQ(frame->decode<protocol::Failed>().error_number, error_number);
  };
  monitor.connection().send(5, protocol::Start{});
  refused(5, EINVAL);
  protocol::Signal signal;
  signal.number = 9;
  monitor.connection().send(6, signal);
  refused(6, ESRCH);
  const uint16_t unknown[4] = {999, 1, 7, 0};
  monitor.connection().send_raw(unknown, sizeof(unknown));
  refused(7, ENOSYS);
  const uint8_t torn[] = {7, 0, 1, 0, 8, 0, 0, 0, 1, 0};  // a signal whose number has two bytes
  monitor.connection().send_raw(torn, sizeof(torn));
  refused(8, EBADMSG);
  PlanBuilder plan = program({"sleep", "20000"});
  monitor.create_and_start(plan);
  signal.number = 65;
  monitor.connection().send(9, signal);
  refused(9, EINVAL);
  monitor.connection().send(10, protocol::Start{});
  refused(10, EALREADY);
  monitor.connection().send(11, protocol::Resize{});
  refused(11, ENOTTY);
  CHECK(monitor.send_configure(plan));
  refused(1, EALREADY);
}

void configure_with_wrong_descriptors_fails() {
  MonitorDriver monitor(BERTH_MONITOR);
  monitor.connection().expect(Type::kHello);
  protocol::Configure configure;
  configure.container_id = "x";
  configure.exit_name = "e";
  configure.plan_fds = 3;
  monitor.connection().send(1, configure, {0});
  const auto frame = monitor.connection().receive();
  CHECK(frame.has_value() && frame->type() == Type::kFailed);
  CHECK_EQ(monitor.wait_end(), 0);

  MonitorDriver other(BERTH_MONITOR);
  other.connection().expect(Type::kHello);
  configure.plan_fds = 0;
  configure.exit_name = "../e";
  other.connection().send(1, configure, {0, 0});
  CHECK(other.connection().receive()->type() == Type::kFailed);
  CHECK_EQ(other.wait_end(), 0);
}

// ---- the daemon goes and comes back

void survives_the_daemon() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"outln", "one", "sleep", "300", "outln", "two", "exit", "3"});
  const pid_t pid = monitor.create(plan);
  // The daemon dies between created and start; another one starts the container.
  monitor.connection().close();
  auto second = monitor.connect();
  CHECK(second != nullptr);
  const auto hello = second->expect(Type::kHello);
  CHECK_EQ(hello->decode<protocol::Hello>().container_id.size(), size_t{64});
  auto state = second->request(7, protocol::Status{}, Type::kState)->decode<protocol::State>();
  CHECK_EQ(state.phase, uint8_t{1});
  CHECK_EQ(state.pid, static_cast<uint32_t>(pid));
  CHECK(state.start_time > 0);
  second->request(8, protocol::Start{}, Type::kStarted);
  second->close();
  // Nobody is there while it writes and ends.
  CHECK_EQ(monitor.wait_end(), 0);
  const auto file = monitor.exit_file();
  CHECK(file.has_value());
  CHECK_EQ(file->exit_code, 3);
  CHECK(file->started_at_ns > 0);
  CHECK_EQ(parse_log(monitor.log()).size(), size_t{2});
  CHECK(monitor.connect() == nullptr);
}

void every_connection_is_told() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"sleep", "200"});
  monitor.create_and_start(plan);
  auto second = monitor.connect();
  auto third = monitor.connect();
  CHECK(second->expect(Type::kExited).has_value());
  CHECK(third->expect(Type::kExited).has_value());
  CHECK(monitor.exited().has_value());
}

void ignores_signals() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"sleep", "20000"});
  monitor.create_and_start(plan);
  for (const int number : {SIGTERM, SIGHUP, SIGINT, SIGPIPE, SIGQUIT}) ::kill(monitor.pid(), number);
  const auto state = monitor.connection().request(9, protocol::Status{}, Type::kState)->decode<protocol::State>();
  CHECK_EQ(state.phase, uint8_t{2});
}

void a_peer_that_does_not_read_is_dropped() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"sleep", "20000"});
  monitor.create_and_start(plan);
  auto deaf = monitor.connect();
  const int small = 1;
  ::setsockopt(deaf->fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  const int nonblocking = ::fcntl(deaf->fd(), F_SETFL, O_NONBLOCK);
  CHECK_EQ(nonblocking, 0);
  const int64_t until = now_ns() + 10'000'000'000;
  bool dropped = false;
  while (!dropped && now_ns() < until) {
    struct pollfd writable = {deaf->fd(), POLLOUT, 0};
    ::poll(&writable, 1, 100);
    dropped = !deaf->send(100, protocol::Status{}) && errno == EPIPE;
  }
  CHECK(dropped);
  monitor.connection().request(9, protocol::Status{}, Type::kState);
}

void frames_of_noise_do_no_harm() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"sleep", "20000"});
  monitor.create_and_start(plan);
  uint32_t seed = 7;
  for (int round = 0; round < 3000; ++round) {
    auto noisy = round % 100 == 0 ? monitor.connect() : nullptr;
    static std::unique_ptr<Connection> current;
    if (noisy) current = std::move(noisy);
    uint8_t frame[64];
    for (uint8_t& byte : frame) {
      seed = seed * 1664525 + 1013904223;
      byte = static_cast<uint8_t>(seed >> 24);
    }
    frame[0] = static_cast<uint8_t>(frame[0] % 20);
    frame[1] = 0;
    if (frame[0] == 7 || frame[0] == 18) continue;  // signals would do what they say
    const int fd = round % 3 == 0 ? 0 : -1;
    current->send_raw(frame, 4 + seed % 60, fd >= 0 ? std::vector<int>{0, 1} : std::vector<int>{});
    while (current->receive(0)) {
    }
    if (round == 2999) current.reset();
  }
  CHECK(eventually([&] {
    const auto state = monitor.connection().request(9, protocol::Status{}, Type::kState)->decode<protocol::State>();
    return state.phase == 2 && monitor.count_fds() <= 15;
  }));
}

// ---- log

void joins_and_splits_lines() {
  MonitorDriver monitor(BERTH_MONITOR);
  // Joined over reads that lie far apart; more than 16 KiB; exactly 16 KiB; no newline at the end.
  PlanBuilder plan = program({"out", "one ", "sleep", "60", "outln", "line", "err", "error\n", "sleep", "60", "fill", "40000", "outln", "",
                              "fill", "16384", "outln", "", "nul", "out", "last"});
  monitor.create_and_start(plan);
  monitor.exited();
  std::vector<LogLine> lines = parse_log(monitor.log());
  std::string shape;
  std::string all;
  for (const LogLine& line : lines) {
    if (line.stream == "stderr") {
      CHECK_EQ(line.text + line.tag, std::string("errorF"));
      continue;
    }
    shape += line.tag + std::to_string(line.text.size()) + " ";
    all += line.text + (line.tag == "F" ? "\n" : "");
  }
  CHECK_EQ(shape, std::string("F8 P16384 P16384 F7232 F16384 F5 P4 "));
  CHECK_EQ(lines.size(), size_t{8});
  CHECK(all == "one line\n" + std::string(40000, 'x') + "\n" + std::string(16384, 'x') + "\n" + std::string("a\0b\rc\n", 6) + "last");
}

void many_lines_arrive_whole() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"lines", "200000"});
  monitor.create_and_start(plan);
  const auto exited = monitor.exited(60'000);
  CHECK_EQ(exited->log_dropped_bytes, uint64_t{0});
  const auto lines = parse_log(monitor.log());
  CHECK_EQ(lines.size(), size_t{200'000});
  std::string previous;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].text.size() != 100 || std::stoul(lines[i].text) != i || lines[i].tag != "F" || lines[i].stamp < previous) {
      std::printf("line %zu: %s %s\n", i, lines[i].stamp.c_str(), lines[i].text.c_str());
      CHECK(false);
      break;
    }
    previous = lines[i].stamp;
  }
}

void reopens_without_loss() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"lines", "300000"});
  monitor.create_and_start(plan);
  int rotations = 0;
  for (; rotations < 20; ++rotations) {
    std::this_thread::sleep_for(10ms);
    const std::string to = monitor.path("log/" + std::to_string(rotations));
    if (::rename(monitor.path("log/0.log").c_str(), to.c_str()) != 0) break;
    if (!monitor.connection().send(100, protocol::ReopenLog{})) break;
    const auto frame = monitor.connection().receive();
    if (!frame || frame->type() != Type::kOk) break;
  }
  CHECK(rotations > 3);
  CHECK_EQ(monitor.wait_end(60'000), 0);
  std::string all;
  for (int i = 0; i < 21; ++i) all += monitor.log(std::to_string(i));
  all += monitor.log();
  const auto lines = parse_log(all);
  CHECK_EQ(lines.size(), size_t{300'000});
  for (size_t i = 0; i < lines.size(); ++i) {
    if (std::stoul(lines[i].text) != i) {
      CHECK_EQ(std::stoul(lines[i].text), i);
      break;
    }
  }
}

void reopen_keeps_the_old_file_where_it_fails() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"sleep", "300", "outln", "later"});
  monitor.create_and_start(plan);
  CHECK_EQ(::rename(monitor.path("log/0.log").c_str(), monitor.path("log/old").c_str()), 0);
  CHECK_EQ(::mkdir(monitor.path("log/0.log").c_str(), 0700), 0);
  monitor.connection().send(5, protocol::ReopenLog{});
  CHECK(monitor.connection().receive()->type() == Type::kFailed);
  monitor.exited();
  CHECK_CONTAINS(monitor.log("old"), "stdout F later");
}

void a_link_in_place_of_the_log_is_refused() {
  MonitorDriver monitor(BERTH_MONITOR);
  CHECK_EQ(::symlink("/tmp/berth-must-not-exist", monitor.path("log/0.log").c_str()), 0);
  PlanBuilder plan = program({"exit", "0"});
  CHECK(monitor.send_configure(plan));
  monitor.connection().expect(Type::kHello);
  const auto frame = monitor.connection().receive();
  CHECK(frame->type() == Type::kFailed);
  CHECK_EQ(frame->decode<protocol::Failed>().error_number, ELOOP);
  CHECK_EQ(monitor.wait_end(), 0);
  CHECK_EQ(::access("/tmp/berth-must-not-exist", F_OK), -1);
}

void a_full_log_is_counted_and_stops_nothing() {
  MonitorDriver monitor(BERTH_MONITOR);
  ConfigureOptions options;
  options.log_max_bytes = 1000;
  PlanBuilder plan = program({"lines", "1000", "sleep", "200", "exit", "5"});
  monitor.create_and_start(plan, options);
  const auto exited = monitor.exited();
  CHECK_EQ(exited->exit_code, 5);
  CHECK(exited->log_dropped_bytes > 100'000);
  CHECK(monitor.log().size() <= 1000);
}

// A tmpfs of a few pages is the disk that is full.
void a_full_disk_is_counted_and_stops_nothing() {
  if (::geteuid() != 0) return;
  const int context = berth::sys::fsopen("tmpfs");
  if (context < 0) return;
  berth::sys::fsconfig_string(context, "size", "64k");
  berth::sys::fsconfig_create(context);
  const int disk = berth::sys::fsmount(context, 0);
  ::close(context);
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"lines", "2000", "exit", "6"});
  protocol::Configure configure;
  configure.container_id = "x";
  configure.has_log = true;
  configure.log_name = "0.log";
  configure.exit_name = "e";
  const int plan_fd = plan.memfd();
  const int exit_directory = ::open(monitor.path("exit").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  monitor.connection().send(1, configure, {plan_fd, disk, exit_directory});
  CHECK(monitor.connection().expect(Type::kCreated).has_value());
  monitor.connection().request(2, protocol::Start{}, Type::kStarted);
  const auto exited = monitor.exited();
  CHECK_EQ(exited->exit_code, 6);
  CHECK(exited->log_dropped_bytes > 100'000);
  ::close(plan_fd);
  ::close(exit_directory);
  ::close(disk);
}

void a_background_child_does_not_hold_the_exit() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"outln", "before", "spawn", "3000", "exit", "9"});
  monitor.create_and_start(plan);
  const int64_t before = now_ns();
  CHECK_EQ(monitor.exited()->exit_code, 9);
  CHECK(now_ns() - before < 2'000'000'000);
  CHECK_CONTAINS(monitor.log(), "stdout F before");
}

// ---- stdio

void stdin_is_null_without_a_client() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"echo", "outln", "eof"});
  monitor.create_and_start(plan);
  monitor.exited();
  CHECK_CONTAINS(monitor.log(), "stdout F eof");
}

void attached_clients_share_stdio() {
  MonitorDriver monitor(BERTH_MONITOR);
  ConfigureOptions options;
  options.with_stdin = true;
  options.stdin_once = true;
  PlanBuilder plan = program({"echo", "outln", "eof"});
  monitor.create_and_start(plan, options);
  int in[2];
  int out[2];
  int other[2];
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in), 0);
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
  protocol::Attach attach;
  attach.with_stdin = true;
  attach.with_stdout = true;
  monitor.connection().request(5, attach, Type::kOk, {in[1], out[1]});
  attach.with_stdin = false;
  monitor.connection().request(6, attach, Type::kOk, {other[1]});
  ::close(in[1]);
  ::close(out[1]);
  ::close(other[1]);
  CHECK_EQ(monitor.connection().request(7, protocol::Status{}, Type::kState)->decode<protocol::State>().attached_clients, 2u);
  // More than the pipe takes at once.
  std::string sent(300'000, 'a');
  sent += "\n";
  std::thread writer([&] {
    for (size_t at = 0; at < sent.size();) {
      const ssize_t count = ::write(in[0], sent.data() + at, sent.size() - at);
      if (count <= 0) break;
      at += static_cast<size_t>(count);
    }
    ::shutdown(in[0], SHUT_WR);
  });
  std::string got;
  std::string got_other;
  std::thread reader([&] {
    char buffer[65536];
    ssize_t count = 0;
    while ((count = ::read(other[0], buffer, sizeof(buffer))) > 0) got_other.append(buffer, static_cast<size_t>(count));
  });
  char buffer[65536];
  ssize_t count = 0;
  while ((count = ::read(out[0], buffer, sizeof(buffer))) > 0) got.append(buffer, static_cast<size_t>(count));
  writer.join();
  reader.join();
  CHECK(got == sent + "eof\n");
  CHECK(got_other == got);
  CHECK_EQ(monitor.exited()->exit_code, 0);
  for (const int fd : {in[0], out[0], other[0]}) ::close(fd);
}

void a_slow_client_is_let_go() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"sleep", "100", "lines", "50000", "exit", "4"});
  monitor.create_and_start(plan);
  int out[2];
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
  protocol::Attach attach;
  attach.with_stdout = true;
  monitor.connection().request(5, attach, Type::kOk, {out[1]});
  ::close(out[1]);
  CHECK_EQ(monitor.exited()->exit_code, 4);
  CHECK_EQ(parse_log(monitor.log()).size(), size_t{50'000});
  ::close(out[0]);
}

void aborted_attaches_leave_nothing() {
  MonitorDriver monitor(BERTH_MONITOR);
  ConfigureOptions options;
  options.with_stdin = true;
  PlanBuilder plan = program({"term", "sleep", "60000"});
  monitor.create_and_start(plan, options);
  const int before = monitor.count_fds();
  for (int round = 0; round < 300; ++round) {
    int in[2];
    int out[2];
    CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in), 0);
    CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
    protocol::Attach attach;
    attach.with_stdin = attach.with_stdout = true;
    monitor.connection().send(5, attach, {in[1], out[1]});
    (void)!::write(in[0], "x", 1);
    for (const int fd : {in[0], in[1], out[0], out[1]}) ::close(fd);
    const auto frame = monitor.connection().expect(Type::kOk);
    CHECK(frame.has_value());
    if (!frame) break;
  }
  CHECK(eventually([&] { return monitor.count_fds() == before; }));
}

// ---- root alone: containers, exec, terminals, OOM

struct Container {
  int root = make_root(BERTH_PROBE);
  PlanBuilder plan{Kind::kCreate};
  explicit Container(const std::vector<std::string>& commands, bool terminal = false) {
    std::vector<std::string> argv = {"/bin/probe"};
    argv.insert(argv.end(), commands.begin(), commands.end());
    plan.header().terminal = terminal ? 1 : 0;
    add_container(plan, root, CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
    if (terminal) plan.op(OpCode::kTerminal, "terminal", {0, 5, 24, 80});
    plan.op(OpCode::kPivot, "pivot", {0, 0});
    if (terminal) plan.op(OpCode::kSetsid, "setsid", {1});
    plan.exec(argv);
  }
  ~Container() { ::close(root); }
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;
};

class ExecPlan {
 public:
  ExecPlan(pid_t init, const std::vector<std::string>& commands, bool terminal = false) : pidfd_(berth::sys::pidfd_open(init)) {
    std::vector<std::string> argv = {"/bin/probe"};
    argv.insert(argv.end(), commands.begin(), commands.end());
    plan.header().terminal = terminal ? 1 : 0;
    plan.op(OpCode::kJoinNamespace, "join", {plan.add_fd(pidfd_), CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS})
        .op(OpCode::kMakeDetached, "detach")
        .barrier();
    if (terminal) plan.op(OpCode::kTerminal, "terminal", {kNone, kNone, 0, 0});
    plan.op(OpCode::kSetsid, "setsid", {terminal ? 1u : 0u}).exec(argv);
  }
  ~ExecPlan() { ::close(pidfd_); }
  ExecPlan(const ExecPlan&) = delete;
  ExecPlan& operator=(const ExecPlan&) = delete;

  void send(Connection& connection, uint32_t id, const std::vector<int>& stdio) {
    protocol::Exec exec;
    exec.plan_fds = 1;
    exec.terminal = stdio.size() == 1;
    exec.terminal_columns = exec.terminal ? 111 : 0;
    exec.terminal_rows = exec.terminal ? 44 : 0;
    const int plan_fd = plan.memfd();
    std::vector<int> fds = {plan_fd, pidfd_};
    fds.insert(fds.end(), stdio.begin(), stdio.end());
    CHECK(connection.send(id, exec, fds));
    ::close(plan_fd);
  }

  PlanBuilder plan{Kind::kExec};

 private:
  int pidfd_;
};

// How often a text occurs: what is typed into a terminal comes back from it at once and from its program, in either order
// with what that prints first.
size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return count;
}

std::string drain(int fd) {
  std::string text;
  char buffer[65536];
  ssize_t count = 0;
  while ((count = ::read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(count));
  return text;
}

void exec_runs_in_the_container() {
  MonitorDriver monitor(BERTH_MONITOR);
  Container container({"term", "sleep", "60000"});
  const pid_t init = monitor.create_and_start(container.plan);
  const int fds = monitor.count_fds();
  int out[2];
  CHECK_EQ(::pipe2(out, O_CLOEXEC), 0);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ExecPlan plan(init, {"ids", "fds", "exit", "7"});
  plan.send(monitor.connection(), 50, {null, out[1], out[1]});
  ::close(out[1]);
  const auto started = monitor.connection().expect(Type::kExecStarted);
  CHECK(started.has_value());
  CHECK_EQ(started->header.request_id, 50u);
  CHECK(started->decode<protocol::ExecStarted>().pid > 1);
  const auto ended = monitor.connection().expect(Type::kExecExited);
  CHECK_EQ(ended->header.request_id, 50u);
  CHECK_EQ(ended->decode<protocol::ExecExited>().exit_code, 7);
  const std::string output = drain(out[0]);
  CHECK_CONTAINS(output, "pid 2 ppid 0 sid 2");
  CHECK_CONTAINS(output, "fds 0 1 2\n");
  ::close(out[0]);

  ExecPlan missing(init, {});
  missing.plan.ops().back().s[0] = missing.plan.text(PlanBuilder::block({"/bin/absent"}));
  missing.send(monitor.connection(), 51, {null, null, null});
  const auto failed = monitor.connection().receive();
  CHECK(failed.has_value() && failed->type() == Type::kFailed);
  CHECK_EQ(failed->decode<protocol::Failed>().error_number, ENOENT);
  ::close(null);
  CHECK(eventually([&] { return monitor.count_fds() == fds; }));
  CHECK_EQ(monitor.connection().request(9, protocol::Status{}, Type::kState)->decode<protocol::State>().running_execs, 0u);
  protocol::Signal signal;
  signal.number = SIGTERM;
  monitor.connection().request(10, signal, Type::kOk);
  CHECK_EQ(monitor.exited()->exit_code, 42);
}

void a_hundred_execs_at_once() {
  MonitorDriver monitor(BERTH_MONITOR);
  Container container({"term", "sleep", "60000"});
  const pid_t init = monitor.create_and_start(container.plan);
  const int fds = monitor.count_fds();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  constexpr int kCount = 100;
  ExecPlan plan(init, {"sleep", "300", "exit", "3"});
  for (uint32_t i = 0; i < kCount; ++i) plan.send(monitor.connection(), 1000 + i, {null, null, null});
  int started = 0;
  int ended = 0;
  while (ended < kCount) {
    const auto frame = monitor.connection().receive(20'000);
    CHECK(frame.has_value());
    if (!frame) break;
    if (frame->type() == Type::kExecStarted) ++started;
    if (frame->type() == Type::kExecExited) {
      CHECK_EQ(frame->decode<protocol::ExecExited>().exit_code, 3);
      ++ended;
    }
    if (frame->type() == Type::kFailed) {
      CHECK(false);
      break;
    }
  }
  CHECK_EQ(started, kCount);
  CHECK(eventually([&] { return monitor.count_fds() == fds; }));
  // Past the table's size a clear answer, and nothing is lost of the others.
  ExecPlan waiting(init, {"sleep", "20000"});
  for (uint32_t i = 0; i < 170; ++i) waiting.send(monitor.connection(), 2000 + i, {null, null, null});
  int refused = 0;
  started = 0;
  for (int answers = 0; answers < 170; ++answers) {
    const auto frame = monitor.connection().receive(20'000);
    if (!frame) break;
    if (frame->type() == Type::kExecStarted) ++started;
    if (frame->type() == Type::kFailed) {
      CHECK_EQ(frame->decode<protocol::Failed>().error_number, EBUSY);
      ++refused;
    }
  }
  CHECK_EQ(started, 160);
  CHECK_EQ(refused, 10);
  for (uint32_t i = 0; i < 170; ++i) {
    protocol::KillExec kill;
    kill.exec_id = 2000 + i;
    monitor.connection().send(5000 + i, kill);
  }
  ended = 0;
  while (ended < 160) {
    const auto frame = monitor.connection().receive(20'000);
    if (!frame) break;
    if (frame->type() == Type::kExecExited) {
      CHECK_EQ(frame->decode<protocol::ExecExited>().signal, static_cast<uint32_t>(SIGKILL));
      ++ended;
    }
  }
  CHECK_EQ(ended, 160);
  CHECK(eventually([&] { return monitor.count_fds() == fds; }));
  ::close(null);
}

void the_containers_end_ends_its_execs() {
  MonitorDriver monitor(BERTH_MONITOR);
  Container container({"term", "sleep", "60000"});
  const pid_t init = monitor.create_and_start(container.plan);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ExecPlan plan(init, {"sleep", "60000"});
  plan.send(monitor.connection(), 50, {null, null, null});
  ::close(null);
  CHECK(monitor.connection().expect(Type::kExecStarted).has_value());
  ::kill(init, SIGKILL);
  const auto ended = monitor.connection().expect(Type::kExecExited);
  CHECK(ended.has_value());
  CHECK_EQ(monitor.exited()->signal, static_cast<uint32_t>(SIGKILL));
  CHECK_EQ(monitor.wait_end(), 0);
}

void an_exec_ends_with_the_connection_that_asked_for_it() {
  MonitorDriver monitor(BERTH_MONITOR);
  Container container({"term", "sleep", "60000"});
  const pid_t init = monitor.create_and_start(container.plan);
  auto second = monitor.connect();
  CHECK(second != nullptr);
  CHECK(second->expect(Type::kHello).has_value());
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ExecPlan plan(init, {"sleep", "60000"});
  plan.send(*second, 50, {null, null, null});
  ExecPlan kept(init, {"sleep", "60000"});
  kept.send(monitor.connection(), 50, {null, null, null});
  ::close(null);
  CHECK(second->expect(Type::kExecStarted).has_value());
  CHECK(monitor.connection().expect(Type::kExecStarted).has_value());
  const auto running = [&] {
    return monitor.connection().request(9, protocol::Status{}, Type::kState)->decode<protocol::State>().running_execs;
  };
  CHECK_EQ(running(), 2u);
  second.reset();
  CHECK(eventually([&] { return running() == 1u; }));
  ::kill(init, SIGKILL);
  CHECK_EQ(monitor.exited()->signal, static_cast<uint32_t>(SIGKILL));
  CHECK_EQ(monitor.wait_end(), 0);
}

void a_terminal_is_relayed_and_logged() {
  MonitorDriver monitor(BERTH_MONITOR);
  Container container({"tty", "echo", "exit", "8"}, true);
  ConfigureOptions options;
  options.terminal = true;
  options.with_stdin = true;
  const pid_t init = monitor.create(container.plan, options);
  CHECK(init > 0);
  protocol::Resize resize;
  resize.columns = 123;
  resize.rows = 45;
  monitor.connection().request(3, resize, Type::kOk);
  int in[2];
  int out[2];
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in), 0);
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out), 0);
  protocol::Attach attach;
  attach.with_stdin = attach.with_stdout = true;
  monitor.connection().request(4, attach, Type::kOk, {in[1], out[1]});
  ::close(in[1]);
  ::close(out[1]);
  monitor.connection().request(2, protocol::Start{}, Type::kStarted);
  const std::string typed = "typed\n\x04";
  CHECK_EQ(::write(in[0], typed.data(), typed.size()), static_cast<ssize_t>(typed.size()));
  CHECK_EQ(monitor.exited()->exit_code, 8);
  const std::string seen = drain(out[0]);
  CHECK_CONTAINS(seen, "tty 1 45x123 leader 1\r\n");
  CHECK_EQ(count_of(seen, "typed\r\n"), size_t{2});
  CHECK_CONTAINS(monitor.log(), " stdout F tty 1 45x123 leader 1\r\n");
  ::close(in[0]);
  ::close(out[0]);
}

void an_exec_with_a_terminal() {
  MonitorDriver monitor(BERTH_MONITOR);
  Container container({"term", "sleep", "60000"});
  const pid_t init = monitor.create_and_start(container.plan);
  const int fds = monitor.count_fds();
  int relay[2];
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, relay), 0);
  ExecPlan plan(init, {"tty", "echo", "fill", "200000", "outln", "", "exit", "6"}, true);
  plan.send(monitor.connection(), 50, {relay[1]});
  ::close(relay[1]);
  CHECK(monitor.connection().expect(Type::kExecStarted).has_value());
  const std::string typed = "typed\n\x04";
  CHECK_EQ(::write(relay[0], typed.data(), typed.size()), static_cast<ssize_t>(typed.size()));
  const std::string seen = drain(relay[0]);
  CHECK_CONTAINS(seen, "tty 1 44x111 leader 1\r\n");
  CHECK_EQ(count_of(seen, "typed\r\n"), size_t{2});
  CHECK_EQ(std::count(seen.begin(), seen.end(), 'x'), 200'001L);  // and the one of "44x111"
  const auto ended = monitor.connection().expect(Type::kExecExited);
  CHECK_EQ(ended->decode<protocol::ExecExited>().exit_code, 6);
  ::close(relay[0]);

  // A client that goes away hangs up.
  CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, relay), 0);
  ExecPlan waiting(init, {"echo"}, true);
  waiting.send(monitor.connection(), 51, {relay[1]});
  ::close(relay[1]);
  CHECK(monitor.connection().expect(Type::kExecStarted).has_value());
  ::close(relay[0]);
  const auto hung_up = monitor.connection().expect(Type::kExecExited);
  CHECK_EQ(hung_up->decode<protocol::ExecExited>().signal, static_cast<uint32_t>(SIGHUP));
  CHECK(eventually([&] { return monitor.count_fds() == fds; }));
}

void counts_oom_kills() {
  // The file that a cgroup gives, and what it holds later: the monitor compares the two.
  for (const uint8_t kind : {uint8_t{1}, uint8_t{2}}) {
    MonitorDriver monitor(BERTH_MONITOR);
    const std::string events = monitor.path("events");
    const auto put = [&](const char* text) {
      const int fd = ::open(events.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
      CHECK(::pwrite(fd, text, std::strlen(text), 0) > 0);
      ::close(fd);
    };
    put(kind == 1 ? "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n" : "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
    ConfigureOptions options;
    options.oom_kind = kind;
    options.oom_fd = ::open(events.c_str(), O_RDONLY | O_CLOEXEC);
    PlanBuilder plan = program({"kill", "9"});
    monitor.create(plan, options);
    put(kind == 1 ? "low 0\nhigh 0\nmax 3\noom 1\noom_kill 3\n" : "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    monitor.connection().send(2, protocol::Start{});
    const auto exited = monitor.exited();
    CHECK(exited->oom_killed);
    CHECK_EQ(exited->exit_code, 137);
    CHECK_EQ(monitor.wait_end(), 0);
    CHECK(monitor.exit_file()->oom_killed);
    ::close(options.oom_fd);
  }
}

void stays_small() {
  MonitorDriver monitor(BERTH_MONITOR);
  PlanBuilder plan = program({"outln", "x", "sleep", "60000"});
  monitor.create_and_start(plan);
  std::this_thread::sleep_for(50ms);
  const std::string rollup = read_file("/proc/" + std::to_string(monitor.pid()) + "/smaps_rollup");
  long private_kib = 0;
  for (const char* key : {"Private_Clean:", "Private_Dirty:"}) {
    const size_t at = rollup.find(key);
    if (at != std::string::npos) private_kib += std::atol(rollup.c_str() + at + std::strlen(key));
  }
  const size_t at = rollup.find("Private_Dirty:");
  std::printf("     private dirty %ld KiB, unique set %ld KiB\n", at == std::string::npos ? -1 : std::atol(rollup.c_str() + at + 14), private_kib);
#if !defined(__SANITIZE_ADDRESS__)
  const long dirty = std::atol(rollup.c_str() + at + 14);
  CHECK(dirty <= 64);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  std::vector<berth::test::Test> tests = {
      {"says who it is", says_who_it_is},
      {"runs and reports the exit", runs_and_reports_the_exit},
      {"reports a signal", reports_a_signal},
      {"a failed create ends the monitor", failed_create_ends_the_monitor},
      {"a failed start is an exit", failed_start_is_an_exit},
      {"ends without configure", ends_without_configure},
      {"refuses what it cannot do", refuses_what_it_cannot_do},
      {"a configure with wrong descriptors fails", configure_with_wrong_descriptors_fails},
      {"survives the daemon", survives_the_daemon},
      {"every connection is told", every_connection_is_told},
      {"ignores signals", ignores_signals},
      {"a peer that does not read is dropped", a_peer_that_does_not_read_is_dropped},
      {"frames of noise do no harm", frames_of_noise_do_no_harm},
      {"joins and splits lines", joins_and_splits_lines},
      {"many lines arrive whole", many_lines_arrive_whole},
      {"reopens without loss", reopens_without_loss},
      {"reopen keeps the old file where it fails", reopen_keeps_the_old_file_where_it_fails},
      {"a link in place of the log is refused", a_link_in_place_of_the_log_is_refused},
      {"a full log is counted and stops nothing", a_full_log_is_counted_and_stops_nothing},
      {"a full disk is counted and stops nothing", a_full_disk_is_counted_and_stops_nothing},
      {"a background child does not hold the exit", a_background_child_does_not_hold_the_exit},
      {"stdin is null without a client", stdin_is_null_without_a_client},
      {"attached clients share stdio", attached_clients_share_stdio},
      {"a slow client is let go", a_slow_client_is_let_go},
      {"aborted attaches leave nothing", aborted_attaches_leave_nothing},
      {"counts OOM kills", counts_oom_kills},
      {"stays small", stays_small},
  };
  if (::geteuid() == 0 && ::syscall(SYS_fsopen, "tmpfs", 0) >= 0) {
    const std::vector<berth::test::Test> more = {
        {"an exec runs in the container", exec_runs_in_the_container},
        {"a hundred execs at once", a_hundred_execs_at_once},
        {"the container's end ends its execs", the_containers_end_ends_its_execs},
        {"an exec ends with the connection that asked for it", an_exec_ends_with_the_connection_that_asked_for_it},
        {"a terminal is relayed and logged", a_terminal_is_relayed_and_logged},
        {"an exec with a terminal", an_exec_with_a_terminal},
    };
    tests.insert(tests.end(), more.begin(), more.end());
  } else {
    std::printf("skipped: exec and terminals need root\n");
  }
  return berth::test::run_tests(argc, argv, tests);
}
