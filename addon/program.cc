#include "addon/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "addon/async.h"
#include "core/sys/pidfd.h"

namespace berth::addon {

const napi_type_tag ProgramHandle::kTag = {0x6265727468000007, 0x9d1f6a0b3c5e7f07};

namespace {

class ProgramDelivery final : public Completion {
 public:
  ProgramDelivery(Napi::Promise::Deferred deferred, Result<ProgramOutcome> outcome) : deferred_(deferred), outcome_(std::move(outcome)) {}
  void deliver(Instance& instance) override {
    instance.channel()->end_operation();
    if (!outcome_.ok()) {
      deferred_.Reject(instance.make_error(outcome_.error()));
      return;
    }
    const Napi::Env env = instance.env();
    const ProgramOutcome& outcome = *outcome_;
    Napi::Object result = Napi::Object::New(env);
    result.Set("exitCode", outcome.status.exit_code < 0 ? env.Null() : Napi::Number::New(env, outcome.status.exit_code));
    result.Set("signal", outcome.status.signal < 0 ? env.Null() : Napi::Number::New(env, outcome.status.signal));
    result.Set("stdout", Napi::Buffer<char>::Copy(env, outcome.output.data(), outcome.output.size()));
    result.Set("stderr", Napi::Buffer<char>::Copy(env, outcome.errors.data(), outcome.errors.size()));
    result.Set("timedOut", outcome.timed_out);
    result.Set("outputExceeded", outcome.output_exceeded);
    deferred_.Resolve(result);
  }

 private:
  Napi::Promise::Deferred deferred_;
  Result<ProgramOutcome> outcome_;
};

// Runs ProgramRun::spawn on the pool.
class SpawnTask final : public Task {
 public:
  explicit SpawnTask(std::shared_ptr<ProgramRun> run) : run_(std::move(run)) {}
  void run() override { run_->spawn(); }

 private:
  std::shared_ptr<ProgramRun> run_;
};

Result<void> make_pipe(Fd* read_end, Fd* write_end) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_error("program.start", "pipe2");
  read_end->reset(ends[0]);
  write_end->reset(ends[1]);
  return {};
}

}  // namespace

Result<void> ProgramRun::start() {
  Fd child_input;
  Fd child_output;
  Fd child_errors;
  if (options_.input.empty()) {
    child_input.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!child_input.valid()) return errno_error("program.start", "open", "/dev/null");
  } else {
    BERTH_TRY(make_pipe(&child_input, &input_end_));
    ::fcntl(input_end_.get(), F_SETFL, O_NONBLOCK);
  }
  BERTH_TRY(make_pipe(&output_end_, &child_output));
  BERTH_TRY(make_pipe(&errors_end_, &child_errors));
  ::fcntl(output_end_.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(errors_end_.get(), F_SETFL, O_NONBLOCK);
  options_.spawn.fds = {child_input.get(), child_output.get(), child_errors.get()};
  BERTH_ASSIGN(sys::Spawned spawned, sys::spawn(options_.spawn, "program.start"));
  pid_ = spawned.pid;
  pidfd_ = std::move(spawned.pidfd);
  return {};
}

void ProgramRun::spawn() {
  Result<void> started = start();
  if (!started.ok()) {
    // Now, not when the handle is collected.
    for (Fd* end : {&input_end_, &output_end_, &errors_end_}) end->reset();
    channel_->post(std::make_unique<ProgramDelivery>(deferred_, Result<ProgramOutcome>(std::move(started).error())));
    return;
  }
  Reactor::instance().post([self = shared_from_this()] { self->watch_all(); });
}

void ProgramRun::watch_all() {
  Reactor& reactor = Reactor::instance();
  const std::shared_ptr<ProgramRun> self = shared_from_this();
  spawned_ = true;
  bool watched = reactor.watch(pidfd_.get(), EPOLLIN, self) && reactor.watch(output_end_.get(), EPOLLIN, self) &&
                 reactor.watch(errors_end_.get(), EPOLLIN, self);
  if (watched && input_end_.valid()) watched = reactor.watch(input_end_.get(), EPOLLOUT, self);
  if (!watched || kill_wanted_) kill_group();
  timer_ = reactor.start_timer(watched ? options_.timeout_ms : 0, [self] {
    self->timer_.reset();
    if (!self->leader_ended_) {
      self->timed_out_ = true;
      self->kill_group();
      // Even a process that cannot be killed (uninterruptible sleep) must not hold up the answer for ever.
      self->timer_ = Reactor::instance().start_timer(5000, [self] {
        self->timer_.reset();
        self->finish();
      });
      return;
    }
    self->finish();
  });
}

void ProgramRun::kill() {
  Reactor::instance().post([self = shared_from_this()] {
    self->kill_wanted_ = true;
    if (self->spawned_) self->kill_group();
  });
}

void ProgramRun::kill_group() {
  // The leader is not reaped yet, so the group is its own.
  if (!finished_) ::kill(-pid_, SIGKILL);
}

