// A pipe whose read end is collected into memory.
#pragma once

#include <napi.h>

#include <memory>
#include <string>

#include "addon/handles.h"
#include "addon/reactor.h"

namespace berth::addon {

// Bytes of a stream up to a limit; what is past it is counted out and dropped.
class BoundedBuffer {
 public:
  explicit BoundedBuffer(size_t limit) : limit_(limit) {}
  void append(const char* data, size_t size);
  [[nodiscard]] bool exceeded() const { return exceeded_; }
  std::string take() { return std::move(data_); }

 private:
  size_t limit_;
  std::string data_;
  bool exceeded_ = false;
};

// Reads what a non-blocking descriptor holds now. True at its end (or failure).
bool drain_into(int fd, BoundedBuffer* buffer);

class Collector final : public Watcher, public std::enable_shared_from_this<Collector> {
 public:
  Collector(Fd read_end, size_t limit, std::shared_ptr<Channel> channel, Napi::Promise::Deferred deferred)
      : read_end_(std::move(read_end)), buffer_(limit), channel_(std::move(channel)), deferred_(deferred) {}

  void start();
  // Any thread.
  void stop();

  void on_ready(int fd, uint32_t events) override;

 private:
  void finish();

  Fd read_end_;
  BoundedBuffer buffer_;
  std::shared_ptr<Channel> channel_;
  Napi::Promise::Deferred deferred_;
  bool finished_ = false;
};

class PipeCollector final : public Handle<PipeCollector, Collector> {
 public:
  static constexpr HandleClass kClass = HandleClass::kCollector;
  static constexpr const char* kName = "PipeCollector";
  static const napi_type_tag kTag;
  using Handle::Handle;
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value stop(const Napi::CallbackInfo& info);
};

// `collectPipe` of the contract.
Napi::Value collect_pipe(const Napi::CallbackInfo& info);

}  // namespace berth::addon
