// The monitor of one container: the parent of its init. One epoll loop, one thread, no globals; everything it knows is
// here. The memory comes zeroed from mmap and is only touched where it is used: the tables are large, what is resident
// is not.
//
// What it is to its container
// - It is the parent of init and of every exec'ed command (CLONE_PARENT), and reaps just these, each by its pidfd. It is no
//   subreaper: orphans of a container without a pid namespace of its own go to the pod's or the host's init.
// - It leads a session of its own and ignores every signal but SIGKILL: whoever ends a slice or a terminal does not end
//   the supervision of a container that lives on. It ends by itself: when the container has ended, when a create has failed,
//   or when the daemon is gone before `configure`.
// - It closes connections whose peer does not read; it never waits for one.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "conmon/log.h"
#include "core/stages/sync.h"
#include "monitor/protocol.h"

namespace berth::monitor {

inline constexpr int kSpawnConnectionFd = 3;
inline constexpr int kListenerFd = 4;

inline constexpr uint32_t kMaxConnections = 16;
inline constexpr uint32_t kMaxExecs = 160;
inline constexpr uint32_t kMaxAttached = 16;
inline constexpr uint32_t kMaxMessageFds = 253;  // SCM_MAX_FD
inline constexpr size_t kScratchBytes = 65536;

// After init's end: how long pipes are read that a process outside keeps open, and execs are waited for.
inline constexpr int64_t kDrainMs = 300;
inline constexpr int64_t kExecDrainMs = 2000;
// After a read that emptied a pipe: how long until it is read again, so that a writer of single lines costs one wake-up
// for many of them.
inline constexpr int64_t kNapMs = 1;
// How far an attached client, or a daemon's connection, may lag behind before it is let go: bounds, not memory that is taken.
inline constexpr int kAttachRoom = 4 << 20;
inline constexpr int kConnectionRoom = 1 << 20;
// Buffers that a burst of output has touched are given back after this.
inline constexpr int64_t kTrimMs = 1000;

enum class Phase : uint8_t { kConfiguring = 0, kCreated = 1, kRunning = 2, kExited = 3 };

// What an epoll event is about; with an index where there are several.
enum class Source : uint32_t {
  kListener,
  kConnection,
  kInit,
  kInitSync,
  kOutput,
  kInput,
  kAttachInput,
  kAttachOutput,
  kExecIntermediate,  // from here on: on_exec_event
  kExecCommand,
  kExecSync,
  kExecMaster,
  kExecRelay,
};

// A connection keeps its serial for its whole life; an answer to one that is gone finds nobody.
struct Connection {
  uint32_t serial;  // 0: the entry is free
  int fd;
};

struct ReplyTo {
  uint32_t serial;
  uint32_t request_id;
};

// Bytes that their destination would not take at once. While there are any, their source is not read.
struct Pending {
  static constexpr size_t kBytes = 4096;
  size_t begin;
  size_t end;
  char data[kBytes];
  [[nodiscard]] bool empty() const { return begin == end; }
};

// One of the container's outputs: a pipe, or the terminal's master.
struct Output {
  int fd;
  bool open;
  bool armed;       // epoll tells when there is something; else `read_at` is when to look again
  uint8_t full_reads;  // in a row
  int64_t read_at;
};

struct Attached {
  bool used;
  bool input_ended;
  int in;
  int out;
  int err;
  Pending pending;  // from `in`, for the container
};

struct RunningExec {
  bool used;
  bool started;       // `execStarted` has been sent
  bool failed;        // `failed` has been sent
  bool command_ended;
  bool intermediate_ended;
  bool terminal;
  ReplyTo reply;      // its identity too: the request id on that connection
  uint16_t columns;
  uint16_t rows;
  pid_t pid;
  pid_t intermediate_pid;
  int command;        // pidfds, or -1
  int intermediate;
  int sync;
  int32_t wait_code;  // CLD_* and status of the command
  int32_t wait_status;
  int master;         // terminal: the pty's master and the socket that it is relayed to
  int relay;
  bool relay_ended;
  int64_t master_until;  // after the command's end: how long the master is still drained
  Pending to_relay;
  Pending to_master;
};

struct Monitor {
  int epoll;
  int listener;
  Connection connections[kMaxConnections];
  uint32_t last_serial;
  uint32_t spawn_serial;  // of the connection that the monitor was started with

  Phase phase;
  bool finished;       // the loop ends
  bool start_pending;  // kGo was sent, execve not yet seen
  ReplyTo configure_reply;
  ReplyTo start_reply;

  char container_id[72];
  char exit_name[256];
  int exit_directory;
  int log_directory;
  int oom_file;
  uint8_t oom_kind;
  uint64_t oom_before;