void ProgramRun::forget(Fd* fd) {
  if (!fd->valid()) return;
  Reactor::instance().forget(fd->get());
  fd->reset();
}

void ProgramRun::write_input() {
  while (written_ < options_.input.size()) {
    const ssize_t count = ::write(input_end_.get(), options_.input.data() + written_, options_.input.size() - written_);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return;
      // EPIPE: it does not want the rest.
      break;
    }
    written_ += static_cast<size_t>(count);
  }
  forget(&input_end_);
}

void ProgramRun::read_output(Fd* end, BoundedBuffer* buffer) {
  const bool over = drain_into(end->get(), buffer);
  if (buffer->exceeded()) kill_group();
  if (over) forget(end);
}

void ProgramRun::leader_ended() {
  siginfo_t info = {};
  if (sys::waitid_pidfd(pidfd_.get(), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0) return;
  leader_ended_ = true;
  Reactor::instance().forget(pidfd_.get());
  forget(&input_end_);
  if (output_end_.valid()) read_output(&output_end_, &output_);
  if (errors_end_.valid()) read_output(&errors_end_, &errors_);
  if (!output_end_.valid() && !errors_end_.valid()) return;
  // Whatever else holds the outputs gets a moment to let go.
  if (timer_.has_value()) Reactor::instance().stop_timer(*timer_);
  timer_ = Reactor::instance().start_timer(kLingerMs, [self = shared_from_this()] {
    self->timer_.reset();
    self->finish();
  });
}

void ProgramRun::on_ready(int fd, uint32_t) {
  const std::shared_ptr<ProgramRun> self = shared_from_this();
  if (finished_) return;
  if (fd == input_end_.get()) write_input();
  else if (fd == output_end_.get()) read_output(&output_end_, &output_);
  else if (fd == errors_end_.get()) read_output(&errors_end_, &errors_);
  else if (fd == pidfd_.get()) leader_ended();
  finish_if_done();
}

void ProgramRun::finish_if_done() {
  if (leader_ended_ && !output_end_.valid() && !errors_end_.valid()) finish();
}

void ProgramRun::finish() {
  if (finished_) return;
  const std::shared_ptr<ProgramRun> self = shared_from_this();
  if (timer_.has_value()) Reactor::instance().stop_timer(*timer_);
  timer_.reset();
  ProgramOutcome outcome;
  siginfo_t info = {};
  if (sys::waitid_pidfd(pidfd_.get(), &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0) {
    outcome.status = to_exit_status(info.si_code, info.si_status);
    Reactor::instance().forget(pidfd_.get());
    pidfd_.reset();
  } else {
    // Still there: it is reaped whenever it ends.
    Reactor::instance().forget(pidfd_.get());
    Process::create(pid_, std::move(pidfd_), "", true);
    outcome.status.signal = SIGKILL;
  }
  finished_ = true;
  forget(&input_end_);
  forget(&output_end_);
  forget(&errors_end_);
  options_ = ProgramOptions();
  outcome.timed_out = timed_out_;
  outcome.output_exceeded = output_.exceeded() || errors_.exceeded();
  outcome.output = output_.take();
  outcome.errors = errors_.take();
  channel_->post(std::make_unique<ProgramDelivery>(deferred_, Result<ProgramOutcome>(std::move(outcome))));
}

Napi::Function ProgramHandle::define(Napi::Env env) { return DefineClass(env, kName, {InstanceMethod<&ProgramHandle::kill>("kill")}); }

Napi::Value ProgramHandle::kill(const Napi::CallbackInfo& info) {
  if (payload_ != nullptr) payload_->kill();
  return info.Env().Undefined();
}

Napi::Value run_program(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Dto args(env, "runProgram.args", info[0], {"path", "args", "env", "cwd", "stdin", "maxOutputBytes", "timeoutMs"});
  ProgramOptions options;
  options.spawn.path = args.text("path");
  options.spawn.args = args.texts("args");
  options.spawn.env = args.texts("env");
  options.spawn.cwd = args.text("cwd");
  options.input = args.bytes("stdin");
  options.max_output_bytes = static_cast<size_t>(args.integer("maxOutputBytes", 0, 1 << 30));
  options.timeout_ms = static_cast<uint64_t>(args.integer("timeoutMs", 0, kMaxSafeInteger));
  if (args.ok() && (options.spawn.path.empty() || options.spawn.path[0] != '/')) args.fail("path", "must be absolute");
  if (args.ok() && options.spawn.args.empty()) args.fail("args", "must have argv[0]");
  if (!args.ok()) return env.Undefined();
  Instance& instance = Instance::of(env);
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  auto run = std::make_shared<ProgramRun>(std::move(options), instance.channel(), deferred);
  instance.channel()->begin_operation();
  Pool::lane(Lane::kQuick).submit(std::make_unique<SpawnTask>(run));
  Napi::Object handle = ProgramHandle::make(instance, std::move(run));
  define_value(handle, "result", deferred.Promise());
  return handle;
}

}  // namespace berth::addon
