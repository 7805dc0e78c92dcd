// runProgram: a program with its input, its collected outputs, a time limit.
#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <string>

#include "addon/collector.h"
#include "addon/handles.h"
#include "addon/process.h"
#include "addon/reactor.h"
#include "core/sys/spawn.h"

namespace berth::addon {

struct ProgramOptions {
  sys::SpawnOptions spawn;
  std::string input;
  size_t max_output_bytes = 0;
  uint64_t timeout_ms = 0;
};

struct ProgramOutcome {
  ExitStatus status;
  std::string output;
  std::string errors;
  bool timed_out = false;
  bool output_exceeded = false;
};

// One run. It is spawned on the pool, and from then on lives on the reactor's thread. The leader is not reaped before the
// end, so that its process group can be killed without meaning another's.
class ProgramRun final : public Watcher, public std::enable_shared_from_this<ProgramRun> {
 public:
  ProgramRun(ProgramOptions options, std::shared_ptr<Channel> channel, Napi::Promise::Deferred deferred)
      : options_(std::move(options)), channel_(std::move(channel)), deferred_(deferred), output_(options_.max_output_bytes),
        errors_(options_.max_output_bytes) {}

  // Pool thread.
  void spawn();
  // Any thread.
  void kill();

  void on_ready(int fd, uint32_t events) override;

 private:
  Result<void> start();
  void watch_all();
  void write_input();
  void read_output(Fd* end, BoundedBuffer* buffer);
  void leader_ended();
  void kill_group();
  void finish_if_done();
  void finish();
  void forget(Fd* fd);

  // How long outputs that outlive the leader (a program left in the background holds them) are waited for.
  static constexpr uint64_t kLingerMs = 250;

  ProgramOptions options_;
  std::shared_ptr<Channel> channel_;
  Napi::Promise::Deferred deferred_;
  // Reactor thread, once spawned:
  int pid_ = -1;
  Fd pidfd_;
  Fd input_end_;
  Fd output_end_;
  Fd errors_end_;
  size_t written_ = 0;
  BoundedBuffer output_;
  BoundedBuffer errors_;
  std::optional<Reactor::TimerId> timer_;
  bool spawned_ = false;
  bool kill_wanted_ = false;
  bool leader_ended_ = false;
  bool timed_out_ = false;
  bool finished_ = false;
};

class ProgramHandle final : public Handle<ProgramHandle, ProgramRun> {
 public:
  static constexpr HandleClass kClass = HandleClass::kProgram;
  static constexpr const char* kName = "ProgramHandle";
  static const napi_type_tag kTag;
  using Handle::Handle;
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value kill(const Napi::CallbackInfo& info);
};

// `runProgram` of the contract.
Napi::Value run_program(const Napi::CallbackInfo& info);

}  // namespace berth::addon
