// A thread for what changes the thread itself: its namespaces, its working directory.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <string_view>

#include "core/base/result.h"

namespace berth::sys {

// Runs `body` on a thread that ends with it, and waits for it. The thread takes no signal and has 128 KiB of stack.
template <typename Body>
Result<void> on_own_thread(std::string_view step, Body& body) {
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, 128 * 1024);
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int started = ::pthread_create(
      &thread, &attributes,
      [](void* argument) -> void* {
        (*static_cast<Body*>(argument))();
        return nullptr;
      },
      &body);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_attr_destroy(&attributes);
  if (started != 0) return make_error(started, step, "pthread_create");
  ::pthread_join(thread, nullptr);
  return {};
}

}  // namespace berth::sys