  bool terminal;
  bool stdin_once;
  uint16_t columns;
  uint16_t rows;
  bool has_log;

  pid_t init_pid;
  int init;       // pidfd
  int init_sync;
  uint64_t init_start_time;
  int64_t started_at_ns;
  int64_t finished_at_ns;
  int32_t exit_code;
  uint32_t exit_signal;
  bool oom_killed;
  bool init_failed;  // the executor said why the program does not run
  int64_t drain_until;
  int64_t execs_until;
  int64_t retry_exit_at;
  uint32_t exit_attempts;

  Output outputs[2];
  int input;  // write end of stdin's pipe, or a duplicate of the master
  bool input_watched;
  int64_t trim_at;

  uint32_t exec_count;

  Log log;
  Attached attached[kMaxAttached];
  RunningExec execs[kMaxExecs];
  alignas(8) char frame[protocol::kMaxFrameBytes];
  alignas(8) char scratch[kScratchBytes];
};

// -- loop.cc
bool watch(Monitor& m, int fd, uint32_t events, Source source, uint32_t index = 0);
void rewatch(Monitor& m, int fd, uint32_t events, Source source, uint32_t index = 0);
// Closes and forgets; -1 is fine.
void drop_fd(int& fd);
void run_loop(Monitor& m);

// -- control.cc: connections and requests
void add_connection(Monitor& m, int fd);
void on_listener(Monitor& m);
void on_connection(Monitor& m, uint32_t index);
// To one connection, if it is still there; a peer that does not read loses its connection.
template <typename M>
void reply(Monitor& m, const ReplyTo& to, const M& message);
// Sets the size of a socket's send buffer, beyond the host's limit where that is permitted.
void make_room(int socket, int bytes);
void send_frame(Monitor& m, const ReplyTo& to, const void* frame, size_t size);
void reply_failed(Monitor& m, const ReplyTo& to, int error_number, std::string_view step, std::string_view syscall,
                  std::string_view path = {}, std::string_view detail = {});
void reply_failed(Monitor& m, const ReplyTo& to, const stages::SyncRecord& record);
void tell_all(Monitor& m, const protocol::Exited& exited);

// -- container.cc: init from `configure` to its exit file
void configure(Monitor& m, const ReplyTo& to, const protocol::Configure& request, int* fds, uint32_t fd_count);
void start(Monitor& m, const ReplyTo& to);
void on_init_sync(Monitor& m);
void on_init_ended(Monitor& m);
// After the end of init: ends the monitor as soon as nothing is left to do.
void finish_when_done(Monitor& m);
// Reads one record; 1 with it (and `fd`, or -1), 0 when there is none now, -1 at the end.
int receive_sync(int sync, stages::SyncRecord* record, int* fd);

// -- stdio.cc: outputs, log, attached clients
void open_output(Monitor& m, uint32_t index, int fd);
void set_terminal(Monitor& m, int master);
// `drain`: reads until there is nothing more, without naps.
void read_output(Monitor& m, uint32_t index, bool drain);
void close_outputs(Monitor& m);
void attach(Monitor& m, const ReplyTo& to, const protocol::Attach& request, int* fds, uint32_t fd_count);
void on_input(Monitor& m);
void on_attach_input(Monitor& m, uint32_t index);
void on_attach_output(Monitor& m, uint32_t index);
void close_attached(Monitor& m);
uint32_t count_attached(const Monitor& m);

// -- exec.cc
void start_exec(Monitor& m, const ReplyTo& to, const protocol::Exec& request, int* fds, uint32_t fd_count);
// The exec that this connection has asked for with this request id, or null.
RunningExec* find_exec(Monitor& m, uint32_t serial, uint32_t request_id);
// SIGKILL to all that runs of it; 0 or errno.
int kill_exec(RunningExec& exec);
// Those that the connection with this serial has asked for.
void kill_execs_of(Monitor& m, uint32_t serial);
void kill_all_execs(Monitor& m);
void on_exec_event(Monitor& m, Source source, uint32_t index, uint32_t events);

// Bytes of `pending` into `fd`. False where `fd` takes no more for ever.
bool write_pending(Pending& pending, int fd);
// As write_pending, for fresh data: what is not taken is kept in `pending`, which is empty before.
bool write_or_keep(Pending& pending, int fd, const char* data, size_t size);

template <typename M>
void reply(Monitor& m, const ReplyTo& to, const M& message) {
  char frame[1024];
  const size_t size = protocol::encode(message, to.request_id, frame, sizeof(frame));
  if (size > 0) send_frame(m, to, frame, size);
}

}  // namespace berth::monitor
