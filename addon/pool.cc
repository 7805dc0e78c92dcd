#include "addon/pool.h"

#include <pthread.h>
#include <signal.h>

namespace berth::addon {

bool start_thread(const char* name, std::function<void()> body) {
  auto* carried = new std::function<void()>(std::move(body));
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  ::pthread_attr_setstacksize(&attributes, 1024 * 1024);
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int result = ::pthread_create(
      &thread, &attributes,
      [](void* argument) -> void* {
        const std::unique_ptr<std::function<void()>> run(static_cast<std::function<void()>*>(argument));
        (*run)();
        return nullptr;
      },
      carried);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_attr_destroy(&attributes);
  if (result != 0) {
    delete carried;
    return false;
  }
  ::pthread_setname_np(thread, name);
  return true;
}

Pool& Pool::lane(Lane lane) {
  // Never destroyed: threads use them until the process is gone.
  static Pool* const quick = new Pool("berth-quick");
  static Pool* const slow = new Pool("berth-slow");
  return lane == Lane::kQuick ? *quick : *slow;
}

void Pool::submit(std::unique_ptr<Task> task) {
  std::unique_lock<std::mutex> lock(mutex_);
  queue_.push_back(std::move(task));
  if (static_cast<size_t>(idle_) >= queue_.size() || threads_ >= kMaxThreads) {
    lock.unlock();
    changed_.notify_one();
    return;
  }
  ++threads_;
  lock.unlock();
  if (start_thread(name_, [this] { work(); })) return;
  lock.lock();
  --threads_;
  if (threads_ > 0) return;  // another one will take it
  // Not a single thread can be had: here and now is better than never.
  std::unique_ptr<Task> last = std::move(queue_.front());
  queue_.pop_front();
  lock.unlock();
  last->run();
}

void Pool::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    while (queue_.empty()) {
      ++idle_;
      changed_.wait(lock);
      --idle_;
    }
    std::unique_ptr<Task> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task->run();
    task.reset();
    lock.lock();
  }
}

}  // namespace berth::addon
