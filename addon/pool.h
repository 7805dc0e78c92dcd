// Threads for calls that may block. Two lanes, so that slow work (removing trees, syncing, waiting for a cgroup to empty)
// never stands in the way of quick work.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace berth::addon {

enum class Lane { kQuick, kSlow };

class Task {
 public:
  virtual ~Task() = default;
  virtual void run() = 0;
};

class Pool {
 public:
  static Pool& lane(Lane lane);
  void submit(std::unique_ptr<Task> task);

 private:
  explicit Pool(const char* name) : name_(name) {}
  void work();

  static constexpr int kMaxThreads = 8;
  const char* name_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Task>> queue_;
  int threads_ = 0;
  int idle_ = 0;
};

// Starts a detached thread with every signal blocked, so that JavaScript's handlers run where they belong. Threads never
// are joined: they end with the process.
bool start_thread(const char* name, std::function<void()> body);

}  // namespace berth::addon
